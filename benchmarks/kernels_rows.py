"""The rows of `kernels.py`: each makes both sides of a comparison on the same image."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from cellpose import dynamics, metrics
from kernels_data import HEIGHT, WIDTH, Labels, dense, dense_image, predicted, teacher
from numpy.typing import NDArray
from pycocotools import mask as coco

from cellsemi.configs.rounds import FusionConfig
from cellsemi.models.flow.recovery import flow_agreement, recover_labels
from cellsemi.models.flow.targets import flow_targets
from cellsemi.rounds.cells import masks, rle
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.evaluation.metrics import score_image
from cellsemi.rounds.formats.kaggle import rle as kaggle
from cellsemi.rounds.pseudo_labels.fusion import fuse

logging.getLogger("cellpose").setLevel(logging.ERROR)
torch.set_num_threads(1)

THRESHOLDS = [t / 20 + 1e-9 for t in range(10, 20)]  # cellpose counts an IoU that is equal, the metric here does not
SOME = 250  # cells of a row of run lengths
NOT_COMPARED = "not the same"


@dataclass(frozen=True)
class Compared:
    """Both sides of a row, and in how far their outputs agree; the time of the peer counts `times`."""

    ours: Callable[[], Any]
    peer_name: str
    peer: Callable[[], Any]
    goal: float
    outputs: Callable[[], str] = lambda: NOT_COMPARED
    floor: Callable[[], Any] | None = None
    times: float = 1.0


class Scene:
    """The dense image, its predictions, three teachers, and what is made of them."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.labels: Labels = dense_image(rng)
        self.found: Labels = predicted(self.labels, rng)
        self.truth = masks.from_label_map(self.labels)
        scores = rng.uniform(0.3, 1, int(self.found.max()))
        self.cells = masks.from_label_map(self.found, score=scores)
        self.teachers = {name: teacher(self.labels, rng) for name in "abc"}
        self.some = self.truth.select(np.arange(SOME))
        self.crops = masks.crops(self.some)
        self.bitmaps = [rle.decode(text, HEIGHT, WIDTH) for text in self.some.rle]
        self.flow = flow_targets(self.labels, "geodesic")
        self.probability = (self.labels > 0).astype(np.float32)


@functools.cache
def scene() -> Scene:
    """The one that all rows measure on."""
    return Scene()


def same(equal: bool) -> str:
    """In words."""
    return "equal" if equal else "DIFFERENT"


def coded(cells: Instances) -> list[dict[str, Any]]:
    """The masks as pycocotools has them."""
    return [{"size": [HEIGHT, WIDTH], "counts": text} for text in cells.rle]


# --- scores -------------------------------------------------------------------------------------------


def map_from_rle() -> Compared:
    """The score of an image whose masks are run lengths."""
    at = scene()
    return _scored(lambda: score_image("i", at.truth, at.cells), 20)


def map_from_labels() -> Compared:
    """The score of an image whose masks are label maps."""
    at = scene()
    return _scored(
        lambda: score_image("i", masks.from_label_map(at.labels), masks.from_label_map(at.found)),
        5,
        lambda: (at.labels.max(), at.found.max()),
    )


def _scored(ours: Callable[[], Any], goal: float, floor: Callable[[], Any] | None = None) -> Compared:
    at = scene()

    def peer() -> Any:
        return metrics.average_precision(at.labels, at.found, THRESHOLDS)

    return Compared(ours, "cellpose", peer, goal, lambda: same(list(ours().total.tp) == peer()[1].tolist()), floor)


def map_faster() -> Compared | str:
    """The same beside faster-coco-eval, which computes another score from the same overlaps."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        return "faster-coco-eval is not installed: pip install faster-coco-eval"
    at = scene()
    truth = [
        {"id": i + 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": int(area), "segmentation": _text(mask),
         "bbox": [0, 0, 1, 1]}
        for i, (mask, area) in enumerate(zip(coded(at.truth), at.truth.area, strict=True))
    ]  # fmt: skip
    found = [
        {"image_id": 1, "category_id": 1, "score": float(score), "segmentation": _text(mask)}
        for mask, score in zip(coded(at.cells), at.cells.score, strict=True)
    ]
    listed = {"images": [{"id": 1, "height": HEIGHT, "width": WIDTH}], "categories": [{"id": 1, "name": "cell"}]}
    known = COCO({**listed, "annotations": truth})
    results = known.loadRes(found)

    def peer() -> Any:
        run = COCOeval_faster(known, results, "segm", print_function=lambda *_: None)
        run.params.maxDets = [1, 10, 1000]
        run.evaluate()

    return Compared(lambda: score_image("i", at.truth, at.cells), "faster-coco-eval, evaluate()", peer, 10)


def _text(mask: dict[str, Any]) -> dict[str, Any]:
    return {"size": mask["size"], "counts": mask["counts"].decode()}


# --- flows --------------------------------------------------------------------------------------------


def targets(side: int | None) -> Compared:
    """Flow targets of a part of the image, or of all of it."""
    labels = dense(scene().labels[:side, :side])
    return Compared(
        lambda: flow_targets(labels, "geodesic"), "cellpose, masks_to_flows", lambda: _diffusion(labels), 50,
        floor=lambda: np.zeros((2, *labels.shape), np.float32) + 1,
    )  # fmt: skip


def _diffusion(labels: Labels) -> NDArray[Any]:
    return np.asarray(dynamics.masks_to_flows_gpu(labels)[0])


def recovery(check: bool, flow: Literal["geodesic", "diffusion"]) -> Compared:
    """Masks from a probability and a flow, with each side's check of the flow, or without both."""
    at = scene()
    field = at.flow if flow == "geodesic" else _diffusion(at.labels).astype(np.float32)

    def ours() -> Any:
        found = recover_labels(at.probability, field)
        return found if not check else (found, flow_agreement(found, field, "geodesic"))

    def peer(threshold: float = 0.4 if check else 0.0) -> Any:
        return dynamics.compute_masks(
            field * 5, at.probability - 0.5, niter=200, flow_threshold=threshold, max_size_fraction=1.0,
            device=torch.device("cpu"),
        )  # fmt: skip

    def agree() -> str:
        one, other = recover_labels(at.probability, field), peer(0.0)
        pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
        return "equal" if pairs.shape[1] == one.max() + 1 == other.max() + 1 else f"{one.max()} / {other.max()} masks"

    return Compared(ours, "cellpose, compute_masks", peer, 5 if check else 3, agree)


# --- fusion -------------------------------------------------------------------------------------------


def fusion_beside_iou() -> Compared:
    """Three teachers fused, beside the IoU of their three pairs alone."""
    teachers = scene().teachers
    a, b, c = (coded(cells) for cells in teachers.values())

    def peer() -> Any:
        return [coco.iou(one, other, [0] * len(other)) for one, other in ((a, b), (a, c), (b, c))]

    return Compared(_fused, "pycocotools, iou of the 3 pairs", peer, 0.5, _overlaps_agree)


def fusion_beside_matmul() -> Compared:
    """The same beside the overlaps of the three pairs as products of dense matrices, cells x pixels."""
    a, b, _ = scene().teachers.values()
    one, other = (
        np.stack([rle.decode(text, HEIGHT, WIDTH).ravel() for text in cells.rle]).astype(np.float32) for cells in (a, b)
    )
    return Compared(_fused, "dense matmul of the 3 pairs", lambda: one @ other.T, 100, times=3)


def _fused() -> Instances:
    return fuse(scene().teachers, FusionConfig(), one_class_per_image=False)


def _overlaps_agree() -> str:
    a, b, _ = scene().teachers.values()
    theirs = np.asarray(coco.iou(coded(a), coded(b), [0] * len(b)))
    return f"IoU {same(np.allclose(masks.iou_matrix(a, b), theirs, atol=1e-12))}"


# --- run lengths --------------------------------------------------------------------------------------


def kaggle_encode(mask: NDArray[Any]) -> str:
    """What competitors write: row order for a mask, column order for its transpose."""
    padded = np.concatenate([[0], mask.flatten(), [0]])
    runs = np.flatnonzero(padded[1:] != padded[:-1]) + 1
    runs[1::2] -= runs[::2]
    return " ".join(str(x) for x in runs)


def kaggle_decode(text: str, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """What competitors write, for the row order."""
    numbers = np.array(text.split(), dtype=int)
    image = np.zeros(shape[0] * shape[1], np.uint8)
    for first, length in zip(numbers[::2] - 1, numbers[1::2], strict=True):
        image[first : first + length] = 1
    return image.reshape(shape)


def coco_encode(whole: bool) -> Compared:
    """COCO texts of SOME cells, from whole bitmaps or from crops, as the product has them."""
    at = scene()

    def peer() -> Any:
        return [coco.encode(np.asfortranarray(bitmap.view(np.uint8)))["counts"] for bitmap in at.bitmaps]

    def ours() -> Any:
        if whole:
            return [rle.encode(bitmap) for bitmap in at.bitmaps]
        return rle.texts_of(rle.runs_of_crops(at.crops, HEIGHT, WIDTH), HEIGHT * WIDTH)

    return Compared(ours, "pycocotools, encode", peer, 2, lambda: same(ours() == peer()))


def coco_decode(whole: bool) -> Compared:
    """SOME cells of COCO texts, as whole bitmaps or in their boxes."""
    at = scene()
    texts = coded(at.some)

    def ours() -> Any:
        if whole:
            return [rle.decode(text, HEIGHT, WIDTH) for text in at.some.rle]
        return masks.crops(at.some)

    def agree() -> str:
        return same(all(np.array_equal(b, coco.decode(t)) for t, b in zip(texts, at.bitmaps, strict=True)))

    return Compared(
        ours, "pycocotools, decode", lambda: [coco.decode(text) for text in texts], 2, agree
    )  # fmt: skip


def kaggle_texts(order: kaggle.Order) -> Compared:
    """Kaggle's texts of SOME cells."""
    at = scene()
    turned = [bitmap if order == "row" else bitmap.T for bitmap in at.bitmaps]

    def peer() -> Any:
        return [kaggle_encode(bitmap) for bitmap in turned]

    def ours() -> Any:
        return kaggle.texts_of(at.some, order)

    return Compared(ours, "Kaggle's rle_encode", peer, 20, lambda: same(ours() == peer()))


def kaggle_cells(order: kaggle.Order) -> Compared:
    """SOME cells of Kaggle's texts."""
    at = scene()
    texts = kaggle.texts_of(at.some, order)
    shape = (HEIGHT, WIDTH) if order == "row" else (WIDTH, HEIGHT)

    def ours() -> Instances:
        return kaggle.cells_of(texts, HEIGHT, WIDTH, order)

    return Compared(
        ours, "Kaggle's rle_decode", lambda: [kaggle_decode(text, shape) for text in texts], 20,
        lambda: same(ours().rle == at.some.rle),
    )  # fmt: skip


def label_map() -> Compared:
    """A label map of all cells."""
    at = scene()
    texts = coded(at.truth)

    def peer() -> Any:
        drawn = np.zeros((HEIGHT, WIDTH), np.int32)
        for value, text in enumerate(texts, start=1):
            drawn[coco.decode(text) > 0] = value
        return drawn

    return Compared(
        lambda: masks.to_label_map(at.truth), "pycocotools, decoded one by one", peer, 20,
        lambda: same(np.array_equal(masks.to_label_map(at.truth), peer())),
        lambda: np.zeros((HEIGHT, WIDTH), np.int32) + 1,
    )  # fmt: skip


ROWS: dict[str, Callable[[], Compared | str]] = {
    "mAP from RLE": map_from_rle,
    "mAP from label maps": map_from_labels,
    "mAP from RLE, COCO": map_faster,
    "recovery with check": functools.partial(recovery, True, "geodesic"),
    "recovery": functools.partial(recovery, False, "geodesic"),
    "recovery with check, diffusion": functools.partial(recovery, True, "diffusion"),
    "recovery, diffusion": functools.partial(recovery, False, "diffusion"),
    "flow targets 256x256": functools.partial(targets, 256),
    "flow targets 520x704": functools.partial(targets, None),
    "fuse 3 x 494 cells": fusion_beside_iou,
    "fuse 3 x 494 cells, matmul": fusion_beside_matmul,
    "RLE encode, crops": functools.partial(coco_encode, False),
    "RLE encode, whole bitmaps": functools.partial(coco_encode, True),
    "RLE decode, crops": functools.partial(coco_decode, False),
    "RLE decode, whole bitmaps": functools.partial(coco_decode, True),
    "Kaggle encode, row order": functools.partial(kaggle_texts, "row"),
    "Kaggle encode, column order": functools.partial(kaggle_texts, "column"),
    "Kaggle decode, row order": functools.partial(kaggle_cells, "row"),
    "Kaggle decode, column order": functools.partial(kaggle_cells, "column"),
    "label map of 494 cells": label_map,
}
HEAP = (
    "a heap of the front is two thirds of the time. Pixels that arrive at the same time must leave it in the order in "
    "which they did before, or the target changes, so a queue of buckets is no way out. Kept: unsigned indices, a pop "
    "without a branch for the smaller child, medians by counting, no sort."
)
NOTES: dict[str, str] = {
    "fuse 3 x 494 cells": (
        "a quarter of the time is compiled: decoding, overlaps, votes on pixels, run lengths. The rest is Python for "
        "each cluster: joining pairs, weighted means, columns. The means keep NumPy's `dot`, whose last bit a compiled "
        "sum would change. Kept: one decoding for pairs and pixels, sums of all clusters at once, keys only for equal "
        "scores."
    ),
    "recovery, diffusion": (
        "of a field of Cellpose's diffusion 16 % of the pixels are at rest after 200 steps, and 42 % there or on a "
        "cycle of two places; of a `geodesic` field, which our networks learn, 72 % and 99 % after 20 steps. So nearly "
        "all steps are taken, and each reads eight values at a place that only the step before tells. Kept: blocks of "
        "pixels whose loads overlap."
    ),
    "flow targets 256x256": HEAP,
    "flow targets 520x704": HEAP,
    "first batch, balanced and by need": (
        "columns of 1.6 million cells are read from row groups of four images, .2 s a column: class, state and area "
        "twice or three times, since balance, need and sizes each read their own. Kept: row groups that statistics "
        "tell all about are not read, kinds are counted and not sorted."
    ),
    "Kaggle decode, row order": (
        "more than half of the time turns rows into columns by way of the bitmap of each box. Not tried: to turn the "
        "runs themselves."
    ),
}
