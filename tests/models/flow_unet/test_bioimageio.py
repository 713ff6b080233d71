"""A BioImage.IO package is valid, is whole, and gives the answer that it states."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers.pictures import discs
from PIL import Image

from cellsemi.configs.training import InferenceConfig
from cellsemi.models.base import Citation, ExportTask, Publication
from cellsemi.models.flow_unet.family import FAMILY
from cellsemi.models.flow_unet.torchscript import quiet
from cellsemi.rounds.cells.masks import from_label_map, iou_matrix

CORE = "CELLSEMI_BIOIMAGEIO_PYTHON"  # names a Python that has bioimageio.core and torch
VALID = """
import sys
from bioimageio.spec import InvalidDescr, load_description
found = load_description(sys.argv[1])
if isinstance(found, InvalidDescr):
    sys.exit(found.validation_summary.format())
print(found.type, found.name)
"""
CHECK = """
import sys
from bioimageio.core import test_description
summary = test_description(sys.argv[1], weight_format="torchscript", devices=["cpu"])
print(*(f"{each.status}: {each.name} {[error.msg for error in each.errors]}" for each in summary.details), sep="\\n")
sys.exit(summary.status != "passed")
"""
ABOUT = Publication(
    name="Discs (test)",
    description="Finds bright discs.",
    authors=("A. Person", "B. Person"),
    licence="CC0-1.0",
    documentation="# Discs\n\n## Validation\n\nNone.\n",
    sample=discs(30)[0],
    tags=("discs", "2d"),
    cite=(Citation("Person et al., A method, 2020", "10.1000/xyz123"),),
)
INFERENCE = InferenceConfig(cell_probability=0.5)


def package(trained: Path, out: Path, about: Publication = ABOUT) -> dict[str, bytes]:
    """The files of the package of the trained network."""
    FAMILY.exports["bioimage-io"].write(ExportTask(trained, out, INFERENCE, about))
    with zipfile.ZipFile(out) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def sources(value: Any) -> list[tuple[str, str]]:
    """(file, sha256) of everything that a description names."""
    if isinstance(value, dict):
        own = [(value["source"], value["sha256"])] if "source" in value else []
        return own + [pair for each in value.values() for pair in sources(each)]
    return [pair for each in value for pair in sources(each)] if isinstance(value, list) else []


def test_every_file_is_there_with_the_hash_that_is_stated(trained: Path, tmp_path: Path) -> None:
    content = package(trained, tmp_path / "m.zip")
    rdf = yaml.safe_load(content["rdf.yaml"])
    named = dict(sources(rdf))
    assert {name: hashlib.sha256(content[name]).hexdigest() for name in named} == named
    assert set(content) == {*named, "rdf.yaml"}
    assert b"&id" not in content["rdf.yaml"]  # no YAML aliases: not every reader follows them
    assert [author["name"] for author in rdf["authors"]] == ["A. Person", "B. Person"]
    assert rdf["license"] == "CC0-1.0" and rdf["cite"][0]["doi"] == "10.1000/xyz123" and rdf["tags"].count("2d") == 1
    readme = content["README.md"].decode()
    assert readme.startswith("# Discs") and "## This file" in readme and "Cells of every score" in readme
    assert Image.open(io.BytesIO(content["cover.png"])).size == (512, 256)


def test_the_test_output_is_our_own_answer(trained: Path, tmp_path: Path) -> None:
    content = package(trained, tmp_path / "m.zip")
    given, expected = (np.load(io.BytesIO(content[f"test-{name}.npy"])) for name in ("input", "output"))
    assert np.array_equal(given[0, 0], ABOUT.sample.astype(np.float32))
    with quiet():
        module = torch.jit.load(io.BytesIO(content["model.pt"]))
    assert np.array_equal(module(torch.from_numpy(given)).numpy(), expected)
    (ours,) = FAMILY.load(trained, INFERENCE, "cpu").predict([ABOUT.sample])
    theirs = from_label_map(expected[0, 0].astype(np.int32))
    assert len(ours) == len(theirs) > 3 and iou_matrix(ours, theirs).max(1).min() > 0.95


def test_colours_have_three_channels_and_what_nobody_stated_is_said(trained: Path, tmp_path: Path) -> None:
    colours = np.repeat(discs(31)[0][..., None], 3, axis=2)
    about = replace(ABOUT, sample=colours, licence=None, authors=(), cite=())
    notes = FAMILY.exports["bioimage-io"].write(ExportTask(trained, tmp_path / "m.zip", INFERENCE, about))
    assert [note for note in notes if "is stated" in note] == [
        f"No {what} is stated: bioimage.io asks for one." for what in ("author", "licence")
    ]
    with zipfile.ZipFile(tmp_path / "m.zip") as archive:
        rdf = yaml.safe_load(archive.read("rdf.yaml"))
    assert rdf["inputs"][0]["axes"][1]["channel_names"] == ["red", "green", "blue"]
    assert not {"license", "authors", "cite"} & set(rdf)


def test_it_is_valid_to_the_specification(trained: Path, tmp_path: Path) -> None:
    """In a process of its own: the library leaves files open, and warnings are errors here."""
    if find_spec("bioimageio") is None:
        pytest.skip("bioimageio.spec is not installed")
    package(trained, tmp_path / "m.zip")
    done = subprocess.run(
        [sys.executable, "-c", VALID, str(tmp_path / "m.zip")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip().endswith(f"model {ABOUT.name}")


@pytest.mark.slow
def test_bioimageio_core_runs_it(trained: Path, tmp_path: Path) -> None:
    """In an environment of its own: bioimageio.core pins a specification that does not work with our pydantic."""
    python = os.environ.get(CORE)
    if not python:
        pytest.skip(f"{CORE} names no Python with bioimageio.core and torch")
    package(trained, tmp_path / "m.zip")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-c", CHECK, str(tmp_path / "m.zip")],
        env={**environment, "BIOIMAGEIO_CACHE_PATH": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Reproduce test outputs" in done.stdout
