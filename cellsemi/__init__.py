"""Semi-supervised pseudo-labelling rounds for cell instance segmentation.

    import cellsemi

    run = cellsemi.open_run("runs/demo")
    model = run.delivered.load()
    cells = model.predict("plate7.tif")

docs/python.md explains what is here. A name is imported when it is first used: neither torch nor Ray before that.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellsemi.configs.errors import CellsemiError
    from cellsemi.orchestrator.api.functions import explain, fuse, load_model, run_rounds, score
    from cellsemi.orchestrator.api.instances import ImageInstances
    from cellsemi.orchestrator.api.model import Model
    from cellsemi.orchestrator.api.run import Run, RunModel, open_run
    from cellsemi.orchestrator.explain.explain import Explained
    from cellsemi.rounds.cells.instances import Instances

__all__ = [
    "CellsemiError",
    "Explained",
    "ImageInstances",
    "Instances",
    "Model",
    "Run",
    "RunModel",
    "explain",
    "fuse",
    "load_model",
    "open_run",
    "run_rounds",
    "score",
]

_PLACES = {
    "CellsemiError": "configs.errors",
    "Explained": "orchestrator.explain.explain",
    "ImageInstances": "orchestrator.api.instances",
    "Instances": "rounds.cells.instances",
    "Model": "orchestrator.api.model",
    "Run": "orchestrator.api.run",
    "RunModel": "orchestrator.api.run",
    "explain": "orchestrator.api.functions",
    "fuse": "orchestrator.api.functions",
    "load_model": "orchestrator.api.functions",
    "open_run": "orchestrator.api.run",
    "run_rounds": "orchestrator.api.functions",
    "score": "orchestrator.api.functions",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata

        return metadata.version("cellsemi")
    if name not in _PLACES:
        raise AttributeError(f"module 'cellsemi' has no attribute {name!r}")
    return getattr(importlib.import_module(f"cellsemi.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
