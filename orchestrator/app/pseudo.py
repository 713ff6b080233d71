"""Browses the pseudo-labels of a run, finished or being made: reads the folder, takes no lock, and keeps marks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from cellsemi.configs.errors import UsageError
from cellsemi.configs.schema import Config
from cellsemi.orchestrator.app.view import CHOSEN, Layer, View, cell_at, in_one_colour
from cellsemi.orchestrator.explain.pictures import OF_STATES
from cellsemi.orchestrator.explain.reasons import PseudoRow
from cellsemi.orchestrator.explain.run_image import judged
from cellsemi.orchestrator.review.offer import known_labels, labelled_rounds
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.colours import PALETTE, Colour
from cellsemi.rounds.drawing import scaled
from cellsemi.rounds.review.added import AddedBatch, batches, labelled_since, last_batch, read_batch
from cellsemi.rounds.review.marks import MarkedImage, Verdict, cells_marked, mark_cells, mark_complete, read_marks
from cellsemi.rounds.review.worth import worth
from cellsemi.rounds.store.folds import folds_of
from cellsemi.rounds.store.image_codec import decode_image, intensity_range
from cellsemi.rounds.store.predictions import UNLABELLED
from cellsemi.rounds.store.run import RunPaths, read_config
from cellsemi.rounds.store.schemas import ImageRecord
from cellsemi.rounds.store.shards import ShardSet, read_columns, read_folder, shard_paths
from cellsemi.rounds.store.unaltered import MANIFEST

Order = Literal["need", "name"]
SHOWN = 300  # images in the list, at most
STATES = ("accepted", "ignored", "rejected")
ANY = "any reason"
MARK_SIGNS: dict[Verdict | None, str] = {"right": "right", "wrong": "wrong: no cell", "ignore": "ignore", None: ""}
OF_MARKS: dict[Verdict, Colour] = {"right": PALETTE[1], "wrong": PALETTE[6], "ignore": PALETTE[3]}
HEADS = ("number", "mark", "state", "reason", "class", "quality", "score", "area", "votes")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which cells are listed: of these states, of this reason (ANY: of all), with a quality between two values."""

    states: tuple[str, ...] = STATES
    reason: str = ANY
    low: float = 0.0
    high: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class PseudoImage:
    """The pseudo-labels of an image in a round, with the reason of each, and what was marked.

    `cells` has none where no teacher could predict the image. `note` says what a person must know.
    """

    round: int
    image_id: str
    view: View
    cells: Instances
    rows: tuple[PseudoRow, ...]
    marked: MarkedImage
    note: str

    def listed(self, wanted: Wanted) -> list[int]:
        """The cells that are wanted, in their order."""
        return [
            i
            for i, row in enumerate(self.rows)
            if row.state in wanted.states
            and wanted.reason in (ANY, row.reason)
            and wanted.low <= row.quality <= wanted.high
        ]

    def table(self, listed: Sequence[int]) -> list[list[object]]:
        """A row of HEADS for each of some cells."""
        said = self.marked.verdicts(self.cells)
        return [
            [
                row.number,
                MARK_SIGNS[said[i]],
                row.state,
                row.reason,
                row.class_name,
                round(row.quality, 3),
                round(row.score, 3),
                row.area_px,
                row.votes,
            ]
            for i, row in ((i, self.rows[i]) for i in listed)
        ]

    def draw(self, listed: Sequence[int], chosen: int | None) -> list[Layer]:
        """The layers of a picture: the cells by their state; marks of any round filled; the chosen one white."""
        layers = [
            in_one_colour(self.cells.select([i for i in listed if self.rows[i].state == state]), colour, 0.12)
            for state, colour in OF_STATES.items()
        ]
        for verdict, colour in OF_MARKS.items():
            cells = cells_marked(self.marked, verdict, self.cells.height, self.cells.width)
            layers.append(in_one_colour(cells.with_(state="human"), colour, 0.55))
        if chosen is not None:
            layers.append(in_one_colour(self.cells.select([chosen]), CHOSEN, 0.0))
        return layers

    def at(self, listed: Sequence[int], x: float, y: float) -> int | None:
        """The cell under a point of the picture."""
        return cell_at(self.cells, listed, *self.view.pixel(x, y))

    def sentence(self, i: int) -> str:
        """What is known of a cell."""
        row, said = self.rows[i], self.marked.verdicts(self.cells)[i]
        mark = f" Marked: {MARK_SIGNS[said]}." if said else ""
        votes = f", {row.votes} votes" if row.votes > 1 else ""
        return (
            f"Cell {row.number}, {row.class_name}: **{row.state}** because: {row.why}. "
            f"Score {row.score:.3f}, calibrated {row.quality:.3f}, {row.area_px} px{votes}.{mark}"
        )


class Browser:
    """The pseudo-labels of a run, round by round."""

    def __init__(self, paths: RunPaths) -> None:
        self._paths = paths
        self._needs: dict[tuple[int, int], list[tuple[str, float]]] = {}

    @cached_property
    def config(self) -> Config:
        """The settings of the run."""
        return read_config(self._paths)

    def rounds(self) -> list[int]:
        """The rounds that have pseudo-labels now, the last first."""
        return labelled_rounds(self._paths, self.config)[::-1]

    def images(self, round: int, order: Order, contains: str = "") -> tuple[list[tuple[str, str]], int]:
        """(what the list shows, image id) of at most SHOWN images, and how many there are.

        By `need`, the images whose correction is worth most come first, as in `cellsemi review`.
        """
        if order == "need":
            found = [(f"{image_id}  (worth {value:.2f})", image_id) for image_id, value in self._by_need(round)]
        else:
            names = sorted(row["image_id"] for row in read_columns(self._folder(round), ["image_id"]))
            found = [(name, name) for name in names]
        found = [each for each in found if contains.lower() in each[1].lower()]
        return found[:SHOWN], len(found)

    def open(self, round: int, image_id: str) -> PseudoImage:
        """The pseudo-labels of an image; UsageError when the round has none of it."""
        record, image = _row(self._folder(round), image_id), _row(self._paths.split(UNLABELLED), image_id)
        assert image.image is not None, "the rows of a split hold their images"
        pixels = decode_image(image.image, image.source or image_id, image.height * image.width)
        pseudo = judged(self.config, self._paths, round, folds_of(self.config)[0].suffix, record)
        return PseudoImage(
            round,
            image_id,
            View.of(scaled(pixels, *intensity_range(pixels))),
            Instances.empty(record.height, record.width) if pseudo.cells is None else pseudo.cells,
            pseudo.rows,
            read_marks(self._paths.marks, image_id),
            self._note(image_id, pseudo.cells is None),
        )

    def mark(self, image: PseudoImage, index: Sequence[int], verdict: Verdict | None) -> MarkedImage:
        """Note a verdict (None: no verdict) on cells of an image; it is on disk when this returns.

        RunError when the folder of the run cannot be written.
        """
        return mark_cells(self._paths.marks, image.image_id, image.cells, index, verdict, image.round)

    def complete(self, image: PseudoImage, is_complete: bool) -> MarkedImage:
        """Note whether all that was not marked in an image is right; RunError as `mark`."""
        return mark_complete(self._paths.marks, image.image_id, image.round if is_complete else None)

    def _note(self, image_id: str, unpredicted: bool) -> str:
        """What a person must know of an image, in sentences."""
        notes = ["No teacher could predict this image."] if unpredicted else []
        given = batches(self._paths)
        own = last_batch(given).get(image_id)
        if own is not None:
            notes.append(self._labelled(read_batch(own), image_id))
        elif image_id in labelled_since(given, self._paths.split(UNLABELLED)):
            notes.append("An image with the same pixels was labelled by a person: this one teaches no more.")
        return " ".join(notes)

    def _labelled(self, batch: AddedBatch, image_id: str) -> str:
        """What a person said of an image, and from when on it counts."""
        image, round = batch.images[image_id], batch.from_round
        learnt = (self._paths.train(round, folds_of(self.config)[0].suffix) / MANIFEST).is_file()
        return (
            f"**A person labelled this image**: {image.kept + image.added + image.redrawn} cells, {image.removed} "
            f"masks that are none{', the rest is not labelled' * image.partly}. From round {round} on it teaches with "
            f"these labels, not with the pseudo-labels{f': the training set of round {round} holds them' * learnt}."
        )

    def _by_need(self, round: int) -> list[tuple[str, float]]:
        """(image id, worth) of the images that no person has labelled since, the most worth first; computed once."""
        given = batches(self._paths)
        key = round, len(given)
        if key not in self._needs:
            known, done = known_labels(self._paths, self.config), labelled_since(given, self._paths.split(UNLABELLED))
            grown = self.config.filter.ignore_dilation_px
            found = [
                (record.image_id, worth(record.instances, record.group, known, grown).total)
                for record in read_folder(self._folder(round))
                if record.instances is not None and record.image_id not in done
            ]
            self._needs[key] = sorted(found, key=lambda each: (-each[1], each[0]))
        return self._needs[key]

    def _folder(self, round: int) -> Path:
        return self._paths.pseudo(round, folds_of(self.config)[0].suffix)


def _row(folder: Path, image_id: str) -> ImageRecord:
    ids = [row["image_id"] for row in read_columns(folder, ["image_id"])]
    if image_id not in ids:
        raise UsageError(f"{folder}: holds no image {image_id}; refresh the list")
    record: ImageRecord = ShardSet(shard_paths(folder))[ids.index(image_id)]
    return record
