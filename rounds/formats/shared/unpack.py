"""Unpacks one text that was compressed, within bounds: an archive may unpack to more than memory holds."""

from __future__ import annotations

import zipfile
import zlib
from io import BytesIO

from cellsemi.configs.errors import ImageError

MAX_UNPACKED = 1 << 28  # bytes
MAX_RATIO, FREE = 100, 1 << 20  # beyond FREE bytes a file may unpack to so many times its size

GZIP, ZIP = b"\x1f\x8b", b"PK"
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, LookupError, RuntimeError)
_REMEDY = "save it anew without compression"


def zipped_name(content: bytes, endings: tuple[str, ...]) -> str | None:
    """The name of the first file of an archive that ends so; None when it has none, or is no archive."""
    if not content.startswith(ZIP):
        return None
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            return next((name for name in archive.namelist() if name.lower().endswith(endings)), None)
    except _BROKEN:
        return None


def unpacked(content: bytes, path: str, endings: tuple[str, ...]) -> bytes:
    """The text in a gzip file, or in the one file of a zip archive whose name ends so; other content as it is.

    ImageError, naming `path`, when it is damaged, holds several such files, or unpacks to too much.
    """
    limit = min(MAX_UNPACKED, max(FREE, MAX_RATIO * len(content)))
    try:
        if content.startswith(GZIP):
            machine = zlib.decompressobj(wbits=31)
            found = machine.decompress(content, limit + 1)
            if len(found) <= limit and not machine.eof:
                raise ImageError(path, "the compressed file is cut off", _REMEDY)
        elif content.startswith(ZIP):
            with zipfile.ZipFile(BytesIO(content)) as archive:
                names = [name for name in archive.namelist() if name.lower().endswith(endings)]
                if len(names) != 1:
                    raise ImageError(path, f"the archive holds {len(names)} files {' '.join(endings)}", "keep one")
                with archive.open(names[0]) as file:
                    found = file.read(limit + 1)
        else:
            return content
    except _BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(path, f"cannot be unpacked: {reason}", _REMEDY) from error
    if len(found) > limit:
        raise ImageError(path, f"unpacks to more than {limit} bytes", _REMEDY)
    return found
