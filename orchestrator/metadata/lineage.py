"""Reads from a run's folder how the labels of an export came to be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cellsemi.configs.data import GENERATED
from cellsemi.configs.schema import Config
from cellsemi.models.model_files import MODEL_FILE, read_model_file
from cellsemi.orchestrator.runs.export import Origin
from cellsemi.orchestrator.runs.model_card import data_name, licence_of, weights_of
from cellsemi.rounds.datasets.export import Cells
from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.evaluation.ensemble import Ensemble, read_ensemble
from cellsemi.rounds.evaluation.figures import Interval
from cellsemi.rounds.evaluation.history import RoundManifest, standing_round
from cellsemi.rounds.inspect.data_version import read_listing
from cellsemi.rounds.pseudo_labels.filter_file import FilterFile
from cellsemi.rounds.report.dataset_facts import Lineage, ModelFact, RunFact
from cellsemi.rounds.store import files
from cellsemi.rounds.store.manifest import DataManifest, read_manifest
from cellsemi.rounds.store.run import ENSEMBLE, RunPaths, read_config, read_run_file
from cellsemi.rounds.store.unaltered import MANIFEST


def lineage_of(origin: Origin, cells: Cells) -> Lineage:
    """How the labels of an export of a run were made; RunError when a file of the run is missing or damaged."""
    config = read_config(origin.paths)
    if origin.round is None:
        return _of_people(origin, config)
    if origin.model is None:
        return _of_filter(origin, origin.round, config)
    return _of_models(origin, cells, read_ensemble(origin.paths, origin.round, origin.model), config)


def run_fact(origin: Origin) -> RunFact:
    """The run behind an export, with the hashes of what was read for it."""
    paths = origin.paths
    config, content = read_config(paths), read_run_file(paths)
    listing = read_listing(paths.data_version) if paths.data_version.is_file() else None
    return RunFact(
        name=paths.name,
        created=str(content["created"]),
        cellsemi=str(content["versions"]["cellsemi"]),
        config_hash=str(content["config_hash"]),
        data=data_name(config),
        data_source=config.data.source,
        data_fingerprint=DataManifest.read(paths.data / MANIFEST).fingerprint,
        data_version=None if listing is None else files.sha256_bytes(paths.data_version.read_bytes()),
        shards=dict(_shards(origin)),
    )


def _shards(origin: Origin) -> Iterator[tuple[str, str]]:
    for folder in origin.folders:
        place = folder.relative_to(origin.paths.root).as_posix()
        for shard in read_manifest(folder).shards:
            yield f"{place}/{shard.file}", shard.sha256


def _of_people(origin: Origin, config: Config) -> Lineage:
    method = (
        "Labels that the run was given as drawn by people. Who drew them, and how, is not recorded; what the run "
        "mended while it read them stands in its settings (data.clean)."
    )
    made = "human"
    if config.data.source == GENERATED:
        made = "generated"
        method = "Labels that cellsemi generated together with their images; no person drew them, though their "
        method += "state is called `human`."
    return Lineage(
        subject=f"{made} labels of the {origin.split} images",
        method=method,
        by_machine=False,
        partly=config.data.partial.active,
    )


def _of_models(origin: Origin, cells: Cells, ensemble: Ensemble, config: Config) -> Lineage:
    models = tuple(_models(origin.paths, ensemble, config))
    names = ", ".join(model.name for model in models)
    fused = f" Their masks were fused by `{ensemble.fusion.method}`." if ensemble.is_fused and len(models) > 1 else ""
    kept = None if cells.cutoffs is None else f"Kept are {cells.cutoffs.sentence(ensemble.classes)}."
    return Lineage(
        subject=f"predictions of {_called(ensemble)} of round {ensemble.round} on the {origin.split} images",
        method=f"Predicted by {names} of the run {origin.paths.name}.{fused} No person drew or checked a mask.",
        by_machine=True,
        criteria=kept,
        confidence=_scored(origin.paths, ensemble),
        models=models,
    )


def _of_filter(origin: Origin, round: int, config: Config) -> Lineage:
    paths = origin.paths
    teachers = read_ensemble(paths, _teachers_round(paths, round))
    found = FilterFile.read(paths.filter(round))
    models = tuple(_models(paths, teachers, config))
    return Lineage(
        subject=f"pseudo-labels of round {round} for the unlabelled images",
        method=(
            f"Pseudo-labels: predicted by the teachers {', '.join(model.name for model in models)} of the run "
            f"{paths.name}, fused by `{teachers.fusion.method}`, and filtered by calibrated score, area and agreement. "
            "Accepted ones are taken as cells, ignored ones are uncertain. No person drew or checked a mask."
        ),
        by_machine=True,
        criteria=f"{'; '.join(found.report)}.",
        confidence=f"Accepted masks on labelled validation images: F1 {found.label_score:.3f} at IoU > .5.",
        models=models,
    )


def _teachers_round(paths: RunPaths, round: int) -> int:
    """Whose pseudo-labels those of a round are: as the finished round states it, else of what teaches now."""
    stated = RoundManifest.read(paths.round_manifest(round)).teachers_round if _finished(paths, round) else None
    return standing_round(paths) if stated is None else stated


def _finished(paths: RunPaths, round: int) -> bool:
    return paths.round_manifest(round).is_file()


def _called(ensemble: Ensemble) -> str:
    return "the ensemble" if ensemble.name == ENSEMBLE else ensemble.name


def _models(paths: RunPaths, ensemble: Ensemble, config: Config) -> Iterator[ModelFact]:
    for fold in ensemble.folds:
        for model in ensemble.members:
            name = f"{fold.member(model)} of round {ensemble.round}"
            folder = paths.model(ensemble.round, fold.member(model))
            if not (folder / MODEL_FILE).is_file():
                yield ModelFact(name, config.model_called(model, ensemble.round).kind)
                continue
            about = read_model_file(folder)
            start = about.started_from
            yield ModelFact(
                name=name,
                kind=about.kind,
                sha256=about.weights_sha256,
                started_from=_start(about.teacher_sha256) if start is None else weights_of(start),
                weights_licence="" if start is None else licence_of(about.kind, start),
            )


def _start(teacher_sha256: str | None) -> str | None:
    return None if teacher_sha256 is None else f"its teacher in the same run (sha256 {teacher_sha256})"


def _scored(paths: RunPaths, ensemble: Ensemble) -> str | None:
    """How good the models were found to be on human labels of the run; None where they were not scored."""
    for row in leaderboard.read(paths.leaderboard):
        if (row.round, row.model) == (ensemble.round, ensemble.name):
            scored = {
                "validation images, on which cutoffs and round were chosen": row.val_map,
                "test images": row.test_map,
            }
            known = [f"{_interval(value)} on {split}" for split, value in scored.items() if value is not None]
            words = f"mAP over IoU .50 to .95 (Kaggle Sartorius), {row.confidence * 100:g} % interval: "
            return words + "; ".join(known) + "." if known else None
    return None


def _interval(found: Interval) -> str:
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def classes_by_name(counts: Mapping[int, int], classes: tuple[str, ...]) -> dict[str, int]:
    """The counted cells by the name of their class, in the order of the classes; those without a cell are 0."""
    return {name: counts.get(class_id, 0) for class_id, name in enumerate(classes)}
