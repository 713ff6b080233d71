"""Which students start from a teacher: those of its name and fold, unless the config says otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.campaigns import bring, config_at

from cellsemi.rounds.evaluation.history import read_manifests
from cellsemi.rounds.store.run import RunPaths
from cellsemi.rounds.store.steps import read_steps

pytestmark = pytest.mark.usefixtures("fake_models")
PROMOTED = ("rounds.promotion.min_probability=0", "rounds.promotion.class_margin=1")
LATE = "models=[{kind: flow-unet, name: a}, {kind: flow-unet, name: late, first_round: 2}]"


def starts(paths: RunPaths) -> dict[tuple[int, str], object]:
    """(round, model) -> what it started from."""
    found = (record for record in read_steps(paths) if record.name.startswith("train "))
    return {(record.round, record.name.removeprefix("train ")): record.parameters["starts_from"] for record in found}


def test_a_student_starts_from_the_teacher_of_its_name(tmp_path: Path) -> None:
    paths, _ = bring(config_at(tmp_path, LATE, *PROMOTED), 3)
    found = starts(paths)
    assert found[0, "a"] is None and found[3, "control"] is None
    assert [found[round, "a"] for round in (1, 2, 3)] == [f"round-{round:02d}/students/a" for round in range(3)]
    assert found[2, "late"] is None and found[3, "late"] == "round-02/students/late"


def test_after_a_refused_round_it_starts_from_those_that_teach(tmp_path: Path) -> None:
    refused = ("rounds.promotion.min_probability=1", "rounds.stop_after=null")
    paths, _ = bring(config_at(tmp_path, *refused), 2)
    assert not any(manifest.decision.promoted for round, manifest in read_manifests(paths).items() if round)
    assert starts(paths)[2, "unet-a"] == "round-00/students/unet-a"


def test_with_folds_each_starts_from_its_own(tmp_path: Path) -> None:
    found = starts(bring(config_at(tmp_path, "rounds.folds=2"), 1)[0])
    for fold in (0, 1):
        assert found[1, f"unet-b.fold-{fold}"] == f"round-00/students/unet-b.fold-{fold}"


def test_all_start_from_scratch_where_the_config_says_so(tmp_path: Path) -> None:
    paths, _ = bring(config_at(tmp_path, "rounds.start=scratch"), 1)
    assert set(starts(paths).values()) == {None}
