"""Collects the model card of an ensemble from the run's folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from cellsemi.configs.errors import RunError
from cellsemi.configs.schema import Config
from cellsemi.models.model_files import StartWeights, read_model_file
from cellsemi.models.registry import families
from cellsemi.models.weight_files import registered
from cellsemi.rounds.cells.cutoffs import Cutoffs
from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.evaluation.ensemble import Ensemble
from cellsemi.rounds.evaluation.history import RoundManifest, read_manifests, read_verdict
from cellsemi.rounds.evaluation.leaderboard import Row
from cellsemi.rounds.report.model_card import CardData, CardFacts, CardMember, CardRound, to_markdown
from cellsemi.rounds.store import files
from cellsemi.rounds.store.manifest import DataManifest, read_fit
from cellsemi.rounds.store.run import ENSEMBLE, RunPaths, read_config, versions
from cellsemi.rounds.store.unaltered import MANIFEST

VERSIONS = ("cellsemi", "torch", "cellpose", "numpy")  # shown, where they are installed


def model_card(paths: RunPaths, ensemble: Ensemble, name: str, licence: str | None = None) -> str:
    """README.md of an ensemble of a run, called `name`: Hugging Face's header, then text for a person.

    `licence` is that of the images and labels; None: `data.licence` of the run. The same run folder gives the same
    text. RunError when a file of the run is missing or damaged.
    """
    return to_markdown(collect(paths, ensemble, name, licence))


def collect(paths: RunPaths, ensemble: Ensemble, name: str, licence: str | None = None) -> CardFacts:
    """What the run's folder holds of an ensemble."""
    config = read_config(paths)
    found = versions()
    return CardFacts(
        name=name,
        run=paths.name,
        round=ensemble.round,
        classes=ensemble.classes,
        one_class_per_image=ensemble.one_class_per_image,
        data=_data(paths, config, licence),
        members=list(_members(paths, ensemble, config)),
        rounds=[_round(number, manifest) for number, manifest in read_manifests(paths).items()],
        row=_row(paths, ensemble),
        verdict=read_verdict(paths),
        fusion=ensemble.fusion if ensemble.is_fused else None,
        calibrated=ensemble.calibration_file is not None,
        cutoffs=ensemble.cutoffs or Cutoffs.same(0.0, len(ensemble.classes)),
        inference=config.inference_of(config.model_called(ensemble.members[0], ensemble.round)),
        versions={package: found[package] for package in VERSIONS if package in found},
    )


def _data(paths: RunPaths, config: Config, licence: str | None) -> CardData:
    data = config.data
    report = DataManifest.read(paths.data / MANIFEST).report
    images, cells = (cast(dict[str, int], report[key]) for key in ("images", "cells"))
    classes = cast(dict[str, dict[str, int]], report["class_cells"])
    return CardData(
        name=data_name(config),
        source=data.source,
        licence=licence or data.licence,
        images=images,
        cells=cells,
        class_cells=classes["labelled"],
    )


def data_name(config: Config) -> str:
    """What the data set of a run is called: its folder, or how its images are made."""
    data = config.data
    return data.source if data.root is None else files.place(data.root).name


def _members(paths: RunPaths, ensemble: Ensemble, config: Config) -> Iterator[CardMember]:
    for fold in ensemble.folds:
        for model in ensemble.members:
            name = fold.member(model)
            folder = paths.model(ensemble.round, name)
            about, fit = read_model_file(folder), read_fit(folder)
            stated = config.inference_of(config.model_called(model, ensemble.round)).pixel_probability
            yield CardMember(
                name=name,
                kind=about.kind,
                parameters=fit.parameters,
                steps=fit.steps,
                started_from=None if about.started_from is None else weights_of(about.started_from),
                weights_licence="" if about.started_from is None else licence_of(about.kind, about.started_from),
                cell_probability=ensemble.cell_probabilities.get(name, stated)
                if about.model.has_cell_probability
                else None,
                cell_diameter_px=about.cell_size.diameter_px,
                scale=about.cell_size.scale,
                resize_px=about.cell_size.resize_px,
            )


def weights_of(start: StartWeights) -> str:
    """The weights of a start, and those before them, if any."""
    named = f"{files.place(start.weights).name} (sha256 {start.sha256})"
    return named if start.before is None else f"{named}, which started from {weights_of(start.before)}"


def licence_of(kind: str, start: StartWeights) -> str:
    """What is known of the licence of weights: their owner's notes on this machine, and what the family states."""
    sums = _sums(start)
    notes = [entry.licence for entry in registered().values() if entry.sha256 in sums and entry.licence]
    stated = {each.kind: each.weights_licence for each in families()}
    return "; ".join([*dict.fromkeys(notes), f"known weights of {kind}: {stated[kind]}"])


def _sums(start: StartWeights) -> set[str]:
    """The sha256 of the weights of a start, and of all before them."""
    return {start.sha256} | (set() if start.before is None else _sums(start.before))


def _round(number: int, manifest: RoundManifest) -> CardRound:
    row = next(row for row in map(Row.from_json, manifest.rows) if row.model == ENSEMBLE)
    return CardRound(
        round=number,
        teachers_round=manifest.teachers_round,
        accepted=row.accepted,
        ignored=row.ignored,
        rejected=row.rejected,
        promoted=manifest.decision.promoted,
        reason=manifest.decision.reason,
    )


def _row(paths: RunPaths, ensemble: Ensemble) -> Row:
    for row in leaderboard.read(paths.leaderboard):
        if (row.round, row.model) == (ensemble.round, ensemble.name):
            return row
    raise RunError(f"{paths.leaderboard}.parquet: has no row of {ensemble.name} in round {ensemble.round}")
