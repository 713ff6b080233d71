"""The engine on a real cluster that nobody looks after: frozen workers, bad nodes, no GPU, want of memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray

SCRIPT = """
import json, os, ray, signal, sys, time
from dataclasses import dataclass
from pathlib import Path
from ray._private import state
from ray.exceptions import ActorDiedError, ActorUnavailableError, OutOfMemoryError
from ray.cluster_utils import Cluster
from cellsemi.configs.errors import EngineError, ModelError
from cellsemi.configs.schema import EngineConfig
from cellsemi.models.inference.less_memory import halvings
from cellsemi.orchestrator.engine import actors
from cellsemi.orchestrator.engine.job_actor import JobActor
from cellsemi.orchestrator.engine.open import open_engine
from cellsemi.rounds.store.run import RunPaths

folder = Path(sys.argv[1])

def first(name):
    try:
        (folder / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True

@dataclass(frozen=True)
class Work:
    name: str
    uses_device: bool = False
    freeze: str = ""
    spoil: bool = False
    hungry: bool = False
    seconds: float = 0.1
    def start(self):
        if self.freeze == "start" and first("frozen-start"):
            os.kill(os.getpid(), signal.SIGSTOP)
        if self.spoil and os.environ.get("NO_WEIGHTS"):
            raise ModelError("the weights are missing")
        return self
    def run(self, item):
        if self.hungry and halvings() < 2:
            raise MemoryError
        for step in range(8 if self.freeze == "run" else 1):
            time.sleep(self.seconds)
            (folder / f"progress-{item}").write_text(f"{step} {time.time()}")
            if self.freeze == "run" and step == 3 and first("frozen-run"):
                os.kill(os.getpid(), signal.SIGSTOP)
        return {"node": ray.get_runtime_context().get_node_id(), "pid": os.getpid(), "halvings": halvings(),
                "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}

class Student(Work):
    def progress(self, item):
        path = folder / f"progress-{item}"
        return path.read_text() if path.exists() else None

class Stopping(JobActor):
    def __init__(self):
        if first("frozen-actor"):
            os.kill(os.getpid(), signal.SIGSTOP)
        super().__init__()

def node(**options):
    marks = {key: options.pop(key) for key in list(options) if key.isupper()}
    os.environ.update(marks)  # its workers inherit them
    try:
        return cluster.add_node(include_dashboard=False, object_store_memory=80 << 20, **options)
    finally:
        for key in marks:
            del os.environ[key]

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False,
                                                        "object_store_memory": 80 << 20})
good = node(num_cpus=2)
paths = RunPaths(folder / "run")
paths.root.mkdir()
config = EngineConfig(start_deadline_s=6, progress_deadline_s=3, shard_deadline_s=60)
ends = (OutOfMemoryError("the node was running low on memory"), ActorDiedError(), ActorUnavailableError("", b"0" * 16))
found, told = {"memory": [actors.memory_after(error) for error in ends]}, []
with open_engine(config, paths.log, address=cluster.address) as engine:
    def go(what, job, items, how="map", on_done=lambda *_: None, on_incident=lambda _: None):
        told.clear()
        def tell(incident):
            told.append(incident)
            on_incident(incident)
        outcome = getattr(engine, how)(job, range(items), on_done, lambda: None, tell)
        found[what] = {"done": sorted(outcome.done), "failed": len(outcome.failed),
                       "nodes": sorted({record["node"] for record in outcome.done.values()}),
                       "halvings": sorted({record["halvings"] for record in outcome.done.values()}),
                       "gpus": sorted({record["gpus"] for record in outcome.done.values()}),
                       "told": [(i.kind, i.node.partition("/")[2], i.item, i.message) for i in told]}

    # more work than fits: the workers that an autoscaler sees
    waiting = []
    def count(item, record):
        rows = state.state.actor_table(None).values()
        waiting.append(sum(row["State"] == "PENDING_CREATION" for row in rows))
    go("demand", Work("demand", seconds=0.3), 24, on_done=count)
    found["waiting"] = [waiting[0], waiting[-1]]

    # a late node without the weights
    found["good"] = good.node_id
    bad = node(num_cpus=2, NO_WEIGHTS="1")
    found["bad"] = bad.node_id
    go("weights", Work("weights", spoil=True, seconds=0.5), 20)
    go("after", Work("after"), 12)

    go("student", Student("student", freeze="run", seconds=0.3), 2, how="tasks")
    go("start", Work("start", freeze="start"), 1)
    go("hungry", Work("hungry", hungry=True), 2)

    # frozen before it could say where it is
    actors.JobActor = Stopping
    engine._idle = [ray.kill(host.actor) for host in engine._idle][:0]
    go("actor", Work("actor"), 1)
    actors.JobActor = JobActor

    # the same error on every node that is left
    class Wrong(Work):
        def start(self):
            raise ModelError("weights.pt: no such file")
    second = node(num_cpus=1)
    found["second"] = second.node_id
    cluster.wait_for_nodes()
    try:
        go("wrong", Wrong("wrong", seconds=1.0), 12)
    except EngineError as error:
        found["error"] = str(error)

    # a run that had GPUs, and has none: a node without CUDA comes first
    paths.config.write_text("config: {}")
    paths.hardware.write_text("{}")
    def give(incident):
        if incident.kind == "waiting":
            found["fake"] = node(num_cpus=1, num_gpus=1).node_id
        elif incident.kind == "banned":
            found["gpu"] = node(num_cpus=1, num_gpus=1, CELLSEMI_PRETEND_GPUS="1").node_id
    go("gpus", Work("gpus", uses_device=True), 3, on_incident=give)
Path(sys.argv[2]).write_text(json.dumps(found))
cluster.shutdown()
"""


def test_a_cluster_that_nobody_looks_after(tmp_path: Path) -> None:
    env = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0f" * 32, "RAY_raylet_start_wait_time_s": "120"}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(tmp_path / "found.json")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert all(each["failed"] == 0 for each in found.values() if isinstance(each, dict))
    good, bad = found["good"], found["bad"]

    def told(what: str, *kinds: str) -> list[list[object]]:
        return [entry for entry in found[what]["told"] if entry[0] in kinds]

    assert found["waiting"][0] >= 2 and found["waiting"][-1] == 0  # beyond the two that fit, as long as there is work
    assert found["demand"]["done"] == list(range(24)) and found["demand"]["told"] == []

    assert found["weights"]["done"] == list(range(20)) and found["weights"]["nodes"] == [good]
    (banned,) = told("weights", "banned")
    assert banned[1] == bad[:8] and str(banned[3]).endswith("a worker could not start: the weights are missing")
    assert found["after"]["nodes"] == [good] and found["after"]["told"] == []  # for the run

    for what, silence in (("student", 3), ("start", 6), ("actor", 6)):
        (frozen,) = told(what, "frozen")
        assert frozen[1] == good[:8] and f"silent on {'item 0' if what == 'student' else 'start'} for" in str(frozen[3])
        assert f"for more than {silence} s" in str(frozen[3])
        assert what == "student" or len(told(what, "replaced")) == 1  # its other worker was idle
    assert found["student"]["done"] == [0, 1] and told("student", "retried")[0][2] == 0

    assert found["memory"] == ["short", "unknown", "enough"]
    assert found["hungry"]["halvings"] == [2] and len(told("hungry", "retried")) == 4

    assert found["error"].startswith("wrong: a worker could not start: ")
    (here,) = [reason for reason in found["error"].split("; ") if "weights.pt: no such file (tried on nodes " in reason]
    assert good[:8] in here and found["second"][:8] in here and bad[:8] not in here and bad[:8] in found["error"]

    assert [entry[0] for entry in found["gpus"]["told"]] == ["waiting", "lost", "banned", "replaced"]
    assert "no GPU is alive, and this run works on GPUs: it waits" in found["gpus"]["told"][0][3]
    (cuda,) = told("gpus", "banned")
    assert cuda[1] == found["fake"][:8] and "a GPU was reserved, but torch" in str(cuda[3])
    assert found["gpus"]["nodes"] == [found["gpu"]] and found["gpus"]["gpus"] == ["0"]
