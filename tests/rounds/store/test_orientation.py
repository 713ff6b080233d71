"""The orientation of image files: read from EXIF and TIFF tags, and turned as Pillow turns it."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cellsemi.configs.data import DataConfig
from cellsemi.configs.errors import ImageError
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.formats.label_map.label_map import cells_of_label_map
from cellsemi.rounds.formats.shared.folder import Folder
from cellsemi.rounds.store.image_codec import decode_image
from cellsemi.rounds.store.orientation import TAG, decode_oriented, orientation
from cellsemi.rounds.store.schemas import ImageRecord

PIXELS = np.arange(6 * 10, dtype=np.uint8).reshape(6, 10)


def tagged(kind: str, number: int, pixels: NDArray[Any] = PIXELS) -> bytes:
    """An image file with an orientation; JPEG loses the exact values, so it is made of blocks."""
    buffer = BytesIO()
    if kind == "TIFF":
        kind = "rgb" if pixels.ndim == 3 else "minisblack"
        tifffile.imwrite(buffer, pixels, photometric=kind, metadata=None, extratags=[(TAG, 3, 1, number, True)])
        return buffer.getvalue()
    exif = Image.Exif()
    exif[TAG] = number
    Image.fromarray(pixels).save(buffer, kind, exif=exif, **({"quality": 100} if kind == "JPEG" else {}))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("number", range(1, 9))
def test_pixels_are_turned_as_pillow_turns_them(kind: str, number: int) -> None:
    content = tagged(kind, number)
    assert orientation(content) == number
    stored = decode_image(content, "a")
    pixels, again = decode_oriented(content, "a", how="apply")
    exif = Image.Exif()
    exif[TAG] = number
    shown = Image.fromarray(stored)
    shown.getexif()[TAG] = number
    assert np.array_equal(pixels, np.asarray(ImageOps.exif_transpose(shown)))
    assert np.array_equal(decode_image(again, "a"), pixels) and orientation(again) == 1
    assert np.array_equal(decode_oriented(content, "a", how="ignore")[0], stored)
    if number > 1:
        with pytest.raises(ImageError, match=rf"^a: has the orientation {number}: viewers.*data\.orientation=apply"):
            decode_oriented(content, "a")
    else:
        assert decode_oriented(content, "a")[1] == content


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_deep_pixels_are_turned_exactly(dtype: Any) -> None:
    for values in (PIXELS.astype(dtype) * dtype(300), np.dstack([PIXELS, PIXELS + 1, PIXELS]).astype(dtype)):
        pixels, again = decode_oriented(tagged("TIFF", 6, values), "a", how="apply")
        assert np.array_equal(pixels, np.rot90(values, -1)) and np.array_equal(decode_image(again, "a"), pixels)


@pytest.mark.parametrize("content", [b"", b"BM", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00", tagged("PNG", 9)])
def test_damaged_files_and_unknown_numbers_ask_for_nothing(content: bytes) -> None:
    assert orientation(content) == 1


def test_a_folder_follows_the_setting_and_a_label_map_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(tagged("PNG", 6))
    folder = Folder(tmp_path, ".", "data.images")
    with pytest.raises(ImageError, match="turned clockwise by 90 degrees"):
        folder.record("a.png", "a", DataConfig())
    record = folder.record("a.png", "a", DataConfig(orientation="apply"))
    assert (record.height, record.width) == (10, 6) and record.image is not None
    assert np.array_equal(decode_image(record.image, "a"), np.rot90(PIXELS, -1))
    of_mask = ImageRecord("a", 6, 10, "", instances=Instances.empty(6, 10))
    with pytest.raises(ImageError, match="a label map with the orientation 6"):
        cells_of_label_map(tagged("PNG", 6), "m", of_mask, 1000)
