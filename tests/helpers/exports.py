"""One small data set of each tool that people annotate with, as it exports it: the table of docs/formats.md.

Each is written from the tool's own description of its export, with generated cells and without the package's writers.
"""

from __future__ import annotations

import base64
import csv
import gzip
import json
import zipfile
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from helpers.cases import HEIGHT, WIDTH, Drawn, coco_file, drawn, geojson, outline, roi_set, save
from helpers.layouts import row_major

NUMBERS = range(1, 5)
CELLS = 12


class Export(NamedTuple):
    """What a tool writes: `source` reads it; "" where it is refused under the name TOOL, FORM."""

    tool: str
    form: str
    source: str
    write: Callable[[Path], None]


def pictures() -> list[Drawn]:
    return [drawn(number) for number in NUMBERS]


# --- COCO -------------------------------------------------------------------------------------------------


def coco_of(root: Path, name: str, folder: str = "images", **more: Any) -> None:
    """A COCO file with more keys, the images in a folder."""
    for picture in pictures():
        save(root / folder / f"{picture.name}.png", picture.pixels)
    coco_file(root / name, pictures())
    listed = json.loads((root / name).read_text(encoding="utf-8"))
    (root / name).write_text(json.dumps({**listed, **more}), encoding="utf-8")


def cvat_coco(root: Path) -> None:
    coco_of(root, "annotations/instances_default.json", licenses=[{"name": "", "id": 0, "url": ""}])


def label_studio_coco(root: Path) -> None:
    """Its file names have the path of the upload before them, and the name of the tool stands at the end."""
    coco_of(root, "result.json", info={"year": 2024, "version": "1.0", "contributor": "Label Studio"})
    listed = json.loads((root / "result.json").read_text(encoding="utf-8"))
    for image in listed["images"]:
        image["file_name"] = f"../../label-studio/data/media/upload/1/{image['file_name']}"
    (root / "result.json").write_text(json.dumps(listed), encoding="utf-8")


def via_coco(root: Path) -> None:
    coco_of(root, "via_project_coco.json", ".", info={"description": "VIA project exported to COCO format"})


def roboflow_coco(root: Path) -> None:
    for word, numbers in (("train", (1, 2)), ("valid", (3,)), ("test", (4,))):
        some = [drawn(number, f"im{number}_png.rf.0123abcd") for number in numbers]
        for picture in some:
            save(root / word / f"{picture.name}.png", picture.pixels)
        coco_file(root / word / "_annotations.coco.json", some)


def livecell(root: Path) -> None:
    """Three files, the images of train and val in one folder by cell type, and the files of one cell type beside."""
    names = {"train": (1, 2), "val": (3,), "test": (4,)}
    for word, numbers in names.items():
        some = [drawn(number, f"A172_Phase_A7_{number}_00d00h00m_1") for number in numbers]
        folder = "livecell_test_images" if word == "test" else "livecell_train_val_images"
        for picture in some:
            save(root / "images" / folder / "A172" / f"{picture.name}.tif", picture.pixels)
        coco_file(root / "annotations" / "LIVECell" / f"livecell_coco_{word}.json", some, extension=".tif")
        coco_file(root / "annotations" / "LIVECell_single_cells" / "a172" / f"{word}.json", some, extension=".tif")


def livecell_one_type(root: Path) -> None:
    livecell(root)
    for path in (root / "annotations" / "LIVECell").iterdir():
        path.unlink()


# --- files beside the image -------------------------------------------------------------------------------


def beside(root: Path, annotate: Callable[[Path, Drawn], None], extension: str = ".png") -> None:
    """Each image, and what `annotate(path without extension, picture)` writes beside it."""
    for picture in pictures():
        save(root / f"{picture.name}{extension}", picture.pixels)
        annotate(root / picture.name, picture)


def label_file(ending: str) -> Callable[[Path], None]:
    return lambda root: beside(root, lambda path, picture: save(Path(f"{path}{ending}"), picture.labels))


def seg_npy(path: Path, picture: Drawn, **more: Any) -> None:
    """The dict of the GUI, as far as its versions agree."""
    saved = {"outlines": picture.labels, "masks": picture.labels, "filename": f"{picture.name}.png", **more}
    saved |= {"ismanual": np.zeros(3, bool), "flows": [np.zeros((1, 2, 2, 3), np.uint8), [], [], [], [[]]]}
    np.save(f"{path}_seg.npy", np.array(saved, dtype=object), allow_pickle=True)


def cellpose_1(root: Path) -> None:
    more = {"chan_choose": [0, 0], "est_diam": 12.0, "img": np.zeros((HEIGHT, WIDTH), np.float32)}
    beside(root, lambda path, picture: seg_npy(path, picture, colors=np.ones((3, 3), np.uint8), **more))


def cellpose_2_and_3(root: Path) -> None:
    more = {"manual_changes": [], "model_path": 0, "flow_threshold": 0.4, "cellprob_threshold": 0.0, "restore": None}
    beside(root, lambda path, picture: seg_npy(path, picture, **more, diameter=np.float32(12)))


def cellpose_4(root: Path) -> None:
    more = {"normalize_params": {"percentile": [1.0, 99.0]}, "model_path": "models/cpsam", "ratio": 1.0}
    beside(root, lambda path, picture: seg_npy(path, picture, **more, diameter=None))


def cellpose_all(root: Path) -> None:
    """--save_png --save_tif --save_flows --save_outlines --save_txt: only the masks are masks."""

    def annotate(path: Path, picture: Drawn) -> None:
        for ending in ("_cp_masks.png", "_outlines_cp_masks.png", "_flows_cp_masks.tif"):
            save(Path(f"{path}{ending}"), picture.labels)
        Path(f"{path}_cp_outlines.txt").write_text("1,2,3,4,5,6\n", encoding="utf-8")

    beside(root, annotate, ".tif")


def cellpose_folders(root: Path) -> None:
    """--in_folders: masks, outlines and texts in folders of their own."""
    for picture in pictures():
        save(root / f"{picture.name}.tif", picture.pixels)
        save(root / "masks" / f"{picture.name}_cp_masks.tif", picture.labels)
        save(root / "outlines" / f"{picture.name}_outlines_cp_masks.png", picture.labels)


def labelme(root: Path) -> None:
    def annotate(path: Path, picture: Drawn) -> None:
        shapes = [
            {"label": "cell", "points": outline(cell), "group_id": None, "shape_type": "polygon", "flags": {}}
            for cell in picture.cells
        ]
        stated = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"{picture.name}.png"}
        image = base64.b64encode(b"the image again").decode()
        size = {"imageData": image, "imageHeight": HEIGHT, "imageWidth": WIDTH}
        Path(f"{path}.json").write_text(json.dumps({**stated, **size}), encoding="utf-8")

    beside(root, annotate)


def qupath(pack: Callable[[bytes, Path], None]) -> Callable[[Path], None]:
    """An export of each image, the text given to `pack` with the path without extension."""

    def annotate(path: Path, picture: Drawn) -> None:
        text = path.with_suffix(".text")
        geojson(text, [(outline(cell), "") for cell in picture.cells])
        pack(text.read_bytes(), path)
        text.unlink()

    return lambda root: beside(root, annotate, ".tif")


def plain(content: bytes, path: Path) -> None:
    Path(f"{path}.geojson").write_bytes(content)


def as_list(content: bytes, path: Path) -> None:
    """QuPath 0.2: a list of features, the kind of object as their id."""
    features = [{**each, "id": "PathAnnotationObject"} for each in json.loads(content)["features"]]
    Path(f"{path}.json").write_text(json.dumps(features), encoding="utf-8")


def with_nuclei(content: bytes, path: Path) -> None:
    """Cells with a nucleus in them, and measurements that are NaN."""
    features = json.loads(content)["features"]
    for each in features:
        each["properties"] |= {"objectType": "cell", "measurements": {"Area": float("nan")}}
        each["nucleusGeometry"] = {"type": "Polygon", "coordinates": [[[1, 1], [2, 1], [2, 2], [1, 1]]]}
    Path(f"{path}.geojson").write_text(json.dumps(features), encoding="utf-8")


def as_gzip(content: bytes, path: Path) -> None:
    Path(f"{path}.geojson.gz").write_bytes(gzip.compress(content))


def as_zip(content: bytes, path: Path) -> None:
    with zipfile.ZipFile(f"{path}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{path.name}.geojson", content)


def fiji(root: Path) -> None:
    beside(root, lambda path, picture: roi_set(Path(f"{path}.zip"), picture.cells), ".tif")


def fiji_one_set(root: Path) -> None:
    save(root / "im1.tif", drawn(1).pixels)
    roi_set(root / "RoiSet.zip", drawn(1).cells)


def ome_tiff(image: str, mask: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        for picture in pictures():
            for name, pixels in ((image, picture.pixels), (mask, picture.labels)):
                path = root / name.format(picture.name)
                path.parent.mkdir(parents=True, exist_ok=True)
                tifffile.imwrite(path, pixels, ome=name.endswith(".ome.tif"), metadata={"axes": "YX"})

    return write


# --- folders ----------------------------------------------------------------------------------------------


def stardist(root: Path) -> None:
    for number in NUMBERS:
        word = "test" if number == 4 else "train"
        save(root / word / "images" / f"{number}.tif", drawn(number).pixels)
        save(root / word / "masks" / f"{number}.tif", drawn(number).labels)


def cellseg(root: Path) -> None:
    for number, extension in zip(NUMBERS, (".bmp", ".png", ".tif", ".tiff"), strict=True):
        save(root / "images" / f"cell_{number:05d}{extension}", drawn(number).pixels)
        save(root / "labels" / f"cell_{number:05d}_label.tiff", drawn(number).labels)


def bbbc038(root: Path) -> None:
    for picture in pictures():
        folder = root / "stage1_train" / picture.name
        save(folder / "images" / f"{picture.name}.png", picture.pixels)
        for number, cell in enumerate(picture.cells):
            save(folder / "masks" / f"{number}.png", cell * np.uint8(255))


def sartorius(root: Path) -> None:
    rows = [["id", "annotation", "width", "height", "cell_type", "plate_time", "sample_date", "sample_id"]]
    for picture in pictures():
        save(root / "train" / f"{picture.name}.png", picture.pixels)
        facts = [str(WIDTH), str(HEIGHT), "cort", "11h", "2019", picture.name]
        rows += [[picture.name, row_major(cell), *facts] for cell in picture.cells]
    with (root / "train.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


# --- what is not read -------------------------------------------------------------------------------------


def texts(*names_and_texts: str) -> Callable[[Path], None]:
    """Images, and files with these texts."""

    def write(root: Path) -> None:
        save(root / "images" / "im1.png", drawn(1).pixels)
        for name, text in zip(names_and_texts[::2], names_and_texts[1::2], strict=True):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text, encoding="utf-8")

    return write


def segmentation_masks(root: Path) -> None:
    for picture in pictures():
        save(root / "JPEGImages" / f"{picture.name}.png", picture.pixels)
        save(root / "SegmentationObject" / f"{picture.name}.png", picture.labels.astype(np.uint8))
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n", encoding="utf-8")


def brush_masks(root: Path) -> None:
    save(root / "images" / "im1.png", drawn(1).pixels)
    save(root / "task-1-annotation-2-by-1-tag-cell-0.png", (drawn(1).labels > 0) * np.uint8(255))


def semantic_masks(root: Path) -> None:
    for picture in pictures():
        save(root / "train" / f"{picture.name}.png", picture.pixels)
        save(root / "train" / f"{picture.name}_mask.png", (picture.labels > 0).astype(np.uint8))
    (root / "train" / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, cell\n", encoding="utf-8")


def array_file(root: Path) -> None:
    buffer = BytesIO()
    np.savez(buffer, X=drawn(1).pixels, y=drawn(1).labels)
    root.mkdir(parents=True, exist_ok=True)
    (root / "train.npz").write_bytes(buffer.getvalue())


LS_TASK = '[{"id": 1, "annotations": [{"id": 2, "result": [{"type": "polygonlabels"}]}], "data": {"image": "a.png"}}]'
LS_MIN = '[{"image": "/data/upload/a.png", "id": 1, "label": [{"points": [[1, 2]]}], "annotator": 1}]'
VIA_PROJECT = '{"_via_settings": {}, "_via_img_metadata": {}, "_via_attributes": {}}'
VIA_REGIONS = '{"a.png12": {"filename": "a.png", "size": 12, "regions": [{"shape_attributes": {"name": "polygon"}}]}}'
VIA_CSV = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"
VOC = "<annotation>\n\t<folder>a</folder>\n\t<filename>a.png</filename>\n</annotation>\n"
CVAT_XML = '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n</annotations>\n'
DATUMARO = '{"dm_format_version": "1.0", "infos": {}, "categories": {}, "items": []}'
BOXES = "filename,width,height,class,xmin,ymin,xmax,ymax\n"

EXPORTS: Sequence[Export] = (
    Export("CVAT", "COCO 1.0", "coco", cvat_coco),
    Export("CVAT", "CVAT for images 1.1", "", texts("annotations.xml", CVAT_XML)),
    Export("CVAT", "Datumaro 1.0", "", texts("annotations/default.json", DATUMARO)),
    Export("CVAT", "segmentation mask 1.1", "", segmentation_masks),
    Export("Label Studio", "COCO", "coco", label_studio_coco),
    Export("Label Studio", "JSON", "", texts("export.json", LS_TASK)),
    Export("Label Studio", "JSON-MIN", "", texts("export.json", LS_MIN)),
    Export("Label Studio", "brush labels", "", brush_masks),
    Export("Roboflow", "COCO Segmentation", "coco", roboflow_coco),
    Export("Roboflow", "semantic masks", "", semantic_masks),
    Export("Roboflow", "CreateML", "", texts("train/_annotations.createml.json", "[]")),
    Export("Roboflow", "boxes in a CSV", "", texts("train/_annotations.csv", BOXES)),
    Export("labelme", "X.json", "paired", labelme),
    Export("VIA", "COCO", "coco", via_coco),
    Export("VIA", "project", "", texts("via_project.json", VIA_PROJECT)),
    Export("VIA", "JSON", "", texts("via_export.json", VIA_REGIONS)),
    Export("VIA", "CSV", "", texts("via_export.csv", VIA_CSV)),
    Export("QuPath", "X.geojson", "paired", qupath(plain)),
    Export("QuPath", "X.geojson of cells with nuclei", "paired", qupath(with_nuclei)),
    Export("QuPath", "X.json, a list of features (0.2)", "paired", qupath(as_list)),
    Export("QuPath", "X.geojson.gz", "paired", qupath(as_gzip)),
    Export("QuPath", "X.zip with X.geojson in it", "paired", qupath(as_zip)),
    Export("QuPath", "project", "", texts("project.qpproj", "{}")),
    Export("Fiji (ImageJ)", "X.zip of the ROI Manager", "paired", fiji),
    Export("Fiji", "one RoiSet.zip", "", fiji_one_set),
    Export("Cellpose, its GUI", "X_seg.npy (version 1)", "paired", cellpose_1),
    Export("Cellpose, its GUI", "X_seg.npy (versions 2 and 3)", "paired", cellpose_2_and_3),
    Export("Cellpose, its GUI", "X_seg.npy (version 4)", "paired", cellpose_4),
    Export("Cellpose", "--save_png: X_cp_masks.png", "paired", label_file("_cp_masks.png")),
    Export("Cellpose", "--save_tif: X_cp_masks.tif", "paired", label_file("_cp_masks.tif")),
    Export("Cellpose", "with --save_flows, --save_outlines, --save_txt", "paired", cellpose_all),
    Export("Cellpose", "--in_folders: masks/X_cp_masks.tif", "paired", cellpose_folders),
    Export("Cellpose", "--save_rois: X_rois.zip", "paired", lambda root: beside(
        root, lambda path, picture: roi_set(Path(f"{path}_rois.zip"), picture.cells))),
    Export("Cellpose", "outlines as text", "", texts("im1_cp_outlines.txt", "1,2,3,4\n")),
    Export("StarDist", "train/images, train/masks", "paired", stardist),
    Export("NeurIPS 2022 CellSeg", "images/X.bmp, labels/X_label.tiff", "paired", cellseg),
    Export("LIVECell", "livecell_coco_train.json ..", "coco", livecell),
    Export("LIVECell", "one cell type: a172/train.json ..", "coco", livecell_one_type),
    Export("Kaggle DSB2018 (BBBC038)", "ID/images, ID/masks", "dsb2018", bbbc038),
    Export("Kaggle Sartorius", "train.csv", "rle-csv", sartorius),
    Export("OME-TIFF", "X.ome.tif, X_masks.ome.tif", "paired", ome_tiff("{}.ome.tif", "{}_masks.ome.tif")),
    Export("OME-TIFF", "X.ome.tif, X.ome_masks.tif", "paired", ome_tiff("{}.ome.tif", "{}.ome_masks.tif")),
    Export("OME-TIFF", "images/X.ome.tif, masks/X.tif", "paired", ome_tiff("images/{}.ome.tif", "masks/{}.tif")),
    Export("Pascal VOC", "", "", texts("Annotations/a.xml", VOC)),
    Export("YOLO", "", "", texts("data.yaml", "names: [cell]\n", "labels/im1.txt", "0 0.1 0.2 0.3 0.4\n")),
    Export("TensorFlow records", "", "", texts("train/cells.tfrecord", "x")),
    Export("ilastik or HDF5", "", "", texts("im1.h5", "x")),
    Export("DeepCell or NumPy archives", "", "", array_file),
    Export("OME-Zarr", "", "", texts("plate.zarr/0/0", "x")),
    Export("Imaris", "", "", texts("im1.ims", "x")),
)  # fmt: skip
TOOLLESS = ("OME-TIFF",)  # names of files that no tool alone writes
