"""Defines the whole config: frozen, validated when built, unknown keys refused.

The field descriptions are the documentation: `cellsemi init` writes them as comments and
docs/config.md is generated from them. Units stand in the names (`_px`, `_s`, `_mb`).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from cellsemi.configs.base import MAX_SEED, Section, checked_name
from cellsemi.configs.data import IGNORE, DataConfig
from cellsemi.configs.models import FlowUnetConfig, ModelBase, ModelConfig
from cellsemi.configs.rounds import AUTO, FilterConfig, FusionConfig, RoundsConfig
from cellsemi.configs.training import CHECKPOINT_S, InferenceConfig, TrainingConfig, UnlabelledInferenceConfig

TrackerName = Literal["tensorboard", "trackio", "wandb", "mlflow"]
OF_A_FOLD = re.compile(r"[.]fold-[0-9]+$")  # ends the folder of a model that is trained in a fold


class RunConfig(Section):
    """What the run is called and where it lives."""

    name: str = Field("demo", description="Name of the run; its folder below `root`.")
    root: str = Field(
        "runs",
        description="Folder of all runs, or an address (s3://, gs://: docs/storage.md); "
        "must be seen by every node of a cluster.",
    )
    seed: int = Field(
        0, ge=0, le=MAX_SEED, description="Draws the labelled subset, the generated cells and every initialisation."
    )

    @field_validator("name")
    @classmethod
    def _name_is_a_path_part(cls, value: str) -> str:
        return checked_name(value, "run.name")


class EngineConfig(Section):
    """Where the work runs. Not part of the run's identity: change it freely between calls."""

    kind: Literal["ray", "inline"] = Field("ray", description="`ray`, or `inline`: everything in this process.")
    address: str | None = Field(None, description="Ray cluster; else RAY_ADDRESS; else a local Ray is started.")
    workers: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Workers at once, at most; null takes what the cluster has, and asks an autoscaler for as many as "
        "there is work for.",
    )
    cpus_per_worker: float = Field(1.0, gt=0, le=1024, description="CPUs that a worker reserves.")
    gpus_per_worker: Annotated[float, Field(ge=0, le=64)] | Literal["auto"] = Field(
        AUTO, description="GPUs that a worker reserves; `auto`: one where there are any; fractions share one."
    )
    labelling_threads: Annotated[int, Field(ge=0, le=256)] | Literal["auto"] = Field(
        AUTO,
        description="Threads of a worker that decode images and recover, score and encode cells while its network sees "
        "others; 0: one after the other. `auto`: on a GPU as many as the CPUs that the worker reserves, on a CPU 0.",
    )
    weights_per_pass_mb: int = Field(
        4096,
        ge=0,
        le=1_000_000,
        description="A worker holds so many MB of teachers' weights while each image goes through all of them; with "
        "more there are several passes over the images. 0: one teacher after another.",
    )
    device: str = Field("auto", description="`auto` (CUDA when a worker has it), `cpu`, `cuda`.")
    max_attempts: int = Field(
        3, ge=1, le=100, description="Attempts per shard or student before it is given up and reported."
    )
    shard_deadline_s: float = Field(
        1800.0, gt=0, le=1_000_000, description="A worker silent for longer on one shard is replaced."
    )
    grace_s: float = Field(
        20.0,
        ge=0,
        le=3600,
        description="Seconds that trainings get for a last checkpoint after SIGTERM, which batch systems and "
        "Kubernetes send some 30 s before SIGKILL; also `cellsemi round --grace`. 0: none is written.",
    )
    progress_deadline_s: float = Field(
        900.0,
        gt=0,
        le=1_000_000,
        description="A student whose training does not get on for longer, once its first step is done, is ended and "
        "goes on from its checkpoint on another worker.",
    )
    start_deadline_s: float = Field(
        1800.0,
        gt=0,
        le=1_000_000,
        description="A worker may take so long to load its model, and a student until its first step.",
    )
    place_deadline_s: float = Field(
        86_400.0,
        gt=0,
        le=10_000_000,
        description="A run on a cluster ends when none of its workers has had a place for so long. Our own Ray does "
        "not grow: there it is two minutes.",
    )
    workers_per_student: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes that train one student together, each on a part of every batch and a GPU of its own "
        "(`gpus_per_worker`), all on one machine; the result is that of one process up to rounding.",
    )
    checkpoint_s: float = Field(
        CHECKPOINT_S,
        ge=0,
        le=1_000_000,
        description="Seconds between checkpoints of a student: what a crash may cost.",
    )
    input_processes: Annotated[int, Field(ge=0, le=256)] | Literal["auto"] = Field(
        AUTO,
        description="Processes beside each student that make its crops and targets ahead of its steps; 0: it makes "
        "them itself, between two steps; `auto`: as many as find a CPU that would be idle, at most 8 for a GPU, 2 "
        "without. The bits that it learns from are the same.",
    )
    min_free_mb: int = Field(
        512, ge=0, le=1_000_000_000, description="The run stops cleanly when less disk space than this is left."
    )


class TrackingConfig(Section):
    """Who is shown the curves, scores and pictures of a run. A list stands for `to`: `tracking: [tensorboard, wandb]`.

    Not part of the run's identity: change it freely between calls.
    """

    to: tuple[TrackerName, ...] = Field(
        ("tensorboard",),
        description="Trackers: `tensorboard` writes files below `tracking/` of the run; `trackio`, `wandb` and "
        "`mlflow` are extras (`pip install 'cellsemi[wandb]'`) and write there, too.",
    )
    online: bool = Field(
        False,
        description="true: W&B sends to its server, Trackio and MLflow to `address`, with the settings of the run. "
        "false: nothing leaves the machine, whatever the environment says.",
    )
    address: str | None = Field(
        None, description="With `online`: MLflow's tracking server, Trackio's server or Space, W&B's own server."
    )
    project: str = Field(
        "cellsemi", min_length=1, max_length=64, description="The project that the run is filed under."
    )

    @model_validator(mode="before")
    @classmethod
    def _a_list_names_trackers(cls, data: Any) -> Any:
        return {"to": data} if isinstance(data, list | tuple) else data

    @model_validator(mode="after")
    def _an_address_is_sent_to(self) -> Self:
        if self.address is not None and not self.online:
            raise ValueError("tracking.address is not used without tracking.online: true")
        return self


class Config(Section):
    """A whole run."""

    run: RunConfig = Field(default_factory=RunConfig, description="Name, place and seed.")
    data: DataConfig = Field(default_factory=DataConfig, description="The images.")
    models: tuple[ModelConfig, ...] = Field(
        (FlowUnetConfig(name="unet-a"), FlowUnetConfig(name="unet-b", seed_offset=1)),
        min_length=1,
        description="The models: teachers of every round, and its students.",
    )
    training: TrainingConfig = Field(default_factory=TrainingConfig, description="The training loop.")
    inference: InferenceConfig = Field(default_factory=InferenceConfig, description="Prediction.")
    unlabelled_inference: UnlabelledInferenceConfig = Field(
        default_factory=UnlabelledInferenceConfig, description="Prediction of unlabelled images, where it differs."
    )
    fusion: FusionConfig = Field(default_factory=FusionConfig, description="Several teachers, one set of masks.")
    filter: FilterConfig = Field(default_factory=FilterConfig, description="The filter of the pseudo-masks.")
    rounds: RoundsConfig = Field(default_factory=RoundsConfig, description="The campaign.")
    engine: EngineConfig = Field(default_factory=EngineConfig, description="Where the work runs.")
    tracking: TrackingConfig = Field(
        default_factory=TrackingConfig, description="Who is shown curves, scores and pictures."
    )

    def models_of(self, round: int) -> tuple[ModelConfig, ...]:
        """The models that take part in a round: its students, and teachers that are not trained."""
        return tuple(model for model in self.models if model.in_round(round))

    def students_of(self, round: int) -> tuple[ModelConfig, ...]:
        """The models that are trained in a round; none in round 0 where others teach it."""
        return tuple(model for model in self.models_of(round) if model.trains)

    def model_called(self, name: str, round: int) -> ModelConfig:
        """The settings of a model by its name; any other name, such as the control's, is the first student of the
        round, which the control of a round copies.
        """
        named = next((model for model in self.models if model.name == name), None)
        return named or self.students_of(round)[0]

    def training_of(self, model: ModelBase) -> TrainingConfig:
        """The training settings of one of the models."""
        return model.training or self.training

    def inference_of(self, model: ModelBase) -> InferenceConfig:
        """The inference settings of one of the models."""
        return model.inference or self.inference

    def unlabelled_inference_of(self, model: ModelBase) -> InferenceConfig:
        """The settings with which one of the models predicts unlabelled images."""
        own = {name: value for name, value in self.unlabelled_inference if value is not None}
        return self.inference_of(model).model_copy(update=own)

    @model_validator(mode="before")
    @classmethod
    def _models_take_the_common_settings(cls, data: Any) -> Any:
        """A model's own `training` or `inference` need not repeat what the common section says."""
        if not isinstance(data, dict) or not isinstance(data.get("models"), list | tuple):
            return data
        return {**data, "models": [_completed(model, data) for model in data["models"]]}

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        names = [model.name for model in self.models]
        reserved = {"ensemble", "control"}
        controls = [name for name in names if re.fullmatch(r"control-\d+", name)]
        if len(set(names)) != len(names) or reserved & set(names) or controls:
            raise ValueError(f"models need distinct names other than {sorted(reserved)} and control-2 .., got {names}")
        if clashing := [name for name in names if OF_A_FOLD.search(name)]:
            raise ValueError(f"a model's name must not end as the models of a fold do (.fold-0), got {clashing}")
        ends = [model.last_round + 1 for model in self.models if model.last_round is not None]
        for round in sorted({0, 1, *ends}):
            count = len(self.models_of(round))
            if not count:
                raise ValueError(f"no model takes part in round {round} (first_round, last_round)")
            if round and not self.students_of(round):
                raise ValueError(f"no model is trained in round {round}: teachers need a student (`first_round: 1`)")
            if self.fusion.min_votes > count:
                raise ValueError(
                    f"fusion.min_votes is {self.fusion.min_votes} but there are {count} models in round {round}"
                )
        for model in self.models:
            if (side := self.training_of(model).crop_px) % model.stride_px:
                raise ValueError(
                    f"training.crop_px is {side}, but {model.name} takes multiples of {model.stride_px} (depth)"
                )
            if model.trains and self.training_of(model).freezes and not model.can_freeze:
                raise ValueError(f"training.frozen and freeze_at: {model.name} ({model.kind}) has no part to freeze")
            mapped = set(getattr(model, "class_map", {}).values()) - {*self.data.classes, IGNORE}
            if mapped:
                raise ValueError(
                    f"class_map of {model.name} leads to {sorted(mapped)}, expected {[*self.data.classes, IGNORE]}"
                )
        if unknown := set(self.fusion.boundaries) - set(names):
            raise ValueError(f"fusion.boundaries names {sorted(unknown)}, expected some of {names}")
        if isinstance(self.filter.thresholds, dict) and set(self.filter.thresholds) != set(self.data.classes):
            raise ValueError(
                f"filter.thresholds must name every class of data.classes {sorted(self.data.classes)}, "
                f"got {sorted(self.filter.thresholds)}"
            )
        return self


def _completed(model: Any, common: dict[str, Any]) -> Any:
    if not isinstance(model, dict):
        return model
    sections = {}
    for name in ("training", "inference"):
        own, shared = model.get(name), common.get(name, {})
        shared = shared.model_dump() if isinstance(shared, Section) else shared
        if isinstance(own, dict) and isinstance(shared, dict):
            sections[name] = {**_without_other_length(shared, own), **own}
    return {"kind": FlowUnetConfig.model_fields["kind"].default, **model, **sections}


def _without_other_length(shared: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Common settings without the length of a training where the model states its own, in steps or in epochs."""
    lengths = ("steps", "epochs")
    return {key: value for key, value in shared.items() if key not in lengths} if own.keys() & set(lengths) else shared


def without_common(data: dict[str, Any]) -> dict[str, Any]:
    """A dumped config whose models state only what differs from the common `training` and `inference`.

    Validated, it is the same config; but a change of a common setting then reaches the models, as in a file that a
    person wrote.
    """
    return {**data, "models": [_own_settings(model, data) for model in data.get("models", [])]}


def _own_settings(model: dict[str, Any], common: dict[str, Any]) -> dict[str, Any]:
    own = {}
    for name in ("training", "inference"):
        stated, shared = model.get(name), common.get(name, {})
        if isinstance(stated, dict):
            own[name] = {key: value for key, value in stated.items() if key not in shared or shared[key] != value}
    return {**model, **own}
