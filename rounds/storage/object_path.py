"""A path whose files are objects of a bucket: s3://BUCKET/KEY or gs://BUCKET/KEY."""

from __future__ import annotations

import errno
import fnmatch
import os
import stat
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path, PosixPath, PurePath
from typing import IO, Any, Self

from cellsemi.configs.errors import RunError
from cellsemi.rounds.storage import appended, local_copies, object_store

FILE_MODE, FOLDER_MODE = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755
NS = 10**9


class ObjectPath(PosixPath):
    """The part of pathlib's interface that is used on the paths of runs and data; names are as those of a PosixPath.

    A folder is there while there are objects below it, and is never made. `open` reads from a local copy, and appends
    to a local file that is written as an object at times (`appended`); objects are written whole by `write_bytes` and
    the writers of `files`. What needs a file of the operating system is refused: `files.local` gives one.
    """

    __slots__ = ()

    # --- names ------------------------------------------------------------------------------------------

    def __str__(self) -> str:
        text = super().__str__()
        scheme, colon, rest = text.partition(":/")
        return f"{scheme}://{rest.lstrip('/')}" if colon and scheme in object_store.SCHEMES else text

    def __fspath__(self) -> str:
        raise RunError(
            f"{self}: this part of cellsemi reads and writes files of this machine only; copy the objects into a "
            "folder and name that"
        )

    def __truediv__(self, key: str | os.PathLike[str]) -> Self:
        text = str(key) if isinstance(key, PurePath) else os.fspath(key)
        if object_store.is_address(text):  # as of any two paths: the second wins where it is whole
            return type(self)(text)
        if PurePath(text).is_absolute():
            return Path(text)  # type: ignore[return-value]
        return type(self)(str(self), text)

    def joinpath(self, *others: str | os.PathLike[str]) -> Self:
        """As of any path."""
        found = self
        for other in others:
            found = found / other
        return found

    def is_absolute(self) -> bool:
        """Whether it names a bucket; what is left of a path by `relative_to` does not."""
        return object_store.is_address(str(self))

    def as_uri(self) -> str:
        """The address."""
        return str(self)

    @property
    def parents(self) -> Sequence[Self]:
        """The folders around it, up to the bucket."""
        return [each for each in super().parents if len(each.parts) > 1]

    def absolute(self) -> Self:
        """Itself."""
        return self

    def resolve(self, strict: bool = False) -> Self:
        """Itself: there are no links."""
        return self

    def expanduser(self) -> Self:
        """Itself."""
        return self

    # --- what is there ------------------------------------------------------------------------------------

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Size, kind and time of change. A store states whole seconds: the nanoseconds tell two contents apart."""
        self._settle()
        found = object_store.head(self._address) if self._is_key else None
        if found is not None:
            ns = int(found.modified) * NS + int(found.mark[:12], 16) % NS
            return _stat_result(FILE_MODE, found.size, ns)
        if self.is_dir():
            return _stat_result(FOLDER_MODE, 0, 0)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))

    def lstat(self) -> os.stat_result:
        """As `stat`."""
        return self.stat()

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Whether there is such an object, or any below it."""
        self._settle()
        return self._is_place and object_store.kind(self._address) != ""

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Whether there is such an object."""
        self._settle()
        return self._is_key and object_store.head(self._address) is not None

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether there are objects below it."""
        appended.settle_below(self._address)
        return self._is_place and object_store.kind(self._address) == "folder"

    def is_symlink(self) -> bool:
        """False."""
        return False

    def samefile(self, other_path: str | os.PathLike[str]) -> bool:
        """Whether the other names the same."""
        return str(self) == str(other_path)

    def iterdir(self) -> Generator[Self, None, None]:
        """What lies in it, sorted; FileNotFoundError where nothing does."""
        appended.settle_below(self._address)
        found = object_store.list_folder(self._address)
        if not found and not self.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        yield from (type(self)(entry.address) for entry in found)

    def glob(self, pattern: str, **_: Any) -> Iterator[Self]:  # type: ignore[override]
        """What matches below it, `*` within a name and `**` over folders, sorted."""
        parts = pattern.split("/")
        fixed = next((i for i, part in enumerate(parts) if _is_pattern(part)), len(parts))
        top = self.joinpath(*parts[:fixed])
        if fixed == len(parts):
            yield from [top] if top.exists() else []
            return
        wanted = parts[fixed:]
        appended.settle_below(str(top))
        for entry in object_store.list_folder(str(top), recursive=len(wanted) > 1 or wanted == ["**"]):
            found = type(self)(entry.address)
            if _matches(found.relative_to(top).parts, wanted):
                yield found

    def rglob(self, pattern: str, **_: Any) -> Iterator[Self]:  # type: ignore[override]
        """The same at any depth."""
        return self.glob(f"**/{pattern}")

    # --- content ------------------------------------------------------------------------------------------

    def open(  # type: ignore[override]
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """Read a local copy, or append to the local file that is written as the object at times."""
        if mode.replace("b", "").replace("t", "") == "a":
            return appended.spool(self._address).open(mode, buffering, encoding, errors, newline)
        if mode.replace("b", "").replace("t", "") != "r":
            raise ValueError(f"{self}: an object is written whole; mode {mode!r} is not offered")
        return self.local().open(mode, buffering, encoding, errors, newline)

    def local(self) -> Path:
        """A local file with the content, only to be read."""
        self._settle()
        return local_copies.local_copy(self._address)

    def read_bytes(self) -> bytes:
        """The content."""
        self._settle()
        return object_store.get(self._address)

    def read_text(self, encoding: str | None = None, errors: str | None = None, newline: str | None = None) -> str:
        """The content as text, line ends as they are read from any file."""
        text = self.read_bytes().decode(encoding or "utf-8", errors or "strict")
        return text.replace("\r\n", "\n").replace("\r", "\n")

    def write_bytes(self, data: Any) -> int:
        """Write the object whole."""
        content = bytes(data)
        appended.forget(self._address)
        object_store.put(self._address, content)
        return len(content)

    def write_text(
        self, data: str, encoding: str | None = None, errors: str | None = None, newline: str | None = None
    ) -> int:
        """Write the object whole."""
        return self.write_bytes(data.encode(encoding or "utf-8", errors or "strict"))

    def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:
        """Write an empty object where there is none."""
        if not self.is_file():
            self.write_bytes(b"")

    # --- changes ------------------------------------------------------------------------------------------

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a folder is there with its first object."""

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object."""
        appended.forget(self._address)
        try:
            object_store.delete(self._address)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rmdir(self) -> None:
        """Remove the mark of an empty folder."""
        if object_store.list_folder(self._address):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(self))
        self.remove_folder()

    def remove_folder(self) -> None:
        """Remove all objects below it; those that say what the others are (JSON) first."""
        appended.forget(self._address)
        for entry in object_store.list_folder(self._address, recursive=True):
            if entry.is_file and entry.address.endswith(".json"):
                object_store.delete(entry.address)
        object_store.delete_folder(self._address)

    def replace(self, target: str | os.PathLike[str]) -> Self:
        """Give the object, or all of a folder, another name: copied first, then removed, what states others first."""
        place = target if isinstance(target, ObjectPath) else type(self)(os.fspath(target))
        appended.settle_below(self._address)
        if self.is_file():
            object_store.copy(self._address, str(place))
            self.unlink()
        else:
            for entry in object_store.list_folder(self._address, recursive=True):
                if entry.is_file:
                    object_store.copy(entry.address, str(place / type(self)(entry.address).relative_to(self)))
            self.remove_folder()
        return type(self)(str(place))

    def rename(self, target: str | os.PathLike[str]) -> Self:
        """As `replace`."""
        return self.replace(target)

    def hardlink_to(self, target: Any) -> None:
        """A copy of another object, or of a local file: an object has one name."""
        if isinstance(target, ObjectPath):
            object_store.copy(str(target), self._address)
        else:
            object_store.put_file(self._address, Path(target))

    @property
    def _address(self) -> str:
        return str(self)

    @property
    def _is_place(self) -> bool:
        return self.is_absolute() and len(self.parts) > 1

    @property
    def _is_key(self) -> bool:
        return self.is_absolute() and len(self.parts) > 2

    def _settle(self) -> None:
        appended.settle(self._address)


def _is_pattern(part: str) -> bool:
    return any(sign in part for sign in "*?[")


def _matches(parts: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether the names of a path match those of a pattern, `**` any number of them."""
    if not wanted:
        return not parts
    if wanted[0] == "**":
        return _matches(parts, wanted[1:]) or (bool(parts) and _matches(parts[1:], wanted))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], wanted[0]) and _matches(parts[1:], wanted[1:])


def _stat_result(mode: int, size: int, ns: int) -> os.stat_result:
    seconds = ns // NS
    values = (mode, 0, 0, 1, 0, 0, size, seconds, seconds, seconds)
    exact = {f"st_{which}time": ns / NS for which in "amc"} | {f"st_{which}time_ns": ns for which in "amc"}
    return os.stat_result(values, exact)
