"""Asks Ray what the cluster holds now: nodes, places for workers, where actors are, whether a node still lives."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import ray
from ray._private import state  # where an actor is, nothing public says without a dashboard

from cellsemi.orchestrator.engine.ray_start import ClusterNode, alive_nodes, node_name
from cellsemi.orchestrator.engine.resources import WorkerResources, with_noun
from cellsemi.rounds.store import files
from cellsemi.rounds.store.run import RunPaths

ANSWER_S = 1.0  # for a node to take a connection


def workers_that_fit(resources: WorkerResources) -> int:
    """How many workers fit on the nodes of now, whatever else runs on them."""
    return sum(resources.workers_on(node.resources) for node in alive_nodes())


def nodes_that_fit(resources: WorkerResources) -> dict[str, ClusterNode]:
    """The nodes of now on which a worker fits, by the name that messages give them."""
    return {node_name(node.address, node.id): node for node in alive_nodes() if resources.workers_on(node.resources)}


def cluster_resources() -> dict[str, float]:
    """The CPUs and GPUs of all nodes of now, whoever uses them."""
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return {name: float(found.get(name, 0.0)) for name in ("CPU", "GPU")}


def node_is_gone(node: str) -> bool:
    """Whether the node of this id is gone: Ray says so, or nothing listens there any more.

    Ray itself needs some ten seconds to notice, while the calls of its actors fail at once.
    """
    for row in ray.nodes():  # type: ignore[no-untyped-call]
        if row["NodeID"] == node:
            return not row["Alive"] or not _listens(row["NodeManagerAddress"], row["NodeManagerPort"])
    return True


def _listens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=ANSWER_S).close()
    except OSError:
        return False
    return True


class Whereabouts:
    """Where actors are now, as Ray's own table says: also those that have not answered yet."""

    def __init__(self) -> None:
        self._nodes = {node["NodeID"]: node for node in ray.nodes()}  # type: ignore[no-untyped-call]

    def of(self, actor: Any) -> str | None:
        """The name of the node on which the actor has, or had, a process, even one that says nothing; None: nowhere.

        An actor without a process is listed at some node all the same: with the port of the node when it waits in the
        queue there, else without a port.
        """
        address = _row(actor).get("Address", {})
        node = self._nodes.get(address.get("NodeID"))
        if node is None or address["Port"] in (0, node["NodeManagerPort"]):
            return None
        return node_name(node["NodeManagerAddress"], node["NodeID"])


def _row(actor: Any) -> dict[str, Any]:
    found: dict[str, Any] = state.state.actor_table(actor._actor_id.hex())
    return found


def no_place_message(name: str, resources: WorkerResources, pending: int, waited_s: float) -> str:
    """Why no worker of a job got a place, with the numbers that explain it and the remedy."""
    total, free = cluster_resources(), ray.available_resources()  # type: ignore[no-untyped-call]
    return (
        f"{name}: no worker got a place within {waited_s:g} s. {with_noun(pending, 'worker')} waiting for "
        f"{resources} each; the cluster has {with_noun(len(alive_nodes()), 'node')} with "
        f"{with_noun(total['CPU'], 'CPU')} and {with_noun(total['GPU'], 'GPU')}, of which {free.get('CPU', 0.0):g} "
        f"and {free.get('GPU', 0.0):g} are free. Add nodes, wait for other jobs, or lower "
        "engine.cpus_per_worker or engine.gpus_per_worker; the same command goes on where it stopped"
    )


def had_gpus(folder: Path) -> bool:
    """Whether the run of this folder has worked on GPUs: one that has lost all of them waits, and says so.

    Otherwise `engine.device: auto` would take a cluster whose last GPU was just taken away for one without.
    """
    return RunPaths(folder).hardware.is_file()


def note_gpus(folder: Path) -> None:
    """Remember it, where the folder is that of a run."""
    paths = RunPaths(folder)
    if not paths.hardware.is_file() and paths.config.is_file():
        files.write_json(paths.hardware, {"gpus": True})
