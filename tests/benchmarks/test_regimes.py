"""The benchmark of the rounds: what a seed draws, that no test image is learnt from, how its figures are made."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.benchmark_scripts import DATA, NEEDS_DATA, SEEDS, plan_of, regimes, rounds_plan

from cellsemi.configs.data import GeneratedConfig
from cellsemi.configs.errors import DataError
from cellsemi.configs.loading import load_config
from cellsemi.configs.schema import Config
from cellsemi.rounds.datasets.open import open_data
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.run import SPLITS
from cellsemi.rounds.store.schemas import ImageRecord

NUCLEI = ("uncovered", "mixed", "few", "enough")
LABELLED = {  # regime: images of each modality to train on, for val
    "uncovered": ({"fluorescence": 5}, {"fluorescence": 3}),
    "mixed": ({"fluorescence": 4, "histology": 1}, {"fluorescence": 2, "histology": 1}),
    "few": ({"fluorescence": 5}, {"fluorescence": 3}),
    "enough": ({"fluorescence": 16}, {"fluorescence": 8}),
}


def listing() -> list[dict[str, str]]:
    """A manifest with every kind of image in every split, 40 labelled of each."""
    kinds = [("fluorescence", "256"), ("fluorescence", "512"), ("histology", "256"), ("brightfield", "1024")]
    sizes = {"labelled": 30, "unlabelled": 7, "val": 10, "test": 5}
    return [
        {"id": f"{split}-{kind}-{side}-{i}", "height": side, "width": side, "modality": kind, "split": split}
        for kind, side in kinds
        for split, count in sizes.items()
        for i in range(count)
    ]


def ids(rows: list[dict[str, str]], *splits: str) -> set[str]:
    return {row["id"] for row in rows if row["split"] in splits}


def check_draw(name: str, rows: list[dict[str, str]], drawn: list[dict[str, str]]) -> None:
    """What holds for every draw, from the rows alone."""
    modalities = ("fluorescence", "histology", "brightfield") if name == "mixed" else ("fluorescence",)
    known = [row for row in rows if row["modality"] in modalities]
    assert len(drawn) == len({row["id"] for row in drawn})
    for split in ("unlabelled", "test"):
        assert ids(drawn, split) == ids(known, split)
    assert ids(drawn, "labelled", "val") <= ids(known, "labelled", "val")
    for split, expected in zip(("labelled", "val"), LABELLED[name], strict=True):
        assert Counter(row["modality"] for row in drawn if row["split"] == split) == expected
    small = [row for row in drawn if row["split"] in ("labelled", "val") and row["modality"] == "fluorescence"]
    if name in ("uncovered", "mixed"):
        assert {(row["height"], row["width"]) for row in small} == {("256", "256")}


@pytest.mark.parametrize("name", NUCLEI)
def test_a_draw_labels_what_the_regime_says_and_leaves_unlabelled_and_test_images_as_they_are(name: str) -> None:
    rows = listing()
    draws = [regimes.draw(name, seed, rows) for seed in range(20)]
    for drawn in draws:
        check_draw(name, rows, drawn)
    assert draws[3] == regimes.draw(name, 3, rows)
    assert len({frozenset(ids(drawn, "labelled")) for drawn in draws}) > 10
    from_val = {image_id for drawn in draws for image_id in ids(drawn, "labelled") if image_id.startswith("val-")}
    assert from_val  # validation images of the data set count as labels that may be drawn


@pytest.mark.parametrize("name", NUCLEI)
def test_a_development_draw_never_sees_the_test_split(name: str) -> None:
    rows = listing()
    for seed in SEEDS:
        drawn = regimes.draw_development(name, seed, rows)
        known = {row["id"] for row in rows if row["modality"] in regimes.REGIMES[name].modalities}
        assert ids(drawn, "unlabelled") == ids(rows, "unlabelled") & known
        assert ids(drawn, "labelled", "val", "test") == ids(rows, "labelled", "val") & known
        for split, expected in zip(("labelled", "val"), LABELLED[name], strict=True):
            assert Counter(row["modality"] for row in drawn if row["split"] == split) == expected
        assert ids(drawn, "labelled") != ids(regimes.draw(name, seed, rows), "labelled")


def test_few_draws_images_of_other_sizes_too() -> None:
    drawn = [row for seed in range(5) for row in regimes.draw("few", seed, listing()) if row["split"] == "labelled"]
    assert {row["height"] for row in drawn} == {"256", "512"}


def test_the_ceiling_has_every_label_but_those_of_the_test() -> None:
    rows = listing()
    every = regimes.all_of(rows, ("fluorescence",))
    known = [row for row in rows if row["modality"] == "fluorescence"]
    assert ids(every, "labelled") == ids(known, "labelled", "unlabelled")
    assert ids(every, "val") == ids(known, "val")
    assert ids(every, "test") == ids(known, "test")
    assert not ids(every, "unlabelled")


def config_of(name: str, root: Path) -> Config:
    plan = plan_of(root, regimes=(name,))
    job = next(job for job in plan.jobs() if "-ours-" in job.name)
    return load_config(job.preset, [*job.settings, f"data.root={root}"]).config


@NEEDS_DATA
@pytest.mark.parametrize("name", NUCLEI)
def test_no_test_image_is_learnt_from_in_the_real_data(name: str, tmp_path: Path) -> None:
    rows = regimes.read_rows(DATA)
    for seed in SEEDS:
        folder = tmp_path / f"s{seed}"
        regimes.build(name, seed, folder, DATA)
        regimes.build_all(regimes.REGIMES[name].ceiling, seed, tmp_path / "all", DATA)
        with (folder / "manifest.csv").open(newline="") as file:
            check_draw(name, rows, list(csv.DictReader(file)))
        found, every = [open_data(config_of(name, root)).items for root in (folder, tmp_path / "all")]
        test = {item.image_id for item in found if item.split == "test"}
        assert test == {item.image_id for item in every if item.split == "test"}
        assert len(test) == (133 if name == "mixed" else 110)
        for items in (found, every):
            assert not test & {item.image_id for item in items if item.split != "test"}
        assert {item.image_id for item in found} <= {item.image_id for item in every}


@NEEDS_DATA
def test_hidden_labels_are_those_of_the_unlabelled_images(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row for row in regimes.read_rows(DATA) if row["split"] != "unlabelled" or row["id"] < "05"]
    monkeypatch.setattr(regimes, "read_rows", lambda root: rows)
    truth = regimes.hidden_truth("few", DATA)
    unlabelled = {row["id"]: row for row in rows if row["split"] == "unlabelled" and row["modality"] == "fluorescence"}
    assert truth.keys() == unlabelled.keys() and len(unlabelled) > 3
    assert {key: len(cells) for key, cells in truth.items()} == {
        k: int(r["n_instances"]) for k, r in unlabelled.items()
    }


def test_another_draw_in_the_same_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regimes, "read_rows", lambda root: listing())
    regimes.build("few", 0, tmp_path / "few", tmp_path)
    before = (tmp_path / "few" / "manifest.csv").read_bytes()
    regimes.build("few", 0, tmp_path / "few", tmp_path)
    with pytest.raises(DataError, match="another draw"):
        regimes.build("few", 1, tmp_path / "few", tmp_path)
    assert (tmp_path / "few" / "manifest.csv").read_bytes() == before


# --- generated cells ----------------------------------------------------------------------------------


def records_of(folder: Path) -> dict[str, list[ImageRecord]]:
    return {split: list(shards.read_folder(folder / split)) for split in SPLITS}


def test_a_seed_of_generated_cells_draws_other_labels_and_the_same_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = GeneratedConfig(labelled=3, val=3, unlabelled=3, test=2, height_px=64, width_px=80)
    monkeypatch.setitem(regimes.REGIMES, "classes", replace(regimes.REGIMES["classes"], generated=tiny))
    monkeypatch.setattr("os.fsync", lambda handle: None)
    for seed in (0, 1):
        regimes.build("classes", seed, tmp_path / str(seed), tmp_path)
    regimes.build_all("classes", 1, tmp_path / "all", tmp_path)
    zero, one, every = (records_of(tmp_path / name) for name in ("0", "1", "all"))

    def pixels(*records: list[ImageRecord]) -> set[str]:
        return {record.sha256 for part in records for record in part}

    assert pixels(zero["test"]) == pixels(one["test"]) == pixels(every["test"])
    assert pixels(zero["unlabelled"]) == pixels(one["unlabelled"])
    assert not pixels(zero["labelled"], zero["val"]) & pixels(one["labelled"], one["val"])
    assert pixels(every["labelled"]) == pixels(one["labelled"], one["unlabelled"]) and not every["unlabelled"]
    assert pixels(every["val"]) == pixels(one["val"])
    assert not pixels(one["test"]) & pixels(one["labelled"], one["val"], one["unlabelled"])
    assert all(record.instances is None for record in one["unlabelled"])
    truth = regimes.hidden_truth("classes", tmp_path)
    taught = {record.image_id: record.instances for record in every["labelled"] if record.image_id in truth}
    assert taught.keys() == truth.keys() == {record.image_id for record in one["unlabelled"]}
    for key, cells in truth.items():
        assert taught[key] is not None and taught[key].rle == cells.rle
    listed = Counter(item.split for item in open_data(config_of("classes", tmp_path / "1")).items)
    assert listed == {"labelled": 3, "unlabelled": 3, "val": 3, "test": 2}


def test_the_generated_regime_has_twelve_labels() -> None:
    assert regimes.GENERATED.labelled + regimes.GENERATED.val == 12


# --- the runs -----------------------------------------------------------------------------------------


def test_every_run_has_a_valid_config_and_its_own_name(tmp_path: Path) -> None:
    jobs = plan_of(tmp_path).jobs()
    names = [job.name for job in jobs]
    assert len(names) == len(set(names)) == 3 * (5 * 2 + 3 + sum(map(len, rounds_plan.ABLATIONS.values())))
    configs = {job.name: load_config(job.preset, [*job.settings, "data.root=x"]).config for job in jobs}
    for job in jobs:
        config = configs[job.name]
        assert f"-s{config.run.seed}" in job.name
        n = 0 if "-all-" in job.name else 1 + ("two-of-as-many-steps" in job.name)
        assert (job.n, config.training.steps) == (n, 300 if n else 1200)
        steps = [config.training_of(model).steps for round in range(n + 1) for model in config.models_of(round)]
        assert len(steps) == n + 1 + ("not-two-fused" in job.name), "one student a round"
        assert sum(steps) == 1200, "together as long as the ceiling"
        assert config.rounds.control == ("-ours-" in job.name or "-all-" in job.name)


def test_development_has_no_ceiling_and_no_generated_cells(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, development=True, regimes=("few",), ablate=False)
    assert [job.name for job in plan.jobs()] == [f"few-{line}-s{s}" for s in SEEDS for line in ("ours", "plain")]
    with pytest.raises(ValueError, match="take another seed"):
        regimes.build("classes", 0, tmp_path, tmp_path, development=True)


def test_plain_takes_one_threshold_and_every_round(tmp_path: Path) -> None:
    for name, regime in regimes.REGIMES.items():
        job = next(job for job in plan_of(tmp_path, regimes=(name,)).jobs() if f"{name}-plain-" in job.name)
        config = load_config(job.preset, [*job.settings, "data.root=x"]).config
        assert isinstance(config.filter.thresholds, dict) and tuple(config.filter.thresholds) == regime.classes
        assert {(limit.accept, limit.reject) for limit in config.filter.thresholds.values()} == {(0.5, 0.5)}
        assert not config.filter.weight_by_quality and config.rounds.promotion.min_probability == 0


def test_a_part_off_differs_from_ours_in_more_than_its_control(tmp_path: Path) -> None:
    jobs = {job.name: set(job.settings) for job in plan_of(tmp_path, seeds=(0,)).jobs()}
    for name, part, off in [(name, *item) for name, offs in rounds_plan.ABLATIONS.items() for item in offs.items()]:
        own = jobs[f"{name}-without-{rounds_plan.slug(part)}-s0"] - jobs[f"{name}-ours-s0"] - {"rounds.control=false"}
        assert own, "the settings that switch it"
        words = off.words(1, ("nucleus",))
        assert all(setting in words for setting in own if not setting.startswith("models=")), "and the page names them"
