"""Opens the engine that a config names."""

from __future__ import annotations

import contextlib
from pathlib import Path

from cellsemi.configs.schema import EngineConfig
from cellsemi.models.training.stop import deferred, keeping_handler
from cellsemi.orchestrator.engine.protocol import Engine


def open_engine(config: EngineConfig, log_path: Path, kind: str | None = None, address: str | None = None) -> Engine:
    """The engine of a config; `kind` and `address`, when given, replace those of the config.

    `log_path` lies in the folder of the run. Every node of a cluster must see that folder, which is checked.
    Raises EngineError when Ray cannot be started or reached.
    """
    if (kind or config.kind) == "inline":
        from cellsemi.orchestrator.engine.inline import InlineEngine

        return InlineEngine(config)
    from cellsemi.orchestrator.engine.ray_start import start_ray

    with contextlib.ExitStack() as on_error:
        with deferred(), keeping_handler():
            session = start_ray(address or config.address, log_path.parent)
            on_error.callback(session.close)
            # imports ray: after start_ray has set what Ray reads then
            from cellsemi.orchestrator.engine.ray_engine import RayEngine

            engine = RayEngine(config, session)
        on_error.pop_all()
    return engine
