"""Names the tool that wrote a data set, and refuses by name the exports that cannot be read, with what to do instead.

A rule looks at names and at the heads of files. What is read is recognised by the formats; here it only gets the name
of its tool. What is not read would else be passed over, or taken for something that it is not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from cellsemi.rounds.formats.shared.detection import Detected
from cellsemi.rounds.formats.shared.folder_scan import FolderScan, below, table_head, top_level_keys
from cellsemi.rounds.formats.shared.unpack import zipped_name

# (scan of a folder) -> the file or folder that shows it, None where it does not.
Find = Callable[[FolderScan], str | None]


class Unread(NamedTuple):
    """An export that is not read: the tool and what it wrote, what shows it, and the line that helps.

    `first`: it is looked for before images with annotation files beside them, which it could be taken for.
    """

    name: str
    find: Find
    line: str
    first: bool = False


def tool_of(scan: FolderScan, found: Detected) -> str:
    """The tool that wrote a data set which is read; "" when nothing tells it."""
    return next((name for source, name, fits in READ if source == found.source and fits(scan, found)), "")


def unread(scan: FolderScan, first: bool) -> Iterator[tuple[Unread, str]]:
    """The exports in a folder that are not read, each with the file that shows it."""
    for kind in UNREAD:
        if kind.first is first or not first:
            path = kind.find(scan)
            if path is not None:
                yield kind, path


# --- what is read -------------------------------------------------------------------------------------


def _coco_text(scan: FolderScan, found: Detected) -> str:
    """Start and end of the COCO file: Label Studio writes its name at the end."""
    place = found.settings["annotations"]
    path = str(place["labelled"] if isinstance(place, dict) else place)
    return f"{path} {scan.head(path)} {scan.tail(path)}"


def _coco(pattern: str) -> Callable[[FolderScan, Detected], bool]:
    return lambda scan, found: re.search(pattern, _coco_text(scan, found)) is not None


def _columns(*names: str) -> Callable[[FolderScan, Detected], bool]:
    def fits(scan: FolderScan, found: Detected) -> bool:
        columns, _ = table_head(scan.head(str(found.settings["annotations"])))
        return set(names) <= set(columns)

    return fits


def _pairs(pattern: str, head: str = "") -> Callable[[FolderScan, Detected], bool]:
    """Whether the annotation file of the example has such a name, and such words at its start."""

    def fits(scan: FolderScan, found: Detected) -> bool:
        path = found.why.partition(" has ")[2]
        return re.search(pattern, path, re.IGNORECASE) is not None and (
            not head or re.search(head, scan.head(path)) is not None
        )

    return fits


def _content(scan: FolderScan, found: Detected) -> bytes:
    """The annotation file of the example, where it is an archive."""
    path = scan.root / found.why.partition(" has ")[2]
    return path.read_bytes() if path.suffix.lower() == ".zip" else b""


READ: tuple[tuple[str, str, Callable[[FolderScan, Detected], bool]], ...] = (
    ("coco", "Roboflow", _coco(r"^\S*_annotations\.coco\.json|roboflow")),
    ("coco", "Label Studio", _coco(r'"contributor"\s*:\s*"Label Studio"')),
    ("coco", "VIA", _coco(r"VIA project exported|VGG Image Annotator")),
    ("coco", "cellsemi", _coco("written by cellsemi")),
    ("coco", "LIVECell", _coco(r"livecell|_Phase_[A-H]\d+_\d_")),
    (
        "coco",
        "CVAT",
        _coco(r'instances_default\.json|"occluded"|"licenses"\s*:\s*\[\s*\{\s*"name"\s*:\s*"",\s*"id"\s*:\s*0'),
    ),
    ("rle-csv", "Kaggle Sartorius", _columns("annotation", "cell_type", "plate_time")),
    ("rle-csv", "Kaggle DSB2018", _columns("ImageId", "EncodedPixels")),
    ("dsb2018", "Kaggle DSB2018 (BBBC038)", lambda scan, found: True),
    ("paired", "Cellpose, its GUI", _pairs(r"_seg\.npy$")),
    ("paired", "Cellpose", _pairs(r"_cp_masks\.|_rois\.zip$")),
    ("paired", "labelme", _pairs(r"\.json$", '"shapes"')),
    ("paired", "QuPath", lambda scan, found: zipped_name(_content(scan, found), (".geojson", ".json")) is not None),
    ("paired", "QuPath", _pairs(r"\.geojson(\.gz)?$|\.json$")),
    ("paired", "NeurIPS 2022 CellSeg", _pairs(r"(^|/)labels/.*_label\.tiff?$")),
    ("paired", "Fiji (ImageJ)", _pairs(r"\.(zip|roi)$")),
    ("paired", "StarDist", _pairs(r"(^|/)(train|test)/masks/[^/]*\.tiff?$")),
)


# --- what is not read ---------------------------------------------------------------------------------


def _named(pattern: str) -> Find:
    """A file or folder whose path fits."""

    def find(scan: FolderScan) -> str | None:
        folders = (f"{below(seen.path, name)}/" for seen in scan for name in seen.folders)
        return next((path for path in (*scan.find(""), *folders) if re.search(pattern, path, re.IGNORECASE)), None)

    return find


def _head(extension: str, pattern: str) -> Find:
    """A file with this extension whose start fits."""
    return lambda scan: next(
        (path for path in scan.find(extension)[:HEADS] if re.search(pattern, scan.head(path)[:START])), None
    )


def _keys(*keys: str) -> Find:
    """A JSON object with all these keys."""
    return lambda scan: next(
        (path for path in scan.find(".json")[:HEADS] if set(keys) <= set(top_level_keys(scan.head(path)))), None
    )


HEADS = 50  # files of a kind whose start is read
START = 4096  # characters of it
IN_CVAT = "in CVAT choose Actions > Export task dataset > COCO 1.0"
IN_ROBOFLOW = "in Roboflow choose the version's Export > JSON > COCO Segmentation"
IN_LABEL_STUDIO = "in Label Studio choose Export > COCO"
IN_VIA = "in VIA choose Annotation > Export Annotations (COCO format)"
TO_TIFF = "save label maps as TIFF, with X_masks.tif beside X.tif"

UNREAD: tuple[Unread, ...] = (
    Unread("CVAT, CVAT for images 1.1", _head(".xml", r"<annotations>[\s\S]*<version>1\.1"), IN_CVAT),
    Unread("CVAT, Datumaro 1.0", _keys("items", "categories", "infos"), IN_CVAT),
    Unread("CVAT, segmentation mask 1.1", _named(r"(^|/)SegmentationObject/$"), IN_CVAT, first=True),
    Unread(
        "Label Studio, JSON",
        _head(".json", r'^\s*\[\s*\{[\s\S]*"annotations"\s*:\s*\[[\s\S]*"result"'),
        IN_LABEL_STUDIO,
    ),
    Unread("Label Studio, JSON-MIN", _head(".json", r'^\s*\[\s*\{[\s\S]*"annotator"\s*:'), IN_LABEL_STUDIO),
    Unread(
        "Label Studio, brush labels",
        _named(r"task-\d+-annotation-\d+-by-.*\.(png|npy)$"),
        f"draw polygons and {IN_LABEL_STUDIO}; or {TO_TIFF}",
        first=True,
    ),
    Unread("VIA, project", _keys("_via_img_metadata"), IN_VIA),
    Unread("VIA, JSON", _head(".json", r'"filename"\s*:[\s\S]*"regions"\s*:[\s\S]*"shape_attributes"'), IN_VIA),
    Unread("VIA, CSV", _head(".csv", r"^#?\s*filename,file_size,file_attributes,region_count"), IN_VIA),
    Unread("Roboflow, semantic masks", _named(r"(^|/)_classes\.csv$"), IN_ROBOFLOW, first=True),
    Unread("Roboflow, CreateML", _named(r"_annotations\.createml\.json$"), IN_ROBOFLOW),
    Unread("Roboflow, boxes in a CSV", _head(".csv", r"^filename,width,height,class,xmin,ymin,xmax,ymax"), IN_ROBOFLOW),
    Unread("Pascal VOC", _head(".xml", r"<annotation>[\s\S]*<(filename|folder|size)>"), f"{IN_CVAT}, or {IN_ROBOFLOW}"),
    Unread("YOLO", _named(r"(^|/)(data\.yaml|obj\.data|classes\.txt)$"), f"{IN_CVAT}, or {IN_ROBOFLOW}"),
    Unread("TensorFlow records", _named(r"\.tfrecords?$"), IN_ROBOFLOW),
    Unread(
        "Fiji, one RoiSet.zip",
        _named(r"(^|/)RoiSet\.zip$"),
        "give each ROI set the name of its image: X.zip beside X.tif",
    ),
    Unread(
        "QuPath, project",
        _named(r"\.(qpproj|qpdata)$"),
        "in QuPath choose File > Export objects as GeoJSON, one X.geojson beside each X.tif",
    ),
    Unread("Cellpose, outlines as text", _named(r"_cp_outlines\.txt$"), "run cellpose with --save_tif, or --save_rois"),
    Unread("ilastik or HDF5", _named(r"\.(h5|hdf5|ilp)$"), TO_TIFF),
    Unread("DeepCell or NumPy archives", _named(r"\.npz$"), TO_TIFF),
    Unread("OME-Zarr", _named(r"\.zarr/$"), TO_TIFF),
    Unread("Imaris", _named(r"\.ims$"), TO_TIFF),
)


def refusal(kinds: Sequence[tuple[Unread, str]]) -> str:
    """What a message says about exports that are not read."""
    return "; ".join(f"{path} is an export of {kind.name}, which is not read: {kind.line}" for kind, path in kinds)
