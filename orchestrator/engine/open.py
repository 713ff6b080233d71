"""Opens the engine that a config names."""

from __future__ import annotations

from pathlib import Path

from cellsemi.configs.schema import EngineConfig
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

    session = start_ray(address or config.address, log_path.parent)
    from cellsemi.orchestrator.engine.ray_engine import (
        RayEngine,
    )  # imports ray: after start_ray has set what Ray reads then

    return RayEngine(config, session)
