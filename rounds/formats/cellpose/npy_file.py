"""Reads NumPy's .npy files without NumPy's loader: numbers, or what `np.save` makes of a dict.

Source: the description of the format in numpy.lib.format (versions 1 to 3).
"""

from __future__ import annotations

import re
import struct
from io import BytesIO

from cellsemi.configs.errors import ImageError
from cellsemi.rounds.formats.cellpose.safe_pickle import StoredArray, follow

MAGIC = b"\x93NUMPY"

_HEADER_SIZES = {1: "<H", 2: "<I", 3: "<I"}  # by major version
_DAMAGE = (ValueError, TypeError, LookupError, OverflowError, struct.error)


def read_npy(content: bytes, path: str) -> StoredArray:
    """The array of a .npy file; one of objects has them in the list `data`, as plain values.

    Dicts hold only their entries whose key is a str. Raises ImageError, naming `path`, when the file is damaged,
    names anything but what arrays are stored with (nothing of it is run), or holds too many parts.
    """
    try:
        stored, start = _header(content, path)
        if not stored.dtype.lstrip("|").startswith("O"):
            stored.data = memoryview(content)[start:]
            return stored
        program = BytesIO(content)
        program.seek(start)
        found = follow(program, path)
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ImageError(path, f"cannot be decoded: {reason}", "the file is damaged; save it anew") from error
    if not isinstance(found, StoredArray):
        raise ImageError(path, "the file holds no array", "save it with numpy.save")
    return found


def _header(content: bytes, path: str) -> tuple[StoredArray, int]:
    """Shape and dtype of the file, and where its data starts."""
    if not content.startswith(MAGIC):
        raise ImageError(path, "not an .npy file", f"it begins with {content[:8]!r}; save it with numpy.save")
    size = _HEADER_SIZES[content[6]]
    start = 8 + struct.calcsize(size)
    (length,) = struct.unpack(size, content[8:start])
    if length > len(content) - start:
        raise ValueError(f"a header of {length} bytes in a file of {len(content)}")
    header = content[start : start + length].decode("latin-1")
    descr = re.search(r"""['"]descr['"]\s*:\s*['"]([^'"]{1,20})['"]""", header)
    fortran = re.search(r"""['"]fortran_order['"]\s*:\s*(True|False)""", header)
    shape = re.search(r"""['"]shape['"]\s*:\s*\(([0-9, ]*)\)""", header)
    if not (descr and fortran and shape):
        raise ImageError(path, "the header does not describe an array of numbers", "save the masks with numpy.save")
    sides = tuple(int(side) for side in shape[1].split(",") if side.strip())
    return StoredArray(sides, descr[1], fortran[1] == "True"), start + length
