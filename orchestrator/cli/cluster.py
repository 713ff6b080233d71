"""Implements `cellsemi cluster`: looks at a Ray cluster before work is sent to it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click

from cellsemi.orchestrator.cli.options import answer, config_options, debug_option, json_option


@click.group()
def cluster() -> None:
    """Look at a Ray cluster before work is sent to it."""


@cluster.command()
@click.option("--address", help="The cluster, host:port of its head (engine.address); else RAY_ADDRESS.")
@config_options
@click.option("--run", "name", help="A run, by name or folder: its config, and the weights that it keeps.")
@click.option("--nodes", type=click.IntRange(min=1), help="Wait until so many nodes are there, at most two minutes.")
@json_option
@debug_option
@click.pass_context
def check(
    context: click.Context,
    *,
    address: str | None,
    source: str | None,
    settings: tuple[str, ...],
    name: str | None,
    nodes: int | None,
    as_json: bool,
) -> None:
    """Ask every node whether it can do the work.

    Compares Python, Ray, torch and cellsemi of each node with those here; computes on a GPU of each; looks at free
    disk, at the packages that the models need and at the weights that the run keeps; writes and reads files across the
    nodes where the run lies, and tries its lock. Each fault comes with its remedy. Exit code 1 when there is one.
    """
    from cellsemi.configs.errors import UsageError
    from cellsemi.orchestrator.cluster.check import check_cluster
    from cellsemi.orchestrator.runs.choose_config import choose_config
    from cellsemi.orchestrator.terminal import cluster_table
    from cellsemi.orchestrator.terminal.quiet import quiet_output

    config = choose_config(source, name, settings)[0].config
    given = address or config.engine.address
    chosen = given or os.environ.get("RAY_ADDRESS")
    if not chosen or chosen == "local":
        raise UsageError("no cluster is named: give --address HOST:6379; `cellsemi doctor` looks at this machine")
    with tempfile.TemporaryDirectory() as folder, quiet_output(Path(folder) / "ray.log"):
        report = check_cluster(config, chosen, "the address" if given else "RAY_ADDRESS", nodes or 0)
    answer(as_json, report.to_json(), lambda: cluster_table.print_cluster(report))
    context.exit(0 if report.healthy else 1)
