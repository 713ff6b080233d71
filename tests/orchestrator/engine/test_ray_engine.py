"""The engine on a real Ray: workers are killed, frozen and poisoned, and all work is done all the same."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers.pictures import record, task_in

from cellsemi.configs.errors import EngineError, RunError
from cellsemi.configs.models import FlowUnetConfig
from cellsemi.configs.schema import EngineConfig
from cellsemi.configs.training import TrainingConfig
from cellsemi.models.model_files import read_progress
from cellsemi.orchestrator.engine.protocol import Engine, Failure, Incident, Record
from cellsemi.orchestrator.steps.jobs import FitJob

pytestmark = pytest.mark.ray
CONFIG = EngineConfig(cpus_per_worker=0.5, workers=2, max_attempts=3, shard_deadline_s=120.0)


@dataclass(frozen=True)
class Scribe:
    """Writes a file for each item, unless something happens to the item."""

    folder: str
    die: tuple[int, ...] = ()  # the process is killed, the first time
    hang: tuple[int, ...] = ()  # it is stopped, the first time
    always: tuple[int, ...] = ()  # an error, every time
    full: tuple[int, ...] = ()  # the disk is full
    start_error: str = ""
    name: str = "scribe"
    uses_device: bool = True

    def start(self) -> "Scribe":
        if self.start_error:
            raise (RunError(self.start_error) if self.start_error == "disk full" else EngineError(self.start_error))
        return self

    def first(self, item: int) -> bool:
        """Whether the item was not begun before, by anyone."""
        try:
            (Path(self.folder) / f"begun-{item}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def run(self, item: int) -> Record:
        if item in self.always:
            raise ValueError("poison")
        if item in self.full:
            raise RunError("disk full")
        first = self.first(item)
        if first and item in self.die:
            os.kill(os.getpid(), signal.SIGKILL)
        if first and item in self.hang:
            os.kill(os.getpid(), signal.SIGSTOP)
        (Path(self.folder) / f"done-{item}").write_text("x")
        return {
            "item": item,
            "pid": os.getpid(),
            "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "first": first,
        }


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One local Ray for all tests of this module."""
    from cellsemi.orchestrator.engine.ray_start import start_ray

    started = start_ray("local", tmp_path_factory.mktemp("run"))
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module
    yield started
    started.close()


@pytest.fixture(scope="module")
def engine(session: Any) -> Engine:
    return engine_on(session)


def engine_on(session: Any, **changes: Any) -> Engine:
    """The engine of CONFIG with some changes."""
    from cellsemi.orchestrator.engine.ray_engine import RayEngine

    return RayEngine(CONFIG.model_copy(update=changes), session)


def carry_out(engine: Engine, job: Scribe, n: int, how: str = "map") -> tuple[Any, int]:
    """(outcome, ticks); each done item was reported once and has its file."""
    reported: list[int] = []
    ticks: list[int] = []
    outcome = getattr(engine, how)(job, range(n), lambda item, record: reported.append(item), lambda: ticks.append(0))
    assert sorted(reported) == sorted(outcome.done)
    assert all((Path(job.folder) / f"done-{item}").is_file() for item in reported)
    assert all(record["item"] == item for item, record in outcome.done.items())
    return outcome, len(ticks)


def workers_of(outcome: Any) -> set[int]:
    return {record["pid"] for record in outcome.done.values()}


def test_map_spreads_the_work_and_the_next_map_uses_the_same_workers(engine: Engine, tmp_path: Path) -> None:
    first, _ = carry_out(engine, Scribe(str(tmp_path)), 40)
    assert len(first.done) == 40 and first.failed == ()
    assert 1 <= len(workers_of(first)) <= 2 and os.getpid() not in workers_of(first)
    assert {record["gpus"] for record in first.done.values()} == {""}  # none reserved, none seen
    second, _ = carry_out(engine, Scribe(str(tmp_path)), 10)
    assert workers_of(second) & workers_of(first)


def test_a_killed_worker_costs_nothing(engine: Engine, tmp_path: Path) -> None:
    outcome, _ = carry_out(engine, Scribe(str(tmp_path), die=(3, 7)), 20)
    assert sorted(outcome.done) == list(range(20)) and outcome.failed == ()
    redone = {item for item, record in outcome.done.items() if not record["first"]}
    assert {3, 7} <= redone and len(redone) <= 4  # news that the one before is done may die with a worker


def test_a_frozen_worker_is_replaced_after_the_deadline(session: Any, tmp_path: Path) -> None:
    impatient = engine_on(session, shard_deadline_s=5.0)
    started = time.monotonic()
    outcome, ticks = carry_out(impatient, Scribe(str(tmp_path), hang=(2,)), 8)
    took_s = time.monotonic() - started
    assert sorted(outcome.done) == list(range(8)) and outcome.failed == ()
    assert took_s > 5 and ticks >= 4 * 5 - 4  # the driver is not blocked meanwhile
    used = impatient.take_usage()
    assert used.workers.lost > 5 and used.workers.starting > 0 and used.gpus.reserved == 0  # what it was silent for
    assert used.workers.reserved > used.workers.lost + used.workers.computing and used.cluster_gpus == 0
    (load,) = (used.nodes or {}).values()
    assert load.workers in (1, 2) and impatient.take_usage().workers.lost == 0  # the next call tells what is new


def test_a_frozen_training_is_ended_and_goes_on_from_its_checkpoint(session: Any, tmp_path: Path) -> None:
    import psutil

    training = TrainingConfig(steps=60, batch=2, crop_px=48, precision="float32")
    model = FlowUnetConfig(name="a", width=4)
    task = task_in(tmp_path, [record(0)], model=model, training=training, checkpoint_s=0.0, input_processes=0)
    frozen: list[int] = []
    told: list[Incident] = []

    def tick() -> None:
        if not frozen and (read_progress(Path(task.out_dir)) or 0) >= 3:
            (worker,) = [p for p in psutil.Process().children(recursive=True) if p.name().startswith("ray::JobActor.r")]
            frozen.append(worker.pid)
            worker.suspend()

    patient = engine_on(session, workers=1, progress_deadline_s=4.0, start_deadline_s=300.0)
    job = FitJob((task,), (None,), (None,), "train a")
    outcome = patient.tasks(job, [0], lambda *_: None, tick, told.append)
    assert frozen and outcome.done[0]["steps"] == 60 and outcome.done[0]["resumed_at"] >= 3
    assert [incident.kind for incident in told] == ["frozen", "retried", "replaced"]
    assert "silent on item 0 for more than 4 s" in told[0].message
    assert not psutil.pid_exists(frozen[0])


def test_poison_is_reported_and_the_others_are_done(engine: Engine, tmp_path: Path) -> None:
    outcome, _ = carry_out(engine, Scribe(str(tmp_path), always=(4,)), 9)
    assert sorted(outcome.done) == [0, 1, 2, 3, 5, 6, 7, 8]
    assert outcome.failed == (Failure(4, 3, "ValueError: poison"),)


def test_a_full_disk_stops_the_run_with_its_own_message(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"^disk full$"):
        carry_out(engine, Scribe(str(tmp_path), full=(5,)), 9)


def test_a_start_that_cannot_work_gives_the_reason(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="scribe: a worker could not start: no weights at all"):
        carry_out(engine, Scribe(str(tmp_path), start_error="no weights at all"), 9)


def test_tasks_without_a_gpu_use_the_standing_processes_and_survive_a_kill(engine: Engine, tmp_path: Path) -> None:
    mapped, _ = carry_out(engine, Scribe(str(tmp_path)), 10)
    trained, _ = carry_out(engine, Scribe(str(tmp_path)), 4, how="tasks")
    assert workers_of(trained) & workers_of(mapped)
    (tmp_path / "other").mkdir()
    outcome, _ = carry_out(engine, Scribe(str(tmp_path / "other"), die=(1,)), 3, how="tasks")
    assert sorted(outcome.done) == [0, 1, 2] and outcome.failed == ()
    assert not outcome.done[1]["first"]
    after, _ = carry_out(engine, Scribe(str(tmp_path)), 10)
    assert workers_of(after) & workers_of(outcome)


def test_an_error_of_the_caller_leaves_no_worker_behind(engine: Engine, tmp_path: Path) -> None:
    import psutil

    pids = []

    def interrupted(item: int, record: Record) -> None:
        pids.append(record["pid"])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.map(Scribe(str(tmp_path)), range(9), interrupted, lambda: None)
    deadline = time.monotonic() + 20
    while psutil.pid_exists(pids[0]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(pids[0])


def test_our_own_ray_listens_to_this_machine_only(engine: Engine) -> None:
    import psutil

    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = [
        (process.name(), connection.laddr.ip)
        for process in family
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert {"raylet", "gcs_server"} <= {name for name, _ in listening}
    assert {ip.removeprefix("::ffff:") for _, ip in listening} == {"127.0.0.1"}
    assert engine.describe().startswith("local Ray 2.") and engine.describe().endswith(("CPU", "CPUs"))


def test_a_worker_larger_than_the_machine_is_refused_at_once(session: Any, tmp_path: Path) -> None:
    greedy = engine_on(session, cpus_per_worker=1e4)
    with pytest.raises(EngineError, match=r"a worker asks for 10000 CPUs and 0 GPUs, this machine has .* lower engine"):
        carry_out(greedy, Scribe(str(tmp_path)), 1)


def test_waiting_for_a_place_ends_with_the_numbers_that_explain_it(
    session: Any, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    carry_out(engine, Scribe(str(tmp_path)), 2)  # its workers keep their places for the next map
    monkeypatch.setattr("cellsemi.orchestrator.engine.ray_engine.PATIENCE_LOCAL_S", 0.5)
    total = ray.cluster_resources()["CPU"]
    greedy = engine_on(session, cpus_per_worker=total, workers=1)
    with pytest.raises(EngineError) as caught:
        carry_out(greedy, Scribe(str(tmp_path)), 3)
    message = str(caught.value)
    assert f"1 worker waiting for {total:g} CPU" in message and "the cluster has 1 node" in message
    assert "lower engine.cpus_per_worker" in message


# --- a cluster that is not ours ---------------------------------------------------------------------

CLUSTER = """
import json, os, ray, subprocess, sys, time
from pathlib import Path
from ray.cluster_utils import Cluster
from cellsemi.configs.schema import EngineConfig
from cellsemi.orchestrator.engine.open import open_engine

class Slow:
    name = "slow"
    def __init__(self, uses_device=False): self.uses_device = uses_device
    def start(self): return self
    def run(self, item):
        time.sleep(0.2)
        return {"node": ray.get_runtime_context().get_node_id(), "pid": os.getpid(),
                "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}

quick = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500,
         "health_check_timeout_ms": 1000, "health_check_failure_threshold": 3}
small = {"include_dashboard": False, "object_store_memory": 80 << 20}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": quick, **small})
nodes = [cluster.add_node(num_cpus=1, **small) for _ in range(2)]
folder = Path(sys.argv[1])
found = {}
with open_engine(EngineConfig(), folder / "run.log", address=cluster.address) as engine:
    found["describe"] = engine.describe()
    found["probe"] = [path.name for path in folder.iterdir()]
    def on_done(item, record):
        if item == 8:  # the node that did it is gone
            (victim,) = [node for node in nodes if node.node_id == record["node"]]
            cluster.remove_node(victim, allow_graceful=False)
    outcome = engine.map(Slow(), range(30), on_done, lambda: None)
    found["done"], found["failed"] = sorted(outcome.done), len(outcome.failed)
    found["nodes"] = len({record["node"] for record in outcome.done.values()})
    found["left"] = engine.describe()
    cluster.add_node(num_cpus=3, num_gpus=1, **small)
    cluster.wait_for_nodes()
    def pids(how, uses_device):
        done = getattr(engine, how)(Slow(uses_device), range(40 if how == "map" else 2), lambda *_: None, lambda: None)
        return [record["pid"] for record in done.done.values()], {record["gpus"] for record in done.done.values()}
    # fills the CPUs; takes one of them for the GPU; its process and the others; a process for each; the others; again
    steps = [("map", False), ("map", True), ("map", False), ("tasks", True), ("map", False), ("map", True)]
    found["crews"] = [(pids, list(gpus)) for pids, gpus in (pids(*step) for step in steps)]
found["address"] = cluster.address
found["after"] = [path.name for path in folder.iterdir()]
strangers = {}
for name, code in json.loads(sys.argv[2]).items():
    env = {k: v for k, v in os.environ.items() if name != "no token" or not k.startswith("RAY_AUTH")}
    code = code.replace("ADDRESS", cluster.address).replace("FOLDER", sys.argv[1])
    strangers[name] = subprocess.Popen([sys.executable, "-c", code], env=env, text=True,
                                       stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
found["strangers"] = {name: process.communicate()[0] for name, process in strangers.items()}
Path(sys.argv[3]).write_text(json.dumps(found))
cluster.shutdown()
"""
STRANGER = """
from pathlib import Path
from cellsemi.orchestrator.engine import ray_start
from cellsemi.configs.errors import EngineError
{before}
try:
    ray_start.start_ray("ADDRESS", Path("FOLDER"))
except EngineError as error:
    print(error)
"""


def test_a_cluster_that_loses_a_node_and_strangers_who_may_not_join(tmp_path: Path) -> None:
    strangers = {
        "no token": STRANGER.format(before=""),
        "other version": STRANGER.format(before="import ray; ray.__version__ = '2.1.0'"),
    }
    (tmp_path / "run").mkdir()
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            CLUSTER,
            str(tmp_path / "run"),
            json.dumps(strangers),
            str(tmp_path / "found.json"),
        ],
        env={
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "0f" * 32,
            "CELLSEMI_PRETEND_GPUS": "1",
            "RAY_NUM_REDIS_GET_RETRIES": "2",  # seconds until a wrong token is reported
            "RAY_raylet_start_wait_time_s": "120",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert f"cluster at {found['address']}: 3 nodes, 2 CPUs" in found["describe"]
    assert found["done"] == list(range(30)) and found["failed"] == 0 and found["nodes"] == 2
    assert "2 nodes, 1 CPU" in found["left"]
    standing, labelling, both, training, after, again = ((set(pids), gpus) for pids, gpus in found["crews"])
    assert len(standing[0]) >= 2 and standing[1] == after[1] == [""]
    assert len(labelling[0]) == 1 and labelling[1] == ["0"] and not labelling[0] & standing[0]
    assert labelling[0] <= both[0] and both[0] & standing[0]
    assert len(training[0]) == 2 and training[1] == ["0"] and not training[0] & (standing[0] | labelling[0])
    assert after[0] & standing[0] and not after[0] & training[0]
    assert len(again[0]) == 1 and not again[0] & (labelling[0] | training[0])
    assert found["probe"] == [".shared-folder-probe"] and found["after"] == []
    assert "could not be joined" in found["strangers"]["no token"]
    assert "RAY_AUTH_MODE=token" in found["strangers"]["no token"]
    assert "other versions there than here" in found["strangers"]["other version"]
    assert "2.1.0" in found["strangers"]["other version"]
