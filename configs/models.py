"""Defines the settings of each model family; the `kind` of an entry of `models` selects the family."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, JsonValue, field_validator, model_validator

from cellsemi.configs.base import MAX_SEED, Factor, Fraction, Section, Side, checked_name
from cellsemi.configs.phases import AugmentConfig, named_augmentation
from cellsemi.configs.training import InferenceConfig, TrainingConfig

FLOW_UNET_CELL_PX = 40.0  # the largest typical cell that flow-unet is shown by `training.cell_px: auto`


_CLASS_MAP = (
    "to `data.classes`, or to `ignore` (left out); by name, or by number from 0 where they have none; `*`: all others."
)


def _with_text_keys(value: object) -> object:
    """A table whose keys are text: YAML reads 0 as a number."""
    return {str(key): each for key, each in value.items()} if isinstance(value, dict) else value


def _in_round_0(data: dict[str, Any]) -> dict[str, Any]:
    """The settings of a teacher that is not trained: it takes part in its first round, unless it says more."""
    return {"last_round": data.get("first_round", 0), **data}


class ModelBase(Section):
    """The settings of every entry of `models`."""

    name: str = Field(description="Name of this teacher and student, used in paths and on the leaderboard.")
    seed_offset: int = Field(
        0, ge=0, le=MAX_SEED, description="Added to the run's seed: the same family, another start."
    )
    first_round: int = Field(
        0, ge=0, le=10_000, description="It takes part from this round on: 1 for a larger student."
    )
    last_round: int | None = Field(
        None, ge=0, le=10_000, description="It takes part up to this round; null: to the end."
    )
    augment: AugmentConfig = Field(
        default_factory=AugmentConfig, description="Augmentation of this model's crops, or light, strong, sartorius."
    )
    training: TrainingConfig | None = Field(
        None, description="Training settings of this model alone; what they do not name is taken from `training`."
    )
    inference: InferenceConfig | None = Field(
        None, description="Inference settings of this model alone; what they do not name is taken from `inference`."
    )

    @property
    def has_cell_probability(self) -> bool:
        """Whether it predicts a cell probability for every pixel, so that a threshold on it is to be chosen."""
        return False

    @property
    def can_freeze(self) -> bool:
        """Whether it has parts that `training.frozen` names."""
        return False

    @property
    def stride_px(self) -> int:
        """The sides of a crop are multiples of it."""
        return 1

    def auto_cell_px(self, diameter_px: float) -> float | None:
        """What `training.cell_px: auto` is for cells of this typical diameter; None: images as they are."""
        return None

    @property
    def trains(self) -> bool:
        """Whether it is trained; one that is not is a teacher as it is (docs/teachers.md), and has no student."""
        return True

    def in_round(self, round: int) -> bool:
        """Whether it takes part in a round."""
        return self.first_round <= round and (self.last_round is None or round <= self.last_round)

    @field_validator("name")
    @classmethod
    def _name_is_a_path_part(cls, value: str) -> str:
        return checked_name(value, "a model's name")

    @field_validator("augment", mode="before")
    @classmethod
    def _named_augmentation(cls, value: object) -> object:
        return named_augmentation(value)


class MayTeachUntrained(ModelBase):
    """A model that is trained, or with `train: false` teaches as it is."""

    train: bool = Field(True, description="`false`: it teaches as it is, in round 0 unless `last_round` says more.")

    @property
    def trains(self) -> bool:
        """As `train` says."""
        return self.train

    @model_validator(mode="before")
    @classmethod
    def _untrained_teaches_first(cls, data: Any) -> Any:
        return _in_round_0(data) if isinstance(data, dict) and data.get("train") is False else data


class WithWeights(MayTeachUntrained):
    """A model that may start from given weights, and never from others; or that teaches with them as they are."""

    weights: str | None = Field(
        None,
        description="Weights to start from: a file, a name of `cellsemi weights add`, or the folder of a model of an "
        "earlier run, as `cellsemi model export` writes it.",
    )
    weights_sha256: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="Hex sha256 of those weights; refused when it is another."
    )
    train: bool = Field(
        True,
        description="`false`: it teaches with its `weights` as they are, in round 0 unless `last_round` is more.",
    )
    class_map: dict[str, str] = Field(
        default_factory=dict, description=f"`train: false`: the classes of `weights` {_CLASS_MAP}"
    )

    @field_validator("class_map", mode="before")
    @classmethod
    def _numbers_are_names(cls, value: object) -> object:
        return _with_text_keys(value)

    @model_validator(mode="after")
    def _untrained_has_weights(self) -> Self:
        if not self.train and self.weights is None:
            raise ValueError("`train: false` needs `weights`: a file, or a folder of `cellsemi model export`")
        if self.train and self.class_map:
            raise ValueError("class_map is read with `train: false` only: a model that trains learns data.classes")
        return self


class FlowUnetConfig(WithWeights):
    """`flow-unet`: the compact flow-field U-Net, from scratch or from a model of an earlier run."""

    kind: Literal["flow-unet"] = Field("flow-unet", description="The model family.")
    width: int = Field(24, ge=4, le=64, description="Channels of the first level; the others are multiples of it.")
    depth: int = Field(
        4, ge=2, le=6, description="Levels; each halves the pixels. `training.crop_px`: a multiple of 2 to this power."
    )
    flow_target: Literal["geodesic", "diffusion"] = Field(
        "geodesic",
        description=(
            "`geodesic`: shortest paths to an inner centre, holds for branching cells; or Cellpose's `diffusion`."
        ),
    )

    @property
    def has_cell_probability(self) -> bool:
        """A flow model."""
        return True

    def auto_cell_px(self, diameter_px: float) -> float | None:
        """Large cells are shrunk to FLOW_UNET_CELL_PX, others stay as they are (benchmarks/cell_size.md)."""
        return FLOW_UNET_CELL_PX if diameter_px > FLOW_UNET_CELL_PX else None

    @property
    def stride_px(self) -> int:
        """The first level has half of the pixels already."""
        return int(2**self.depth)


class DetectorConfig(WithWeights):
    """The settings that all box detectors share."""

    upscale: float = Field(1.0, gt=0, le=8, description="Enlargement of crops and tiles before the network sees them.")
    rpn_proposals: int = Field(
        2000, ge=100, le=100_000, description="Proposals kept per image, before and after suppression."
    )
    roi_batch: int = Field(
        512, ge=8, le=100_000, description="Proposals per image that the box and mask losses sample."
    )
    score_threshold: float = Field(0.05, ge=0, lt=1, description="Detections below this box score are not recorded.")
    nms_iou: Fraction = Field(0.5, description="Boxes that overlap a better one by more are suppressed.")
    max_detections: int = Field(
        1000, ge=1, le=100_000, description="Detections per tile; a warning reports it when it is reached."
    )

    @property
    def can_freeze(self) -> bool:
        """A ResNet, a pyramid, heads."""
        return True


class MaskRcnnConfig(DetectorConfig):
    """`torchvision-maskrcnn`: Mask R-CNN of torchvision's parts (He et al. 2017), for dense small cells."""

    kind: Literal["torchvision-maskrcnn"] = Field("torchvision-maskrcnn", description="The model family.")
    backbone: Literal["resnet18", "resnet18-cbam", "resnet50", "resnet50-v2"] = Field(
        "resnet50",
        description="ResNet with FPN; `-cbam`: attention after each stage; `-v2`: torchvision's later one.",
    )
    anchor_px: tuple[Side, ...] = Field(
        (16, 32, 64, 128, 256),
        min_length=1,
        description="Anchor sizes: five are one per FPN level; any other number is all of them on each level.",
    )
    anchor_ratios: tuple[Factor, ...] = Field((0.5, 1.0, 2.0), min_length=1, description="Height to width of anchors.")
    box_hidden: int = Field(1024, ge=16, le=65_536, description="Width of the two layers of the box head.")
    mask_hidden: int = Field(
        256,
        ge=16,
        le=65_536,
        description="Channels of the mask head; with `weights` of its last hidden layer alone, the others have theirs.",
    )
    rpn_batch: int = Field(256, ge=8, le=100_000, description="Anchors per image that the proposal loss samples.")
    centre_head: bool = Field(False, description="Also learn a heatmap of the centres (weight `extra_weight`).")
    boundary_head: bool = Field(False, description="Also learn the boundaries (weight `extra_weight`).")
    extra_weight: float = Field(0.5, ge=0, le=1000, description="Weight of each of the two extra losses.")
    centre_sigma_px: float = Field(5.0, gt=0, le=1000, description="Width of a centre's peak in the heatmap.")


class Detectron2Config(DetectorConfig):
    """`detectron2-maskrcnn`: Detectron2's Mask R-CNN or Cascade, R50-FPN; needs Detectron2 installed.

    Without weights it is Detectron2's variant for training from scratch, with group norm.
    """

    kind: Literal["detectron2-maskrcnn"] = Field("detectron2-maskrcnn", description="The model family.")
    cascade: bool = Field(False, description="Cascade Mask R-CNN instead of Mask R-CNN.")


class CellposeSamConfig(WithWeights):
    """`cellpose-sam`: Cellpose 4 (Pachitariu et al. 2025), fine-tuned from given weights; needs a GPU."""

    kind: Literal["cellpose-sam"] = Field("cellpose-sam", description="The model family.")
    flow_threshold: float = Field(
        0.4,
        ge=0,
        le=1000,
        description="Masks whose flows differ more from the predicted ones are left out; 0: none is.",
    )
    bsize: int = Field(256, ge=64, le=4096, multiple_of=8, description="Side of the tiles that the network takes.")

    @property
    def can_freeze(self) -> bool:
        """The network, and a class head."""
        return True

    @model_validator(mode="after")
    def _weights_are_stated(self) -> Self:
        if self.weights is None:
            raise ValueError("weights is missing: cellpose-sam starts from a file that you have; nothing is downloaded")
        return self

    @property
    def has_cell_probability(self) -> bool:
        """A flow model."""
        return True


class MasksConfig(ModelBase):
    """`masks`: masks that another tool has written, as a teacher; it is not trained and predicts no other image."""

    kind: Literal["masks"] = Field("masks", description="The model family.")
    folder: str = Field(
        description="Folder of annotation files named after their images, or a data set of any format that is read."
    )
    scores: str | None = Field(
        None,
        description="CSV with the columns `image_id`, `cell` (from 1, in the order of the file) and `score` (0 to 1); "
        "null: all masks weigh the same.",
    )
    class_map: dict[str, str] = Field(default_factory=dict, description=f"Classes of the masks {_CLASS_MAP}")

    @property
    def trains(self) -> bool:
        """Never."""
        return False

    @model_validator(mode="before")
    @classmethod
    def _teaches_first(cls, data: Any) -> Any:
        return _in_round_0(data) if isinstance(data, dict) else data

    @field_validator("class_map", mode="before")
    @classmethod
    def _numbers_are_names(cls, value: object) -> object:
        return _with_text_keys(value)


class PythonConfig(MayTeachUntrained):
    """`python`: a family of your own, from a module or an installed package (docs/teachers.md)."""

    kind: Literal["python"] = Field("python", description="The model family.")
    family: str = Field(description="`my_module:FAMILY`, or the name of an entry point of the group `cellsemi.models`.")
    folder: str | None = Field(
        None,
        description="Folder of the module; the run keeps a copy of the module. null: it is installed on every node.",
    )
    settings: dict[str, JsonValue] = Field(default_factory=dict, description="Whatever the family reads.")

    @property
    def can_freeze(self) -> bool:
        """The family reads the settings."""
        return True

    @model_validator(mode="after")
    def _family_is_named(self) -> Self:
        if self.folder is not None and ":" not in self.family:
            raise ValueError(f"family {self.family!r} names no module: with a folder it is `my_module:FAMILY`")
        return self


ModelConfig = Annotated[
    FlowUnetConfig | MaskRcnnConfig | Detectron2Config | CellposeSamConfig | MasksConfig | PythonConfig,
    Field(discriminator="kind"),
]

# The kinds in the order of the union. The family of a kind is the folder models/KIND, with _ for -.
MODEL_KINDS: tuple[str, ...] = tuple(
    section.model_fields["kind"].default for section in get_args(get_args(ModelConfig)[0])
)
