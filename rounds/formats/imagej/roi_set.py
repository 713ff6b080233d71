"""Reads and writes ImageJ's ROI sets: a zip archive with a .roi file per cell, as the ROI Manager saves it.

A cell is a ROI with an area (polygon, freehand, traced, rectangle, oval, composite). Its class is its group.
"""

from __future__ import annotations

import contextlib
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath

from cellsemi.configs.errors import ImageError
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.outlines import Filled, OutlineError, fill, is_speck, to_instances, trace
from cellsemi.rounds.formats.base import NO_AREA, NO_PIXEL, Exported, FileCells, check_left_out
from cellsemi.rounds.formats.imagej.roi import MAX_GROUP, decode, encode, has_area
from cellsemi.rounds.formats.registry import FormatSpec
from cellsemi.rounds.formats.shared.folder import JUNK
from cellsemi.rounds.formats.shared.json_stream import short
from cellsemi.rounds.formats.shared.per_image import write_each
from cellsemi.rounds.store.schemas import ImageRecord

MAX_ROIS = 100_000
MAX_ROI = 1 << 19  # bytes of one ROI unpacked: 130,000 points
MAX_UNPACKED = 1 << 28  # bytes of all of them
MAX_RATIO, FREE = 100, 1 << 20  # beyond FREE bytes the ROIs may unpack to so many times the archive

_CENTRAL = b"PK\x01\x02"  # begins the entry of a file in the directory of an archive
_PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, LookupError, RuntimeError)
_REMEDY = "save the ROI set anew"
_DATE = (1980, 1, 1, 0, 0, 0)  # of every entry, so that the same cells give the same bytes


def read_roi_set(content: bytes, path: str, record: ImageRecord) -> FileCells:
    """The cells of a ROI set (.zip) or of a single ROI (.roi).

    The class names are "group 1", "group 2" ... as the ROIs use them ("group 0" for those without); () when none has a
    group. Nothing is unpacked to the disk. Raises ImageError, naming the entry, for an archive that is damaged,
    encrypted, or unpacks to too much, for what is no ROI or lies outside the image, for ROIs on several slices of a
    stack, and when most of them are left out: points, lines and texts have no area, specks no pixel.
    """
    cells: list[Filled] = []
    groups: list[int] = []
    planes: set[tuple[int, int, int]] = set()
    left_out: Counter[str] = Counter()
    for place, entry in _entries(content, path):
        if not has_area(entry, place):
            left_out[NO_AREA] += 1
            continue
        roi = decode(entry, place, record.width)
        try:
            cells.append(fill(roi.rings, record.height, record.width))
        except OutlineError as error:
            if not is_speck(roi.rings):
                raise ImageError(place, str(error), "is it the ROI set of this image?") from None
            left_out[NO_PIXEL] += 1
            continue
        groups.append(roi.group)
        planes |= {roi.plane} - {(0, 0, 0)}
        if len(planes) > 1:
            raise ImageError(place, "its ROIs lie on several slices of a stack", "save a ROI set for each slice")
    used = sorted(set(groups)) if any(groups) else []
    class_id = [used.index(group) for group in groups] if used else 0
    instances = to_instances(cells, record.height, record.width, class_id=class_id, state="human")
    check_left_out(left_out, len(cells), path)
    return FileCells(instances, tuple(f"group {group}" for group in used), left_out)


def write_roi_sets(records: Iterable[ImageRecord], out: Path, classes: Sequence[str]) -> Exported:
    """Write OUT/ID.zip for each image, a traced or composite ROI per cell, and the image beside it.

    A ROI is named "0001-CLASS-SCORE"; where there are several classes its group is the class id + 1. Overlaps are
    kept. Ignored cells are left out and counted: a ROI cannot say it. Raises as `write_each` does.
    """
    return write_each(records, out, ".zip", lambda cells, _, done: _archive(cells, done, classes))


# --- reading ------------------------------------------------------------------------------------------


def _entries(content: bytes, path: str) -> Iterator[tuple[str, bytes]]:
    """(place for messages, bytes) of every ROI, one in memory at a time."""
    if not content.startswith(b"PK"):
        _check_size(path, len(content))
        yield path, content
        return
    if content.count(_CENTRAL) > MAX_ROIS:
        raise ImageError(path, f"holds more than {MAX_ROIS} files", _REMEDY)
    with _readable(path):
        archive = zipfile.ZipFile(BytesIO(content))
    with archive:
        listed = [info for info in archive.infolist() if not _is_left_out(info.filename)]
        _check_sizes(listed, path, len(content))
        for info in listed:
            place = f"{path}, entry {short(info.filename)}"
            with _readable(place):
                entry = archive.read(info)
            yield place, entry


def _is_left_out(name: str) -> bool:
    """Whether an entry is a folder, or what macOS leaves in archives."""
    return name.endswith("/") or any(part.startswith(JUNK) for part in PurePosixPath(name).parts)


def _check_size(place: str, size: int) -> None:
    if size > MAX_ROI:
        raise ImageError(place, f"has {size} bytes, the limit for a ROI is {MAX_ROI}", _REMEDY)


def _check_sizes(listed: Sequence[zipfile.ZipInfo], path: str, packed: int) -> None:
    """ImageError unless all entries are ROIs that can be unpacked without harm."""
    for info in listed:
        place = f"{path}, entry {short(info.filename)}"
        if not info.filename.lower().endswith(".roi"):
            raise ImageError(place, "is not a .roi file", "an archive of ROIs holds nothing else")
        if info.flag_bits & 1:
            raise ImageError(place, "is encrypted", "save it without a password")
        if info.compress_type not in _PLAIN:
            raise ImageError(place, f"is packed by method {info.compress_type}", _REMEDY)
        _check_size(place, info.file_size)
    total = sum(info.file_size for info in listed)
    limit = min(MAX_UNPACKED, max(FREE, MAX_RATIO * packed))
    if total > limit:
        raise ImageError(path, f"unpacks to {total} bytes, the limit is {limit}", _REMEDY)


@contextlib.contextmanager
def _readable(place: str) -> Iterator[None]:
    """Turn what zipfile raises on damaged content into an ImageError."""
    try:
        yield
    except _BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(place, f"cannot be unpacked: {reason}", "the archive is damaged; copy it anew") from error


# --- writing ------------------------------------------------------------------------------------------


def _archive(cells: Instances, done: Exported, classes: Sequence[str]) -> bytes:
    grouped = 1 < len(classes) <= MAX_GROUP
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for i, (crop, x0, y0) in enumerate(masks.crops(cells)):
            if cells.state[i] == "ignored":
                done.losses["ignored cells"] += 1
                continue
            class_id = int(cells.class_id[i])
            name = f"{i + 1:04d}-{_plain(classes[class_id])}-{cells.score[i]:.3f}"
            content = encode(trace(crop, x0, y0), name, class_id + 1 if grouped else 0)
            info = zipfile.ZipInfo(f"{name}.roi", _DATE)
            info.create_system, info.compress_type = 3, zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
            done.cells += 1
            done.losses["cells whose class stands in their name only"] += len(classes) > MAX_GROUP
    done.losses = +done.losses
    return buffer.getvalue()


def _plain(name: str) -> str:
    """A class name as part of the name of a file and of a ROI."""
    return "".join(c if c.isprintable() and c not in '/\\:*?"<>|' and ord(c) < 0x10000 else "_" for c in name)


ROI_SET = FormatSpec(
    "imagej-rois", read_annotation=read_roi_set, has_classes=True, writer=write_roi_sets, writes_folder=True
)
