"""Writes the section of the page of a run that says where everything comes from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cellsemi.configs.data import GENERATED
from cellsemi.configs.loading import config_hash
from cellsemi.configs.schema import Config
from cellsemi.configs.short_yaml import short_yaml
from cellsemi.models.model_files import MODEL_FILE, read_model_file
from cellsemi.orchestrator.runs.model_card import licence_of, weights_of
from cellsemi.orchestrator.runs.progress_on_disk import models_of, quarantined
from cellsemi.rounds.page.blocks import Block, Code, Table
from cellsemi.rounds.store.manifest import DataManifest
from cellsemi.rounds.store.predictions import UNLABELLED
from cellsemi.rounds.store.run import SPLITS, RunPaths, read_run_file
from cellsemi.rounds.store.unaltered import MANIFEST

SHORT = 16  # digits of a sha256 that are shown
SCRATCH = "from scratch"


def provenance(config: Config, paths: RunPaths) -> Iterator[Block]:
    """Settings that differ from the defaults, hashes, versions, seeds, and the licences of data and weights."""
    content = read_run_file(paths)
    data = DataManifest.read(paths.data / MANIFEST)
    licence = (
        "none needed: the images are generated" if config.data.source == GENERATED else "not stated (data.licence)"
    )
    precision = content.get("precision") or {}
    rows = [
        ["run", paths.name],
        ["begun", str(content.get("created", "unknown"))],
        ["hash of the config", config_hash(config)],
        ["seed", str(config.run.seed)],
        ["data", config.data.source if config.data.root is None else str(config.data.root)],
        ["fingerprint of the data", data.fingerprint[:SHORT]],
        ["licence of the data", config.data.licence or licence],
        ["images that cannot be used", str(quarantined(paths) or 0)],
        [
            "precision of the training",
            f"{precision['training']} ({precision['because']})" if precision else "as stated",
        ],
    ]
    yield Table("The run", ["what", "value"], rows)
    yield Table("Images and cells of the data set", ["split", "images", "cells"], list(_splits(data)))
    yield Code(short_yaml(config, {}, ["The settings that differ from the defaults."]))
    models = list(_models(paths))
    header = ["model", "kind", "steps", "seed", "weights", "starts from", "licence of what it starts from"]
    yield Table("The models", header, models)
    versions = content.get("versions", {})
    yield Table("Versions at the start of the run", ["package", "version"], [[n, str(v)] for n, v in versions.items()])


def _splits(data: DataManifest) -> Iterator[list[str]]:
    images, cells = data.report.get("images"), data.report.get("cells")
    assert isinstance(images, dict) and isinstance(cells, dict), "the counts of the ingest"
    for split in SPLITS:
        if split in images:
            drawn = "-" if split == UNLABELLED or split not in cells else f"{cells[split]:,}"
            yield [split, f"{images[split]:,}", drawn]


def _models(paths: RunPaths) -> Iterator[list[str]]:
    for round in paths.finished_rounds():
        for name in models_of(paths, round):
            folder: Path = paths.model(round, name)
            if not (folder / MODEL_FILE).is_file():
                continue
            about = read_model_file(folder)
            start = about.started_from
            teacher = f"its teacher ({about.teacher_sha256[:SHORT]})" if about.teacher_sha256 else SCRATCH
            yield [
                f"{name} of round {round}",
                about.kind,
                str(about.training.steps),
                str(about.training.seed),
                about.weights_sha256[:SHORT],
                teacher if start is None else f"{weights_of(start)}{'' if teacher == SCRATCH else ', by ' + teacher}",
                "-" if start is None else licence_of(about.kind, start),
            ]
