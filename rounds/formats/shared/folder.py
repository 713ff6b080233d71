"""Finds the files of a folder of a data set by name. What is not in its listing cannot be reached.

Names are composed (NFC): some systems store `é` as two characters, listings rarely do. The folder is listed,
not searched by patterns, because names hold `[` and `*`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import threading
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import FrameType
from typing import Any

from numpy.typing import NDArray

from cellsemi.configs.data import DataConfig
from cellsemi.configs.errors import DataError, ImageError
from cellsemi.configs.formats import ANNOTATION_EXTENSIONS
from cellsemi.rounds.storage.object_path import ObjectPath
from cellsemi.rounds.store.image_codec import EXTENSIONS
from cellsemi.rounds.store.image_record import read_image_file, record_of
from cellsemi.rounds.store.orientation import decode_oriented
from cellsemi.rounds.store.schemas import ImageRecord

_KNOWN = tuple(sorted((*EXTENSIONS, *ANNOTATION_EXTENSIONS), key=len, reverse=True))  # .geojson.gz before others
_OME = re.compile(r"\.ome(?=$|[_-])", re.IGNORECASE)
PATTERN_S = 1.0  # of computing, for one path: a pattern that is well made needs microseconds
JUNK = ("__MACOSX", "._")  # what macOS leaves in archives


class Folder:
    """The files below `root`/`name`, sub-folders included, whose extension is one of `extensions`.

    `paths` are relative to `root`, with `/`, sorted. DataError when the folder is missing; `setting` names
    what the user sets to change it.
    """

    def __init__(self, root: Path, name: str, setting: str, extensions: tuple[str, ...] = EXTENSIONS) -> None:
        self.root, self.name, self._setting = root, name, setting
        self.paths = _listing(root, name, setting, extensions)
        self._by_stem: defaultdict[str, list[str]] = defaultdict(list)
        for path in self.paths:
            self._by_stem[split_extension(composed(path).rpartition("/")[2])[0]].append(path)

    @functools.cached_property
    def _by_path(self) -> dict[str, str]:
        return {composed(path): path for path in self.paths}

    @functools.cached_property
    def _by_name(self) -> dict[str, list[str]]:
        found: defaultdict[str, list[str]] = defaultdict(list)
        for path in self.paths:
            found[composed(path).rpartition("/")[2]].append(path)
        return found

    def ids(self) -> dict[str, str]:
        """Image id -> path: the name without extension, or with its folders where that is not distinct."""
        found: dict[str, str] = {}
        for paths in self._by_stem.values():
            for path in paths:
                found[self.id_of(path)] = path
        return dict(sorted(found.items()))

    def id_of(self, path: str) -> str:
        """The image id of a path of this folder: one part of a path, in composed Unicode."""
        whole = composed(path)
        stem = split_extension(PurePosixPath(whole).name)[0]
        same = self._by_stem[stem]
        if len(same) == 1:
            return stem
        inside = whole if self.name in (".", "") else whole.removeprefix(f"{PurePosixPath(self.name)}/")
        stems = {split_extension(other)[0] for other in same}
        unique = split_extension(inside)[0] if len(stems) == len(same) else inside
        return unique.replace("/", "__")

    def find_id(self, image_id: str, alone: bool = True) -> str:
        """The path of the one file of an id; ImageError when there is none, or more than one."""
        found = self.all_of_id(image_id, alone)
        return self._only(found, image_id, f"expected one of {', '.join(EXTENSIONS)} after the id, or take the row out")

    def all_of_id(self, image_id: str, alone: bool = True) -> list[str]:
        """The paths of the files of an id.

        An id may carry the extension of its image; its mask may then have another (`alone` is False).
        """
        name = composed(image_id)
        found = list(self._by_stem.get(name, ()))
        stem, extension = split_extension(name)
        if extension:
            same = self._by_stem.get(stem, [])
            found += [path for path in same if not alone or split_extension(path)[1] == extension]
        return found

    def find_path(self, path: str) -> str:
        """The path of the one file that an annotation names, by its path here or else by its last part.

        Folders that the file does not have here (`../media/a.png`, `C:\\a.png`) do not matter.
        ImageError when there is none, or more than one.
        """
        wanted = composed(path.replace("\\", "/"))
        for exact in (wanted, f"{PurePosixPath(self.name) / wanted}"):
            if exact in self._by_path:
                return self._by_path[exact]
        found = self._by_name.get(PurePosixPath(wanted).name, [])
        return self._only(found, path, f"it is not in {self.name}; {self._setting} names the folder below data.root")

    def _only(self, found: list[str], wanted: str, hint: str) -> str:
        if not found:
            raise ImageError(f"{self.name}/{wanted}", "there is no such file", hint)
        if len(found) > 1:
            raise ImageError(f"{self.name}/{wanted}", f"several files fit: {', '.join(found)}", "keep one")
        return found[0]

    def read(self, path: str) -> bytes:
        """The bytes of a file; ImageError when it cannot be read."""
        return read_image_file(self.root / path, path)

    def pixels(self, path: str, data: DataConfig) -> tuple[NDArray[Any], bytes]:
        """The pixels of an image and the bytes of a file that holds them; ImageError when it cannot be decoded."""
        return decode_oriented(self.read(path), path, data.max_pixels, data.orientation)

    def record(self, path: str, image_id: str, data: DataConfig) -> ImageRecord:
        """The record of an image of this folder, without cells; ImageError when it cannot be decoded."""
        return image_at(self.root, path, image_id, data)


def image_at(root: Path, path: str, image_id: str, data: DataConfig) -> ImageRecord:
    """The record of an image below a folder, without cells and without a listing; ImageError as `Folder.record`."""
    content = read_image_file(root / path, path)
    pixels, content = decode_oriented(content, path, data.max_pixels, data.orientation)
    return record_of(pixels, image_id, path, "", content)


def composed(text: str) -> str:
    """The text with each letter and its accent as one character (NFC), as names are compared here."""
    return unicodedata.normalize("NFC", text)


def split_extension(name: str) -> tuple[str, str]:
    """("a.b", ".png") of "a.b.PNG"; no extension when it is neither an image's nor an annotation's."""
    lower = name.lower()
    found = next((each for each in _KNOWN if lower.endswith(each) and len(each) < len(name)), "")
    return name[: len(name) - len(found)], found


def plain_stem(name: str) -> str:
    """The name of a file without extension, and without the `.ome` of OME-TIFF: "a" of "a.ome.tif".

    >>> plain_stem("a.ome.tif"), plain_stem("a.ome_masks.tif"), plain_stem("a_masks.ome.tif"), plain_stem("a.omen.tif")
    ('a', 'a_masks', 'a_masks', 'a.omen')
    """
    return _OME.sub("", split_extension(name)[0])


def check_id(image_id: str, place: str) -> None:
    """An id becomes file names: DataError, naming `place`, when it is empty or would lead out of its folder."""
    if not image_id.strip():
        raise DataError(f"{place}: the id is empty; it is the name of the image's file without extension")
    for forbidden in ("/", "\\", "..", "\0"):
        if forbidden in image_id:
            raise DataError(f"{place}: id {image_id!r} holds {forbidden!r}; an id is a plain file name")


def check_fits(path: str, what: str, height: int, width: int, record: ImageRecord) -> None:
    """ImageError when an annotation has another size than its image."""
    if (height, width) != (record.height, record.width):
        raise ImageError(
            path, f"{what} is {width}x{height}, the image {record.width}x{record.height}", "export it anew"
        )


def searched(pattern: str | None, path: str) -> str | None:
    """What the one group of a pattern finds in a path; None without a pattern or a find.

    DataError for a pattern that tries without end, as `(a+)+` does where it finds nothing.
    """
    if not pattern:
        return None
    with _patience(pattern, path):
        found = re.search(pattern, composed(path))
    return found[1] if found else None


@contextlib.contextmanager
def _patience(pattern: str, path: str) -> Iterator[None]:
    """DataError when the block computes for longer than PATTERN_S; no limit in other threads, nor on Windows."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def give_up(_: int, __: FrameType | None) -> None:
        raise DataError(
            f"the pattern {pattern!r} tries for more than {PATTERN_S:g} s on {path!r}: it repeats what is repeated "
            "already, as (a+)+ does; write data.class_pattern and data.group_pattern without that"
        )

    before = signal.signal(signal.SIGVTALRM, give_up)
    signal.setitimer(signal.ITIMER_VIRTUAL, PATTERN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _listing(root: Path, name: str, setting: str, extensions: tuple[str, ...]) -> tuple[str, ...]:
    folder = root / name
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise DataError(f"{setting}: {name!r} leads out of {root}; name a folder below data.root")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; {setting} names it below data.root")

    def refused(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from None

    if isinstance(folder, ObjectPath):
        return tuple(path for path in _objects(folder, root) if path.lower().endswith(extensions))
    found: list[str] = []
    seen = {os.path.realpath(folder)}  # links are followed, but not in circles
    for parent, folders, files in os.walk(folder, onerror=refused, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith((".", *JUNK)) and _first(Path(parent, f), seen))
        below = PurePosixPath(Path(parent).relative_to(root).as_posix())
        kept = (f for f in files if f.lower().endswith(extensions) and not f.startswith(JUNK))
        found += [str(below / file) for file in kept]
    return tuple(sorted(found))


def _objects(folder: ObjectPath, root: Path) -> Iterator[str]:
    """The objects below a folder of a bucket, as `_listing` names files, sorted."""
    for path in folder.rglob("*"):
        below = path.relative_to(folder).parts
        hidden = any(part.startswith((".", *JUNK)) for part in below[:-1]) or below[-1].startswith(JUNK)
        if not hidden:
            yield path.relative_to(root).as_posix()


def _first(folder: Path, seen: set[str]) -> bool:
    """Whether a folder was not looked at under another name yet."""
    place = os.path.realpath(folder)
    if place in seen:
        return False
    seen.add(place)
    return True
