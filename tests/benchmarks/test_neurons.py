"""The benchmark where longer training no longer helps: its draws, its commands, how pseudo-labels are judged."""

from __future__ import annotations

import json
from pathlib import Path

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
