"""The benchmark where longer training no longer helps: its draws, its commands, how pseudo-labels are judged."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.benchmark_scripts import DATA, script

from cellsemi.configs.loading import load_config
from cellsemi.rounds.cells import masks, rle
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.schemas import ImageRecord

neurons = script("neurons")
neurons_data = script("neurons_data")
SHARED = DATA.parent
USIIGACI = pytest.mark.skipif(not (SHARED / "usiigaci").is_dir(), reason=f"Usiigaci is not at {SHARED}/usiigaci")


def splits(folder: Path) -> dict[str, set[str]]:
    lines = (folder / "manifest.csv").read_text("utf-8").splitlines()
    names = lines[0].split(",")
    rows = [dict(zip(names, line.split(","), strict=True)) for line in lines[1:]]
    return {split: {r["id"] for r in rows if r["split"] == split} for split in {r["split"] for r in rows}}


@USIIGACI
def test_a_seed_draws_the_labels_and_the_oracle_adds_the_hidden_ones(tmp_path: Path) -> None:
    for seed in (0, 1):
        for every in (False, True):
            neurons_data.build("usiigaci-3", seed, tmp_path / f"{seed}-{every}", SHARED, all_labels=every)
    plain, other, oracle = (splits(tmp_path / name) for name in ("0-False", "1-False", "0-True"))
    assert len(plain["labelled"]) == len(other["labelled"]) == 3 and plain["labelled"] != other["labelled"]
    hidden = set(neurons_data.hidden_truth("usiigaci", SHARED))
    assert len(hidden) == 10 and hidden < plain["unlabelled"]
    assert oracle["labelled"] == plain["labelled"] | hidden
    assert oracle["test"] == plain["test"] == other["test"] and oracle["val"] == plain["val"]
    assert not oracle["test"] & (oracle["labelled"] | oracle["unlabelled"] | oracle["val"])


@pytest.mark.parametrize("name", neurons_data.SETS)
def test_the_commands_are_valid(name: str, tmp_path: Path) -> None:
    line = neurons.command(name, 3, tmp_path, 1, {"training.steps": 40}, tmp_path / "data")
    sets = [line[place + 1] for place, word in enumerate(line) if word == "--set"]
    config = load_config(line[line.index("--config") + 1], sets).config
    assert config.run.seed == 3 and len(config.models) == 1
    assert config.training_of(config.models[0]).steps == 40 and line[:4] == ["cellsemi", "round", "--n", "1"]
    assert all(json.loads(value.partition("=")[2]) is not ... for value in sets)


def test_pseudo_labels_are_judged_against_hidden_ones(tmp_path: Path) -> None:
    truth = np.zeros((30, 30), np.int32)
    truth[2:8, 2:8], truth[2:8, 9:15], truth[20:26, 20:26], truth[20:26, 2:8] = 1, 2, 3, 4
    found = np.where(truth == 3, 1, 0).astype(np.int32)
    found[2:8, 2:15] = 2  # two cells in one mask; the fourth is in none
    sure = np.ones((30, 30), bool)
    sure[20:26, 2:5] = False  # half of it is not sure to be background
    cells = masks.from_label_map(found, state="accepted").with_(background=rle.encode(sure))
    rows = [ImageRecord("a", 30, 30, "unlabelled", instances=cells), ImageRecord("b", 30, 30, "unlabelled")]
    shards.write_shard(tmp_path / "part-00000.parquet", rows, "x")
    hidden: dict[str, Instances] = {"a": masks.from_label_map(truth, state="human")}
    labels = neurons.Labels.of(tmp_path, hidden, 2)
    assert (labels.precision, labels.recall, labels.merged) == (1 / 2, 1 / 4, 1 / 2)
    assert labels.wrong_background == pytest.approx(18 / (4 * 36))
    assert neurons.Labels.of(tmp_path, {}, 2) is None
    assert neurons._won(0.31, 0.30, 0.34) == "25% of +0.040" and neurons._won(0.31, 0.30, 0.32) == "+0.010 of +0.020"


def result(seed: int, **changes: object) -> Any:
    values = {
        "data": "few", "seed": seed, "n": 1, "settings": {}, "made": "2026-01-01", "rounds": {"0": 0.5, "1": 0.52},
        "control": 0.51, "steps": 750, "delivered": 0.52, "what": "round 1", "oracle": 0.55,
        "labels": {"1": {"precision": 0.9, "recall": 0.8, "merged": 0.0, "wrong_background": 0.1}},
        "curve": [(500, 0.6), (1000, 0.605)],
    }  # fmt: skip
    return neurons.Result(**(values | changes))


def test_results_of_earlier_calls_are_kept_and_the_same_line_is_replaced() -> None:
    kept = [result(0), result(1), result(0, settings={"training.human_fraction": 0.5})]
    found = neurons.merged(kept, [result(1, control=0.4), result(2, data="usiigaci")])
    assert [(each.data, each.seed, each.control) for each in found] == [
        ("usiigaci", 2, 0.51), ("few", 0, 0.51), ("few", 0, 0.51), ("few", 1, 0.4),
    ]  # fmt: skip
    kept_as = json.loads(json.dumps([asdict(each) for each in found]))
    assert neurons.merged([neurons.Result(**each) for each in kept_as], []) == [
        neurons.Result(**each) for each in kept_as
    ]


def test_the_page_has_a_table_for_each_set_number_of_rounds_and_setting() -> None:
    one, other = result(0), result(3, rounds={"0": 0.5, "1": 0.5}, oracle=0.56)
    text = neurons.page([one, other, result(0, settings={"training.human_fraction": 0.5})])
    assert text.count("## few, 1 round") == 2 and "## few, 1 round --set training.human_fraction=0.5" in text
    assert "| 0 | 0.500 | 0.520 | 0.510 (750) | 0.520 (round 1) | 0.550 | 25% of +0.040 |" in text
    assert "| mean | 0.500 | 0.510 | 0.510 | 0.520 | 0.555 | 0% of +0.045 |" in text
    assert "| 3 | 1 | 0.900 | 0.800 | 0.000 | 0.100 | 500: 0.600, 1000: 0.605 |" in text
