"""The best labelled images come first, class by class; the rest waits and is counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.campaigns import bring, config_at
from hypothesis import given
from hypothesis import strategies as st

from cellsemi.rounds.cells import masks, rle
from cellsemi.rounds.cells.instances import Instances, State
from cellsemi.rounds.pseudo_labels.curriculum import Ranked, held_back, label_quality, rank, share_of_round
from cellsemi.rounds.pseudo_labels.training_set import HELD_BACK
from cellsemi.rounds.store.manifest import read_manifest
from cellsemi.rounds.store.schemas import ImageRecord

SIDE = 20


def cells(*found: tuple[State, float], class_id: int = 0) -> Instances:
    crops = [(np.ones((2, 4), bool), 0, 3 * place) for place in range(len(found))]
    quality = [q for _, q in found]
    made = masks.from_crops(SIDE, SIDE, crops, score=quality or 1.0, quality=quality or 1.0, class_id=class_id)
    return made.with_(state=[state for state, _ in found])


def record(name: str, found: Instances | None, cell_type: str | None = None) -> ImageRecord:
    return ImageRecord(name, SIDE, SIDE, "unlabelled", instances=found, cell_type=cell_type)


def ranked(records: list[ImageRecord]) -> list[Ranked]:
    return [found for each in records if (found := rank(each)) is not None]


def test_quality_is_the_accepted_share_of_what_may_be_cell() -> None:
    found = cells(("accepted", 0.9), ("accepted", 0.5), ("ignored", 0.4), ("rejected", 0.1))
    assert label_quality(found) == pytest.approx((0.9 + 0.5) / 3)
    sure = np.ones((SIDE, SIDE), bool)
    sure[:10, :10] = False  # 100 pixels may be cell; the two accepted masks hold 8 each
    assert label_quality(found.with_(background=rle.encode(sure))) == pytest.approx(8 * (0.9 + 0.5) / 100)
    assert label_quality(cells(("ignored", 0.4))) == label_quality(cells()) == 0


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 64).map(lambda n: n / 64)), max_size=12), st.floats(0, 1))
def test_the_best_of_each_class_are_used(images: list[tuple[int, float]], share: float) -> None:
    records = [
        record(f"{place:02d}", cells(("accepted", quality), ("ignored", 0.5), class_id=number))
        for place, (number, quality) in enumerate(images)
    ]
    late = held_back(ranked([*records, record("none", None), record("unsure", cells(("ignored", 0.4)))]), share)
    for number in {number for number, _ in images}:
        own = [(quality, f"{place:02d}" in late) for place, (n, quality) in enumerate(images) if n == number]
        used = [quality for quality, is_late in own if not is_late]
        assert len(used) == max(1, round(share * len(own)))
        assert all(quality <= min(used) for quality, is_late in own if is_late)
    assert late <= {r.image_id for r in records}


def test_the_stated_class_of_an_image_counts() -> None:
    records = [record("a", cells(("accepted", 0.9)), "x"), record("b", cells(("accepted", 0.1)), "y")]
    assert held_back(ranked(records), 0.5) == set()
    assert held_back(ranked([r.with_(cell_type="x") for r in records]), 0.5) == {"b"}


def test_shares_go_by_round() -> None:
    assert [share_of_round((0.5, 0.8, 1.0), round) for round in (1, 2, 3, 4)] == [0.5, 0.8, 1.0, 1.0]


@pytest.mark.usefixtures("fake_models")
def test_a_campaign_holds_images_back_and_counts_them(tmp_path: Path) -> None:
    always = ("rounds.promotion.min_probability=0", "rounds.promotion.class_margin=1", "rounds.stop_after=null")
    paths, _ = bring(config_at(tmp_path, "rounds.curriculum=[0.4, 1.0]", *always), 2)
    merged = [read_manifest(paths.train(round, "")).merged for round in (1, 2)]
    assert merged[0] is not None and merged[1] is not None
    assert merged[0].left_out[HELD_BACK] >= 1 and HELD_BACK not in merged[1].left_out
    assert merged[0].pseudo_images + sum(merged[0].left_out.values()) == 5
