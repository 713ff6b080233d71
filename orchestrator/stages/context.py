"""What every stage is given, and the one way in which a stage over shards is carried out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellsemi.configs.errors import EngineError
from cellsemi.configs.schema import Config
from cellsemi.orchestrator.engine.protocol import Engine, Failure, Job
from cellsemi.orchestrator.events import Watcher
from cellsemi.orchestrator.stages.jobs import ShardStage
from cellsemi.rounds.store import files
from cellsemi.rounds.store.manifest import (
    finish_stage,
    is_done,
    outputs_fingerprint,
    read_commits,
    read_manifest,
    shard_items,
)
from cellsemi.rounds.store.run import RunPaths


@dataclass(frozen=True, slots=True)
class Context:
    """One driver's call: the config, its hash, the run's paths, the engine and who is watching."""

    config: Config
    config_hash: str
    paths: RunPaths
    engine: Engine
    watcher: Watcher

    def check_space(self) -> None:
        """RunError when the disk is nearly full: before work, not in the middle of it."""
        files.check_free_space(self.paths.root, self.config.engine.min_free_mb)

    def finish(self, round: int, seconds: float) -> None:
        """A stage of the round ended: say so, and add its time to the round's, whichever call it ran in."""
        self.watcher.finish(seconds)
        files.write_json(self.paths.clock(round), {"seconds": self.spent(round) + seconds})

    def spent(self, round: int) -> float:
        """Seconds that the finished stages of a round took."""
        path = self.paths.clock(round)
        return float(files.read_json(path)["seconds"]) if path.is_file() else 0.0


def over_shards(
    context: Context,
    *,
    round: int,
    title: str,
    source: Path,
    out: Path,
    inputs: Any,
    make_job: Callable[[ShardStage], Job],
    give_up: Callable[[ShardStage, Failure], dict[str, Any]] | None = None,
) -> None:
    """Run a job over all shards of `source` into `out`, unless it is done; the manifest comes last.

    `inputs` is whatever the outputs depend on besides the source. Shards that another call committed
    are kept. A shard that failed on every attempt goes to `give_up`, which writes what can be said of
    it and returns its commit; without it, EngineError.
    """
    fingerprint = files.sha256_json([inputs, outputs_fingerprint(source), context.config_hash])
    if is_done(out, fingerprint):
        context.watcher.skipped(round, title)
        return
    context.check_space()
    started = time.monotonic()
    stage = ShardStage(str(source), str(out), fingerprint, context.config_hash)
    rows = {i: shard["rows"] for i, shard in enumerate(read_manifest(source)["shards"])}
    commits = read_commits(out, fingerprint)
    todo = [item for item in shard_items(source) if item not in commits]
    done = sum(rows[item] for item in commits)
    context.watcher.stage(round, title, sum(rows.values()), "images")
    context.watcher.advance(done)

    def on_done(item: int, record: dict[str, Any]) -> None:
        commits[item] = record
        context.watcher.advance(sum(rows[i] for i in commits))

    outcome = context.engine.map(make_job(stage), todo, on_done, _no_tick)
    for failure in outcome.failed:
        if give_up is None:
            raise failed(title, outcome.failed)
        commits[failure.item] = give_up(stage, failure)
    seconds = time.monotonic() - started
    finish_shards(out, fingerprint, seconds, [commits[item] for item in sorted(commits)])
    context.finish(round, seconds)


def finish_shards(out: Path, fingerprint: str, seconds: float, commits: Sequence[dict[str, Any]], **more: Any) -> None:
    """Write the manifest of a folder of shards from their commit records."""
    listed = [{key: value for key, value in commit.items() if key not in ("item", "fingerprint")} for commit in commits]
    totals = {name: sum(commit[name] for commit in commits) for name in ("rows", "cells")}
    finish_stage(out, fingerprint, seconds, shards=listed, **totals, **more)


def failed(title: str, failures: Sequence[Failure]) -> EngineError:
    """The error of a stage whose work failed on every attempt."""
    shown = "\n  ".join(f"item {f.item}, {f.attempts} attempts: {f.error}" for f in failures[:5])
    more = f"\n  and {len(failures) - 5} more" if len(failures) > 5 else ""
    return EngineError(
        f"{title}: {len(failures)} could not be done\n  {shown}{more}\n"
        "What was done is kept; the same command tries the rest again"
    )


def _no_tick() -> None:
    """Shard stages report when a shard is done; there is nothing to poll."""
