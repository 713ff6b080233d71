"""Lists the data formats: what must be known of each before its code is imported.

This is the one list of formats. The values of `data.source`, the choices of `cellsemi data export --format`, the
readers, the writers and the rules that recognise a data set all follow from it. The code of a format stands in the
module that its entry names (rounds/formats/registry.py says what that module holds).
"""

from __future__ import annotations

from typing import NamedTuple

_FORMATS = "cellsemi.rounds.formats"


class FormatEntry(NamedTuple):
    """One format.

    `spec` is MODULE:NAME of its FormatSpec, imported when it is used. `layout` says what such a data set, or export,
    looks like. `extensions` are those of annotation files that lie beside their images (`data.source: paired`); of
    two formats with the same one the content decides, the first in this list before others;
    `reads`: it is a value of `data.source`, which needs the settings `needs` of the data section; `writes`: it is a
    choice of `cellsemi data export --format`. `file` is the name of what it writes where nobody chooses one; a format
    that writes a folder has none.
    """

    name: str
    spec: str
    layout: str
    extensions: tuple[str, ...] = ()
    reads: bool = False
    writes: bool = False
    needs: tuple[str, ...] = ()
    file: str = ""


# In the order in which their rules are tried on an unknown folder: the most telling first, the most lenient last.
FORMATS: tuple[FormatEntry, ...] = (
    FormatEntry("shards", f"{_FORMATS}.shards:SHARDS", "what `cellsemi data import` wrote", reads=True),
    FormatEntry(
        "label-maps", f"{_FORMATS}.label_map.spec:LABEL_MAPS", "folders and a manifest", reads=True, writes=True
    ),
    FormatEntry(
        "coco",
        f"{_FORMATS}.coco.spec:COCO",
        "a JSON file",
        reads=True,
        writes=True,
        needs=("annotations",),
        file="coco.json",
    ),
    FormatEntry("rle-csv", f"{_FORMATS}.kaggle.spec:RLE_CSV", "Kaggle", reads=True, needs=("annotations",)),
    FormatEntry("dsb2018", f"{_FORMATS}.dsb2018:DSB2018", "ID/images and ID/masks", reads=True),
    FormatEntry(
        "class-files", f"{_FORMATS}.label_map.class_files:CLASS_FILES", "image.tif beside class1.tif ..", reads=True
    ),
    FormatEntry(
        "paired",
        f"{_FORMATS}.paired.spec:PAIRED",
        "X.tif beside X_masks.tif, X_seg.npy, X.zip (ImageJ), X.geojson (QuPath) or X.json (labelme)",
        reads=True,
    ),
    FormatEntry("seg-npy", f"{_FORMATS}.cellpose.seg_npy:SEG_NPY", "X_seg.npy of Cellpose", (".npy",), writes=True),
    FormatEntry("labelme", f"{_FORMATS}.labelme:LABELME", "X.json of labelme", (".json",)),
    FormatEntry(
        "geojson",
        f"{_FORMATS}.qupath.geojson:GEOJSON",
        "X.geojson of QuPath",
        (".geojson", ".json", ".geojson.gz", ".zip"),
        writes=True,
    ),
    FormatEntry("imagej-rois", f"{_FORMATS}.imagej.roi_set:ROI_SET", "X.zip of ROIs", (".zip", ".roi"), writes=True),
    FormatEntry(
        "kaggle", f"{_FORMATS}.kaggle.spec:SUBMISSION", "a submission, row by row", writes=True, file="submission.csv"
    ),
    FormatEntry(
        "kaggle-columns",
        f"{_FORMATS}.kaggle.spec:SUBMISSION_BY_COLUMN",
        "a submission, column by column",
        writes=True,
        file="submission-columns.csv",
    ),
    FormatEntry(
        "measurements",
        f"{_FORMATS}.measurements:MEASUREMENTS",
        "a table of the cells",
        writes=True,
        file="measurements.csv",
    ),
    FormatEntry("overlays", f"{_FORMATS}.overlays:OVERLAYS", "pictures with the outlines of the cells", writes=True),
)

READABLE: tuple[str, ...] = tuple(entry.name for entry in FORMATS if entry.reads)
WRITABLE: tuple[str, ...] = tuple(sorted(entry.name for entry in FORMATS if entry.writes))
# Those in which a person corrects masks, each with its tool; the first one is the default.
EDITABLE: tuple[str, ...] = ("seg-npy", "geojson", "imagej-rois", "coco", "label-maps")
ANNOTATION_EXTENSIONS: tuple[str, ...] = tuple(
    dict.fromkeys(extension for entry in FORMATS for extension in entry.extensions)
)


def entry_of(name: str) -> FormatEntry:
    """The entry of a format; KeyError when there is none of this name."""
    return _BY_NAME[name]


_BY_NAME: dict[str, FormatEntry] = {entry.name: entry for entry in FORMATS}
