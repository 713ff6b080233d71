"""Thresholds are chosen on qualities of trees that saw neither the image nor its group: what they state holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.campaigns import bring, config_at

from cellsemi.configs.rounds import FilterConfig
from cellsemi.orchestrator.stages import filter_pseudo_labels
from cellsemi.rounds.calibration.calibration import calibrate, units_of
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.masks import from_crops
from cellsemi.rounds.pseudo_labels.iou_regressor import out_of_fold
from cellsemi.rounds.pseudo_labels.quality import fit_quality
from cellsemi.rounds.pseudo_labels.thresholds import choose_thresholds
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.prediction_pairs import all_pairs, grouped_pairs

Pair = tuple[Instances, Instances]
REGRESSED = FilterConfig(quality="regressed", areas="never", min_precision=0.0)


def by_chance(seed: int) -> Pair:
    """64 predictions of many shapes; which half of them is right, no number tells."""
    random = np.random.default_rng(seed)
    spots = [(x, y) for x in range(0, 80, 10) for y in range(0, 80, 10)]
    masks = [(np.ones(random.integers(2, 9, 2), bool), x, y) for x, y in spots]
    right = random.random(len(spots)) < 0.5
    score = random.random(len(spots))
    return (
        from_crops(80, 80, masks, score=score),
        from_crops(80, 80, [m for m, hit in zip(masks, right, strict=True) if hit], state="human"),
    )


def stated_and_fresh(pairs: list[Pair], fresh: list[Pair]) -> tuple[float, float]:
    """Precision of what is accepted, on the images that the threshold is chosen on and on others."""
    accept = choose_thresholds(pairs, [], ["cell"], REGRESSED).by_class["cell"].accept
    return tuple(precision(each, accept) for each in (pairs, fresh))  # type: ignore[return-value]


def precision(pairs: list[Pair], accept: float) -> float:
    kept = [
        (predicted.rle[i] in truth.rle)
        for predicted, truth in pairs
        for i in np.flatnonzero(predicted.quality >= accept)
    ]
    return float(np.mean(kept))


def test_what_the_thresholds_state_holds_on_fresh_images() -> None:
    validation, fresh = [by_chance(seed) for seed in range(8)], [by_chance(100 + seed) for seed in range(8)]
    quality, unseen = fit_quality(validation, ["cell"], REGRESSED)
    seen = [(quality.apply(predicted), truth) for predicted, truth in validation]
    tested = [(quality.apply(predicted), truth) for predicted, truth in fresh]
    stated, held = stated_and_fresh(seen, tested)
    assert stated > held + 0.15  # trees that saw the image promise what they cannot keep
    stated, held = stated_and_fresh(unseen, tested)
    assert abs(stated - held) < 0.08
    for (before, truth), (after, same) in zip(validation, unseen, strict=True):
        assert (after.rle, same.rle) == (before.rle, truth.rle)
        assert (after.score == before.score).all()


def test_images_of_one_group_are_in_one_fold() -> None:
    """Two copies of each image: without their groups trees know an image from its copy."""
    twice = [pair for seed in range(8) for pair in (by_chance(seed),) * 2]
    groups = [f"plate {number // 2}" for number in range(16)]
    right = np.concatenate([[rle in truth.rle for rle in predicted.rle] for predicted, truth in twice])

    def gap(unseen: list[Pair]) -> float:
        quality = np.concatenate([predicted.quality for predicted, _ in unseen])
        return float(quality[right].mean() - quality[~right].mean())

    assert gap(fit_quality(twice, ["cell"], REGRESSED)[1]) > 0.07
    assert gap(fit_quality(twice, ["cell"], REGRESSED, groups)[1]) < 0.04


def test_a_sample_is_judged_without_its_group() -> None:
    random = np.random.default_rng(0)
    rows, iou = random.random((240, 15)), random.random(240)
    rows[:, -1] = 0
    group = np.repeat([0, 1, 2], 80)
    before = out_of_fold(rows, iou, group)
    for number in range(3):
        after = out_of_fold(rows, np.where(group == number, 1 - iou, iou), group)
        assert (after[group == number] == before[group == number]).all()
        assert (after[group != number] != before[group != number]).any()


def test_groups_are_left_out_whole_where_there_are_two() -> None:
    pairs = [by_chance(seed) for seed in range(4)]
    assert units_of(pairs, None).tolist() == [0, 1, 2, 3]
    assert units_of(pairs, ["b", "a", "b", "c"]).tolist() == [0, 1, 0, 2]
    assert units_of(pairs, ["a"] * 4).tolist() == [0, 1, 2, 3]
    empty = (Instances.empty(80, 80), pairs[0][1])
    assert units_of([*pairs, empty], [*["a"] * 4, "b"]).tolist() == [0, 1, 2, 3, 4]
    assert calibrate(pairs, ["cell"], 40, list("abcd")) == calibrate(pairs, ["cell"], 40)
    assert calibrate(pairs, ["cell"], 40, list("abab")) != calibrate(pairs, ["cell"], 40)


# --- the stage ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("fake_models")
def test_the_stage_chooses_thresholds_on_qualities_of_images_that_were_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, object] = {}

    def fitted(pairs, classes, config, groups):  # type: ignore[no-untyped-def]
        found, unseen = fit_quality(pairs, classes, config, groups)
        given["groups"], given["unseen"] = groups, unseen
        return found, unseen

    def chosen(pairs, *others):  # type: ignore[no-untyped-def]
        given["chosen on"] = pairs
        return choose_thresholds(pairs, *others)

    monkeypatch.setattr(filter_pseudo_labels, "fit_quality", fitted)
    monkeypatch.setattr(filter_pseudo_labels, "choose_thresholds", chosen)
    paths, _ = bring(config_at(tmp_path), 1)
    assert given["chosen on"] is given["unseen"]
    val = list(shards.read_folder(paths.split("val")))
    assert given["groups"] == [record.group for record in val]
    assert None not in given["groups"]  # type: ignore[operator]
    folders = [(paths.predictions(0, "unet-a", "val"), paths.split("val"))]
    pairs, groups = grouped_pairs(folders)
    assert groups == given["groups"]
    assert [p.rle for p, _ in pairs] == [p.rle for p, _ in all_pairs(folders)]
