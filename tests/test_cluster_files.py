"""The files of docs/cluster: the SLURM body under bash, the YAML beside KubeRay's fields, the image, the recipes."""

import configparser
import copy
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.rayjob_fields import faults
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from cellsemi.orchestrator import run_metrics
from cellsemi.orchestrator.cli.main import cli
from cellsemi.orchestrator.engine import metrics

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "docs" / "cluster"
DOCKERFILE = (CLUSTER / "Dockerfile").read_text(encoding="utf-8")


def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


# --- SLURM ----------------------------------------------------------------------------------------------

# A SLURM of two nodes that is this machine: `srun` runs the command here, without its own options.
SRUN = """#!/usr/bin/env bash
echo "srun $*" >>"$CALLS"
while [[ $1 == --* ]]; do shift; done
[[ $1 == hostname ]] && { echo "127.0.0.1 10.0.0.7"; exit; }
exec "$@" $SRUN_MORE
"""
SCONTROL = """#!/usr/bin/env bash
[[ $1 == show ]] && { echo one; echo two; exit; }
echo "scontrol $*" >>"$CALLS"
"""
RAY = """#!/usr/bin/env bash
echo "ray $*" >>"$CALLS"
[[ $1 == start ]] || exit 0
trap 'echo "ended $3" >>"$CALLS"; exit 0' TERM
stat -c 'token %a' "$RAY_AUTH_TOKEN_PATH" >>"$CALLS"
while true; do sleep 0.05; done
"""
# The run: it ends with EXIT, or after SIGTERM with 143 once it has written what it has to write.
CELLSEMI = """#!/usr/bin/env bash
echo "cellsemi $*" >>"$CALLS"
if [[ $1 == cluster ]]; then
    until [[ $(grep -c ^token "$CALLS") == 2 ]]; do sleep 0.02; done # both nodes are there
    exit "${CHECK:-0}"
fi
[[ -n $EXIT ]] && exit "$EXIT"
trap 'sleep 0.3; echo "saved" >>"$CALLS"; exit 143' TERM
while true; do sleep 0.05; done
"""


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job on the stand-in for SLURM."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, content in {"srun": SRUN, "scontrol": SCONTROL, "ray": RAY, "cellsemi": CELLSEMI}.items():
        (folder / name).write_text(content)
        (folder / name).chmod(0o755)
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "CALLS": str(tmp_path / "calls"),
        "SRUN_MORE": "",
        "EXIT": "",
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_CPUS_PER_TASK": "1",
        "ROOT": str(tmp_path / "runs"),
    }


def job(env: dict[str, str], cwd: Path) -> subprocess.Popen[str]:
    """The script, with its output in a file: what it started and left behind would hold a pipe open."""
    with (cwd / "log").open("w") as log:
        return subprocess.Popen(
            ["bash", str(CLUSTER / "slurm.sh")], env=env, cwd=cwd, text=True, stdout=log, stderr=log
        )


def calls(env: dict[str, str]) -> list[str]:
    path = Path(env["CALLS"])
    return path.read_text().splitlines() if path.is_file() else []


def wait_for(words: str, env: dict[str, str], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not any(words in line for line in calls(env)):
        assert time.monotonic() < deadline, (words, calls(env))
        time.sleep(0.02)


@pytest.mark.parametrize(("code", "check"), [("0", "0"), ("1", "1")])
def test_a_job_starts_ray_on_every_node_then_the_run_and_ends_with_its_code(
    slurm: dict[str, str], tmp_path: Path, code: str, check: str
) -> None:
    env = {**slurm, "EXIT": code, "CHECK": check, "RUN": "cells", "ROUNDS": "2"}
    assert job(env, tmp_path).wait(timeout=60) == int(code), (tmp_path / "log").read_text()
    told = calls(env)
    starts = sorted((line for line in told if line.startswith("ray start")), key=lambda line: "--head" not in line)
    assert "--head --node-ip-address=127.0.0.1 --port=24711" in starts[0] and "--num-cpus=1" in starts[0]
    assert "--address=127.0.0.1:24711" in starts[1] and "--block" in starts[1]
    assert any("--nodes=1 --ntasks=1 --exclude=one" in line for line in told)
    check_line, run_line = (line for line in told if line.startswith("cellsemi"))
    options = f"--config cellsemi.yaml --run cells --set run.root={env['ROOT']}"
    assert check_line == f"cellsemi cluster check --address 127.0.0.1:24711 --nodes 2 {options}"
    assert run_line == f"cellsemi round --n 2 --address 127.0.0.1:24711 {options}"
    assert told.count("token 600") == 2 and not list(Path(env["ROOT"]).glob(".ray-token*"))
    assert sum(line.startswith("ended") for line in told) == 2  # Ray of both nodes
    assert not any(line.startswith("scontrol") for line in told)


def test_a_job_whose_time_is_up_lets_the_run_save_and_goes_back_into_the_queue(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    process = job(slurm, tmp_path)
    wait_for("cellsemi round", slurm)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    told = calls(slurm)
    assert told.index("saved") < told.index("scontrol requeue 4711")
    assert "goes on where it stopped" in (tmp_path / "log").read_text()


def test_a_job_whose_time_is_up_while_it_checks_goes_back_too(slurm: dict[str, str], tmp_path: Path) -> None:
    stubborn = CELLSEMI.replace("[[ $1 == cluster ]]", "false").replace("exit 143", "exit 1")
    (tmp_path / "bin" / "cellsemi").write_text(stubborn)
    process = job(slurm, tmp_path)
    wait_for("cellsemi cluster", slurm)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    assert "scontrol requeue 4711" in calls(slurm) and not any("cellsemi round" in line for line in calls(slurm))


SMALL = """
run: {name: cells}
data:
  source: generated
  classes: [cell]
  generated: {labelled: 2, unlabelled: 4, val: 2, test: 2, height_px: 64, width_px: 64}
models: [{kind: flow-unet, name: unet, width: 4}]
training: {steps: STEPS, batch: 1, crop_px: 32}
engine: {min_free_mb: 0}
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_on_a_real_ray_is_stopped_and_finishes_the_run_in_the_next(slurm: dict[str, str], tmp_path: Path) -> None:
    """The same script, Ray and cellsemi being real: two raylets on this machine, which are the two nodes."""
    mains = {"ray": "ray.scripts.scripts", "cellsemi": "cellsemi.orchestrator.cli.main"}
    for name, module in mains.items():
        code = f"import sys\nfrom {module} import main\nsys.argv[0] = {name!r}\nmain()\n"
        (tmp_path / "bin" / name).write_text(f"#!{sys.executable}\n{code}")
    small = '[[ $2 == start ]] && set -- "$@" --object-store-memory=80000000\nexec "$@"'
    (tmp_path / "bin" / "srun").write_text(SRUN.replace('exec "$@"', small))
    env = {**slurm, "ROUNDS": "0", "RAY_worker_niceness": "0"}
    (tmp_path / "cellsemi.yaml").write_text(SMALL.replace("STEPS", "100000"))
    process = job(env, tmp_path)
    events = tmp_path / "runs" / "cells" / "events.jsonl"
    deadline = time.monotonic() + 300
    while not (events.is_file() and '"stage":"train unet"' in events.read_text()):
        assert time.monotonic() < deadline and process.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 143, (tmp_path / "log").read_text()
    assert "scontrol requeue 4711" in calls(env) and "2 nodes" in (tmp_path / "log").read_text()
    (tmp_path / "cellsemi.yaml").write_text(SMALL.replace("STEPS", "2"))
    shutil.rmtree(tmp_path / "runs")
    assert job({**env, "SLURM_JOB_ID": "4712"}, tmp_path).wait(timeout=600) == 0, (tmp_path / "log").read_text()
    assert (tmp_path / "runs" / "cells" / "leaderboard.md").is_file()


# --- KubeRay --------------------------------------------------------------------------------------------


def rayjob() -> Any:
    claim, found = yaml.safe_load_all((CLUSTER / "rayjob.yaml").read_text(encoding="utf-8"))
    assert (claim["kind"], claim["spec"]["accessModes"]) == ("PersistentVolumeClaim", ["ReadWriteMany"])
    assert claim["spec"]["resources"]["requests"]["storage"] and claim["metadata"]["name"] == "cellsemi-shared"
    return found


def test_the_rayjob_has_the_fields_that_kuberay_requires_and_no_others() -> None:
    found = rayjob()
    assert (found["apiVersion"], found["kind"]) == ("ray.io/v1", "RayJob")
    assert faults(found) == []


def test_a_field_that_is_missing_wrong_or_unknown_would_be_found() -> None:
    for place, change, words in [
        (["spec", "rayClusterSpec"], ("headGroupSpec", None), "headGroupSpec is required"),
        (["spec"], ("backofLimit", 3), "spec.backofLimit: no such field"),
        (["spec", "rayClusterSpec", "headGroupSpec", "rayStartParams"], ("num-cpus", 0), "num-cpus: expected a string"),
        (["spec", "rayClusterSpec", "authOptions"], ("mode", "tokens"), "is none of"),
        (["spec"], ("backoffLimit", "3"), "expected integer"),
    ]:
        broken = part = copy.deepcopy(rayjob())
        for name in place:
            part = part[name]
        if change[1] is None:
            del part[change[0]]
        else:
            part[change[0]] = change[1]
        assert any(words in fault for fault in faults(broken)), (place, faults(broken))


def test_the_rayjob_is_what_the_guide_says() -> None:
    spec = rayjob()["spec"]
    cluster = spec["rayClusterSpec"]
    assert spec["backoffLimit"] > 0 and spec["shutdownAfterJobFinishes"] is True
    assert cluster["enableInTreeAutoscaling"] is True and cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0" and "entrypointNumCpus" not in spec
    pods = [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    for pod in pods:  # the volume of the run is mounted at one place everywhere, and written as the user of the image
        assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "cellsemi-shared"
        assert pod["containers"][0]["volumeMounts"] == [{"name": "shared", "mountPath": "/shared"}]
        assert pod["containers"][0]["image"] == pods[0]["containers"][0]["image"]
        assert f"--uid {pod['securityContext']['fsGroup']} " in DOCKERFILE
    assert_command(shlex.split(spec["entrypoint"]))


def assert_command(words: list[str]) -> None:
    """The words are a command of ours, with options that it has."""
    assert words[0] == "cellsemi"
    command: Any = cli
    rest = words[1:]
    while hasattr(command, "commands"):
        command, rest = command.commands[rest[0]], rest[1:]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in rest if word.startswith("--")} <= known


# --- the image ------------------------------------------------------------------------------------------


def runs() -> list[str]:
    """What the RUN lines of the Dockerfile run."""
    return re.findall(r"^RUN (.*(?:\\\n.*)*)", DOCKERFILE, re.M)


def test_the_image_has_a_python_and_a_ray_that_cellsemi_takes() -> None:
    options = setup()["options"]
    (python,) = re.findall(r"^FROM python:([\d.]+)-slim$", DOCKERFILE, re.M)
    assert (
        python in SpecifierSet(options["python_requires"]) and python.count(".") == 2
    )  # nodes must agree to the patch
    (ray,) = re.findall(r"ray\[default\]==([\d.]+)", DOCKERFILE)
    wanted = [Requirement(line) for line in options["install_requires"].split("\n") if line]
    extra = [Requirement(line) for line in setup()["options.extras_require"]["cluster"].split("\n") if line]
    for requirement in (*(each for each in wanted if each.name == "ray"), *extra):
        assert ray in requirement.specifier
    assert {each.name for each in extra} == {"ray"} and "default" in extra[0].extras
    assert rayjob()["spec"]["rayClusterSpec"]["rayVersion"] == ray


def test_the_image_copies_what_the_package_is_made_of_and_it_is_not_ignored() -> None:
    copied = {word for line in re.findall(r"^COPY (.*)", DOCKERFILE, re.M) for word in line.split()[:-1]}
    packages = {folder.split("/")[0] for folder in setup()["options"]["package_dir"].split() if "." not in folder} - {
        "="
    }
    needed = packages | {"setup.cfg", "pyproject.toml", setup()["metadata"]["license_files"], "README.md"}
    assert copied == needed and all((ROOT / name).exists() for name in copied)
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")}
    assert allowed == copied
    assert setup()["metadata"]["long_description"] == "file: README.md"


def test_the_lines_of_the_image_are_shell_and_name_an_extra_that_exists() -> None:
    assert len(runs()) == 4 and "[cluster]" in runs()[1]
    for line in runs():
        assert subprocess.run(["bash", "-n", "-c", line], check=False).returncode == 0
    assert DOCKERFILE.index("USER cellsemi") < DOCKERFILE.index("RUN cellsemi doctor")
    (command,) = re.findall(r"^CMD (.*)", DOCKERFILE, re.M)
    assert yaml.safe_load(command) == ["cellsemi", "--help"]


@pytest.mark.slow
def test_the_lines_of_the_image_run_in_a_fresh_environment(tmp_path: Path) -> None:
    """As a build does, but without root; then the test that needs what the cluster extra installs runs there."""
    venv, source = tmp_path / "venv", tmp_path / "src"
    for name in re.findall(r"^COPY (.*)", DOCKERFILE, re.M):
        for word in name.split()[:-1]:
            (shutil.copytree if (ROOT / word).is_dir() else shutil.copy)(ROOT / word, _made(source) / word)
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    env = {"PATH": f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path)}
    env |= {key: value for key, value in os.environ.items() if key.startswith(("PIP_", "SSL_"))}
    done = []
    for line in runs():
        if line.startswith(("apt-get", "useradd")):
            continue
        subprocess.run(["bash", "-ec", line.replace("/src", str(source))], env=env, cwd=tmp_path, check=True)
        done.append(line)
    assert len(done) == 2
    shown = subprocess.run(["ray", "job", "submit", "--help"], env=env, capture_output=True, text=True, check=True)
    assert "--address" in shown.stdout
    subprocess.run(["python", "-m", "pip", "install", "-q", "pytest", "hypothesis", "psutil"], env=env, check=True)
    tests = ["-m", "ray", "-p", "no:cacheprovider", str(ROOT / "tests" / "orchestrator" / "test_run_metrics.py")]
    done_there = subprocess.run(
        ["python", "-m", "pytest", *tests],
        env={**env, "PYTHONSAFEPATH": "1"},
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=False,
    )
    assert "1 passed" in done_there.stdout, done_there.stdout


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


# --- recipes --------------------------------------------------------------------------------------------

SUBMITTED = """#!/usr/bin/env bash
echo "$RAY_AUTH_MODE $*" >>"$CALLS"
[[ $(wc -l <"$CALLS") -ge $FINE_FROM ]]
"""


@pytest.mark.parametrize(("fine_from", "code", "sent"), [(1, 0, 1), (3, 0, 3), (9, 1, 3)])
def test_a_job_is_sent_again_until_it_has_done_its_work(tmp_path: Path, fine_from: int, code: int, sent: int) -> None:
    (tmp_path / "ray").write_text(SUBMITTED)
    (tmp_path / "ray").chmod(stat.S_IRWXU)
    env = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    env |= {"CALLS": str(tmp_path / "calls"), "FINE_FROM": str(fine_from), "CONFIG": "/shared/a.yaml"}
    done = subprocess.run(["bash", str(CLUSTER / "submit.sh"), "http://head:8265"], env=env, check=False)
    assert done.returncode == code
    told = (tmp_path / "calls").read_text().splitlines()
    assert len(told) == sent and len(set(told)) == 1
    before, _, command = told[0].partition(" -- ")
    assert before == "token job submit --address http://head:8265"
    assert_command(command.split())


def test_every_metric_is_in_the_guide_and_no_other() -> None:
    guide = (CLUSTER / "README.md").read_text(encoding="utf-8")
    code = "".join(Path(str(module.__file__)).read_text(encoding="utf-8") for module in (metrics, run_metrics))
    told = set(re.findall(r"^\| `ray_(cellsemi_\w+)`", guide, re.M))
    assert told == set(re.findall(r'"(cellsemi_\w+)"', code)) and len(told) == 10


def test_the_guide_names_files_that_are_there_and_commands_that_exist() -> None:
    guide = (CLUSTER / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", guide):
        assert (CLUSTER / target).exists(), target
    assert {path.name for path in CLUSTER.iterdir()} - {"README.md"} == set(re.findall(r"\]\(([^/\s)]+)\)", guide))
    blocks = re.findall(r"```bash\n(.*?)```", guide, re.S)
    for block in blocks:
        assert subprocess.run(["bash", "-n", "-c", block], check=False).returncode == 0
        for line in re.findall(r"^\s*(cellsemi [^&|\n]*)", block, re.M):
            assert_command(shlex.split(line))
        for path in re.findall(r"docs/cluster/[\w.]+", block):
            assert (ROOT / path).is_file()
    for line in re.findall(r"`(cellsemi [^`]*)`", guide):
        assert_command(shlex.split(line))
