"""Reads and writes Detectron2's checkpoints: .pth, .safetensors, and its model zoo's .pkl without running code."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from torch import Tensor

from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import Detectron2Config
from cellsemi.models.detectron2_maskrcnn.net import Network, settings
from cellsemi.models.model_files import StartWeights, read_model_file, read_weights
from cellsemi.models.weight_files import VerifiedWeights, load_state, some_names, verify
from cellsemi.rounds.store import files

OTHER_CLASSES = ("roi_heads.box_predictor.", "roi_heads.mask_head.predictor.")  # depend on the number of classes
ANCHORS = "anchor_generator.cell_anchors."  # in old checkpoints, with pixel_mean and pixel_std
# All that a pickle of numpy arrays by name asks for; numpy 2 moved its own.
_ALLOWED = {
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}
_DAMAGE = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError, ImportError, MemoryError,
)  # fmt: skip


def start(net: Network, config: Detectron2Config) -> StartWeights | None:
    """Load the weights that a config states, if any.

    In the result `random` lists the weights of the classes, where the file has another number of them.
    ModelError when the file is missing, is another, or does not fit.
    """
    if config.weights is None:
        return None
    file, given = read(config)
    return StartWeights(weights=config.weights, sha256=file.sha256, random=tuple(start_from(net, given, file.path)))


def read(config: Detectron2Config) -> tuple[VerifiedWeights, dict[str, Tensor]]:
    """The file of weights that a config states, and its tensors by name.

    ModelError when the file is missing, is another, or is a .pkl whose sha256 is not stated.
    """
    assert config.weights is not None, "called where weights are stated"
    file = verify(config.weights, config.weights_sha256)
    if file.path.suffix == ".pkl":
        if config.weights_sha256 is None:
            raise ModelError(
                f"weights {file.path}: a .pkl is a program, and is read only with its sha256 stated: "
                f"weights_sha256: {file.sha256} if you trust this file"
            )
        return file, read_pickle(file.path)
    return file, load_state(file.path)


def read_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a file in the format of Detectron2's model zoo: {"model": numpy arrays by name, ...}.

    Nothing but arrays, tables and plain values is unpickled. ModelError when the file asks for more, is damaged,
    or is of another format (Caffe2's, with other names).
    """
    try:
        with path.open("rb") as file:
            content = _ArraysOnly(file, encoding="latin1").load()
    except _DAMAGE as error:
        raise ModelError(f"{path}: cannot be read as a Detectron2 model ({error}); convert it to .pth") from None
    table = content.get("model") if isinstance(content, dict) else None
    if not isinstance(table, dict) or not table:
        raise ModelError(f"{path}: holds no weights under 'model': not Detectron2's own format; convert it to .pth")
    for name, value in table.items():
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
            raise ModelError(f"{path}: {name!r} is no array of numbers; convert the file to .pth")
    return {str(name): torch.from_numpy(np.array(value)) for name, value in table.items()}


class _ArraysOnly(pickle.Unpickler):
    """Refuses every name that numpy arrays do not need."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def start_from(net: Network, given: dict[str, Tensor], path: Path) -> list[str]:
    """Copy the weights `given`, read from `path`, into `net`; returns the names that keep their random start.

    Those are the last layers of the box and mask heads where their shape differs (another number of classes).
    ModelError naming the weights when any other is missing, unexpected or of another shape, and when the file
    was made for other pixel values or other anchors.
    """
    own, constants = net.state_dict(), _constants(net)
    for name in constants.keys() & given.keys():
        if given[name].shape != constants[name].shape or not torch.allclose(given[name].float(), constants[name]):
            raise ModelError(f"{path}: {name} is {given[name].flatten().tolist()}, this model's is another; {_WANTED}")
    given = {name: value for name, value in given.items() if name not in constants}
    other = {name for name in own.keys() & given.keys() if own[name].shape != given[name].shape}
    wrong = sorted(name for name in other if not name.startswith(OTHER_CLASSES))
    missing, unexpected = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    if wrong or missing or unexpected:
        raise ModelError(
            f"{path}: not the weights of this model: {some_names(missing)} missing, "
            f"{some_names(unexpected)} unexpected, {some_names(wrong)} of another shape; {_WANTED}"
        )
    net.load_state_dict({name: own[name] if name in other else value for name, value in given.items()})
    return sorted(other)


_WANTED = (
    "expected those of Detectron2's mask_rcnn_R_50_FPN_3x, or with `cascade: true` of cascade_mask_rcnn_R_50_FPN_3x"
)


def export_detectron2(folder: Path, path: Path) -> None:
    """Write the model of a trained folder as `path` (.pth), which Detectron2's DetectionCheckpointer opens.

    Beside it, with the suffix .yaml, go the settings that Detectron2 builds the same network from
    (`get_cfg().merge_from_file`). ModelError when the folder holds no model, or one of another family.
    """
    about = read_model_file(folder)
    if not isinstance(about.model, Detectron2Config):
        raise ModelError(
            f"{folder}: its model is {about.kind!r}; only 'detectron2-maskrcnn' can be written for Detectron2"
        )
    if path.suffix != ".pth":
        raise ModelError(f"{path}: expected a name that ends in .pth")
    buffer = io.BytesIO()
    torch.save({"model": load_tensors(read_weights(folder))}, buffer)
    cfg = settings(about.model, len(about.classes))
    files.write_bytes(path.with_suffix(".yaml"), cfg.dump().encode())
    files.write_bytes(path, buffer.getvalue())


def _constants(net: Network) -> dict[str, Tensor]:
    """What old checkpoints hold although it is not learned, by the names that it has there."""
    anchors = net.proposal_generator.anchor_generator.cell_anchors
    named = {f"proposal_generator.{ANCHORS}{i}": value for i, value in enumerate(anchors)}
    return {"pixel_mean": net.pixel_mean, "pixel_std": net.pixel_std, **named}
