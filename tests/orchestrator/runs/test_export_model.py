"""A model of a run is written for other programs with what its run chose and knows."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.campaigns import bring, config_at
from helpers.terminal import invoke

from cellsemi.configs.errors import UsageError
from cellsemi.models.flow_unet.torchscript import ABOUT, quiet
from cellsemi.orchestrator.runs.export_model import export_model, inference_of, model_of, run_of
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.image_codec import decode_image
from cellsemi.rounds.store.manifest import read_fit
from cellsemi.rounds.store.run import RunPaths

SETTINGS = (
    "models=[{kind: flow-unet, name: a, width: 4}]",
    "training.steps=20",
    "training.batch=2",
    "inference.cell_probability=auto",
    "inference.flow_steps=50",
    "data.licence=CC0-1.0",
)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    return bring(config_at(tmp_path_factory.mktemp("runs"), *SETTINGS), 0)[0]


def test_torchscript_holds_what_the_run_chose(paths: RunPaths, tmp_path: Path) -> None:
    done = invoke(
        "weights", "export", str(paths.model(0, "a")), "--out", str(tmp_path / "m.pt"), "--format", "torchscript"
    )
    assert done.exit_code == 0 and "torch.jit.load" in done.output and "every score" in done.output
    chosen = read_fit(paths.model(0, "a")).cell_probability
    extra = {ABOUT: ""}
    with quiet():
        module = torch.jit.load(tmp_path / "m.pt", _extra_files=extra)
    assert chosen is not None and module.threshold == chosen.chosen and module.steps == 50
    assert json.loads(extra[ABOUT])["classes"] == ["shsy5y", "astro", "cort"]


def test_bioimageio_states_the_run(paths: RunPaths, tmp_path: Path) -> None:
    export_model(paths.model(0, "a"), tmp_path / "m.zip", "bioimage-io", authors=("A. Person",))
    with zipfile.ZipFile(tmp_path / "m.zip") as archive:
        rdf, readme = yaml.safe_load(archive.read("rdf.yaml")), archive.read("README.md").decode()
        given = np.load(archive.open("test-input.npy"))
    assert rdf["license"] == "CC0-1.0" and rdf["authors"] == [{"name": "A. Person"}]
    assert "shsy5y, astro, cort" in rdf["description"]
    assert readme.startswith(f"# {rdf['name']}") and "## Limits" in readme and "load_model" not in readme
    first = next(iter(shards.read_folder(paths.split("test"))))
    assert first.image is not None
    assert np.array_equal(given[0, 0], decode_image(first.image, first.image_id, 10**9))


def test_the_model_of_a_fold_has_no_figures_to_publish(paths: RunPaths) -> None:
    with pytest.raises(UsageError, match="one fold"):
        model_of(paths, paths.model(0, "a.fold-1"))


def test_a_folder_without_a_run_has_default_settings(paths: RunPaths, tmp_path: Path) -> None:
    folder = tmp_path / "alone"
    folder.mkdir()
    for path in paths.model(0, "a").glob("*.*"):
        (folder / path.name).write_bytes(path.read_bytes())
    assert run_of(folder) is None and run_of(paths.model(0, "a")) is not None
    chosen = read_fit(folder).cell_probability
    assert chosen is not None and inference_of(folder, None).cell_probability == chosen.chosen
    assert inference_of(folder, None).flow_steps == 200


def test_a_format_that_states_no_authors_refuses_them(paths: RunPaths, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--author"):
        export_model(paths.model(0, "a"), tmp_path / "m.pt", "torchscript", authors=("A. Person",))
