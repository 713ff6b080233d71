"""Predicts the images of a split with a trained model, or looks up what another tool has found in them.

What the model or the masks report of it is noted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from cellsemi.configs.data import DataConfig
from cellsemi.configs.models import MasksConfig
from cellsemi.configs.training import InferenceConfig
from cellsemi.models.validation.choose_probabilities import resolved, with_background, without_background
from cellsemi.orchestrator.engine.protocol import Job, Record, Worker
from cellsemi.orchestrator.stages.fuse import fuse_folds
from cellsemi.orchestrator.steps.context import OF_CELLS, Context
from cellsemi.orchestrator.steps.jobs import PredictJob, ShardStage
from cellsemi.orchestrator.steps.over_shards import ShardWork, over_shards
from cellsemi.rounds.datasets.mask_folder import mask_source, masks_in
from cellsemi.rounds.datasets.teacher_masks import MaskScores, TeacherMasks
from cellsemi.rounds.inspect.detect import data_section
from cellsemi.rounds.store import files
from cellsemi.rounds.store.folds import folds_of
from cellsemi.rounds.store.manifest import read_fit, read_manifest
from cellsemi.rounds.store.predictions import UNLABELLED, PredictionSet, as_if_unlabelled, states_background
from cellsemi.rounds.store.run import SPLITS, RunPaths
from cellsemi.rounds.store.shards import read_columns
from cellsemi.rounds.store.steps import Step


def predict(context: Context, at: int, wanted: PredictionSet) -> None:
    """Predict a set with its model, in every fold; `at` is the round at work.

    With folds the predictions of test images, which all folds predict, are fused as well.
    """
    folds = folds_of(context.config)
    for fold in folds:
        _predict(context, at, replace(wanted, fold=fold))
    if wanted.split == "test" and len(folds) > 1:
        fuse_folds(context, at, wanted)


def _predict(context: Context, at: int, wanted: PredictionSet) -> None:
    over_shards(context, prediction(context, at, wanted))
    note_warnings(context, wanted)


def prediction(context: Context, at: int, wanted: PredictionSet) -> ShardWork:
    """The work of predicting a set in one fold.

    An image that no worker survives stays in the table without cells, counted: never skipped silently.
    """
    config, paths = context.config, context.paths
    model, settings = paths.model(wanted.round, wanted.member), config.model_called(wanted.model, wanted.round)
    inference = _inference(context, wanted)

    def make_job(stage: ShardStage) -> Job:
        if isinstance(settings, MasksConfig):
            return _look_up_job(context, stage, settings, wanted)
        return PredictJob(
            stage=stage,
            model=str(model),
            inference=inference,
            device=config.engine.device,
            max_pixels=config.data.max_pixels,
            round=wanted.round + 1,
            scale=wanted.scale,
            name=wanted.title,
            threads=config.engine.labelling_threads,
            leave_out_broken=wanted.split == UNLABELLED,
            stated_classes=config.data.classes if as_if_unlabelled(wanted) and config.data.one_class_per_image else (),
        )

    step = Step(
        round=at,
        name=wanted.title,
        output=wanted.folder(paths),
        settings=context.read(_read_by(context, wanted), "data.max_pixels", "filter.background", *OF_CELLS),
        inputs=(model,),
        parameters={"round": wanted.round, "model": wanted.member, "images": wanted.images_name, "scale": wanted.scale},
    )
    return ShardWork(step, wanted.images(paths), make_job, image_by_image=True)


def _read_by(context: Context, wanted: PredictionSet) -> str:
    """The path of the inference settings that a prediction reads."""
    name = context.config.model_called(wanted.model, wanted.round).name
    return f"models[{name}].{'unlabelled_inference' if as_if_unlabelled(wanted) else 'inference'}"


def _inference(context: Context, wanted: PredictionSet) -> InferenceConfig:
    config = context.config
    settings = config.unlabelled_inference_of if as_if_unlabelled(wanted) else config.inference_of
    fit = read_fit(context.paths.model(wanted.round, wanted.member))
    found = resolved(fit, settings(config.model_called(wanted.model, wanted.round)))
    return with_background(fit, found) if states_background(config, wanted) else without_background(found)


def note_warnings(context: Context, wanted: PredictionSet) -> None:
    """Tell what a model reported while it predicted a set."""
    warnings: Counter[str] = Counter()
    shards = read_manifest(wanted.folder(context.paths)).shards
    for shard in shards:
        warnings += Counter(shard.warnings)
    if inverted := sum(sum(shard.inverted.values()) for shard in shards):
        context.watcher.note(f"{wanted.member} on {wanted.images_name}: {inverted} images were predicted inverted")
    for sentence, times in sorted(warnings.items()):
        context.watcher.note(f"{wanted.member} on {wanted.images_name}, {times} times: {sentence}")


# --- masks of other tools -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LookUpJob:
    """Gives every image of a folder of shards the cells that a tool has found in it, or none where it lacks the image.

    `source` says what `masks.folder` is (mask_folder.mask_source), `data` what its class names stand for, and `run` is
    the run's folder, whose images are the ones that may be asked for.
    """

    stage: ShardStage
    masks: MasksConfig
    source: DataConfig | None
    data: DataConfig
    run: str
    round: int
    name: str
    uses_device: bool = False

    def start(self) -> Worker:
        """List the masks and read their scores, once."""
        return _LookUp(self)


class _LookUp:
    def __init__(self, job: LookUpJob) -> None:
        self._job = job
        find = masks_in(files.place(job.masks.folder), job.source, _ids(RunPaths(files.place(job.run))))
        scores = None if job.masks.scores is None else MaskScores(files.place(job.masks.scores))
        self._masks = TeacherMasks(find, job.data, job.masks.folder, scores)

    def run(self, item: int) -> Record:
        """Look up the images of one shard."""
        warnings: Counter[str] = Counter()
        out = []
        for record in self._job.stage.records(item):
            cells = self._masks.cells(record, warnings)
            found = None if cells is None else cells.with_(round=self._job.round)
            out.append(record.with_(image=None, instances=found))
        return self._job.stage.commit(item, out, warnings=dict(warnings))


def _look_up_job(context: Context, stage: ShardStage, masks: MasksConfig, wanted: PredictionSet) -> LookUpJob:
    """The job of one set of images; DataError when the folder holds no masks of any image of the run."""
    data, folder = context.config.data, _absolute(masks.folder)
    scores = None if masks.scores is None else str(_absolute(masks.scores))
    return LookUpJob(
        stage=stage,
        masks=masks.model_copy(update={"folder": str(folder), "scores": scores}),  # a worker may have another folder
        source=mask_source(folder, _ids(context.paths), data_section),
        data=data.model_copy(update={"class_map": {**data.class_map, **masks.class_map}}),
        run=str(context.paths.root),
        round=wanted.round + 1,
        name=wanted.title,
    )


def _absolute(path: str) -> Path:
    return files.place(path).expanduser().absolute()


def _ids(paths: RunPaths) -> list[str]:
    """The ids of all images of a run."""
    return [row["image_id"] for split in SPLITS for row in read_columns(paths.split(split), ["image_id"])]
