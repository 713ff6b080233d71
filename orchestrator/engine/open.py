"""Opens the engine that a config names."""

from __future__ import annotations

from pathlib import Path

from cellsemi.configs.schema import EngineConfig
from cellsemi.orchestrator.engine.protocol import Engine


def open_engine(config: EngineConfig, log_path: Path, kind: str | None = None, address: str | None = None) -> Engine:
    """The engine of a config; `kind` and `address`, when given, come before the config's.

    `log_path` lies in the run's folder: that folder must be seen by every node of a cluster, which is
    checked. Raises EngineError when Ray cannot be started or reached.
    """
    if (kind or config.kind) == "inline":
        from cellsemi.orchestrator.engine.inline import InlineEngine

        return InlineEngine(config)
    from cellsemi.orchestrator.engine.ray_start import start_ray

    session = start_ray(address or config.address, log_path.parent)
    from cellsemi.orchestrator.engine.ray_engine import RayEngine  # imports ray, whose settings stand only now

    return RayEngine(config, session)
