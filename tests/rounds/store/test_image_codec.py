"""Image files: every accepted kind gives the pixels that went in, every bad one a reason and a remedy."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from cellsemi.configs.errors import ImageError
from cellsemi.rounds.store.image_codec import decode_image, decode_label_map, pixel_sha256, to_png

DSB2018 = Path(__file__).resolve().parents[4] / "shared" / "data" / "dsb2018"
RNG = np.random.default_rng(0)
GREY8 = RNG.integers(0, 256, (5, 7), np.uint8)
GREY16 = RNG.integers(0, 2**16, (5, 7), np.uint16)
RGB8 = RNG.integers(0, 256, (5, 7, 3), np.uint8)
ALPHA = np.full((5, 7, 1), 255, np.uint8)
EQUAL = np.repeat(GREY8[..., None], 3, 2)
WIDTH_1 = struct.pack("<HHII", 256, 4, 1, 1)  # the TIFF tag of the width
WIDTH_2G = struct.pack("<HHII", 256, 4, 1, 2_000_000_000)
REAL = RNG.normal(0, 1e3, (5, 7)).astype(np.float32)


def pil(array: NDArray[Any], kind: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(array: NDArray[Any], **options: Any) -> bytes:
    buffer = BytesIO()
    options.setdefault("photometric", "rgb" if array.ndim == 3 and 3 in (array.shape[0], array.shape[2]) else None)
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG with a right header of this size and almost no pixels."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0")),
        (b"IEND", b""),
    ]
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (pil(GREY8), GREY8),
        (pil(GREY16), GREY16),
        (pil(RGB8), RGB8),
        (pil(np.concatenate([RGB8, ALPHA], 2)), RGB8),
        (pil(np.concatenate([RGB8, RGB8[..., :1]], 2)), RGB8),
        (pil(np.concatenate([EQUAL, ALPHA], 2)), GREY8),
        (pil(np.concatenate([GREY8[..., None], ALPHA], 2)), GREY8),
        (pil(EQUAL), GREY8),
        (pil(GREY8 > 127), (GREY8 > 127) * np.uint8(255)),
        (tiff(GREY8), GREY8),
        (tiff(GREY16), GREY16),
        (tiff(GREY16, byteorder=">"), GREY16),
        (tiff(GREY16, compression="lzw"), GREY16),
        (tiff(GREY8, compression="zlib", predictor=True), GREY8),
        (tiff(RGB8), RGB8),
        (tiff(np.moveaxis(RGB8, 2, 0), planarconfig="separate"), RGB8),
        (tiff(EQUAL), GREY8),
        (tiff(np.concatenate([RGB8, ALPHA], 2), photometric="rgb", extrasamples=["unassalpha"]), RGB8),
        (tiff(REAL), REAL),
        (tiff(REAL.astype(np.float64)), REAL),
        (tiff(REAL, bigtiff=True), REAL),
        (tiff(GREY8.astype(np.int16)), GREY8.astype(np.uint16)),
        (tiff(GREY16.astype(np.uint32)), GREY16),
        (tiff(GREY16.astype(np.int32) - 999), GREY16.astype(np.float32) - 999),
    ],
)  # fmt: skip
def test_pixels_come_back_exactly(content: bytes, expected: NDArray[Any]) -> None:
    found = decode_image(content, "a")
    assert found.dtype == expected.dtype and np.array_equal(found, expected)
    assert found.flags.c_contiguous or found.ndim == 3


def test_palette_images_are_shown_as_colour_and_read_as_labels() -> None:
    indices = np.array([[0, 1], [2, 1]], np.uint8)
    image = Image.fromarray(indices).convert("P")
    image.putpalette([9, 8, 7, 200, 100, 50, 1, 2, 3])
    buffer = BytesIO()
    image.save(buffer, "PNG")
    assert decode_image(buffer.getvalue(), "a")[0, 1].tolist() == [200, 100, 50]
    assert np.array_equal(decode_label_map(buffer.getvalue(), "a"), indices)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_close_to_what_went_in(channels: int) -> None:
    ramp = np.tile(np.arange(0, 240, 10, dtype=np.uint8), (16, 1))
    smooth = ramp if channels == 1 else np.stack([ramp, ramp // 2, ramp[::-1, ::-1]], axis=2)
    found = decode_image(pil(smooth, "JPEG", quality=95, subsampling=0), "a.jpg")
    assert found.shape == smooth.shape and found.dtype == np.uint8
    assert np.abs(found.astype(int) - smooth).max() < 12


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"GIF89a", "not a PNG, JPEG, BMP or TIFF"),
        (b"\x89PNG\r\n\x1a\n", "cut off"),
        (pil(RNG.integers(0, 256, (64, 64), np.uint8))[:-600], "truncated"),
        (pil(RNG.integers(0, 256, (64, 64), np.uint8), "JPEG")[:900], "truncated"),
        (tiff(GREY16)[:-20], "cannot be decoded"),
        (b"II*\x00" + bytes(8), "cannot be decoded"),
        (png_header(0, 5), "0x5 pixels"),
        (png_header(4, 4), "cannot be decoded"),
        (png_header(40_000, 25_000), "40000x25000 = 1000000000 pixels"),
        (png_header(2**31 - 1, 2**31 - 1), "the limit is 100000000"),
        (tiff(np.stack([GREY8, GREY8])), "2 pages"),
        (tiff(np.stack([GREY8, GREY8]), imagej=True), "2 pages"),
        (tiff(np.stack([GREY8, GREY8]), truncate=True), "2 pages"),
        (tiff(GREY8, photometric="miniswhite"), "white is zero"),
        (tiff(RGB8[..., :2], planarconfig="contig", photometric="minisblack"), "2 channels"),
        (tiff(np.zeros((1, 1), np.uint8)).replace(WIDTH_1, WIDTH_2G), "2000000000 pixels, the limit"),
        (tiff(GREY8.astype(np.complex64)), "complex"),
        (tiff(np.where(REAL > 0, np.nan, REAL)), "NaN"),
        (tiff(np.full((2, 2), 1e300)), "4 pixels are NaN, infinite or too large"),
    ],
)
def test_bad_files_say_what_is_wrong_and_what_to_do(content: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words) as caught:
        decode_image(content, "plate/a b.png")
    assert str(caught.value).startswith("plate/a b.png: ")
    assert caught.value.remedy


def test_colour_of_16_bits_in_a_png_is_refused_because_it_would_be_rounded() -> None:
    header = bytearray(pil(RGB8))
    header[24] = 16
    with pytest.raises(ImageError, match="16 bits per channel"):
        decode_image(bytes(header), "a")


def test_a_missing_codec_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(page: tifffile.TiffPage) -> NDArray[Any]:
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPage, "asarray", refuse)
    with pytest.raises(ImageError, match=r"LZW compression \(pip install imagecodecs\)"):
        decode_image(tiff(GREY8, compression="lzw"), "a")


def test_the_limit_is_ours_and_counts_before_decoding() -> None:
    content = pil(np.zeros((1000, 1000), np.uint8))
    with pytest.raises(ImageError, match=r"data\.max_pixels"):
        decode_image(content, "a", max_pixels=999_999)
    assert decode_image(content, "a", max_pixels=1_000_000).shape == (1000, 1000)
    tracemalloc.start()
    for bomb in (png_header(60_000, 60_000), content):
        with pytest.raises(ImageError):
            decode_image(bomb, "a", max_pixels=999_999)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_images_between_the_limits_of_pillow_and_ours_pass_without_a_warning() -> None:
    """Pillow's `open` warns from 89 million pixels on; warnings are errors in this suite."""
    content = pil(np.zeros((9_000, 10_000), np.uint8), compress_level=1)
    assert decode_image(content, "a").shape == (9_000, 10_000)


def test_memory_stays_a_small_multiple_of_the_pixels() -> None:
    image = RNG.integers(0, 256, (1000, 1000, 3), np.uint8)
    contents = [pil(image), tiff(image, compression="zlib")]
    for content in contents:
        tracemalloc.start()
        decode_image(content, "a")
        assert tracemalloc.get_traced_memory()[1] < 4 * image.nbytes
        tracemalloc.stop()


@pytest.mark.parametrize("make", [pil, tiff])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_label_maps_of_8_and_16_bits(make: Any, dtype: Any) -> None:
    labels = np.array([[0, 1, 1], [200, 0, 3]], dtype)
    found = decode_label_map(make(labels), "a")
    assert found.dtype == np.int32 and np.array_equal(found, labels)


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.float32, np.int16])
def test_label_maps_of_32_bits_and_floats_with_whole_numbers(dtype: Any) -> None:
    labels = np.array([[0, 7], [30_000, 2]], dtype)
    assert np.array_equal(decode_label_map(tiff(labels), "a"), labels)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pil(EQUAL), "colour"),
        (pil(np.concatenate([RGB8, ALPHA], 2)), "colour"),
        (pil(GREY8, "JPEG"), "JPEG"),
        (tiff(RGB8), "colour"),
        (tiff(np.array([[0, -1]], np.int32)), "-1 to 0"),
        (tiff(np.array([[0, 2**32 - 1]], np.uint32)), "4294967295"),
        (tiff(np.array([[0, 1.5]], np.float32)), "whole numbers"),
        (tiff(np.array([[0, np.inf]], np.float32)), "whole numbers"),
        (png_header(10_000, 10_001), "the limit"),
    ],
)
def test_bad_label_maps_are_refused(content: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        decode_label_map(content, "a")


def test_the_hash_is_of_the_picture_and_not_of_the_file() -> None:
    first = pixel_sha256(decode_image(pil(GREY16), "a"))
    assert first == pixel_sha256(decode_image(tiff(GREY16, byteorder=">"), "b"))
    assert first == pixel_sha256(np.asfortranarray(GREY16)) == pixel_sha256(GREY16.astype(">u2"))
    others = [GREY16.reshape(7, 5), GREY16.view(np.float16), GREY16.T, GREY16 ^ 1, GREY8]
    assert len({pixel_sha256(other) for other in others} | {first}) == 6


@pytest.mark.parametrize("image", [GREY8, GREY16, RGB8])
def test_to_png_round_trip(image: NDArray[Any]) -> None:
    assert np.array_equal(decode_image(to_png(image), "a"), image)
    assert to_png(image) == to_png(image.copy(order="F"))


@pytest.mark.parametrize("image", [REAL, RGB8.astype(np.uint16), RGB8[..., :2], GREY8[0]])
def test_to_png_refuses_what_a_png_cannot_hold(image: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="got"):
        to_png(image)


FUZZED = [
    pil(RGB8),
    pil(GREY8, "JPEG"),
    tiff(GREY16),
    tiff(RGB8, compression="lzw"),
    tiff(GREY8, compression="zlib"),
]


FLIPS = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(FUZZED), FLIPS, st.floats(0, 2))
def test_damage_of_any_kind_is_an_image_error_or_an_image(
    content: bytes, flips: list[tuple[int, int]], kept: float
) -> None:
    damaged = bytearray(content[: int(len(content) * min(kept, 1))])
    for place, value in flips:
        if damaged:
            damaged[place % len(damaged)] = value
    for decode in (decode_image, decode_label_map):
        try:
            assert decode(bytes(damaged), "a", max_pixels=10_000).size <= 30_000
        except ImageError as error:
            assert error.path == "a"


def test_real_images_are_grey_or_colour() -> None:
    files = sorted((DSB2018 / "images").glob("*.png"))[:6] if DSB2018.is_dir() else []
    if not files:
        pytest.skip("no DSB2018 beside the repository (../shared/data/dsb2018)")
    for file in files:
        image = decode_image(file.read_bytes(), file.name)
        reference = np.asarray(Image.open(file))
        assert image.dtype == np.uint8 and image.shape[:2] == reference.shape[:2]
        assert np.array_equal(image[..., 0] if image.ndim == 3 else image, reference[..., 0])
