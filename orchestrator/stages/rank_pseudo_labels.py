"""Ranks the pseudo-labelled images of a round by how well they are labelled, for the curriculum."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cellsemi.orchestrator.engine.protocol import Record, Worker
from cellsemi.orchestrator.stages.context import Context, failed
from cellsemi.rounds.pseudo_labels.curriculum import Ranked, held_back, rank
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.folds import Fold
from cellsemi.rounds.store.manifest import shard_items


@dataclass(frozen=True, slots=True)
class RankJob:
    """Says of each image of a shard of pseudo-labels how well it is labelled."""

    pseudo: str
    name: str = "rank pseudo-labels"
    uses_device: bool = False

    def start(self) -> Worker:
        """Nothing to load."""
        return self

    def run(self, item: int) -> Record:
        """The images of one shard that have accepted cells."""
        records = shards.read_shard(Path(self.pseudo) / shards.part_name(item))
        return {"ranked": [each for record in records if (each := rank(record)) is not None]}


def left_to_later_rounds(context: Context, round: int, fold: Fold, share: float) -> set[str]:
    """The ids of the unlabelled images that are left to later rounds, all but the best labelled `share` of each class."""
    folder = context.paths.pseudo(round, fold.suffix)
    outcome = context.engine.map(RankJob(str(folder)), shard_items(folder), lambda *_: None, lambda: None)
    if outcome.failed:
        raise failed("rank pseudo-labels", outcome.failed)
    return held_back((Ranked(*each) for record in outcome.done.values() for each in record["ranked"]), share)
