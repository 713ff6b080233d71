"""Checks the models before a run, and reads the user's images into shards; bad ones are quarantined."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

from cellsemi.configs.data import GENERATED
from cellsemi.configs.errors import ModelError, UsageError
from cellsemi.configs.models import MasksConfig, ModelConfig, PythonConfig, WithWeights
from cellsemi.configs.schema import Config
from cellsemi.models import weight_files
from cellsemi.models.given import trained_folder
from cellsemi.models.model_files import read_weights
from cellsemi.models.own_family import copy_module, own_family
from cellsemi.models.registry import family
from cellsemi.orchestrator.stages.context import Context, Finish, do_all
from cellsemi.rounds.datasets.ignore_label_issues import table_sha256
from cellsemi.rounds.datasets.ingest import NEEDED, WITHOUT_TRAINING, ingest
from cellsemi.rounds.datasets.ingest_report import IngestReport, sentences
from cellsemi.rounds.evaluation.enough_images import who_decides
from cellsemi.rounds.store.manifest import DataManifest, write_manifest
from cellsemi.rounds.store.run import SPLITS
from cellsemi.rounds.store.steps import Step
from cellsemi.rounds.store.unaltered import MANIFEST


def check_models(config: Config) -> None:
    """ModelError, before anything is begun, when a model lacks its framework, or its weights are not as stated."""
    for model in config.models:
        family(model.kind)  # refuses when a package is missing, with the line that installs it
        if isinstance(model, WithWeights):
            _check_weights(model)
        if isinstance(model, MasksConfig):
            for what, path in (("folder", model.folder), ("scores", model.scores)):
                if path is not None and not Path(path).expanduser().exists():
                    raise ModelError(f"{model.name}: {what} {path}: there is no such file or folder")


def _check_weights(model: WithWeights) -> None:
    if model.weights is None:
        return
    folder = None if model.trains else trained_folder(model.weights)
    if folder is not None:
        read_weights(folder)
    else:
        weight_files.verify(model.weights, model.weights_sha256)


def bring_code(context: Context) -> None:
    """Copy the modules of families of the user's own into the run's folder, once; ModelError when one does not fit."""
    for model in context.config.models:
        if isinstance(model, PythonConfig):
            code = code_of(context, model)
            if code is not None and not copy_module(model, code):
                context.watcher.note(
                    f"{model.name}: {model.family} has changed; the run goes on with its own copy in "
                    f"{code.relative_to(context.paths.root)}, a new run takes the new one"
                )
            found = own_family(model, code)
            if found.kind != model.kind:
                raise ModelError(
                    f"{model.name}: {model.family} states the config of {found.kind}, expected PythonConfig"
                )


def code_of(context: Context, model: ModelConfig) -> Path | None:
    """Where the run keeps the module of a model; None for all but families in a folder of the user's."""
    if not isinstance(model, PythonConfig) or model.folder is None:
        return None
    return context.paths.code(model.name)


def read_images(context: Context) -> None:
    """Read the data set into the run's shards, once: the run keeps its own copy of what it was made from."""
    paths, table = context.paths, context.config.data.label_issues
    if table is not None:
        table_sha256(Path(table))  # a table that cannot be read is an error of the data set
    step = Step(
        round=0,
        name="read images",
        output=paths.data,
        settings=context.read("data", "run.seed"),
        inputs=() if table is None else (Path(table).resolve(),),
        total=0,
    )

    def work(_: Sequence[Step], finish: Finish) -> None:
        started = time.monotonic()
        report = _read(context, step)
        images = sum(report.images.values())
        finish(replace(step, total=images), time.monotonic() - started)

    do_all(context, step.name, [step], work)


def who_decides_here(context: Context) -> str:
    """Which images of the run decide, and where they are few what folds would do; RunError when no images were read."""
    report = DataManifest.read(context.paths.data / MANIFEST).report
    counts = cast(dict[str, int], report["images"])
    return who_decides(counts["labelled"], counts["val"], context.config.rounds.folds)


def require_pool(context: Context) -> None:
    """UsageError, with what gives a pool, when there are no unlabelled images: rounds after 0 would label nothing."""
    report = DataManifest.read(context.paths.data / MANIFEST).report
    if cast(dict[str, int], report["images"])["unlabelled"]:
        return
    source = context.config.data.source
    if source == GENERATED:
        remedy = "--set data.generated.unlabelled=48 makes some"
    elif source == "shards":
        remedy = "import the data anew with a pool (--set data.images.unlabelled=FOLDER)"
    else:
        remedy = "--set data.images.unlabelled=FOLDER names a folder of them"
    raise UsageError(
        f"{context.paths.root}: there are no unlabelled images, so the rounds have nothing to pseudo-label. {remedy}; "
        "--set data.labelled_limit=N --set data.limit_rest=unlabelled hides the labels of all but N images; and --n 0 "
        "trains on the human labels alone"
    )


def _read(context: Context, step: Step) -> IngestReport:
    """Read every split, each as a piece of work of its own to the watcher; the manifests come last."""
    paths, watcher = context.paths, context.watcher
    begun: dict[str, float] = {}

    def on_image(split: str, done: int, of: int) -> None:
        if split not in begun:
            begun[split] = time.monotonic()
            watcher.stage(0, f"read images: {split}", of, "images")
        watcher.advance(done)
        if done == of:
            watcher.finish(time.monotonic() - begun[split])

    needed = NEEDED if context.config.students_of(0) else WITHOUT_TRAINING
    report = ingest(context.config, paths.data, context.config_hash, on_image, needed)
    fingerprint = context.ledger.fingerprint(step)
    for split in SPLITS:
        write_manifest(paths.split(split), fingerprint, 0.0, report.shards[split])
    counts = asdict(report)
    del counts["shards"], counts["seconds"]
    DataManifest(fingerprint=fingerprint, seconds=round(report.seconds, 2), report=counts).write(paths.data / MANIFEST)
    for line in sentences(report, context.config.data):
        watcher.note(line)
    return report
