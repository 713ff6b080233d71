"""`cellsemi data export --metadata`: what the two files state, checked by the packages that read them."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from helpers.applied import small_run
from helpers.terminal import invoke

from cellsemi.configs.errors import UsageError
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.run import RunPaths

STATED = ("--licence", "CC0-1.0", "--creator", "A. Person", "--creator", "B. Person", "--url", "https://doi.org/10.1/x")


@pytest.fixture
def finished(here: Path, fake_models: None) -> RunPaths:
    return small_run(here, 1)


def described(kind: str, out: str, *args: str) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """The folder of an export with metadata, its croissant.json and the entities of its RO-Crate by their ids."""
    done = invoke("data", "export", "demo", "--format", kind, "--out", out, "--metadata", *STATED, *args)
    assert done.exit_code == 0, done.output + str(done.exception)
    folder = Path(out)
    crate = json.loads((folder / "ro-crate-metadata.json").read_text())
    return folder, json.loads((folder / "croissant.json").read_text()), {e["@id"]: e for e in crate["@graph"]}


def test_try(finished: RunPaths) -> None:
    described("coco", "/tmp/w/try/coco")
    described("coco", "/tmp/w/try/pseudo", "--pseudo")
    described("measurements", "/tmp/w/try/meas")
    described("label-maps", "/tmp/w/try/maps", "--split", "labelled")
