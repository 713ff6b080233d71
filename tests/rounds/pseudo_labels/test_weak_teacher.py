"""A weak teacher beside a strong one: what the pseudo-labels of both together are worth, on simulated images.

The whole way of a pool: calibration of each teacher, fusion, quality, thresholds, filter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellsemi.configs.rounds import FilterConfig, FusionConfig
from cellsemi.rounds.calibration.calibration import Calibration, calibrate
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.matching import hits
from cellsemi.rounds.pseudo_labels.filter import filter_cells
from cellsemi.rounds.pseudo_labels.fusion import fuse
from cellsemi.rounds.pseudo_labels.quality import fit_quality
from cellsemi.rounds.pseudo_labels.thresholds import choose_thresholds

SIDE, STEP = 72, 18
CLASSES = ("cell",)
NOISE = 0.1  # of one draw of some hundred cells: its thresholds trade precision for recall; means are held to .01
Teacher = Callable[[Instances, np.random.Generator], Instances]


def squares(corners: Sequence[tuple[int, int]], side: int = 10, **columns: object) -> Instances:
    return masks.from_crops(SIDE, SIDE, [(np.ones((side, side), bool), x, y) for y, x in corners], **columns)


def scene(rng: np.random.Generator) -> Instances:
    """Up to 16 squares on a grid, a little out of line."""
    places = [(y, x) for y in range(2, SIDE - STEP + 3, STEP) for x in range(2, SIDE - STEP + 3, STEP)]
    kept = [place for place in places if rng.random() < 0.8]
    return squares([(y + int(rng.integers(3)), x + int(rng.integers(3))) for y, x in kept], state="human")


def strong(recall: float, wrong: int) -> Teacher:
    """Finds a share of the cells, a pixel off, and a few that are none, with lower scores."""

    def predict(truth: Instances, rng: np.random.Generator) -> Instances:
        found = [box for box in truth.bbox.tolist() if rng.random() < recall]
        right = [(max(0, y0 + int(rng.integers(-1, 2))), max(0, x0 + int(rng.integers(-1, 2)))) for x0, y0, *_ in found]
        none = [(int(rng.integers(SIDE - 10)), int(rng.integers(SIDE - 10))) for _ in range(rng.poisson(wrong))]
        score = [*rng.uniform(0.5, 0.95, len(right)), *rng.uniform(0.3, 0.7, len(none))]
        return squares([*right, *none], score=score, quality=score)

    return predict


def random_teacher(count: int) -> Teacher:
    """Puts so many squares anywhere, as sure of each as of any other."""

    def predict(truth: Instances, rng: np.random.Generator) -> Instances:
        score = rng.uniform(0.05, 0.95, count)
        corners = [(int(rng.integers(SIDE - 10)), int(rng.integers(SIDE - 10))) for _ in range(count)]
        return squares(corners, score=score, quality=score)

    return predict


@dataclass(frozen=True)
class Worth:
    precision: float
    recall: float
    accepted: int


def pseudo_labels(teachers: dict[str, Teacher], seed: int, val: int = 10, pool: int = 20) -> Worth:
    """Precision and recall, at IoU > .5, of the cells that are accepted on a pool."""
    drawn = {}
    for split, images in (("val", val), ("pool", pool)):
        rng = np.random.default_rng([seed, len(split)])
        truth = [scene(rng) for _ in range(images)]
        # Each teacher has dice of its own: the others predict the same whether it is there or not.
        found = {
            name: [predict(cells, np.random.default_rng([seed, images, i, len(name)])) for i, cells in enumerate(truth)]
            for name, predict in teachers.items()
        }
        drawn[split] = (truth, found)
    config, fusion = FilterConfig(), FusionConfig()
    known = {name: calibrate(list(zip(each, drawn["val"][0], strict=True)), CLASSES, config.min_samples)
             for name, each in drawn["val"][1].items()}  # fmt: skip
    kept = {name: each for name, each in known.items() if each.nothing is None}
    fused = {split: _fused(found, kept, fusion) for split, (_, found) in drawn.items()}
    pairs = list(zip(fused["val"], drawn["val"][0], strict=True))
    quality, calibrated = fit_quality(pairs, CLASSES, config)
    thresholds = choose_thresholds(calibrated, drawn["val"][0], CLASSES, config)
    right = accepted = 0
    for cells, truth in zip(fused["pool"], drawn["pool"][0], strict=True):
        passed = filter_cells(quality.apply(cells), thresholds, 1, CLASSES, 1).in_state("accepted")
        right, accepted = right + int(hits(passed, truth).sum()), accepted + len(passed)
    return Worth(right / max(accepted, 1), right / sum(map(len, drawn["pool"][0])), accepted)


def _fused(found: dict[str, list[Instances]], known: dict[str, Calibration], fusion: FusionConfig) -> list[Instances]:
    if len(known) == 1:  # a teacher alone meets no others: its scores stay as they are
        (name,) = known
        return [fuse({name: cells}, fusion, False) for cells in found[name]]
    recalls = {name: each.recalls for name, each in known.items()}
    together = zip(*(found[name] for name in known), strict=True)
    return [
        fuse(
            {name: known[name].as_scores(cells) for name, cells in zip(known, image, strict=True)},
            fusion,
            False,
            recalls,
        )
        for image in together
    ]


@given(st.integers(0, 10**6), st.sampled_from([0.6, 0.8, 0.95]), st.integers(0, 3), st.integers(1, 25))
@settings(max_examples=25)
def test_a_random_teacher_takes_nothing_away(seed: int, recall: float, wrong: int, count: int) -> None:
    alone = pseudo_labels({"strong": strong(recall, wrong)}, seed)
    beside = pseudo_labels({"strong": strong(recall, wrong), "random": random_teacher(count)}, seed)
    assert beside.precision >= alone.precision - NOISE, (alone, beside)
    assert beside.recall >= alone.recall - NOISE, (alone, beside)


def test_in_the_mean_a_random_teacher_changes_nothing() -> None:
    """Less noise than one draw has: the mean of twenty, for a teacher that now and then hits a cell."""
    worth = np.array([
        [(each.precision, each.recall) for each in (
            pseudo_labels({"strong": strong(0.8, 2)}, seed),
            pseudo_labels({"strong": strong(0.8, 2), "random": random_teacher(20)}, seed),
        )]
        for seed in range(20)
    ]).mean(axis=0)  # fmt: skip
    assert (worth[1] >= worth[0] - 0.01).all(), worth
    assert worth[0, 1] > 0.6, "there is something to lose"


def test_without_the_recalls_the_random_teacher_would_cost_half() -> None:
    """What the first test guards against: a lone vote of two, as long as silence weighs as much as a vote."""
    cells = squares([(10, 10)], score=0.95, quality=0.95)
    none = Instances.empty(SIDE, SIDE)
    fused = fuse({"strong": cells, "random": none}, FusionConfig(), False)
    assert fused.score.tolist() == pytest.approx([0.475])
    known = {"strong": (0.9,), "random": (0.02,)}
    assert fuse({"strong": cells, "random": none}, FusionConfig(), False, known).score[0] > 0.92
    far = squares([(13, 13)], score=0.02, quality=0.02)  # its IoU with the strong one's is .32
    near = squares([(12, 11)], score=0.02, quality=0.02)  # .56
    for other in (far, near):
        found = fuse({"strong": cells, "random": other}, FusionConfig(), False, known)
        assert found.score[0] > 0.89, "an untrusted vote that agrees a little must not cost either"


def test_a_teacher_that_is_right_on_all_of_26_cells_beside_an_untrained_one() -> None:
    """Found in a real run: fused scores of .45, too few predictions to calibrate, 0 accepted."""
    rng = np.random.default_rng(3)
    right = [
        squares([(4 + 22 * (i // 3), 4 + 22 * (i % 3)) for i in range(count)], state="human") for count in (9, 9, 8)
    ]
    scores = [rng.uniform(0.82, 0.95, len(cells)) for cells in right]
    perfect = [cells.with_(state="predicted", score=s, quality=s) for cells, s in zip(right, scores, strict=True)]
    untrained = [squares([(60, 2 * i)], side=2, score=0.3, quality=0.3) for i in range(3)]
    config, fusion = FilterConfig(), FusionConfig()
    both = {"perfect": perfect, "untrained": untrained}
    known = {name: calibrate(list(zip(each, right, strict=True)), CLASSES, config.min_samples)
             for name, each in both.items()}  # fmt: skip
    assert known["perfect"].nothing is None
    assert known["untrained"].nothing == "0 of its 3 predictions are right, of 26 cells"
    for names in (["perfect"], ["perfect", "untrained"]):  # left out, as a campaign does, and even if it were not
        pairs = list(zip(_fused(both, {name: known[name] for name in names}, fusion), right, strict=True))
        _, calibrated = fit_quality(pairs, CLASSES, config)
        thresholds = choose_thresholds(calibrated, right, CLASSES, config)
        passed = [filter_cells(cells, thresholds, 1, CLASSES, 1).in_state("accepted") for cells, _ in calibrated]
        assert sum(map(len, passed)) == 26
        assert all(hits(cells, truth).all() for cells, truth in zip(passed, right, strict=True))


def test_recalls_of_a_calibration() -> None:
    """Laplace's two pseudo-counts: the pooled rate of all classes, so that a class with few cells says little."""
    truth = squares([(10 * i, 0) for i in range(6)], side=9, state="human", class_id=[0, 0, 0, 0, 0, 1])
    found = truth.select([0, 1, 2]).with_(state="predicted", score=0.9)
    calibration = calibrate([(found, truth)], ("a", "b"), 40)
    pooled = (3 + 1) / (6 + 2)
    assert calibration.recalls == pytest.approx(((3 + 2 * pooled) / (5 + 2), (0 + 2 * pooled) / (1 + 2)))
    again = Calibration.from_json(calibration.to_json(), ("a", "b"))
    assert again.recalls == calibration.recalls and again.nothing is None
    assert calibrate([], ("a",), 40).nothing == "it was not compared with a single true cell"
