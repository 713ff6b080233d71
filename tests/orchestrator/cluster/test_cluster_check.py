"""The check on a real Ray of three nodes: one in order, one without the mount, one with another cellsemi."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.terminal import cellsemi

ROOT = Path(__file__).parents[3]
CLUSTER = """
import json, subprocess, sys
from ray.cluster_utils import Cluster
small = {"include_dashboard": False, "object_store_memory": 80 << 20}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
found = {"head": cluster.head_node.node_id}
for name, gpus, path in json.loads(sys.argv[1]):
    node = cluster.add_node(num_cpus=1, num_gpus=gpus, env_vars={"PYTHONPATH": path}, **small)
    found[name] = node.node_id
main = "from cellsemi.orchestrator.cli.main import main; main()"
ask = [sys.executable, "-c", main, "cluster", "check", "--address", cluster.address, *sys.argv[2:]]
done = subprocess.run([*ask, "--json"], capture_output=True, text=True)
found["json"] = [done.returncode, done.stdout, done.stderr]
cluster.shutdown()
print("FOUND" + json.dumps(found))
"""
# A machine on which a folder is not mounted: what Python opens or makes there is missing.
UNMOUNTED = """
import io, os
def refuse(path, *more):
    if str(path).startswith(ROOT):
        raise FileNotFoundError(2, "No such file or directory", str(path))
def without(real):
    def call(path, *more, **named):
        refuse(path)
        return real(path, *more, **named)
    return call
io.open, os.open, os.mkdir, os.stat = map(without, (io.open, os.open, os.mkdir, os.stat))
"""


@pytest.mark.ray
def test_each_fault_of_each_node_is_named(tmp_path: Path) -> None:
    runs, unmounted, other = tmp_path / "runs", tmp_path / "unmounted", tmp_path / "other"
    unmounted.mkdir()
    (unmounted / "sitecustomize.py").write_text(UNMOUNTED.replace("ROOT", repr(str(runs))))
    for part in ("configs", "rounds", "models", "orchestrator"):
        shutil.copytree(ROOT / part, other / "cellsemi" / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "cellsemi" / "__init__.py", other / "cellsemi")
    (other / "cellsemi" / "rounds" / "duration.py").write_text("# another state of the source\n")
    nodes = json.dumps([["unmounted", 1, str(unmounted)], ["other", 0, str(other)]])
    done = subprocess.run(
        [sys.executable, "-c", CLUSTER, nodes, "--set", f"run.root={runs}"],
        env={**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0f" * 32},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.partition("FOUND")[2])
    code, out, err = found["json"]
    assert (code, err) == (1, "")
    report = json.loads(out)
    by_node = {
        name: {each["check"]: each for node in report["nodes"] if id[:8] in node["node"] for each in node["findings"]}
        for name, id in found.items()
        if name in ("head", "unmounted", "other")
    }
    assert {each["verdict"] for each in by_node["head"].values()} == {"ok"}
    assert {"fsync", "lock", "files of others", "models", "cellsemi"} <= set(by_node["head"])
    lacking = by_node["unmounted"]
    assert {name for name, each in lacking.items() if each["verdict"] == "failed"} >= {"run folder", "GPU"}
    assert str(runs) in lacking["run folder"]["problem"] and "run.root" in lacking["run folder"]["remedy"]
    assert "Ray counts GPUs here" in lacking["GPU"]["problem"] or "H" in lacking["GPU"]["found"]
    stranger = by_node["other"]
    assert "from other source" in stranger["cellsemi"]["problem"]
    assert stranger["run folder"]["verdict"] == "not checked" and "GPU" not in stranger
    assert report["nodes"][0]["node"] == "driver" and report["healthy"] is False
    assert not runs.exists()  # what was made for the check is gone


def test_without_a_cluster_it_says_how_to_name_one(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    done = cellsemi("cluster", "check", cwd=here)
    assert done.returncode == 2 and "--address HOST:6379" in done.stderr
    nobody = cellsemi("cluster", "check", "--address", "127.0.0.1:1", cwd=here)
    assert nobody.returncode == 1 and "no Ray can be reached there" in nobody.stderr
