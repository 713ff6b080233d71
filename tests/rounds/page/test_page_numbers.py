"""What the page of a run gathers, against independent computations."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import precision_recall_curve

from cellsemi.configs.rounds import PromotionConfig
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.cutoffs import Cutoffs
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.evaluation.evaluation_table import Evaluation
from cellsemi.rounds.evaluation.metrics import ImageScore, Tally, score_image
from cellsemi.rounds.page.blocks import Text
from cellsemi.rounds.page.cells import agreement, sizes
from cellsemi.rounds.page.confidence import precision_recall
from cellsemi.rounds.page.curves import Line, read_curves, thinned
from cellsemi.rounds.page.outcomes import change, drawn, outcome, worst
from cellsemi.rounds.page.samples import sample_cells
from cellsemi.rounds.page.scores import ALL, scores
from cellsemi.rounds.page.sections import score_by_round
from cellsemi.rounds.pseudo_labels.thresholds import ChosenThresholds, Thresholds

CLASSES = ("a", "b")


def squares(places: list[tuple[int, int]], side: int = 6, size: int = 80, **columns: object) -> Instances:
    """Squares with their upper left corners at (y, x); they do not overlap."""
    labels = np.zeros((size, size), np.int32)
    for number, (y, x) in enumerate(places, start=1):
        labels[y : y + side, x : x + side] = number
    return masks.from_label_map(labels, **columns) if places else Instances.empty(size, size)


def image_of(rng: np.random.Generator) -> tuple[Instances, Instances]:
    """(predictions with their quality, human cells) on a grid: each place is empty, right, false or missed."""
    places = [(y, x) for y in range(0, 80, 10) for x in range(0, 80, 10)]
    kind = rng.integers(0, 4, len(places))
    predicted = [place for place, k in zip(places, kind, strict=True) if k in (1, 2)]
    true = [place for place, k in zip(places, kind, strict=True) if k in (1, 3)]
    class_of = {place: int(rng.integers(0, 2)) for place in places}
    quality = rng.integers(0, 6, len(predicted)) / 5
    cells = squares(
        predicted, class_id=[class_of[p] for p in predicted], score=rng.random(len(predicted)), quality=quality
    )
    return cells, squares(true, class_id=[class_of[p] for p in true], state="human")


def limits(accept: float, reject: float) -> Thresholds:
    return Thresholds({name: ChosenThresholds(accept, reject, 4, 900, "") for name in CLASSES})


# --- precision and recall -----------------------------------------------------------------------------


@given(st.integers(0, 10_000))
def test_precision_and_recall_are_those_of_scikit_learn(seed: int) -> None:
    """On a grid a prediction is right when a true cell lies at its place: no matching is needed."""
    rng = np.random.default_rng(seed)
    images = [image_of(rng) for _ in range(3)]
    found = precision_recall(images, CLASSES, limits(0.6, 0.2))
    for class_id, each in enumerate(found):
        quality, right = list[float](), list[bool]()
        truths = 0
        for cells, human in images:
            there = {tuple(box) for box in human.bbox.tolist()}
            truths += int((human.class_id == class_id).sum())
            for i in np.flatnonzero(cells.class_id == class_id):
                quality.append(float(cells.quality[i]))
                right.append(tuple(cells.bbox[i].tolist()) in there)
        assert (each.predictions, each.truths) == (len(quality), truths)
        if not any(right):
            continue
        precision, recall, thresholds = precision_recall_curve(right, quality)
        assert each.quality == pytest.approx(thresholds[::-1])
        assert each.precision == pytest.approx(precision[:-1][::-1])
        assert each.recall * truths == pytest.approx(recall[:-1][::-1] * sum(right))
        for chosen, limit in ((each.accept, 0.6), (each.reject, 0.2)):
            kept = [r for q, r in zip(quality, right, strict=True) if np.float32(q) >= np.float32(limit)]
            if kept:
                assert chosen.precision == pytest.approx(sum(kept) / len(kept))
                assert chosen.recall == pytest.approx(sum(kept) / truths)
            else:
                assert chosen.precision is None and chosen.recall is None


def test_of_two_predictions_on_one_cell_one_is_right() -> None:
    human = squares([(0, 0)], state="human", class_id=0)
    twice = masks.from_crops(80, 80, [(np.ones((6, 6), bool), 0, 0)] * 2, quality=[0.4, 0.9], score=[0.9, 0.1])
    (found, _) = precision_recall([(twice, human)], CLASSES, limits(0.5, 0.1))
    assert found.precision.tolist() == [1.0, 0.5] and found.recall.tolist() == [1.0, 1.0]
    assert (found.accept.precision, found.reject.precision) == (1.0, 0.5)


# --- scores -------------------------------------------------------------------------------------------


def tally(tp: int, fp: int, fn: int) -> Tally:
    return Tally(tp + fn, tp + fp, (tp,) * 10, 0.8)


def evaluation(round: int, model: str, values: list[tuple[int, int, int]], class_id: int = 0) -> Evaluation:
    each = [ImageScore(f"i{n}", tally(*v), {class_id: tally(*v)}) for n, v in enumerate(values)]
    return Evaluation(round, model, "test", Cutoffs.same(0.5, 3), tuple(each))


def test_scores_are_means_over_images_with_the_interval_of_the_bootstrap() -> None:
    rng = np.random.default_rng(0)
    values = [tuple(row) for row in rng.integers(1, 9, (40, 3)).tolist()]
    found = scores({1: [evaluation(1, "m", values)]}, CLASSES, PromotionConfig(bootstrap=4000), 0)
    maps = [tp / (tp + fp + fn) for tp, fp, fn in values]
    assert [(each.name, each.images) for each in found] == [(ALL, 40), ("a", 40)]  # no image holds the other class
    expected = stats.bootstrap(
        (maps,), np.mean, method="percentile", n_resamples=4000, random_state=0
    ).confidence_interval
    for each in found:
        assert each.value == pytest.approx(np.mean(maps))
        assert each.low == pytest.approx(expected.low, abs=0.006)
        assert each.high == pytest.approx(expected.high, abs=0.006)


def test_few_images_have_no_interval_and_none_no_score() -> None:
    few, none = evaluation(0, "m", [(1, 1, 0)] * 7), evaluation(0, "n", [])
    (found,) = scores({0: [few, none]}, ("a",), PromotionConfig(), 0)
    assert (found.low, found.high, found.images) == (None, None, 7)
    assert found.text() == "0.500, n = 7"


def test_a_run_without_test_or_without_validation_images_says_so() -> None:
    only_test = scores({0: [evaluation(0, "m", [(1, 1, 0)] * 9)]}, ("a",), PromotionConfig(bootstrap=100), 0)
    words = [block.words for block in score_by_round(only_test, ("a",)) if isinstance(block, Text)]
    assert any("no scores on validation images" in each for each in words)
    assert not any("no scores on test images" in each for each in words)
    words = [block.words for block in score_by_round([], ("a",)) if isinstance(block, Text)]
    assert any("no scores on test images" in each for each in words)


# --- cells --------------------------------------------------------------------------------------------


def pseudo(seed: int) -> Instances:
    rng = np.random.default_rng(seed)
    places = [(y, x) for y in range(0, 80, 10) for x in range(0, 80, 10)]
    n = len(places)
    return squares(
        places,
        class_id=rng.integers(0, 2, n),
        votes=rng.integers(1, 4, n),
        agreement=rng.random(n),
        quality=rng.random(n),
        state=rng.choice(["accepted", "ignored", "rejected"], n).tolist(),
        reason=rng.choice(["", "uncertain", "low confidence"], n).tolist(),
    )


def frame(images: list[Instances]) -> pd.DataFrame:
    columns = ("class_id", "area", "votes", "agreement", "state", "reason")
    return pd.concat(pd.DataFrame({name: getattr(cells, name) for name in columns}) for cells in images)


def test_agreement_is_that_of_the_cells_that_several_found() -> None:
    images = [pseudo(seed) for seed in range(3)]
    table = frame(images)
    for each in agreement(2, images):
        own = table[table.state == each.state]
        assert each.cells == len(own) and each.votes == own.votes.value_counts().sort_index().to_dict()
        several = own[own.votes > 1]
        assert each.several == len(several) and each.mean == pytest.approx(several.agreement.mean())
    assert [each.mean for each in agreement(2, [])] == [None] * 3


def test_sizes_are_the_areas_by_class_and_state() -> None:
    images, human = [pseudo(seed) for seed in range(3)], [squares([(0, 0)], side=9, state="human", class_id=1)]
    table = frame(images)
    found = sizes(human, images, CLASSES, limits(0.5, 0.1))
    for class_id, each in enumerate(found):
        assert (each.name, each.low, each.high) == (CLASSES[class_id], 4, 900)
        for state in ("accepted", "ignored", "rejected"):
            expected = table[(table.class_id == class_id) & (table.state == state)].area
            assert sorted(each.areas[state].tolist()) == sorted(expected.tolist())
        assert each.areas["human"].tolist() == ([81] if class_id else [])
    assert [(each.low, each.high) for each in sizes(human, [], CLASSES, None)] == [(None, None)] * 2


def test_every_cell_of_a_reason_is_as_likely_and_the_same_seed_draws_the_same() -> None:
    images = [(f"i{seed}", pseudo(seed)) for seed in range(4)]
    found = sample_cells(images, 5, seed=1)
    assert found == sample_cells(iter(images), 5, seed=1) != sample_cells(images, 5, seed=2)
    counts = Counter(
        f"{state}: {reason}" if reason else state
        for _, cells in images
        for state, reason in zip(cells.state, cells.reason, strict=True)
    )
    assert {reason: len(samples) for reason, samples in found.items()} == {r: min(5, n) for r, n in counts.items()}
    of_image = dict(images)
    for reason, samples in found.items():
        for sample in samples:
            cells = of_image[sample.image_id]
            assert reason == ": ".join(filter(None, (cells.state[sample.cell], cells.reason[sample.cell])))
    drawn_from = Counter(
        sample.image_id for seed in range(300) for sample in sample_cells(images[:2], 1, seed)["rejected"]
    )
    shares = {
        image_id: frame([cells]).query("state == 'rejected' and reason == ''").shape[0]
        for image_id, cells in images[:2]
    }
    expected = [300 * count / sum(shares.values()) for count in shares.values()]
    assert stats.chisquare([drawn_from[image_id] for image_id in shares], expected).pvalue > 0.001


# --- right, false, missed -----------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3, 0.7]))
def test_right_false_and_missed_are_the_counts_of_the_evaluation(seed: int, threshold: float) -> None:
    cells, human = image_of(np.random.default_rng(seed))
    found, known = outcome(cells, human, Cutoffs.same(threshold, 3)), score_image("i", human, cells, threshold).total
    assert (len(found.right), len(found.false), len(found.missed)) == (known.tp50, known.fp50, known.fn50)
    there = {tuple(box) for box in human.bbox.tolist()}
    assert all(tuple(box) in there for box in found.right.bbox.tolist())
    assert not any(tuple(box) in there for box in found.false.bbox.tolist())


def test_what_people_marked_to_be_ignored_is_neither_right_nor_false() -> None:
    human = squares([(0, 0), (20, 20)], state=["ignored", "human"])
    found = outcome(squares([(0, 0), (40, 40)], score=0.9), human, Cutoffs.same(0.5, 1))
    assert (len(found.right), len(found.false), len(found.missed), len(found.ignored)) == (0, 1, 1, 1)


def test_the_worst_images_have_the_lowest_scores_and_the_others_are_drawn() -> None:
    each = evaluation(0, "m", [(tp, 3, 1) for tp in range(30)]).scores
    shuffled = [each[i] for i in np.random.default_rng(0).permutation(30)]
    assert [score.image_id for score in worst(shuffled, 4)] == ["i0", "i1", "i2", "i3"]
    some = drawn(shuffled, 8, seed=3)
    assert some == drawn(shuffled, 8, seed=3) and len({score.image_id for score in some}) == 8
    assert [score.total.ap for score in some] == sorted(score.total.ap for score in some)
    assert len(drawn(shuffled, 99, seed=0)) == 30
    often = Counter(score.image_id for seed in range(400) for score in drawn(shuffled, 6, seed))
    assert len(often) == 30 and min(often.values()) > 40 and max(often.values()) < 130  # 80 each


def test_what_changed_is_what_one_round_accepted_and_the_other_did_not() -> None:
    before = squares([(0, 0), (20, 0), (40, 0)], state=["accepted", "accepted", "rejected"])
    after = squares([(0, 1), (40, 0), (60, 0)], state=["accepted", "accepted", "ignored"])
    found = change("i", before, after)
    corners = [cells.bbox[:, :2].tolist() for cells in (found.kept, found.gained, found.lost)]
    assert corners == [[[1, 0]], [[0, 40]], [[0, 20]]] and found.size == 2


# --- curves -------------------------------------------------------------------------------------------


def test_curves_are_read_and_thinned_to_medians_of_neighbours(tmp_path: Path) -> None:
    values = np.arange(1000.0)
    table = pa.table({"step": np.arange(1, 1001), "loss": values, "lr": values / 10, "grad_norm": values})
    pq.write_table(table, tmp_path / "loss")
    pq.write_table(pa.table({"step": [500, 1000], "loss": [2.0, 1.0]}), tmp_path / "val")
    usage = [{"step": 1.0, "seconds": 0.5, "memory_mb": 10.0, "device_memory_mb": None}]
    found = read_curves(3, "m", tmp_path / "loss", tmp_path / "val", usage)
    assert found.loss is not None and found.validation is not None and found.memory_mb is not None
    assert len(found.loss.steps) == 200 and found.loss.values[0] == 2.0 and found.loss.steps[-1] == 1000
    assert found.validation.values.tolist() == [2.0, 1.0] and found.memory_mb.values.tolist() == [10.0]
    assert found.device_memory_mb is None
    none = read_curves(3, "m", tmp_path / "no", tmp_path / "no", [])
    assert none.loss is None and none.validation is None and none.seconds is None
    short = Line(np.arange(3.0), np.arange(3.0))
    assert thinned(short, np.median) is short
