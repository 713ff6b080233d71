"""Registers, verifies and reads files of weights that a person has. Nothing is downloaded.

The registry is one JSON file of this machine, REGISTRY_FILE in $CELLSEMI_HOME (default: ~/.local/share/cellsemi).
A registered name stands for its file; anything else is a path. Neither falls back to another file.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellsemi.configs.base import checked_name
from cellsemi.configs.errors import ModelError, UsageError
from cellsemi.rounds.store import files

if TYPE_CHECKING:
    from torch import Tensor

HOME_VARIABLE = "CELLSEMI_HOME"
REGISTRY_FILE = "weights.json"
NAMES_SHOWN = 6  # of tensors, in an error
PARALLEL_PREFIX = "module."  # what torch's DataParallel puts before every name
NESTED_UNDER = ("model", "state_dict", "model_state_dict")  # where training scripts keep the tensors of a checkpoint
PICKLE = ".pkl"  # Detectron2's model zoo; a torch file of that name is read as one
# All that a pickle of numpy arrays by name asks for; numpy 2 moved its own.
_ALLOWED = {
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}
# What the reading of damaged files, and of files of another kind, is known to raise.
_DAMAGE = (
    OSError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError, ImportError, MemoryError,
    pickle.UnpicklingError,
)  # fmt: skip
_ASKS_FOR = re.compile(r"GLOBAL ([\w.]+)")  # in torch's refusal of what is no tensor
_TORCHSCRIPT = "TorchScript"  # in torch's refusal of a program that is scripted
_REMEDY = "get the tensors alone: torch.save(net.state_dict(), FILE), or a .safetensors file"


@dataclass(frozen=True, slots=True)
class WeightEntry:
    """A registered file: `sha256` in hex, `bytes` its size, `added` in UTC, `licence` as its owner noted it."""

    name: str
    path: str
    sha256: str
    bytes: int
    added: str
    licence: str = ""


@dataclass(frozen=True, slots=True)
class VerifiedWeights:
    """A file that is there and whose sha256 is what it should be; `name` is None for a file given by path.

    `compared` is False when no sha256 was stated or registered to compare with.
    """

    path: Path
    sha256: str
    bytes: int
    name: str | None
    compared: bool


def registry_path() -> Path:
    """The registry of this machine; it need not exist."""
    home = os.environ.get(HOME_VARIABLE, "")
    folder = Path(home).expanduser() if home else Path.home() / ".local" / "share" / "cellsemi"
    return folder / REGISTRY_FILE


def registered() -> dict[str, WeightEntry]:
    """The registered files by name, in the order of the names; ModelError when the registry is damaged."""
    path = registry_path()
    if not path.is_file():
        return {}
    content = files.read_json(path)
    try:
        return {name: WeightEntry(name=name, **content[name]) for name in sorted(content)}
    except (TypeError, LookupError) as error:
        raise ModelError(f"{path}: not a registry of weights ({error}); remove it and add the weights again") from None


def add(file: Path, name: str, *, sha256: str | None = None, licence: str = "", replaces: bool = False) -> WeightEntry:
    """Register a file under a name; only its path and its sha256 are kept, the file stays where it is.

    UsageError when the name is no name, or stands for other content and `replaces` is not set; ModelError
    when the file is missing or its sha256 is not the stated one.
    """
    try:
        checked_name(name, "a name of weights")
    except ValueError as error:
        raise UsageError(str(error)) from None
    known = registered()
    found = _verified(absolute(str(file)), {"stated": sha256}, None)
    old = known.get(name)
    if old is not None and old.sha256 != found.sha256 and not replaces:
        raise UsageError(f"{name} is registered for {old.path} with another sha256; choose another --name, or --force")
    added = datetime.now(UTC).isoformat(timespec="seconds")
    entry = WeightEntry(
        name, str(found.path), found.sha256, found.bytes, added, licence or (old.licence if old else "")
    )
    content = {key: {k: v for k, v in asdict(value).items() if k != "name"} for key, value in known.items()}
    content[name] = {key: value for key, value in asdict(entry).items() if key != "name"}
    files.write_json(registry_path(), content)
    return entry


def verify(weights: str, sha256: str | None = None) -> VerifiedWeights:
    """The file of a registered name, or of a path, after its bytes were hashed and compared.

    It is compared with `sha256` when that is stated, and with what was registered; ModelError, naming the
    path, both sums and the remedy, when the file is missing or is another.
    """
    entry = registered().get(weights)
    if entry is None:
        return _verified(absolute(weights), {"stated": sha256}, None)
    return _verified(files.place(entry.path), {"stated": sha256, "registered": entry.sha256}, weights)


def absolute(path: str) -> Path:
    """A path as it is kept: whole, with ~ for the home of a user."""
    try:
        return files.place(path).expanduser().absolute()
    except RuntimeError:  # ~NAME of nobody
        return Path(path).absolute()


def _verified(path: Path, expected: dict[str, str | None], name: str | None) -> VerifiedWeights:
    called = f"{path} ({name})" if name else str(path)
    if not path.is_file():
        names = ", ".join(registered()) or "none"
        what = "is a folder" if path.is_dir() else "there is no such file"
        raise ModelError(
            f"weights {called}: {what}; nothing is downloaded. Name a file that you have, or a registered name "
            f"(there are: {names}); `cellsemi weights add FILE --name NAME` registers one"
        )
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"weights {called}: cannot be read ({error.strerror})") from None
    for source, sha256 in expected.items():
        if sha256 is not None and found != sha256.lower():
            raise ModelError(
                f"weights {called}: sha256 is {found}, the {source} one is {sha256}. It is another file or was "
                "altered: get the right file, or state the sum of this one if you trust it"
                + (" (`cellsemi weights add --force`)" if source == "registered" else "")
            )
    return VerifiedWeights(path, found, path.stat().st_size, name, any(expected.values()))


def load_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name, on the CPU: .safetensors, .pkl of Detectron2, else a torch file.

    Tensors under a key `model`, `state_dict` or `model_state_dict` are taken out of it, and the prefix of DataParallel
    is taken off. No code of the file is run: a torch file is read with `weights_only=True`, of a .pkl nothing but
    arrays, tables and plain values. ModelError when the file would need more, is damaged, of another kind, or holds
    anything else than tensors.
    """
    from torch import Tensor

    content = _content(path)
    for key in NESTED_UNDER:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ModelError(
            f"{path}: no weights file: it holds {_what(content)}, not a table of tensors by name; {_REMEDY}"
        )
    if all(str(name).startswith(PARALLEL_PREFIX) for name in content):
        content = {name.removeprefix(PARALLEL_PREFIX): value for name, value in content.items()}
    return {str(name): value.detach() for name, value in content.items()}


def some_names(names: list[str]) -> str:
    """The first names of tensors, for an error, and how many more there are."""
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return (", ".join(names[:NAMES_SHOWN]) or "none") + more


def differences(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """How the tensors `given` differ from those that a network has, in words; empty where names and shapes agree."""
    shapes = [
        f"{name} ({list(given[name].shape)} given, {list(value.shape)} wanted)"
        for name, value in own.items()
        if name in given and given[name].shape != value.shape
    ]
    found = {
        "missing": sorted(own.keys() - given.keys()),
        "unexpected": sorted(given.keys() - own.keys()),
        "of another shape": sorted(shapes),
    }
    return ", ".join(f"{some_names(names)} {what}" for what, names in found.items() if names)


# --- reading ------------------------------------------------------------------------------------------


def _content(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if path.suffix == PICKLE and not zipfile.is_zipfile(path):
        return _pickled_arrays(path)
    return _torch_file(path)


def _what(content: object) -> str:
    """What a file that is no table of tensors holds, in a few words."""
    if not isinstance(content, dict):
        return f"one {type(content).__name__}"
    if not content:
        return "nothing"
    from torch import Tensor

    others = [f"{name!r} ({type(value).__name__})" for name, value in content.items() if not isinstance(value, Tensor)]
    return f"{len(others)} entries that are no tensors: {some_names(others)}"


def _safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(files.local(path))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: no weights file: not safetensors ({error}); get the file anew") from None


def _torch_file(path: Path) -> Any:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about pickle protocols, before it refuses or reads them
            return torch.load(files.local(path), map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        raise ModelError(f"{path}: no weights file: {_why_refused(error)}") from None


def _why_refused(error: BaseException) -> str:
    """Why torch did not read a file, in words of our own: its own advise to switch the safety off."""
    if isinstance(error, OSError):
        return f"it cannot be read ({error.strerror or type(error).__name__})"
    if _TORCHSCRIPT in str(error):
        return f"a program for TorchScript; {_REMEDY}"
    if asked := _ASKS_FOR.search(str(error)):
        return f"it asks for {asked[1]}, and what holds more than tensors can run code when it is opened; {_REMEDY}"
    return f"it is damaged, or was not written by torch.save; get the file anew, or {_REMEDY}"


def _pickled_arrays(path: Path) -> Any:
    """The tensors of a .pkl of Detectron2's model zoo: numpy arrays by name, at the top or under `model` or `blobs`."""
    import numpy as np
    import torch

    try:
        with path.open("rb") as file:
            content = _ArraysOnly(file, encoding="latin1").load()
    except _DAMAGE as error:
        raise ModelError(f"{path}: no weights file: not numpy arrays by name alone ({error}); {_REMEDY}") from None
    table = next((content[key] for key in ("model", "blobs") if isinstance(content, dict) and key in content), content)
    if not isinstance(table, dict) or not table:
        raise ModelError(f"{path}: no weights file: it holds no arrays by name; {_REMEDY}")
    for name, value in table.items():
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
            raise ModelError(f"{path}: no weights file: {name!r} is no array of numbers; {_REMEDY}")
    return {str(name): torch.from_numpy(np.array(value)) for name, value in table.items()}


class _ArraysOnly(pickle.Unpickler):
    """Refuses every name that numpy arrays do not need."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)
