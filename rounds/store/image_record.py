"""Reads the file of an image, and describes its pixels as a record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from cellsemi.configs.errors import ImageError
from cellsemi.rounds.store.image_codec import intensity_range, pixel_sha256
from cellsemi.rounds.store.schemas import ImageRecord


def read_image_file(path: Path, name: str) -> bytes:
    """The bytes of a file; ImageError, naming `name`, when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(name, f"cannot be read ({error.strerror})", "check the file and its permissions") from None


def record_of(
    pixels: NDArray[Any], image_id: str, source: str, split: str, content: bytes | None = None
) -> ImageRecord:
    """The record of an image as `decode_image` gives it, without cells; `content` is its file, where it is kept."""
    low, high = intensity_range(pixels)
    return ImageRecord(
        image_id=image_id,
        height=pixels.shape[0],
        width=pixels.shape[1],
        split=split,
        image=content,
        source=source,
        sha256=pixel_sha256(pixels),
        dtype=pixels.dtype.name,
        low=low,
        high=high,
    )
