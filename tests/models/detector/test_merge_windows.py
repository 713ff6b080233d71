"""Detectors on images of any size: every cell once and whole, views that come back exactly, agreement."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, get_args

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cellsemi.configs.training import GridConfig, InferenceConfig, View
from cellsemi.models.base import Encoded
from cellsemi.models.detector import merge_views, merge_windows
from cellsemi.models.detector.cell_crops import CellCrops
from cellsemi.models.detector.merge_views import crop_back, crop_resized
from cellsemi.models.detector.merge_windows import merge_everywhere, windows_everywhere
from cellsemi.models.inference.tta import turn, turn_back
from cellsemi.models.inference.windows import spans
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.masks import crops, from_crops
from cellsemi.rounds.cells.rle import decode, encode

VIEWS: tuple[View, ...] = get_args(View)
PLAIN: dict[str, Any] = {"tta": ("identity",), "min_area_px": 1}
WINDOWS: list[dict[str, Any]] = [
    {"tile_px": 64, "overlap": 0.25},
    {"tile_px": 64, "overlap": 0.5},
    {"tile_px": (80, 64), "overlap": 0.35},
    {"tile_px": (70, 75), "stride_px": (17, 33)},  # four windows deep, like 301x302 at 73x134
    {"grid": GridConfig(rows=7, columns=7, window_rows=3, window_columns=3)},
    {"grid": GridConfig(rows=2, columns=5, window_rows=2, window_columns=3)},
]
Truth = list[NDArray[np.bool_]]
DetectWindow = Callable[[NDArray[np.float32]], Instances]  # (h, w, 3) in [0, 1] -> cells of that window


def cropped(cells: Instances) -> CellCrops:
    return CellCrops.of(cells.height, cells.width, crops(cells), cells.class_id, cells.score)


def encoded(cells: CellCrops | Instances) -> Instances:
    return cells if isinstance(cells, Instances) else cells.encode()


def detect_everywhere(pixels: NDArray[np.float32], inference: InferenceConfig, detect: DetectWindow) -> Instances:
    found = [cropped(detect(window)) for window in windows_everywhere(pixels, inference)]
    return encoded(merge_everywhere(pixels.shape[0], pixels.shape[1], inference, found))


def places(height: int, width: int) -> NDArray[np.float32]:
    """An image whose pixels say where they are: whatever part or view of it is shown, an oracle knows it."""
    image = np.zeros((height, width, 3), np.float32)
    image[..., 0], image[..., 1] = np.arange(height)[:, None] / 1024, np.arange(width) / 1024
    image[..., 2] = 0.5
    return image


def oracle(truth: Truth, score: Callable[[NDArray[np.bool_]], float] = lambda seen: 0.75) -> DetectWindow:
    """A detector that finds the part of every true cell that its window shows."""

    def detect(window: NDArray[np.float32]) -> Instances:
        assert window.flags.c_contiguous and window.dtype == np.float32
        y, x = (np.rint(window[..., i] * 1024).astype(int) for i in (0, 1))
        seen = [(cell[y, x], i) for i, cell in enumerate(truth)]
        crops = [(part, 0, 0) for part, _ in seen if part.any()]
        columns = {"class_id": [i for part, i in seen if part.any()], "score": [score(part) for part, _, _ in crops]}
        return from_crops(*window.shape[:2], crops, **columns)

    return detect


def overlaps(height: int, width: int, inference: InferenceConfig) -> tuple[int, int]:
    """The smallest overlap of neighbouring windows along each side; of a single window, all of it."""
    found = []
    for axis, side in enumerate((height, width)):
        placed = spans(side, axis, inference)
        found.append(min([a.stop - b.start for a, b in itertools.pairwise(placed)], default=side + 1))
    return found[0], found[1]


def shape(rng: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
    """A mask that fills its box: an ellipse, an L with one heavy end, or scattered pixels."""
    kind = rng.integers(3)
    if kind == 0:
        y, x = (np.arange(n)[:, None] * 2 + 1 - n for n in (height, width))
        mask = (y / height) ** 2 + (x.T / width) ** 2 <= 1
    elif kind == 1:
        mask = np.zeros((height, width), bool)
        mask[0], mask[:, 0] = True, True
        mask[: height // 3 + 1, : width // 3 + 1] = True
        mask = turn(mask, VIEWS[rng.integers(6)]).reshape(-1)[: height * width].reshape(height, width)
    else:
        mask = rng.random((height, width)) < 0.6
    mask = mask.copy()
    mask[rng.integers(height)], mask[:, rng.integers(width)] = True, True  # in one piece, from side to side
    return mask


def cells_below(rng: np.random.Generator, height: int, width: int, limit: tuple[int, int], count: int) -> Truth:
    """Random cells, smaller than `limit` on both sides; they may overlap, but never by half."""
    truth: Truth = []
    for _ in range(count):
        h = int(rng.integers(1, min(limit[0], height + 1, 40)))
        w = int(rng.integers(1, min(limit[1], width + 1, 40)))
        cell = np.zeros((height, width), bool)
        y, x = rng.integers(height - h + 1), rng.integers(width - w + 1)
        cell[y : y + h, x : x + w] = shape(rng, h, w)
        if all(2 * (cell & other).sum() < (cell | other).sum() for other in truth):
            truth.append(cell)
    return truth


@settings(max_examples=150)
@given(
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    setting=st.sampled_from(WINDOWS),
    keep=st.sampled_from(["centre", "core"]),
    share=st.floats(0.05, 1),
    seed=st.integers(0, 10**6),
)
def test_every_cell_below_the_overlap_is_found_once_and_whole(
    height: int, width: int, setting: dict[str, Any], keep: Any, share: float, seed: int
) -> None:
    inference = InferenceConfig(**setting, **PLAIN, keep=keep, core_share=share)
    limit = overlaps(height, width, inference)
    assume(min(limit) > 1 and height * width > 1)
    rng = np.random.default_rng(seed)
    truth = cells_below(rng, height, width, limit, 12)
    # A part of a cell may score higher than the whole: it must not win.
    found = detect_everywhere(places(height, width), inference, oracle(truth, lambda seen: 1 / (1 + seen.sum())))
    assert sorted(found.rle) == sorted(encode(cell) for cell in truth)
    for i, rle in zip(found.class_id, found.rle, strict=True):
        assert rle == encode(truth[i])  # the columns stay with their masks
    assert (found.height, found.width) == (height, width) and set(found.state) <= {"predicted"}


def centres_of_discs(height: int, width: int, step: int, at: tuple[int, int] = (8, 8)) -> list[tuple[int, int]]:
    """Places on a grid, 8 pixels and more from the borders."""
    return list(itertools.product(range(at[0], height - 8, step), range(at[1], width - 8, step)))


def discs(height: int, width: int, centres: list[tuple[int, int]], radius: float) -> Truth:
    y, x = np.mgrid[:height, :width]
    return [(y - a) ** 2 + (x - b) ** 2 <= radius**2 for a, b in centres]


def unsteady(truth: Truth, seed: int) -> DetectWindow:
    """An oracle that sees each cell a pixel beside where it is, in each window differently."""
    steady, rng = oracle(truth), np.random.default_rng(seed)

    def detect(window: NDArray[np.float32]) -> Instances:
        cells = steady(window)
        crops, index = [], []
        for i, rle in zip(cells.class_id, cells.rle, strict=True):
            padded = np.pad(decode(rle, cells.height, cells.width), 1, mode="edge")
            y, x = rng.integers(0, 3, 2)
            moved = padded[y : y + cells.height, x : x + cells.width]
            if moved.any():
                crops.append((moved, 0, 0))
                index.append(i)
        score = rng.uniform(0.5, 1, len(crops))
        return from_crops(cells.height, cells.width, crops, class_id=index, score=score)

    return detect


def counts_of_unsteady(keep: Any) -> NDArray[np.int64]:
    """How often each of some cells is found when no window sees it where the others do."""
    found = []
    for seed in range(17):
        truth = discs(110, 120, centres_of_discs(110, 120, 17, (8 + seed, 24 - seed)), 6)
        inference = InferenceConfig(tile_px=64, overlap=0.4, keep=keep, **PLAIN)
        cells = detect_everywhere(places(110, 120), inference, unsteady(truth, seed))
        found.append(np.bincount(cells.class_id, minlength=len(truth)))
    return np.concatenate(found)


@pytest.mark.parametrize("keep", ["centre", "core"])
def test_windows_that_disagree_by_a_pixel_lose_and_double_nothing(keep: Any) -> None:
    assert (counts_of_unsteady(keep) == 1).all()


def test_without_slack_at_the_borders_cells_would_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge_windows, "SLACK_PX", 0)
    assert (counts_of_unsteady("centre") == 0).any()


def test_a_cell_whose_weight_lies_in_the_wrong_core_is_taken_whole() -> None:
    """Its head lies in the first window's core, its tail ends beyond that window: the second sees it whole."""
    cell = np.zeros((64, 100), bool)
    cell[20:30, 40:47] = True
    cell[24, 40:66] = True
    inference = InferenceConfig(tile_px=64, overlap=28 / 64, **PLAIN)
    assert [(s.start, s.stop, s.core_stop) for s in spans(100, 1, inference)] == [(0, 64, 50), (36, 100, 100)]
    for keep in ("centre", "core"):
        chosen = inference.model_copy(update={"keep": keep})
        found = detect_everywhere(places(64, 100), chosen, oracle([cell], lambda seen: 1 / (1 + seen.sum())))
        assert found.rle == (encode(cell),)


def test_the_share_in_the_core_decides_between_windows() -> None:
    """What its owner sees is kept by `centre`; by `core` what holds the asked share of its area in the core."""

    def detector(scores: tuple[float, float]) -> DetectWindow:
        """Sees a box 40..63 of the image, its pixels mostly on the left; class 0 in the first window, then 1."""
        asked = iter((0, 1))

        def detect(window: NDArray[np.float32]) -> Instances:
            which = next(asked)
            x = 40 - 36 * which
            mask = np.zeros((64, 64), bool)
            mask[10:20, x : x + 8] = mask[15, x : x + 23] = True
            return from_crops(64, 64, [(mask, 0, 0)], class_id=which, score=scores[which])

        return detect

    centre = InferenceConfig(tile_px=64, overlap=28 / 64, **PLAIN)
    core = centre.model_copy(update={"keep": "core"})
    for inference, scores, expected in ((centre, (0.9, 0.5), 1), (core, (0.5, 0.9), 0)):
        cells = detect_everywhere(places(64, 100), inference, detector(scores))
        assert cells.class_id.tolist() == [expected] and cells.score.tolist() == pytest.approx([0.5])


def test_cells_too_large_for_the_overlap_are_still_seen() -> None:
    truth = [np.zeros((100, 240), bool) for _ in range(2)]
    truth[0][10:40, 5:230] = truth[1][60:95, 30:120] = True
    found = detect_everywhere(places(100, 240), InferenceConfig(tile_px=64, **PLAIN), oracle(truth))
    assert set(found.class_id.tolist()) == {0, 1}


def test_touching_cells_of_one_window_are_never_joined() -> None:
    one, other = np.zeros((50, 50), bool), np.zeros((50, 50), bool)
    one[5:25, 5:25] = other[6:26, 5:25] = True  # nearly the same cell twice: the detector's business
    found = detect_everywhere(places(50, 50), InferenceConfig(tile_px=64, **PLAIN), oracle([one, other]))
    assert len(found) == 2


@pytest.mark.parametrize("setting", WINDOWS[:4])
def test_every_view_of_a_detector_that_turns_along_says_the_same(setting: dict[str, Any]) -> None:
    rng = np.random.default_rng(1)
    truth = cells_below(rng, 130, 97, (14, 14), 25)
    inference = InferenceConfig(**setting, tta=VIEWS, min_area_px=1)
    found = detect_everywhere(places(130, 97), inference, oracle(truth))
    assert sorted(found.rle) == sorted(encode(cell) for cell in truth)
    np.testing.assert_allclose(found.score, 0.75, rtol=1e-6)
    assert (found.votes == 1).all()
    assert (found.agreement == 1).all()


def test_the_agreement_of_the_views_is_the_mean_iou_of_their_masks() -> None:
    drawn = [np.zeros((9, 16), bool) for _ in range(2)]
    drawn[0][2:6, 0:8] = drawn[1][2:6, 2:10] = True
    views = [CellCrops.of(9, 16, [(d, 0, 0)], [0], [0.5]) for d in drawn]
    found = encoded(merge_views.merge_views(views, 0.5))
    assert found.agreement.tolist() == pytest.approx([24 / 40])
    assert found.score.tolist() == pytest.approx([0.5 * 24 / 40]) and found.votes.tolist() == [1]


def test_a_turn_that_is_off_by_a_pixel_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flipping a box edge like a pixel, by W - 1 - x, moves every mask: half a pixel in the mean of two views."""
    truth = cells_below(np.random.default_rng(1), 130, 97, (14, 14), 25)

    def shifted(*given: Any) -> Any:
        bitmap, x, y = crop_back(*given)
        return bitmap, max(0, x - 1), y

    monkeypatch.setattr(merge_views, "crop_back", shifted)
    found = detect_everywhere(
        places(130, 97), InferenceConfig(tta=("identity", "flip_x"), min_area_px=1), oracle(truth)
    )
    assert sorted(found.rle) != sorted(encode(cell) for cell in truth)
    assert found.score.min() < 0.7


@settings(max_examples=100)
@given(
    st.sampled_from(VIEWS),
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(0, 99),
    st.sampled_from([0.4, 1.0, 1.7, 2.0]),
)
def test_crops_come_back_as_whole_masks_do(view: View, height: int, width: int, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    y, x = rng.integers(height), rng.integers(width)
    crop = rng.random((rng.integers(1, height - y + 1), rng.integers(1, width - x + 1))) < 0.7
    full = np.zeros((height, width), bool)
    full[y : y + crop.shape[0], x : x + crop.shape[1]] = crop

    def drawn(bitmap: NDArray[np.bool_], x: int, y: int, size: tuple[int, int]) -> NDArray[np.bool_]:
        canvas = np.zeros(size, bool)
        canvas[y : y + bitmap.shape[0], x : x + bitmap.shape[1]] = bitmap
        return canvas

    back = turn_back(full, view)
    assert np.array_equal(drawn(*crop_back(crop, x, y, (height, width), view), back.shape), back)
    to = max(1, round(height / scale)), max(1, round(width / scale))
    smooth = cv2.resize(full.astype(np.float64), to[::-1], interpolation=cv2.INTER_LINEAR)
    sharp = drawn(*crop_resized(crop, x, y, (height, width), to), to)
    assert np.array_equal(sharp, smooth.reshape(to) >= 0.5 - 1e-6)
    mirrored = crop_resized(crop[:, ::-1], width - x - crop.shape[1], y, (height, width), to)
    assert np.array_equal(drawn(*mirrored, to), sharp[:, ::-1])  # no side is favoured


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.3, 2.0, 3.0])
@pytest.mark.parametrize("tta", [("identity",), ("flip_x", "rot90")])
def test_scaled_views_bring_cells_back_in_place(scale: float, tta: tuple[View, ...]) -> None:
    centres = centres_of_discs(90, 120, 25, (15, 20))
    truth = discs(90, 120, centres, 9)

    def detect(window: NDArray[np.float32]) -> Instances:
        y, x = window[..., 0] * 1024, window[..., 1] * 1024
        seen = [(y - a) ** 2 + (x - b) ** 2 <= 81 for a, b in centres]
        index = [i for i, cell in enumerate(seen) if cell.any()]
        return from_crops(*window.shape[:2], [(seen[i], 0, 0) for i in index], class_id=index, score=0.5)

    inference = InferenceConfig(tile_px=100, overlap=0.5, tta=tta, scales=(scale,))
    found = detect_everywhere(places(90, 120), inference, detect)
    assert sorted(found.class_id.tolist()) == list(range(len(truth)))
    shifts = []
    for i, rle in zip(found.class_id, found.rle, strict=True):
        mask = decode(rle, 90, 120)
        assert (mask & truth[i]).sum() / (mask | truth[i]).sum() > 0.85
        shifts.append(np.argwhere(mask).mean(0) - centres[i])
    assert np.abs(np.mean(shifts, axis=0)).max() < 0.08  # half a pixel of the scaled view would be 0.17 to 1


def test_agreement_of_the_views_enters_the_score() -> None:
    truth = discs(40, 80, [(20, 20), (20, 60)], 8)
    calls: list[int] = []

    def detect(window: NDArray[np.float32]) -> Instances:
        calls.append(1)
        return oracle(truth if len(calls) == 1 else truth[:1])(window)

    found = detect_everywhere(places(40, 80), InferenceConfig(tta=("identity", "flip_x")), detect)
    score = dict(zip(found.class_id.tolist(), found.score.tolist(), strict=True))
    assert score == {0: pytest.approx(0.75), 1: pytest.approx(0.75 / 2)}
    one_view = detect_everywhere(places(40, 80), InferenceConfig(tta=("identity",)), oracle(truth))
    assert one_view.score.tolist() == [0.75, 0.75]


def test_small_cells_are_left_out_last() -> None:
    cell = np.zeros((30, 30), bool)
    cell[10:13, 10:13] = True
    for least, count in ((9, 1), (10, 0)):
        inference = InferenceConfig(tta=("identity", "rot90"), scales=(1, 2), min_area_px=least)
        assert len(detect_everywhere(places(30, 30), inference, oracle([cell]))) == count


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (90, 1), (3, 200)])
def test_thin_images_and_images_without_cells(size: tuple[int, int]) -> None:
    inference = InferenceConfig(tile_px=64, tta=VIEWS, scales=(0.1, 1, 3))
    found = detect_everywhere(places(*size), inference, oracle([]))
    assert (found.height, found.width, len(found)) == (*size, 0)


def test_an_image_of_one_colour_is_not_looked_at() -> None:
    def never(window: NDArray[np.float32]) -> Instances:
        raise AssertionError("looked at")

    for colour in ((0.3, 0.3, 0.3), (0.1, 0.8, 0.2)):
        image = np.broadcast_to(np.array(colour, np.float32), (20, 30, 3))
        assert len(detect_everywhere(image, InferenceConfig(), never)) == 0


@given(st.integers(0, 10**6))
def test_crops_and_encoded_cells_are_the_same_cells(seed: int) -> None:
    """Overlapping ones, of equal scores too."""
    rng = np.random.default_rng(seed)
    placed = [(rng.random((4, 5)) < 0.6, int(rng.integers(0, 25)), int(rng.integers(0, 16))) for _ in range(6)]
    placed = [each for each in placed if each[0].any()]
    score = rng.choice([0.25, 0.5, 0.75], len(placed))
    kept = CellCrops.of(20, 30, placed, np.arange(len(placed)), score)
    cells = from_crops(20, 30, placed, class_id=np.arange(len(placed)), score=score, state="predicted")
    assert kept.encode().rle == cells.rle and kept.encode().class_id.tolist() == cells.class_id.tolist()
    assert np.array_equal(kept.box, cells.bbox) and np.array_equal(kept.area, cells.area)
    assert kept.measure() == pytest.approx(Encoded(cells).measure())
    some = rng.random(len(placed)) < 0.5
    assert kept.select(some).encode().rle == cells.select(np.flatnonzero(some)).rle
