"""Writes to Weights & Biases: one run for a run, offline unless it is asked for (`wandb sync` sends it later)."""

from __future__ import annotations

import io
import os

from cellsemi.orchestrator.tracking.protocol import Place, Point


class WandB:
    """See Tracker. Each training and the scores of each model have an axis of their own."""

    def __init__(self, place: Place) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # to its authors, also offline
        import wandb

        place.folder.mkdir(parents=True, exist_ok=True)
        self._wandb = wandb
        self._axes: set[str] = set()
        self._run = wandb.init(
            project=place.project,
            name=place.run,
            id=place.run_id,
            dir=str(place.folder),
            config=dict(place.settings),
            resume="allow" if place.online else None,
            mode="online" if place.online else "offline",
            settings=wandb.Settings(
                base_url=place.address or wandb.Settings().base_url,
                console="off",
                disable_code=True,
                disable_git=True,
                x_disable_stats=True,
                silent=True,
            ),
        )

    def log(self, point: Point) -> None:
        """See Tracker."""
        from PIL import Image

        axis = f"{point.prefix}/{'round' if point.step is None else 'step'}"
        if axis not in self._axes:
            self._run.define_metric(axis, hidden=True)
            self._run.define_metric(f"{point.prefix}/*", step_metric=axis)
            self._axes.add(axis)
        pictures = {
            name: self._wandb.Image(Image.open(io.BytesIO(content))) for name, content in point.pictures.items()
        }
        values = {f"{point.prefix}/{name}": value for name, value in {**point.metrics, **pictures}.items()}
        self._run.log({**values, axis: point.at})

    def close(self) -> None:
        """See Tracker."""
        self._run.finish()
