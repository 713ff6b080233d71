"""Shows the events of a run to Prometheus, through Ray: what is done, in which stage, what was lost, what GPUs did."""

from __future__ import annotations

from typing import Any

from cellsemi.orchestrator.engine.metrics import serves_metrics
from cellsemi.orchestrator.engine.usage import Seconds
from cellsemi.orchestrator.events import Event, OnEvent

STAGE = ("run", "round", "stage")


def run_metrics(run: str) -> OnEvent | None:
    """What takes in the events of a driver; None where Ray serves no metrics, and in-process."""
    return _RunMetrics(run) if serves_metrics() else None


class _RunMetrics:
    """The metrics of one driver; all count from its start."""

    def __init__(self, run: str) -> None:
        from ray.util import metrics

        self._run = run
        self._done = metrics.Counter("cellsemi_done_total", "Images labelled, steps trained.", (*STAGE, "unit"))
        self._incidents = metrics.Counter("cellsemi_incidents_total", "Losses, and what was done.", ("run", "kind"))
        self._active = metrics.Gauge("cellsemi_stage_active", "1 while the stage is at work.", STAGE)
        self._of = metrics.Gauge("cellsemi_stage_units", "Done and total of a stage.", (*STAGE, "unit", "of"))
        self._gpus = metrics.Gauge("cellsemi_gpu_seconds", "GPU-seconds by state.", ("run", "state"))
        self._workers = metrics.Gauge("cellsemi_worker_seconds", "Worker-seconds by state.", ("run", "state"))
        self._held = metrics.Gauge("cellsemi_workers", "Workers that are held.", ("run", "node"))
        self._stage: dict[str, str] | None = None
        self._counted = 0  # units of this stage
        self._used = (Seconds(), Seconds())
        self._nodes: set[str] = set()

    def __call__(self, event: Event) -> None:
        """Take in one event."""
        stage = {"run": self._run, "round": str(event.round), "stage": event.stage}
        if event.event in ("stage", "advance", "finish"):
            self._progress(event, stage)
        if event.event == "incident" and event.incident is not None:
            self._incidents.inc(1, {"run": self._run, "kind": event.incident})
        if event.usage is not None:
            self._add_usage(event)

    def _progress(self, event: Event, stage: dict[str, str]) -> None:
        if event.event == "stage":
            if self._stage is not None:
                self._active.set(0, self._stage)
            self._stage, self._counted = stage, 0
        self._active.set(0 if event.event == "finish" else 1, stage)
        unit = {**stage, "unit": event.unit}
        self._of.set(event.done, {**unit, "of": "done"})
        self._of.set(event.total, {**unit, "of": "total"})
        if event.done > self._counted:
            self._done.inc(event.done - self._counted, unit)
            self._counted = event.done

    def _add_usage(self, event: Event) -> None:
        assert event.usage is not None
        parts = zip(self._used, (event.usage.workers, event.usage.gpus), strict=True)
        workers, gpus = (before.plus(more) for before, more in parts)
        self._used = (workers, gpus)
        for gauge, seconds in ((self._workers, workers), (self._gpus, gpus)):
            _set_states(gauge, self._run, seconds)
        if event.usage.nodes is not None:
            for gone in self._nodes - set(event.usage.nodes):
                self._held.set(0, {"run": self._run, "node": gone})
            for node, load in event.usage.nodes.items():
                self._held.set(load.workers, {"run": self._run, "node": node})
            self._nodes |= set(event.usage.nodes)


def _set_states(gauge: Any, run: str, seconds: Seconds) -> None:
    states = ("reserved", "starting", "computing", "idle", "lost")
    for state in states:
        gauge.set(getattr(seconds, state), {"run": run, "state": state})
