"""Asks every node of a cluster whether it can do the work of a config, before the work is sent to it."""

from __future__ import annotations

import contextlib
import platform
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cellsemi.configs.errors import ModelError, in_one_line
from cellsemi.configs.models import WithWeights
from cellsemi.configs.schema import Config
from cellsemi.models.start_weights import find_given
from cellsemi.orchestrator.cluster import on_node
from cellsemi.orchestrator.cluster.findings import ClusterReport, Finding, NodeReport, Versions
from cellsemi.orchestrator.cluster.on_node import KeptFile, Request
from cellsemi.orchestrator.engine.ray_start import (
    NODE_ANSWER_S,
    SHARED_HELP,
    ClusterNode,
    Probe,
    alive_nodes,
    join_cluster,
    node_name,
)
from cellsemi.orchestrator.engine.resources import resources_per_worker, with_noun
from cellsemi.rounds.storage.object_path import ObjectPath
from cellsemi.rounds.store import files
from cellsemi.rounds.store.kept_weights import read_kept
from cellsemi.rounds.store.lock import driver_lock
from cellsemi.rounds.store.run import RunPaths, paths_of

GPU_ANSWER_S = 60.0  # as long as other work may hold all GPUs of a node
JOIN_S, JOIN_POLL_S = 120.0, 1.0
PROBE_NAME = "probe"
ANSWER = "answer"
SAME_IMAGE = "Use one image, or one environment, for all nodes and for the driver (docs/cluster/README.md)"


def check_cluster(config: Config, address: str, origin: str = "the address", nodes: int = 0) -> ClusterReport:
    """Ask every node of the cluster at `address` (host:port, from `origin`); nothing that is written for it stays.

    `nodes`: as many are waited for, up to JOIN_S, since they join one after another.
    EngineError when the cluster cannot be joined, RunError when the driver itself cannot write where the run lies.
    """
    join_cluster(address, origin)
    import ray

    paths = paths_of(config)
    try:
        with _shared_folder(paths.root.parent) as folder, driver_lock(RunPaths(folder)):
            return _ask_all(config, address, _Place(paths, folder), nodes)
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _shared_folder(root: Path) -> Iterator[Path]:
    """A folder below `run.root` for the files of this check; folders that were made for it go, too."""
    parents = [] if isinstance(root, ObjectPath) else [root, *root.parents]  # of objects, no folder is made
    made = next((folder for folder in reversed(parents) if not folder.exists()), None)
    folder = root / f".cluster-check-{uuid.uuid4().hex[:8]}"
    with files.explained(folder):
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        files.remove_folder(folder if made is None else made, ignore_errors=True)


@dataclass(slots=True)
class _Asked:
    """A node and what was found there so far; `asks_on`: whether it is asked anything more."""

    node: ClusterNode
    findings: list[Finding] = field(default_factory=list)
    host: str = ""
    asks_on: bool = True

    @property
    def name(self) -> str:
        return node_name(self.node.address, self.node.id)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the run lies, and the folder of this check beside it."""

    paths: RunPaths
    folder: Path


def _ask_all(config: Config, address: str, place: _Place, nodes: int) -> ClusterReport:
    paths, folder, token = place.paths, place.folder, uuid.uuid4().hex
    probe = Probe(str(folder / PROBE_NAME), token)
    files.write_text(files.place(probe.path), token)
    here = Versions(*on_node.versions_by_value()())
    asked = [_Asked(node) for node in _joined(nodes)]
    _ask_versions(asked, here)
    own, kept = _own_findings(config, paths, asked)
    own[:0] = _count(len(asked), nodes)
    request = Request(str(folder), probe, config, tuple(kept))
    with _gpus_asked(asked) as gpus:
        _ask_look(asked, request)
        _ask_across(asked, folder, token)
        for each in asked:
            each.findings += gpus(each)
    driver = NodeReport("driver", platform.node(), tuple(own))
    reports = (NodeReport(each.name, each.host, tuple(each.findings)) for each in asked)
    return ClusterReport(address, str(paths.root), here, (driver, *reports))


def _joined(nodes: int) -> list[ClusterNode]:
    """The nodes that are alive, once there are as many as are waited for, or JOIN_S have passed."""
    until_s = time.monotonic() + JOIN_S
    while len(found := alive_nodes()) < nodes and time.monotonic() < until_s:
        time.sleep(JOIN_POLL_S)
    return found


def _count(found: int, wanted: int) -> list[Finding]:
    """Whether as many nodes are there as were waited for."""
    if not wanted:
        return []
    words = f"{found} of {with_noun(wanted, 'node')}"
    if found >= wanted:
        return [Finding("nodes", words)]
    remedy = "See why `ray start` failed on the others; work that is sent now goes on without them"
    return [Finding("nodes", problem=f"{words} within {JOIN_S:g} s", remedy=remedy)]


# --- the driver itself ----------------------------------------------------------------------------------


def _own_findings(config: Config, paths: RunPaths, asked: Sequence[_Asked]) -> tuple[list[Finding], list[KeptFile]]:
    """What the driver finds (the place for workers, the weights that the config names), and the files the run keeps."""
    findings, kept = [_room(config, asked)], read_kept(paths) if paths.config.is_file() else {}
    files_kept: list[KeptFile] = []
    for model in config.models:
        if not isinstance(model, WithWeights) or model.weights is None:
            continue
        check, copy = f"{on_node.WEIGHTS} of {model.name}", kept.get(model.name)
        try:
            if copy is not None and copy.weights == model.weights:
                given = find_given(str(paths.root / copy.kept), copy.sha256)
                files_kept += [on_node.kept_file(part) for part in given.parts]
                found = f"{model.weights}, the run's copy {copy.kept}"
            else:
                given = find_given(model.weights, model.weights_sha256)
                found = f"{given.place}, which the driver copies into the run"
        except ModelError as error:
            findings.append(Finding(check, problem=str(error), remedy="Put the file where the driver finds it"))
        else:
            findings.append(Finding(check, f"{found} (sha256 {given.sha256[:8]})"))
    return findings, files_kept


def _room(config: Config, asked: Sequence[_Asked]) -> Finding:
    """How many workers fit on the nodes of now."""
    gpus = sum(each.node.resources.get("GPU", 0.0) for each in asked)
    each_takes = resources_per_worker(config.engine, True, gpus)
    fit = sum(each_takes.workers_on(each.node.resources) for each in asked)
    if fit:
        return Finding("room", f"{with_noun(fit, 'worker')} of {each_takes} on {with_noun(len(asked), 'node')}")
    return Finding("room", f"no worker of {each_takes} fits now: an autoscaler has to add nodes", checked=False)


# --- the nodes ------------------------------------------------------------------------------------------


def _ask(asked: Sequence[_Asked], call: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """The answers of the nodes that are asked on, by node id: the result, or a Finding that says why none came."""
    import ray

    remote = ray.remote(num_cpus=0, max_retries=0)(call)
    answers = {
        each.node.id: remote.options(scheduling_strategy=_on(each.node)).remote(*arguments)
        for each in asked
        if each.asks_on
    }
    ray.wait(list(answers.values()), num_returns=len(answers), timeout=NODE_ANSWER_S) if answers else None
    return {node: _answer(reference) for node, reference in answers.items()}


def _on(node: ClusterNode) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node.id, soft=False)


def _answer(reference: Any) -> Any:
    """The result of a call that has had its time, or a Finding with the reason why there is none."""
    import ray
    from ray.exceptions import GetTimeoutError, RayError

    remedy = "See `ray status` and the logs of that node; drain it, or start Ray anew there"
    try:
        return ray.get(reference, timeout=0)
    except GetTimeoutError:
        ray.cancel(reference, force=True)
        return Finding(ANSWER, problem=f"no answer within {NODE_ANSWER_S:g} s", remedy=remedy)
    except RayError as error:
        return Finding(ANSWER, problem=in_one_line(error)[:300], remedy=remedy)


def _ask_versions(asked: Sequence[_Asked], here: Versions) -> None:
    """Compare what is installed; a node with another cellsemi is asked nothing that needs ours."""
    answers = _ask(asked, on_node.versions_by_value())
    for each in asked:
        answer = answers[each.node.id]
        if isinstance(answer, Finding):
            each.findings.append(answer)
            each.asks_on = False
            continue
        there = Versions(*answer)
        each.findings += compare_versions(here, there)
        each.asks_on = (there.cellsemi, there.code) == (here.cellsemi, here.code)
        if not each.asks_on:
            why = "it has another cellsemi than the driver"
            each.findings += [Finding(name, why, checked=False) for name in (on_node.FOLDER, on_node.MODELS)]


def compare_versions(here: Versions, there: Versions) -> list[Finding]:
    """What a node has installed beside what the driver has: a difference is a problem, in Python from the minor on."""
    minor, other = here.python.rsplit(".", 1)[0], there.python.rsplit(".", 1)[0]
    python = "" if minor == other else f"Python {there.python}, the driver has {here.python}"
    found = [Finding("Python", there.python, python, SAME_IMAGE if python else "")]
    for name, mine, its in (("Ray", here.ray, there.ray), ("torch", here.torch, there.torch)):
        problem = "" if mine == its else f"{name} {its or 'is missing'}, the driver has {mine or 'none'}"
        found.append(Finding(name, its, problem, SAME_IMAGE if problem else ""))
    problem = ""
    if not there.cellsemi:
        problem = "cellsemi is missing"
    elif there.cellsemi != here.cellsemi:
        problem = f"cellsemi {there.cellsemi}, the driver has {here.cellsemi}"
    elif there.code != here.code:
        problem = f"cellsemi {there.cellsemi} from other source ({there.code}) than the driver's ({here.code})"
    return [*found, Finding("cellsemi", f"{there.cellsemi} ({there.code})", problem, SAME_IMAGE if problem else "")]


def _ask_look(asked: Sequence[_Asked], request: Request) -> None:
    answers, hosts = _ask(asked, on_node.look, request), _ask(asked, on_node.host_name)
    for each in asked:
        if (answer := answers.get(each.node.id)) is None:
            continue
        each.findings += [answer] if isinstance(answer, Finding) else answer
        each.host = host if isinstance(host := hosts[each.node.id], str) else ""
        folder = next((finding for finding in each.findings if finding.check == on_node.FOLDER), None)
        each.asks_on = folder is not None and folder.verdict == "ok"


def _ask_across(asked: Sequence[_Asked], folder: Path, token: str) -> None:
    """Each node that can work in the folder writes a file; then the driver and each of them read those of all."""
    import ray

    write = ray.remote(num_cpus=0, max_retries=0)(on_node.write_for_others)
    there = [each for each in asked if each.asks_on]
    written = {
        each.node.id: write.options(scheduling_strategy=_on(each.node)).remote(folder, each.node.id, token)
        for each in there
    }
    ray.wait(list(written.values()), num_returns=len(written), timeout=NODE_ANSWER_S) if written else None
    nodes = [each.node.id for each in there if _answer(written[each.node.id]) == ""]
    names: Mapping[str, str] = {each.node.id: each.name for each in there}
    missing = _ask(there, on_node.unseen, folder, nodes, token)
    by_driver = on_node.unseen(folder, nodes, token)
    for each in there:
        answer = missing[each.node.id]
        each.findings.append(answer if isinstance(answer, Finding) else _across(each, answer, by_driver, names))


def _across(each: _Asked, unseen: Sequence[str], by_driver: Sequence[str], names: Mapping[str, str]) -> Finding:
    check, problems = "files of others", []
    if unseen:
        problems.append(f"does not see what {', '.join(names[node] for node in unseen)} wrote")
    if each.node.id in by_driver:
        problems.append("the driver does not see what it wrote")
    if problems:
        return Finding(check, problem="; ".join(problems), remedy=SHARED_HELP)
    return Finding(check, "seen at once, and its own by the others")


# --- GPUs -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _gpus_asked(asked: Sequence[_Asked]) -> Iterator[Callable[[_Asked], list[Finding]]]:
    """Ask for a GPU of each node that has some, while the rest is asked; yields what reads the answer of a node."""
    import ray

    # max_calls: the memory of the GPU is free again when the process ends.
    ask = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(on_node.look_at_gpu)
    answers = {
        each.node.id: ask.options(num_gpus=1, scheduling_strategy=_on(each.node)).remote()
        for each in asked
        if each.asks_on and each.node.resources.get("GPU", 0.0) >= 1
    }

    def read(each: _Asked) -> list[Finding]:
        if each.node.id not in answers:
            return []
        reference = answers[each.node.id]
        if not ray.wait([reference], timeout=GPU_ANSWER_S)[0]:
            return [Finding("GPU", f"all are taken: none was free within {GPU_ANSWER_S:g} s", checked=False)]
        return [_answer(reference)]

    try:
        yield read
    finally:
        for reference in answers.values():
            ray.cancel(reference, force=True)
