"""Makes a run ready: checks the models, keeps their code and weights, reads the images; bad ones are quarantined."""

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
from cellsemi.models.own_family import copy_module, own_family
from cellsemi.models.registry import family
from cellsemi.models.start_weights import Given, find_given, refuse_other_kind, refuse_other_model
from cellsemi.orchestrator.engine.protocol import OnDone
from cellsemi.orchestrator.steps.context import Context, Finish, do_all, failed_on_data
from cellsemi.rounds.datasets.ignore_label_issues import table_sha256
from cellsemi.rounds.datasets.ingest import NEEDED, WITHOUT_TRAINING, ingest
from cellsemi.rounds.datasets.ingest_report import IngestReport, sentences
from cellsemi.rounds.datasets.read_shards import ReadJob
from cellsemi.rounds.evaluation.bootstrap import who_decides
from cellsemi.rounds.evaluation.seen import SEEN_FILE, SeenImages, seen_by_starts
from cellsemi.rounds.store import files
from cellsemi.rounds.store.kept_weights import KeptWeights, copy_files, read_kept, write_kept
from cellsemi.rounds.store.manifest import DataManifest, write_manifest
from cellsemi.rounds.store.run import SPLITS, RunPaths, read_shard_workers, write_shard_workers
from cellsemi.rounds.store.steps import Step
from cellsemi.rounds.store.unaltered import MANIFEST


def check_models(config: Config) -> None:
    """ModelError, before anything is begun, when a model lacks its framework or its masks."""
    for model in config.models:
        family(model.kind)  # refuses when a package is missing, with the line that installs it
        if isinstance(model, MasksConfig):
            for what, path in (("folder", model.folder), ("scores", model.scores)):
                if path is not None and not files.place(path).expanduser().exists():
                    raise ModelError(f"{model.name}: {what} {path}: there is no such file or folder")


def bring_weights(context: Context) -> None:
    """Keep what the weights of each model stand for, and a copy of them in the run's folder, once.

    A copy that is there stays: a run goes on with the weights that it began with, and says where the name stands for
    others by now. ModelError, before anything is copied, when weights are missing, are others than stated, or are those
    of another kind or of other classes.
    """
    before = read_kept(context.paths)
    found = {
        model.name: (model.weights, _checked(context, model, model.weights, before.get(model.name)))
        for model in context.config.models
        if isinstance(model, WithWeights) and model.weights is not None
    }
    kept = {
        name: each if isinstance(each, KeptWeights) else _copied(context, name, weights, each)
        for name, (weights, each) in found.items()
    }
    if kept != before:
        write_kept(context.paths, kept)


def _checked(context: Context, model: WithWeights, weights: str, kept: KeptWeights | None) -> KeptWeights | Given:
    """What the run has kept of a model's weights, or what is to be copied first."""
    if kept is None or kept.weights != weights or model.weights_sha256 not in (None, kept.sha256):
        given = find_given(weights, model.weights_sha256)
        given.refuse_unknown_pickle()
        kind = type(model).model_fields["kind"].default
        refuse_other_kind(given, kind)
        if model.trains:
            refuse_other_model(given, kind, context.config.data.classes)
        return given
    try:
        find_given(str(context.paths.root / kept.kept), kept.sha256)
    except ModelError as problem:
        try:
            return find_given(weights, kept.sha256)
        except ModelError as other:
            raise ModelError(
                f"{model.name}: the run's copy cannot be used ({problem}), nor its source ({other})"
            ) from None
    if changed := _stands_for_others(weights, kept):
        context.watcher.note(
            f"{model.name}: {weights} {changed}; the run goes on with its own copy in {kept.kept} (sha256 "
            f"{kept.sha256[:8]})"
        )
    return kept


def _stands_for_others(weights: str, kept: KeptWeights) -> str:
    """What became of weights that the run has kept, in words; empty while they are the same."""
    try:
        now = find_given(weights)
    except ModelError:
        return f"is no longer found (it was {kept.source})"
    return "" if now.sha256 == kept.sha256 else f"now stands for {now.place} (sha256 {now.sha256[:8]})"


def _copied(context: Context, name: str, weights: str, given: Given) -> KeptWeights:
    """Copy the weights of a model into the run's folder."""
    sums = {path: given.sha256 if path == given.file else files.sha256_bytes(path.read_bytes()) for path in given.parts}
    folder = copy_files(context.paths, given.parts, sums)
    if (seen := _seen_by(given)) is not None:
        seen.write(folder / SEEN_FILE)
    kept = (folder if given.about is not None else folder / given.file.name).relative_to(context.paths.root).as_posix()
    context.watcher.note(f"{name}: {weights} is {given.place} (sha256 {given.sha256[:8]}); the run's copy is {kept}")
    return KeptWeights(
        weights=weights, source=str(given.place.absolute()), sha256=given.sha256, bytes=given.bytes, kept=kept
    )


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


def _seen_by(given: Given) -> SeenImages | None:
    """Which images an earlier model has used, where its exported folder or its run is around it."""
    if given.about is None:
        return None
    place = given.place.absolute()
    exported, run = place.parent.parent / SEEN_FILE, RunPaths(place.parent.parent.parent)
    if exported.is_file():
        return SeenImages.read(exported)
    return SeenImages.of_run(run) if run.config.is_file() else None


def code_of(context: Context, model: ModelConfig) -> Path | None:
    """Where the run keeps the module of a model; None for all but families in a folder of the user's."""
    if not isinstance(model, PythonConfig) or model.folder is None:
        return None
    return context.paths.code(model.name)


def read_images(context: Context) -> None:
    """Read the data set into the run's shards, once: the run keeps its own copy of what it was made from."""
    paths, table = context.paths, context.config.data.label_issues
    if table is not None:
        table_sha256(files.place(table))  # a table that cannot be read is an error of the data set
    step = Step(
        round=0,
        name="read images",
        output=paths.data,
        settings=context.read("data", "run.seed"),
        inputs=() if table is None else (files.place(table).resolve(),),
        total=0,
    )

    def work(_: Sequence[Step], finish: Finish) -> None:
        started = time.monotonic()
        report = _read(context, step)
        images = sum(report.images.values())
        finish(replace(step, total=images), time.monotonic() - started)

    do_all(context, step.name, [step], work)


def note_seen(context: Context) -> None:
    """Say where an earlier model, which one of the run's starts from, has used its val or test images."""
    for sentence in seen_by_starts(context.paths):
        context.watcher.note(sentence)


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


def _shard_workers(context: Context) -> int:
    """For how many workers the run's shards are made: those of its first call, whoever goes on with it."""
    if context.config.data.shard_images != "auto":
        return 1
    found = read_shard_workers(context.paths)
    if found is None:
        found = context.engine.workers()
        write_shard_workers(context.paths, found)
    return found


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

    def run(job: ReadJob, items: Sequence[int], on_done: OnDone) -> None:
        outcome = context.engine.map(job, items, on_done, lambda: None, context.watcher.incident)
        if outcome.failed:
            raise failed_on_data(step.name, outcome.failed)

    fingerprint = context.ledger.fingerprint(step)
    report = ingest(
        context.config, paths.data, context.config_hash, on_image, needed, _shard_workers(context), run, fingerprint
    )
    for split in SPLITS:
        write_manifest(paths.split(split), fingerprint, 0.0, report.shards[split])
    counts = asdict(report)
    del counts["shards"], counts["seconds"]
    DataManifest(fingerprint=fingerprint, seconds=round(report.seconds, 2), report=counts).write(paths.data / MANIFEST)
    for line in sentences(report, context.config.data):
        watcher.note(line)
    return report
