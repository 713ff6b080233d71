"""Writes to Trackio: a local SQLite file, no account; `trackio show` with TRACKIO_DIR set shows it."""

from __future__ import annotations

import io
import os

from cellsemi.orchestrator.tracking.protocol import Place, Point

SENDS = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_WEBHOOK_URL", "TRACKIO_BUCKET_ID")  # without being asked


class Trackio:
    """See Tracker."""

    def __init__(self, place: Place) -> None:
        if not place.online:
            for name in SENDS:
                os.environ.pop(name, None)
        os.environ.setdefault("TRACKIO_DIR", str(place.folder))  # read when it is imported
        os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
        import trackio

        self._trackio = trackio
        address = place.address if place.online else None
        where = {} if address is None else {"server_url" if "://" in address else "space_id": address}
        self._run = trackio.init(
            project=place.project,
            name=f"{place.run}-{place.run_id}",
            config=dict(place.settings),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
            **where,
        )

    def log(self, point: Point) -> None:
        """See Tracker. Its steps count the points that are logged, so that each has its own step or round beside it."""
        from PIL import Image

        axis = "round" if point.step is None else "step_of_training"
        pictures = {
            name: self._trackio.Image(Image.open(io.BytesIO(content))) for name, content in point.pictures.items()
        }
        values = {**point.metrics, **pictures, axis: point.at}
        self._run.log({f"{point.prefix}/{name}": value for name, value in values.items()})

    def close(self) -> None:
        """See Tracker."""
        self._run.finish()
