"""Writes to MLflow: a local folder (`mlflow ui --backend-store-uri FOLDER`), or a tracking server where asked for."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from cellsemi.orchestrator.tracking.protocol import Place, Point

RUN_TAG = "cellsemi.run_id"
MOST_PARAMS, PARAM_CHARS = 100, 500  # of one call


class MLflow:
    """See Tracker. Its client is used, not its global state."""

    def __init__(self, place: Place) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        if not place.online:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # its local store without a database
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric = Metric
        place.folder.mkdir(parents=True, exist_ok=True)
        local = place.folder.resolve().as_uri()
        address = (place.address or os.environ.get("MLFLOW_TRACKING_URI") or local) if place.online else local
        self._client = MlflowClient(tracking_uri=address)
        known = self._client.get_experiment_by_name(place.project)
        experiment = known.experiment_id if known else self._client.create_experiment(place.project)
        found = self._client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{place.run_id}'", max_results=1)
        if found:
            self._id = found[0].info.run_id
            return
        made = self._client.create_run(experiment, run_name=place.run, tags={RUN_TAG: place.run_id})
        self._id = made.info.run_id
        params = [Param(name, str(value)[:PARAM_CHARS]) for name, value in place.settings.items()]
        for start in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(self._id, params=params[start : start + MOST_PARAMS])

    def log(self, point: Point) -> None:
        """See Tracker."""
        now = int(time.time() * 1000)
        metrics = [
            self._metric(f"{point.prefix}/{name}", value, now, point.at) for name, value in point.metrics.items()
        ]
        self._client.log_batch(self._id, metrics=metrics)
        with tempfile.TemporaryDirectory(prefix="cellsemi-") as folder:
            for name, content in point.pictures.items():
                path = Path(folder) / f"{name.replace('/', '-')}-{point.at:06d}.png"
                path.write_bytes(content)
                self._client.log_artifact(self._id, str(path), point.prefix)

    def close(self) -> None:
        """See Tracker."""
        self._client.set_terminated(self._id)
