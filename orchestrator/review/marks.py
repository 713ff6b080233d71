"""Makes the marks of the app human labels of the run, through the door of `cellsemi review --take`."""

from __future__ import annotations

from collections.abc import Iterator

from cellsemi.configs.schema import Config
from cellsemi.orchestrator.review.add import Labelled, Taken, add_labels
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.review.added import AddedImage
from cellsemi.rounds.review.marks import MarkedImage, labels_of, read_all_marks
from cellsemi.rounds.store.folds import folds_of
from cellsemi.rounds.store.lock import driver_lock
from cellsemi.rounds.store.predictions import UNLABELLED
from cellsemi.rounds.store.run import RunPaths
from cellsemi.rounds.store.shards import ShardSet, read_columns, shard_paths
from cellsemi.rounds.store.unaltered import MANIFEST

ONLY_IGNORED = "only marks to ignore: as a human label it would teach nothing, and lose its pseudo-labels"
NOT_PREDICTED = "no pseudo-labels of the round that was marked"


def hand_over(paths: RunPaths, config: Config) -> Taken:
    """Make all marks human labels from the next round on; the marks stay, so that more can be made later.

    RunError when another process works on the run: nothing is lost, hand over when it is done.
    """
    with driver_lock(paths):
        result = Taken(paths.name, len(paths.finished_rounds()))
        marked = list(read_all_marks(paths.marks))
        rounds = sorted({each.round for each in marked})
        by = f"the pseudo-labels of round {', '.join(map(str, rounds))}"
        add_labels(paths, config, _labelled(paths, config, marked, result), result, origin=str(paths.marks), by=by)
    return result


def _labelled(paths: RunPaths, config: Config, marked: list[MarkedImage], result: Taken) -> Iterator[Labelled]:
    places = {row["image_id"]: i for i, row in enumerate(read_columns(paths.split(UNLABELLED), ["image_id"]))}
    images = ShardSet(shard_paths(paths.split(UNLABELLED)))
    for each in marked:
        if each.complete is None and each.count("ignore") == len(each.marks):
            result.left[each.image_id] = ONLY_IGNORED
            continue
        pseudo = pseudo_labels(paths, config, each.round, each.image_id)
        if pseudo is None or each.image_id not in places:
            result.left[each.image_id] = NOT_PREDICTED
            continue
        cells = labels_of(each, pseudo)
        kept = cells.state.count("human")
        image = AddedImage(kept=kept, removed=each.count("wrong"), partly=each.complete is None)
        yield Labelled(images[places[each.image_id]], image, cells)


def pseudo_labels(paths: RunPaths, config: Config, round: int, image_id: str) -> Instances | None:
    """The filtered pseudo-labels of an image in a round, with folds those of the first; None where it has none."""
    folder = paths.pseudo(round, folds_of(config)[0].suffix)
    if not (folder / MANIFEST).is_file():
        return None
    place = next((i for i, row in enumerate(read_columns(folder, ["image_id"])) if row["image_id"] == image_id), None)
    return None if place is None else ShardSet(shard_paths(folder))[place].instances
