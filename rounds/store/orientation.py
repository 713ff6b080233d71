"""Reads the orientation that an image file asks viewers to show it in (EXIF, TIFF tag 274), and turns pixels so.

Browsers and annotation tools show such an image turned, and people annotate what they see; other programs take the
pixels as stored. Nothing in an annotation says which of the two was done.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any, Literal

import numpy as np
import tifffile
from numpy.typing import NDArray

from cellsemi.configs.errors import ImageError
from cellsemi.rounds.store.image_codec import MAX_PIXELS, decode_image, open_tag_reader, to_png

Orientation = Literal["refuse", "apply", "ignore"]

UPRIGHT = 1
TAG = 274  # in EXIF and in TIFF
SHOWN_AS = {
    2: "mirrored left to right",
    3: "upside down",
    4: "mirrored top to bottom",
    5: "mirrored along its diagonal",
    6: "turned clockwise by 90 degrees",
    7: "mirrored along its other diagonal",
    8: "turned anticlockwise by 90 degrees",
}


def orientation(content: bytes) -> int:
    """1 (as stored) to 8, as the file asks for; 1 where it asks for nothing that is known, or cannot be read."""
    found = open_tag_reader(content)(TAG)
    return found if found in SHOWN_AS else UPRIGHT


def decode_oriented(
    content: bytes, path: str, max_pixels: int = MAX_PIXELS, how: Orientation = "refuse"
) -> tuple[NDArray[Any], bytes]:
    """The pixels of an image file as `decode_image` gives them, and the bytes of a file that holds just these.

    A file that asks to be shown turned is refused with an ImageError, or turned as it is shown (`apply`; its bytes are
    then those of a new PNG or TIFF), or taken as it is stored (`ignore`). Raises ImageError as decode_image does.
    """
    pixels = decode_image(content, path, max_pixels)
    asked = UPRIGHT if how == "ignore" else orientation(content)
    if asked == UPRIGHT:
        return pixels, content
    if how == "refuse":
        raise ImageError(
            path,
            f"has the orientation {asked}: viewers and annotation tools show it {SHOWN_AS[asked]}",
            "--set data.orientation=apply turns it as it is shown, =ignore takes it as stored; or save it without "
            "the tag",
        )
    turned = np.ascontiguousarray(turn(pixels, asked))
    return turned, _encoded(turned)


def turn(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """(H, W) or (H, W, C) pixels as an orientation of 1 to 8 shows them (Exif 2.3, 4.6.4 A)."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _encoded(pixels: NDArray[Any]) -> bytes:
    """A PNG where it can hold the pixels, else a TIFF; equal pixels give equal bytes."""
    if pixels.dtype == np.uint8 or (pixels.dtype == np.uint16 and pixels.ndim == 2):
        return to_png(pixels)
    buffer = BytesIO()
    kind = "rgb" if pixels.ndim == 3 else "minisblack"
    tifffile.imwrite(buffer, pixels, photometric=kind, compression="zlib", metadata=None, software=False)
    return buffer.getvalue()
