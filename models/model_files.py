"""Reads and writes the files of a trained model: its description and its weights."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import ModelConfig
from cellsemi.configs.training import InferenceConfig
from cellsemi.rounds.store import files

MODEL_FILE = "model.json"
WEIGHTS_FILE = "model.safetensors"
LOSS_FILE = "loss.parquet"
PROGRESS_FILE = "progress.json"
LOSS_FILE = "loss.parquet"  # of every step; a family of others may leave this and the next two out
VALIDATION_FILE = "validation_loss.parquet"  # on validation images, after some steps
USAGE_FILE = "usage.jsonl"  # time and memory, after some steps
LIVE_FILE = "live.jsonl"  # the curve of a training that is not finished (training/live.py)
PARTS = "parts"  # folder of the parts of a training that is done in several, each named by its last step
CODE = "code"  # the folder of the module of a family of the user's own, beside the weights


class FitFigures(BaseModel):
    """The length, the seed, the final loss and the number of weights of a fit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int
    seed: int
    loss: float
    parameters: int


class StartWeights(BaseModel):
    """The given weights that a fit started from.

    `loaded` counts the tensors of the model that they gave, None where nobody counted; `unused` lists those of the file
    that the model has no use for, `random` those of the model that kept their random start. `before` are the weights
    that the given ones, a model of cellsemi, had started from in turn.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: str
    sha256: str
    loaded: int | None = None
    unused: tuple[str, ...] = ()
    random: tuple[str, ...] = ()
    before: StartWeights | None = None

    def sentence(self) -> str:
        """What was loaded and what starts anew, in one line.

        >>> StartWeights(weights="coco", sha256="bf2d0c1e" * 8, loaded=338, random=("rpn.head.bias",)).sentence()
        'starts from coco (sha256 bf2d0c1e): 338 tensors are loaded, 1 start anew (rpn.head)'
        """
        said = f"starts from {self.weights} (sha256 {self.sha256[:8]})"
        if self.loaded is None:
            return said
        new = f"{len(self.random)} start anew ({_parts(self.random)})" if self.random else "none starts anew"
        unused = f"; {len(self.unused)} of the file are not used ({_parts(self.unused)})" if self.unused else ""
        return f"{said}: {self.loaded} tensors are loaded, {new}{unused}"


def _parts(names: tuple[str, ...]) -> str:
    """The parts of a network that tensors belong to: the first two names of their paths."""
    places = (".".join(name.split(".")[:-1][:2]) or name for name in names)
    return ", ".join(dict.fromkeys(place.rstrip(".0123456789") for place in places))


class CellSize(BaseModel):
    """The typical cell of the human labels, and how many times images are enlarged before the network sees them.

    `diameter_px` is the median diameter of those cells in pixels of their images; None where there were none.
    `resize_px` is the longer side that every image is brought to before that; None: it stays as it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    diameter_px: float | None = None
    scale: float = 1.0
    resize_px: int | None = None

    def seen(self, inference: InferenceConfig) -> InferenceConfig:
        """How images are predicted that the network saw so when it was trained."""
        resize_px = inference.resize_px or self.resize_px
        return inference.scaled(self.scale).model_copy(update={"resize_px": resize_px})


class ModelFacts(BaseModel):
    """What a fit states of the model that it trained; `fingerprint` is that of its task.

    `started_from` are the weights from outside that it started from, or the first of its teachers did; `teacher_sha256`
    is that of the weights of its teacher, None where it had none. `class_ids` leads the classes of a model that was
    not trained here to those of the run (models/given.py).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelConfig
    classes: tuple[str, ...]
    one_class_per_image: bool
    fingerprint: str
    training: FitFigures
    cell_size: CellSize = CellSize()
    started_from: StartWeights | None = None
    teacher_sha256: str | None = None
    class_ids: tuple[int, ...] | None = None

    @property
    def kind(self) -> str:
        """The family of the model."""
        return self.model.kind

    def start(self) -> str:
        """Which given weights it started from, in one line that follows its name; empty where there were none."""
        start = self.started_from
        if self.class_ids is not None:
            sha256 = self.teacher_sha256 or (start.sha256 if start else "")
            return f"teaches as it is, with the weights of sha256 {sha256[:8]}"
        if start is None:
            return ""
        if self.teacher_sha256 is not None:
            return f"starts from its teacher, which goes back to {start.weights} (sha256 {start.sha256[:8]})"
        return start.sentence()


class ModelFile(ModelFacts):
    """The content of MODEL_FILE: the facts, and the sha256 of the weights beside it."""

    weights_sha256: str


def write_model_file(folder: Path, weights: bytes, facts: ModelFacts) -> None:
    """Write the weights, then MODEL_FILE with their sha256: a folder with MODEL_FILE is whole."""
    files.write_bytes(folder / WEIGHTS_FILE, weights)
    content = ModelFile(**dict(facts), weights_sha256=files.sha256_bytes(weights))
    files.write_json(folder / MODEL_FILE, content.model_dump(mode="json"))


def read_model_file(folder: Path) -> ModelFile:
    """The description of a trained folder; ModelError when it is missing or not one of this version."""
    path = folder / MODEL_FILE
    if not path.is_file():
        raise ModelError(f"{path}: no trained model here; a finished fit writes this file last")
    try:
        return ModelFile.model_validate(files.read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ModelError(f"{path}: not a model file of this version ({place}: {first['msg']}); train anew") from None


def read_weights(folder: Path) -> bytes:
    """The weights' bytes, verified against MODEL_FILE; never anything else in their place."""
    path = folder / WEIGHTS_FILE
    expected = read_model_file(folder).weights_sha256
    if not path.is_file():
        raise ModelError(f"{path}: the weights are missing")
    content = path.read_bytes()
    found = files.sha256_bytes(content)
    if found != expected:
        raise ModelError(f"{path}: sha256 {found[:16]}… is not the stated {expected[:16]}…; the file was altered")
    return content


def write_progress(folder: Path, step: int, steps: int) -> None:
    """State how far a fit is, and that it gets on now; not forced to the disk, since it is written every second."""
    shown = {"step": step, "steps": steps, "at": round(time.time(), 3)}
    files.write_bytes(folder / PROGRESS_FILE, json.dumps(shown).encode(), durable=False)


def progress_mark(folder: Path) -> bytes | None:
    """What `write_progress` wrote last: it differs whenever a fit has got on; None when it has not said anything."""
    try:
        return (folder / PROGRESS_FILE).read_bytes()
    except FileNotFoundError:
        return None


def read_progress(folder: Path) -> int | None:
    """The steps that a fit has done; None when it has not said, or what it said was lost with the machine."""
    try:
        return int(json.loads((folder / PROGRESS_FILE).read_bytes())["step"])
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def read_usage(folder: Path) -> list[dict[str, float | None]]:
    """The rows of USAGE_FILE (training/usage.py); none where there is no such file."""
    path = folder / USAGE_FILE
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []


class LiveRow(BaseModel):
    """One line of LIVE_FILE: figures after `step` of the `steps` of a fit, by their names in the tables of its end.

    Those of validation images begin with `validation_`.
    """

    step: int
    steps: int
    metrics: dict[str, float]


def read_live(folder: Path) -> list[LiveRow]:
    """The rows of LIVE_FILE, oldest first; a line that is being written is left out, no file means no rows."""
    try:
        lines = (folder / LIVE_FILE).read_bytes().split(b"\n")[:-1]
    except OSError:  # not there, or just removed
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValidationError):
            found.append(LiveRow.model_validate_json(line))
    return found
