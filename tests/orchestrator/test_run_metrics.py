"""What Prometheus would read: from the endpoint of a real Ray with metrics, and nothing where Ray serves none."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cellsemi.orchestrator.engine.protocol import Incident
from cellsemi.orchestrator.engine.usage import NodeLoad, Seconds, Usage
from cellsemi.orchestrator.events import Event, EventLog, SilentWatcher
from cellsemi.orchestrator.run_metrics import run_metrics

USES = [
    Usage(Seconds(8, computing=4), Seconds(4, computing=2), {"a": NodeLoad(2, 1.0), "b": NodeLoad(1)}),
    Usage(Seconds(2, computing=-4, lost=4), Seconds(1, computing=-2, lost=2), {"a": NodeLoad(1, 1.0)}),
]


class Kept:
    """Stands for a metric of Ray, and keeps what it would serve by its tags."""

    made: dict[str, dict[tuple[str, ...], float]]

    def __init__(self, name: str, _: str, tag_keys: tuple[str, ...]) -> None:
        self.values = self.made.setdefault(name, {})
        self.keys = tag_keys

    def inc(self, value: float, tags: dict[str, str]) -> None:
        assert value > 0  # Ray refuses anything else
        self.set(self.values.get(self._key(tags), 0.0) + value, tags)

    def set(self, value: float, tags: dict[str, str]) -> None:
        self.values[self._key(tags)] = value

    def _key(self, tags: dict[str, str]) -> tuple[str, ...]:
        assert set(tags) == set(self.keys)  # so it does here
        return tuple(tags[key] for key in self.keys)


def play(log: EventLog) -> None:
    log.stage(1, "predict", 48, "images")
    log.advance(20)
    log.advance(48)
    log.incident(Incident("lost", "worker 0: gone", "b"))
    log.finish(9.0)
    log.stage(1, "train", 60, "steps")


def test_events_become_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Kept, "made", {}, raising=False)
    metrics = SimpleNamespace(Counter=Kept, Gauge=Kept)
    for name in ("ray", "ray.util"):  # Ray itself stays out of this process: a later test starts its own
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(util=SimpleNamespace(metrics=metrics), metrics=metrics))
    monkeypatch.setitem(sys.modules, "ray.util.metrics", metrics)
    monkeypatch.setattr("cellsemi.orchestrator.run_metrics.serves_metrics", lambda: True)
    uses, nothing = iter(USES), Usage(nodes=USES[1].nodes)
    path = tmp_path / "events.jsonl"
    play(EventLog(SilentWatcher(), path, take_usage=lambda: next(uses, nothing), on_event=run_metrics("demo")))
    found = Kept.made
    assert found["cellsemi_done_total"] == {("demo", "1", "predict", "images"): 48}
    assert found["cellsemi_incidents_total"] == {("demo", "lost"): 1}
    assert found["cellsemi_stage_active"] == {("demo", "1", "predict"): 0, ("demo", "1", "train"): 1}
    assert found["cellsemi_stage_units"]["demo", "1", "train", "steps", "total"] == 60
    assert found["cellsemi_gpu_seconds"] == {
        ("demo", state): value
        for state, value in {"reserved": 5, "starting": 0, "computing": 0, "idle": 3, "lost": 2}.items()
    }
    assert found["cellsemi_worker_seconds"]["demo", "lost"] == 4
    assert found["cellsemi_workers"] == {("demo", "a"): 1, ("demo", "b"): 0}


def test_without_ray_nothing_is_counted(tmp_path: Path) -> None:
    code = """
import sys
from cellsemi.orchestrator.run_metrics import run_metrics
print(run_metrics("demo"), "ray" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "None False\n"
    seen: list[Event] = []
    play(EventLog(SilentWatcher(), tmp_path / "events.jsonl", on_event=seen.append))
    assert [event.event for event in seen] == ["stage", "advance", "incident", "finish", "stage"]


SERVED = """
import json, sys, time, urllib.request
from pathlib import Path
from cellsemi.configs.schema import EngineConfig
from cellsemi.orchestrator.campaign import open_log
from cellsemi.orchestrator.engine.open import open_engine
from cellsemi.orchestrator.events import SilentWatcher
from cellsemi.rounds.store.run import RunPaths

class Work:
    name, uses_device = "label", False
    def start(self): return self
    def run(self, item):
        if item == 5: raise ValueError("bad")
        return {"item": item}

folder = Path(sys.argv[1])
with open_engine(EngineConfig(workers=1, max_attempts=2), folder / "run.log", address="local") as engine:
    import psutil, ray
    port = ray.nodes()[0]["MetricsExportPort"]
    log, done = open_log(SilentWatcher(), RunPaths(folder), engine), []
    log.stage(1, "label", 8, "images")
    def on_done(item, record):
        done.append(item)
        log.advance(len(done))
    outcome = engine.map(Work(), range(8), on_done, lambda: None, log.incident)
    log.advance(8)
    text, deadline = "", time.monotonic() + 60
    while time.monotonic() < deadline:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
        if "ray_cellsemi_item_seconds_count" in text and "ray_cellsemi_done_total" in text:
            break
        time.sleep(0.3)
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = sorted({c.laddr.ip for p in family for c in p.net_connections(kind="inet") if c.status == "LISTEN"})
print("FOUND" + json.dumps({"port": port, "text": text, "listening": listening, "failed": len(outcome.failed)}))
"""


@pytest.mark.ray
@pytest.mark.skipif(
    any(find_spec(name) is None for name in ("aiohttp_cors", "colorful", "opencensus", "opentelemetry", "smart_open")),
    reason="Ray serves metrics with ray[default]: the cluster extra",
)
def test_ray_serves_them_on_loopback(tmp_path: Path) -> None:
    script = tmp_path / "served.py"
    script.write_text(SERVED)
    (tmp_path / "run").mkdir()
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "run")],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.partition("FOUND")[2])
    assert {ip.removeprefix("::ffff:") for ip in found["listening"]} == {"127.0.0.1"} and found["failed"] == 1
    served = _values(found["text"])
    assert served["ray_cellsemi_items_total", "done"] == 7 and served["ray_cellsemi_items_total", "failed"] == 2
    assert served["ray_cellsemi_item_seconds_count", ""] == 9
    assert served["ray_cellsemi_done_total", ""] == 8
    assert served["ray_cellsemi_incidents_total", ""] == 2  # retried, quarantined


def _values(text: str) -> dict[tuple[str, str], float]:
    """The samples of ours by name and outcome, summed over all other labels."""
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[tuple[str, str], float] = {}
    families: Any = text_string_to_metric_families(text)
    for sample in (sample for family in families for sample in family.samples if "cellsemi" in sample.name):
        key = (sample.name, sample.labels.get("outcome", ""))
        found[key] = found.get(key, 0.0) + sample.value
    return found
