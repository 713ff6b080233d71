"""Finds the weights that a model starts from, or teaches with: a file of others, or a model that cellsemi has trained.

A trained model is named by its folder, by a folder of `cellsemi model export` that holds one, or by its file of
weights; a file of others by its path or by its registered name. Nothing else stands in for what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import ModelBase, WithWeights
from cellsemi.models.model_files import (
    MODEL_FILE,
    WEIGHTS_FILE,
    ModelFile,
    StartWeights,
    read_model_file,
    read_weights,
)
from cellsemi.models.weight_files import PICKLE, load_state, registered, verify
from cellsemi.rounds.store import files

if TYPE_CHECKING:
    from torch import Tensor

EXPORTED = "members"  # the folder of the models in one of `cellsemi model export`
# Settings of a model that its weights do not depend on.
FREE = {
    "name", "seed_offset", "first_round", "last_round", "augment", "training", "inference", "weights",
    "weights_sha256", "train", "class_map",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Given:
    """Weights that are there and whose sha256 is what it should be.

    `file` holds the tensors, `bytes` is its size. `about` describes the model where cellsemi has trained it, None for a
    file of others. `compared`: somebody has stated the sha256, or registered it.
    """

    file: Path
    sha256: str
    bytes: int
    about: ModelFile | None
    compared: bool

    @property
    def place(self) -> Path:
        """What a person would name: the folder of a trained model, or the file."""
        return self.file if self.about is None else self.file.parent

    def stated(
        self, model: WithWeights, loaded: int, random: Iterable[str] = (), unused: Iterable[str] = ()
    ) -> StartWeights:
        """The record of a model that started from them; see StartWeights."""
        assert model.weights is not None, "called where weights are stated"
        return StartWeights(
            weights=model.weights,
            sha256=self.sha256,
            loaded=loaded,
            random=tuple(random),
            unused=tuple(unused),
            before=None if self.about is None else self.about.started_from,
        )

    @property
    def parts(self) -> tuple[Path, ...]:
        """The files that make up the weights, side by side in a folder."""
        return (self.file,) if self.about is None else (self.file, self.file.parent / MODEL_FILE)

    def refuse_unknown_pickle(self) -> None:
        """ModelError for a .pkl whose sha256 nobody has stated."""
        if self.file.suffix == PICKLE and not self.compared:
            raise ModelError(
                f"weights {self.file}: a .pkl is a program, and is read only with its sha256 stated: "
                f"weights_sha256: {self.sha256} (`weights add --sha256`) if you trust this file"
            )

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, on the CPU.

        ModelError for a .pkl whose sha256 nobody has stated, and as `weight_files.load_state` states.
        """
        self.refuse_unknown_pickle()
        return load_state(self.file)


def find_given(weights: str, sha256: str | None = None) -> Given:
    """The weights of a folder, a path or a registered name, after they were hashed and compared with `sha256`.

    ModelError, with the remedy, when they are missing or are others, and when a folder holds no trained model or
    several.
    """
    folder = None if weights in registered() else trained_folder(weights)
    if folder is not None:
        return _trained(folder, sha256)
    found = verify(weights, sha256)
    if found.path.name == WEIGHTS_FILE and (found.path.parent / MODEL_FILE).is_file():
        return _trained(found.path.parent, sha256)
    return Given(found.path, found.sha256, found.bytes, None, found.compared)


def trained_folder(weights: str) -> Path | None:
    """The trained folder that `weights` names, or that of the one model of an exported folder; None for no folder.

    ModelError when the folder holds no trained model, or several.
    """
    folder = files.place(weights).expanduser()
    if not folder.is_dir():
        return None
    if (folder / MODEL_FILE).is_file():
        return folder
    members = sorted(path.parent for path in (folder / EXPORTED).glob(f"*/{MODEL_FILE}"))
    if len(members) != 1:
        names = ", ".join(str(path) for path in members) or "none"
        raise ModelError(f"weights {folder}: expected one trained model in this folder; there are: {names}; name one")
    return members[0]


def refuse_other_kind(given: Given, kind: str) -> None:
    """ModelError when the weights are those of a model that cellsemi has trained, of another kind."""
    if given.about is not None and given.about.kind != kind:
        raise ModelError(f"weights {given.place}: a {given.about.kind}, not a {kind}: set `kind: {given.about.kind}`")


def refuse_other_model(given: Given, kind: str, classes: tuple[str, ...]) -> None:
    """ModelError when a model that cellsemi has trained is of another kind, or tells other classes apart.

    One class is as good as another: a network with a single one knows no names.
    """
    refuse_other_kind(given, kind)
    if given.about is None or given.about.classes == classes or len(given.about.classes) == len(classes) == 1:
        return
    raise ModelError(
        f"weights {given.place}: its classes are {', '.join(given.about.classes)}, the run's are {', '.join(classes)}: "
        "a model goes on with the classes that it learned, in their order (data.classes); without `weights` it starts "
        "from scratch"
    )


def other_settings(given: Given, model: ModelBase) -> str:
    """The settings of a trained model that differ from those of a new one, in words; empty where none does."""
    if given.about is None:
        return ""
    theirs, ours = (each.model_dump(mode="json", exclude=FREE) for each in (given.about.model, model))
    changed = [f"{key} is {theirs[key]} there and {ours[key]} here" for key in ours if theirs.get(key) != ours[key]]
    return ", ".join(changed)


def _trained(folder: Path, sha256: str | None) -> Given:
    about, content = read_model_file(folder), read_weights(folder)
    if sha256 is not None and sha256.lower() != about.weights_sha256:
        raise ModelError(f"weights {folder}: another model: its sha256 is {about.weights_sha256}, not {sha256}")
    return Given(folder / WEIGHTS_FILE, about.weights_sha256, len(content), about, compared=True)
