"""The stream of predictions: the same cells in the same order with any number of threads, a few images at a time."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from cellsemi.configs.errors import ImageError
from cellsemi.configs.training import InferenceConfig
from cellsemi.models.base import NOT_FINITE, Begun, Encoded, Image, Recovered
from cellsemi.models.flow_unet.fit_and_predict import FlowUnetPredictor
from cellsemi.models.flow_unet.net import FlowNet
from cellsemi.models.given import in_classes_of
from cellsemi.models.inference.pipeline import Found, Source, predict_stream
from cellsemi.models.inference.scale_search import ScaleSearch
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances

THREADS = (0, 1, 3)


class Squares:
    """Finds as many cells as the first pixel says; counts what is under way, and which images went together."""

    def __init__(self, images_at_once: int = 1) -> None:
        self.warnings: Counter[str] = Counter()
        self.images_at_once = images_at_once
        self.groups: list[list[int]] = []
        self.under_way, self.most, self._lock = 0, 0, threading.Lock()

    def predict(self, images: Sequence[Image], scale: float = 1.0) -> list[Instances]:
        return [each.recover().encode() for each in self.begin(images, (), scale)]

    def prepare(self, image: Image) -> Image:
        self._count(1)
        return image

    def begin(self, prepared: Sequence[Any], image_ids: Sequence[str], scale: float) -> list[Begun]:
        self.groups.append([int(image[0, 0]) for image in prepared])
        return [Begun(partial(self._recover, int(image[0, 0])), broken=int(image[0, 0]) == 2) for image in prepared]

    def _recover(self, n: int) -> Recovered:
        time.sleep(0.002 * (n % 3))  # the last begun may be the first to end
        self._count(-1)
        crops = [(np.ones((2, 2), bool), 3 * i, 0) for i in range(n)]
        return Encoded(masks.from_crops(8, 40, crops, score=0.5, state="predicted"))

    def _count(self, more: int) -> None:
        with self._lock:
            self.under_way += more
            self.most = max(self.most, self.under_way)


def sources(count: int, fails: int | None = None) -> Iterator[Source[int]]:
    def decode(n: int) -> Image:
        if n == fails:
            raise ImageError(str(n), "damaged")
        return np.full((8, 40), n, np.uint8)

    return (Source(n, str(n), partial(decode, n)) for n in range(count))


def cells_of(found: Sequence[Found[int]]) -> list[tuple[int, int, bool]]:
    return [(each.item, len(each.cells), each.broken) for each in found]


@pytest.mark.parametrize("at_once", [1, 4])
@pytest.mark.parametrize("threads", THREADS)
def test_images_come_in_order_and_the_same_ones_go_together(at_once: int, threads: int) -> None:
    predictor = Squares(at_once)
    found = list(predict_stream(predictor, sources(11), threads=threads))
    assert cells_of(found) == [(n, n, n == 2) for n in range(11)]
    assert predictor.groups == [list(range(start, min(start + at_once, 11))) for start in range(0, 11, at_once)]


@pytest.mark.parametrize("threads", THREADS)
def test_few_are_in_memory_however_many_there_are(threads: int) -> None:
    predictor = Squares(2)
    drawn = Counter[str]()

    def counted() -> Iterator[Source[int]]:
        for each in sources(60):
            drawn["read"] += 1
            yield Source(each.item, each.image_id, lambda: np.full((8, 40), 5, np.uint8))

    for done, _ in enumerate(predict_stream(predictor, counted(), threads=threads), start=1):
        assert drawn["read"] - done <= 4 * 2 + threads
    assert done == 60 and predictor.most <= 4 * 2 + threads


@pytest.mark.parametrize("threads", THREADS)
def test_an_image_that_cannot_be_read_ends_the_stream(threads: int) -> None:
    before = threading.active_count()
    with pytest.raises(ImageError, match="damaged"):
        list(predict_stream(Squares(), sources(9, fails=4), threads=threads))
    assert threading.active_count() == before


def test_nothing_of_nothing() -> None:
    assert [list(predict_stream(Squares(), iter(()), threads=n)) for n in THREADS] == [[], [], []]


# --- predictors as they are ---------------------------------------------------------------------------


class Plain:
    """Has no parts; it must be told the ids, and counts an image as broken."""

    def __init__(self) -> None:
        self.warnings: Counter[str] = Counter()

    def predict(self, images: Sequence[Image], scale: float = 1.0, image_ids: Sequence[str] = ()) -> list[Instances]:
        assert len(image_ids) == len(images)
        self.warnings[NOT_FINITE] += image_ids[0] == "3"
        return [masks.from_label_map((image > 0).astype(np.int32), score=0.5) for image in images]


def pictures(count: int) -> list[Image]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (70 + 3 * n, 90), dtype=np.uint8) for n in range(count)]


def network(inference: InferenceConfig, shared: bool = False) -> FlowUnetPredictor:
    torch.manual_seed(0)
    net = FlowNet(width=4, depth=3, class_channels=2)
    found = FlowUnetPredictor(
        net, inference, torch.device("cpu"), stride=8, target="geodesic", one_class_per_image=False
    )
    if shared:  # as on a GPU
        found._shared, found.images_at_once = True, 3
    return found


VIEWS = InferenceConfig(tta=("identity", "rot90"), tile_px=64, cell_probability=0.4, background_probability=0.3)
MAKERS: dict[str, Callable[[], Any]] = {
    "plain": Plain,
    "plain, its classes renamed": lambda: in_classes_of(Plain(), (1,)),
    "flow": lambda: network(VIEWS),
    "flow, its classes renamed": lambda: in_classes_of(network(VIEWS), (1, 0)),
    "flow, searched": lambda: ScaleSearch(network(VIEWS), (0.7, 1.0), ("as-is", "inverted")),
    "plain, searched": lambda: ScaleSearch(Plain(), (0.7, 1.0)),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_stream_finds_what_predict_finds(make: Callable[[], Any]) -> None:
    images = pictures(5)
    ids = [str(n) for n in range(len(images))]
    reference = make()
    expected = []
    for image, name in zip(images, ids, strict=True):
        named = {"image_ids": [name]} if not isinstance(reference, FlowUnetPredictor) else {}
        expected += reference.predict([image], 1.2, **named)
    for threads in THREADS:
        predictor = make()
        rows = [Source(name, name, lambda image=image: image) for name, image in zip(ids, images, strict=True)]
        found = list(predict_stream(predictor, rows, 1.2, threads))
        assert [each.item for each in found] == ids
        for each, cells in zip(found, expected, strict=True):
            assert each.cells.rle == cells.rle and each.cells.background == cells.background
            assert np.array_equal(each.cells.score, cells.score)
            assert np.array_equal(each.cells.class_id, cells.class_id)
        assert predictor.warnings == reference.warnings
        assert getattr(predictor, "chosen", None) == getattr(reference, "chosen", None)
        broken = [each.item for each in found if each.broken]
        assert broken == (["3"] if reference.warnings[NOT_FINITE] else [])
    assert sum(map(len, expected)) > 0


def test_windows_of_several_images_and_views_in_one_batch_give_the_same_outputs() -> None:
    """Within float tolerance: the order of a sum in a convolution may follow the size of the batch."""
    apart, together = network(VIEWS), network(VIEWS, shared=True)
    sizes: list[int] = []
    forward = together._forward
    together._forward = lambda tiles: sizes.append(len(tiles)) or forward(tiles)  # type: ignore[method-assign, func-returns-value]
    images = [apart.prepare(image) for image in pictures(3)]
    for one, other in zip(apart._means(images, 1.0), together._means(images, 1.0), strict=True):
        np.testing.assert_allclose(other[0], one[0], atol=1e-5)
        np.testing.assert_allclose(other[1], one[1], atol=2e-3)  # a root of a difference of squares
    assert len(sizes) == 1 and sizes[0] > 12
