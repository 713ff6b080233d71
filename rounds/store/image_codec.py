"""Decodes and encodes image files, and judges the header before a pixel is decoded.

PNG, JPEG and BMP go through Pillow's own classes, not through `Image.open`: its size limit is one global for
the whole process, ours is an argument. TIFF goes through tifffile. What cannot be kept exactly is
refused with a remedy, not rounded.
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import BmpImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin

from cellsemi.configs.errors import ImageError

MAX_PIXELS = 100_000_000
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
LOW, HIGH = 1.0, 99.8  # percentiles of an image that networks see as 0 and 1
SAMPLE = 1 << 18  # pixels that the percentiles are taken from, on a regular grid
EXTENSIONS = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_BMP = b"BM"
_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
# What the decoders are known to raise on damaged files (found by flipping bytes, see tests/test_images.py).
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    EOFError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
)
_PHOTOMETRIC = {0: "white is zero", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "CIE Lab"}


def decode_image(content: bytes, path: str, max_pixels: int = MAX_PIXELS) -> NDArray[Any]:
    """The pixels of a PNG, JPEG, BMP or TIFF file: (H, W), or (H, W, 3) when it has colour.

    The dtype is uint8, uint16 or float32. An alpha channel is dropped; colour with R == G == B becomes grey;
    32-bit and signed integers become uint16 when that is exact, else float32. The pixels are those as
    stored, whatever orientation the file asks to be shown in (`orientation.py`). Raises ImageError, naming `path`,
    when the file is empty, damaged, of another format, zero-sized, of several pages, larger than `max_pixels`
    (before decoding), or holds NaN or infinite values.
    """
    with _damage(path):
        pixels = _decode(content, path, max_pixels, labels=False)
        return _grey_if_equal(_plain_dtype(pixels, path))


def plain_image(pixels: NDArray[Any], name: str) -> NDArray[Any]:
    """An array as `decode_image` would give it: uint8, uint16 or float32; (H, W), or (H, W, 3) when it has colour.

    Taken are (H, W), and (H, W, C) with 1 channel, 3, or 4 whose last is alpha. Raises ImageError, naming `name`, for
    any other shape, an empty array, and NaN or infinite values.
    """
    if pixels.ndim == 3 and pixels.shape[2] in (1, 4):
        pixels = pixels[..., 0] if pixels.shape[2] == 1 else pixels[..., :3]
    if not pixels.size or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise ImageError(name, f"an array of shape {pixels.shape}", "expected (height, width), or 3 channels last")
    return _grey_if_equal(_plain_dtype(pixels, name))


def decode_label_map(content: bytes, path: str, max_pixels: int = MAX_PIXELS) -> NDArray[np.int32]:
    """The int32 (H, W) label map of a PNG, BMP or TIFF file: 0 is background, other values are cells.

    Palette images give their indices. Raises ImageError as decode_image does, and for colour, negative
    or fractional values, and values above 2**31 - 1.
    """
    if content.startswith(_JPEG):
        raise ImageError(path, "a JPEG cannot hold a label map", "its values are blurred; save PNG or TIFF")
    with _damage(path):
        labels = _decode(content, path, max_pixels, labels=True)
        if labels.ndim != 2:
            raise ImageError(path, "the label map has colour", "save one channel whose values number the cells")
        if not np.isfinite(labels).all() or (labels.dtype.kind == "f" and (labels != np.floor(labels)).any()):
            raise ImageError(path, "the label map holds values that are not whole numbers", "save it as integers")
        low, high = labels.min(), labels.max()
        if low < 0 or high > np.iinfo(np.int32).max:
            raise ImageError(path, f"the label map holds {low} to {high}", "expected 0 (background) to 2147483647")
        return labels.astype(np.int32)


def open_tag_reader(content: bytes) -> Callable[[int], object]:
    """What gives the value of an EXIF or TIFF tag of an image file by its number; None where there is none."""
    try:
        if content.startswith(_TIFF):
            with tifffile.TiffFile(BytesIO(content)) as file:
                page = file.pages[0]
                assert isinstance(page, tifffile.TiffPage)
                tags = {tag.code: tag.value for tag in page.tags}
            return lambda number: int(tags[number]) if number in tags else None
        if content.startswith(_JPEG):
            return JpegImagePlugin.JpegImageFile(BytesIO(content)).getexif().get
        if content.startswith(_PNG):
            return PngImagePlugin.PngImageFile(BytesIO(content)).getexif().get
    except _DAMAGE:
        pass
    return lambda number: None


def grey(image: NDArray[Any]) -> NDArray[np.float32]:
    """float32 (H, W) of a (H, W) or (H, W, 3) image: colour becomes luminance, what is not finite 0."""
    pixels = image.astype(np.float32)
    if not np.isfinite(pixels).all():
        pixels = np.nan_to_num(pixels, nan=0.0, posinf=0.0, neginf=0.0)
    return pixels @ LUMINANCE if pixels.ndim == 3 else pixels


def intensity_range(image: NDArray[Any]) -> tuple[float, float]:
    """The grey values that networks see as 0 and 1: the percentiles LOW and HIGH of the luminance.

    They give way to minimum and maximum where they are equal (a few bright cells on flat ground).
    """
    pixels = grey(image)
    step = max(1, int(np.sqrt(pixels.size / SAMPLE)))
    low, high = np.percentile(pixels[::step, ::step], (LOW, HIGH))
    if high <= low:
        low, high = pixels.min(), pixels.max()
    return float(low), float(high)


def pixel_sha256(image: NDArray[Any]) -> str:
    """Hex sha256 of shape, dtype and pixels: equal for the same picture in two file formats."""
    little = np.ascontiguousarray(image, dtype=image.dtype.newbyteorder("<"))
    digest = hashlib.sha256(f"{little.dtype.str} {little.shape} ".encode())
    digest.update(little.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def to_png(image: NDArray[Any]) -> bytes:
    """PNG bytes of a uint8 (H, W) or (H, W, 3) or a uint16 (H, W) image; equal images give equal bytes.

    Raises ValueError for any other shape or dtype: a PNG could not hold it exactly.
    """
    grey = image.ndim == 2 and image.dtype in (np.uint8, np.uint16)
    colour = image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
    if not (grey or colour):
        raise ValueError(f"expected uint8 (H, W) or (H, W, 3), or uint16 (H, W), got {image.dtype} {image.shape}")
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


# --- decoding -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _damage(path: str) -> Iterator[None]:
    """Turn what decoders raise on damaged content into an ImageError."""
    try:
        yield
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(path, f"cannot be decoded: {reason}", "the file is damaged; copy it anew") from error


def _decode(content: bytes, path: str, max_pixels: int, labels: bool) -> NDArray[Any]:
    if not content:
        raise ImageError(path, "the file is empty", "copy it anew")
    if content.startswith(_PNG):
        return _decode_png(content, path, max_pixels, labels)
    if content.startswith(_JPEG):
        return _pillow(JpegImagePlugin.JpegImageFile(BytesIO(content)), path, max_pixels, labels)
    if content.startswith(_TIFF):
        return _decode_tiff(content, path, max_pixels, labels)
    if content.startswith(_BMP):
        return _pillow(BmpImagePlugin.BmpImageFile(BytesIO(content)), path, max_pixels, labels)
    raise ImageError(path, "not a PNG, JPEG, BMP or TIFF file", f"it begins with {content[:8]!r}; convert it")


def _decode_png(content: bytes, path: str, max_pixels: int, labels: bool) -> NDArray[Any]:
    if len(content) < 33 or content[12:16] != b"IHDR":
        raise ImageError(path, "the PNG header is cut off", "the file is damaged; copy it anew")
    width, height, depth, colour = struct.unpack(">IIBB", content[16:26])
    _check_size(path, height, width, max_pixels)
    if depth == 16 and colour != 0:
        raise ImageError(path, "a PNG with 16 bits per channel and colour or alpha", "save it as TIFF, or grey")
    return _pillow(PngImagePlugin.PngImageFile(BytesIO(content)), path, max_pixels, labels)


def _pillow(image: ImageFile.ImageFile, path: str, max_pixels: int, labels: bool) -> NDArray[Any]:
    _check_size(path, image.height, image.width, max_pixels)
    _check_pages(path, getattr(image, "n_frames", 1))
    plain: Image.Image = image
    if not labels:
        if image.mode in ("P", "CMYK", "YCbCr"):
            plain = image.convert("RGB")
        elif image.mode == "1":
            plain = image.convert("L")
    pixels = np.asarray(plain)
    if plain.mode == "LA":
        return pixels if labels else pixels[..., 0]
    return pixels[..., :3] if plain.mode == "RGBA" else pixels


def _decode_tiff(content: bytes, path: str, max_pixels: int, labels: bool) -> NDArray[Any]:
    with tifffile.TiffFile(BytesIO(content)) as file:
        page = file.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        _check_size(path, page.imagelength, page.imagewidth, max_pixels)
        _check_pages(path, max(len(file.pages), page.imagedepth))
        samples = page.samplesperpixel
        if samples not in (1, 3) and not _has_alpha(page):
            raise ImageError(path, f"a TIFF with {samples} channels", "save the channel of the cells as grey")
        _check_photometric(page, path, labels)
        _check_pages(path, file.series[0].size // page.size)
        pixels = _asarray(page, path)
    if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and samples > 1:
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim == 3 and not labels:
        pixels = pixels[..., 0] if samples < 3 else pixels[..., :3]
    return pixels


def _asarray(page: tifffile.TiffPage, path: str) -> NDArray[Any]:
    try:
        return page.asarray()
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        name = tifffile.COMPRESSION(page.compression).name
        raise ImageError(path, f"a TIFF with {name} compression", "pip install imagecodecs") from error


def _has_alpha(page: tifffile.TiffPage) -> bool:
    """Grey + alpha (two samples that say so) or RGB + a fourth channel."""
    if page.samplesperpixel == 2:
        return bool(page.extrasamples) and int(page.extrasamples[0]) in (1, 2)
    return page.samplesperpixel == 4 and int(page.photometric) == 2


def _check_photometric(page: tifffile.TiffPage, path: str, labels: bool) -> None:
    """Grey and RGB pass, and YCbCr in JPEG; an inverted or indexed image would be misread without a word."""
    kind = int(page.photometric)
    jpeg = kind == 6 and int(page.compression) == 7
    if kind not in ((1, 2, 3) if labels else (1, 2)) and not jpeg:
        name = _PHOTOMETRIC.get(kind, f"photometric {kind}")
        raise ImageError(path, f"a TIFF of the kind {name!r}", "save it as plain grey or RGB")


# --- checks and conversions -----------------------------------------------------------------------------


def _check_size(path: str, height: int, width: int, max_pixels: int) -> None:
    if height < 1 or width < 1:
        raise ImageError(path, f"the header says {width}x{height} pixels", "the image holds nothing; copy it anew")
    if height * width > max_pixels:
        raise ImageError(
            path,
            f"{width}x{height} = {height * width} pixels, the limit is {max_pixels}",
            "cut it into parts, or raise data.max_pixels",
        )


def _check_pages(path: str, pages: int) -> None:
    if pages > 1:
        raise ImageError(path, f"the file holds {pages} pages or frames", "save each as a file of its own")


def _plain_dtype(pixels: NDArray[Any], path: str) -> NDArray[Any]:
    """uint8, uint16 or float32 in the machine's byte order; ImageError when a value is not finite."""
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype.kind in "ui":
        if pixels.dtype.itemsize <= 2 and pixels.dtype.kind == "u":
            return np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("="))
        exact = pixels.min() >= 0 and pixels.max() <= np.iinfo(np.uint16).max
        return pixels.astype(np.uint16 if exact else np.float32)
    if pixels.dtype.kind != "f":
        raise ImageError(path, f"pixels of type {pixels.dtype}", "save it with 8, 16 or 32 bits per channel")
    with np.errstate(over="ignore"):
        real = np.ascontiguousarray(pixels, dtype=np.float32)
    bad = int(real.size - np.isfinite(real).sum())
    if bad:
        raise ImageError(
            path, f"{bad} pixels are NaN, infinite or too large for 32 bits", "replace them and save again"
        )
    return real


def _grey_if_equal(pixels: NDArray[Any]) -> NDArray[Any]:
    if pixels.ndim == 3 and all(np.array_equal(pixels[..., 0], pixels[..., c]) for c in (1, 2)):
        return np.ascontiguousarray(pixels[..., 0])
    return pixels
