"""Imports a family of the user's own: from an installed package, or from a module of which a run keeps a copy.

The copy travels with the run: it lies in the run's folder, which every node of a cluster sees, and beside the weights
of each model that it made. So every worker imports the same code, and a model stays loadable when the module changes.
"""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType

from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import PythonConfig
from cellsemi.models.base import Family, check_packages
from cellsemi.models.model_files import CODE
from cellsemi.rounds.store import files

GROUP = "cellsemi.models"  # of entry points
LEFT_BEHIND = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
_imported: dict[str, str] = {}  # top module -> digest of the copy that this process imported it from


def own_family(model: PythonConfig, code: Path | None) -> Family:
    """The family that a config names, from the copied module in `code` (None: it is installed).

    ModelError, with the remedy, when there is none of that name, it cannot be imported, or a package of it is missing.
    """
    found = _entry_point(model) if ":" not in model.family else _in_module(model, code)
    if not isinstance(found, Family):
        raise ModelError(
            f"{model.name}: {model.family} is {type(found).__name__}, expected a cellsemi.models.base.Family"
        )
    check_packages(found, model.family)
    return found


def copy_module(model: PythonConfig, target: Path) -> bool:
    """Copy the module of a config, a file or a package, from `model.folder` into the folder `target`.

    A copy that is there stays: a run goes on with the code that it began with. Returns whether the copy is the same
    as the module is now. ModelError when the folder holds no such module.
    """
    assert model.folder is not None, "called where a folder is stated"
    folder, top = Path(model.folder).expanduser(), _top(model)
    source = next((path for path in (folder / top, folder / f"{top}.py") if path.exists()), None)
    if source is None:
        raise ModelError(f"{model.name}: {folder} holds neither {top}.py nor a package {top} (models: folder, family)")
    if not target.is_dir():
        with files.atomic_folder(target) as place:
            _copy(source, place / source.name)
    return _digest(target / source.name) == _digest(source)


def code_in(folder: Path, code: str | None) -> Path | None:
    """The copy of the module for the model in `folder`, put beside its weights; None where it is installed."""
    if code is not None and not (folder / CODE).is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with files.atomic_folder(folder / CODE) as place:
            shutil.copytree(files.local_folder(files.place(code)), place, ignore=LEFT_BEHIND, dirs_exist_ok=True)
    return kept_code(folder)


def kept_code(folder: Path) -> Path | None:
    """The module that lies beside the weights of a model, if any."""
    return folder / CODE if (folder / CODE).is_dir() else None


def _entry_point(model: PythonConfig) -> object:
    found = {each.name: each for each in metadata.entry_points(group=GROUP)}
    if model.family not in found:
        names = ", ".join(sorted(found)) or "none"
        raise ModelError(
            f"{model.name}: no installed package offers the family {model.family!r} (entry points of {GROUP}: "
            f"{names}); `my_module:FAMILY` names one in a module"
        )
    return found[model.family].load()


def _in_module(model: PythonConfig, code: Path | None) -> object:
    module, _, name = model.family.partition(":")
    try:
        found = importlib.import_module(module) if code is None else _from_copy(module, code)
    except (ImportError, SyntaxError) as error:
        where = "it is not installed here; `folder` names the folder of a module" if code is None else str(code)
        raise ModelError(f"{model.name}: {model.family} cannot be imported ({error}): {where}") from None
    if not hasattr(found, name):
        raise ModelError(f"{model.name}: the module {module} holds no {name}")
    return getattr(found, name)


def _from_copy(module: str, code: Path) -> ModuleType:
    """The module of a copy; one that this process imported from another copy is imported anew if that was another."""
    top, digest = module.partition(".")[0], _digest(code)
    if _imported.get(top) != digest:
        for name in [each for each in sys.modules if each == top or each.startswith(f"{top}.")]:
            del sys.modules[name]
        sys.path.insert(0, str(files.local_folder(code).resolve()))
        importlib.invalidate_caches()
        _imported[top] = digest
    return importlib.import_module(module)


def _top(model: PythonConfig) -> str:
    return model.family.partition(":")[0].partition(".")[0]


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=LEFT_BEHIND)
    else:
        shutil.copy2(source, target)


def _digest(path: Path) -> str:
    """Changes when the Python code of a file, or below a folder, does."""
    return files.sha256_json([[name, files.sha256_bytes(each.read_bytes())] for name, each in _sources(path)])


def _sources(path: Path) -> Iterator[tuple[str, Path]]:
    if path.is_file():
        yield path.name, path
        return
    for each in sorted(path.rglob("*.py")):
        yield each.relative_to(path).as_posix(), each
