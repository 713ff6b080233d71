"""Defines what is known of an exported data set: its files, its cells, who or what labelled it, and its licence.

Croissant and RO-Crate are written from this, and from nothing else. What nobody stated and no run knows is None.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from cellsemi.rounds.cells.instances import STATES, State
from cellsemi.rounds.formats.base import Exported
from cellsemi.rounds.store.schemas import ImageRecord

IGNORED_LOST = "ignored cells"  # what writers call the ignored cells that their format has no place for

# Media types of the files that exports hold, by suffix; tables of the system differ from machine to machine.
MEDIA_TYPES = {
    ".bmp": "image/bmp",
    ".csv": "text/csv",
    ".geojson": "application/geo+json",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".png": "image/png",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".zip": "application/zip",
}


@dataclass(frozen=True, slots=True)
class Stated:
    """What only a person can say of a data set; None or empty where nobody did.

    `licence` is an SPDX identifier, an address, or words; `published` a day as YYYY-MM-DD.
    """

    creators: tuple[str, ...] = ()
    licence: str | None = None
    url: str | None = None
    published: str | None = None
    description: str | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file of the data set: its path in it with `/`, its hex sha256, its size in bytes."""

    path: str
    sha256: str
    size_bytes: int

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.path).suffix.lower()

    @property
    def media_type(self) -> str:
        return MEDIA_TYPES.get(self.suffix, "application/octet-stream")


@dataclass(frozen=True, slots=True)
class ModelFact:
    """A model that labelled: `sha256` is of its weights, None where it has none of its own (masks of another tool).

    `started_from` names the weights that it started from, None from scratch; `weights_licence` is what is known of
    their licence.
    """

    name: str
    kind: str
    sha256: str | None = None
    started_from: str | None = None
    weights_licence: str = ""


@dataclass(frozen=True, slots=True)
class Lineage:
    """How the labels came to be. `subject` names them; `method`, `criteria` and `confidence` are sentences.

    `by_machine`: models made the labels, else the run was given them. `criteria` says which cells were kept,
    `confidence` how good the labels were found to be. `partly`: people may not have labelled whole images.
    """

    subject: str
    method: str
    by_machine: bool
    criteria: str | None = None
    confidence: str | None = None
    models: tuple[ModelFact, ...] = ()
    partly: bool = False


@dataclass(frozen=True, slots=True)
class RunFact:
    """The run behind the labels. `created` is an ISO time; `shards` has the sha256 of each table that was read, by its
    path in the run; `data_version` is the hash of all files of the data set, where the run has it."""

    name: str
    created: str
    cellsemi: str
    config_hash: str
    data: str
    data_source: str
    data_fingerprint: str
    data_version: str | None
    shards: Mapping[str, str]


@dataclass(slots=True)
class Counted:
    """The images and cells that were selected for the export, counted on their way to the writer.

    `sizes` are the (height, width) of the images in pixels.
    """

    images: int = 0
    without_cells: int = 0
    states: dict[State, int] = field(default_factory=dict)
    classes: dict[int, int] = field(default_factory=dict)
    sizes: set[tuple[int, int]] = field(default_factory=set)

    def watch(self, records: Iterable[ImageRecord]) -> Iterator[ImageRecord]:
        """The records as they are."""
        for record in records:
            self.images += 1
            self.sizes.add((record.height, record.width))
            found = record.instances
            self.without_cells += found is None or not len(found)
            if found is not None:
                for state in found.state:
                    self.states[state] = self.states.get(state, 0) + 1
                for class_id in found.class_id.tolist():
                    self.classes[class_id] = self.classes.get(class_id, 0) + 1
            yield record

    def written(self, done: Exported) -> dict[State, int]:
        """The cells that the files hold by state, in the order of STATES.

        Ignored ones that the format has no place for are not in it. Where others were lost, too, and were of several
        states, nobody knows of which: then these are the cells before that loss, which stands in the limits.
        """
        found = {state: self.states.get(state, 0) for state in STATES}
        found["ignored"] -= done.losses[IGNORED_LOST]
        left = {state: count for state, count in found.items() if count}
        return dict.fromkeys(left, done.cells) if len(left) == 1 and done.cells else left


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """Everything that the metadata of an exported data set states.

    `unseen` images are in it without cells because no model could predict them; they count in `without_cells`.
    """

    name: str
    description: str
    licence: str
    creators: tuple[str, ...]
    url: str
    published: str
    version: str | None
    format: str
    layout: str
    classes: tuple[str, ...]
    images: int
    without_cells: int
    unseen: int
    cells: int
    cells_by_state: Mapping[State, int]
    cells_by_class: Mapping[str, int]
    sizes: tuple[tuple[int, int], ...]
    losses: Mapping[str, int]
    lineage: Lineage
    run: RunFact
    files: tuple[DataFile, ...]

    @property
    def licence_url(self) -> str | None:
        """The address of the licence; None where it was stated in words."""
        if self.licence.startswith(("https://", "http://")):
            return self.licence
        return None if " " in self.licence else f"https://spdx.org/licenses/{self.licence}"

    @property
    def states_in_words(self) -> str:
        """`12 predicted, 3 ignored`."""
        return ", ".join(f"{count} {state}" for state, count in self.cells_by_state.items()) or "none"

    @property
    def limits(self) -> list[str]:
        """What whoever uses the labels must know, a sentence each."""
        lineage = self.lineage
        found = [f"Not in these files: {count} {what}." for what, count in sorted(self.losses.items())]
        if lineage.by_machine:
            found.append("Models made these labels; errors that they make often are in them.")
        if self.cells_by_state.get("ignored"):
            found.append("Cells in the state `ignored` are too uncertain to be cells or background; leave them out.")
        return found


def describe(subject: str, data: str, run: str, cells: str, format: str) -> str:
    """The description of a data set where nobody stated one."""
    return (
        f"{subject[0].upper()}{subject[1:]} of the microscopy data set {data}, for instance segmentation. "
        f"Cells: {cells}. Written by cellsemi from its run {run} in the format {format}."
    )


def citation(facts: DatasetFacts) -> str:
    """BibTeX from what was stated; nothing is added."""
    fields = {
        "title": f"{{{facts.name}}}",
        "author": " and ".join(facts.creators),
        "year": facts.published[:4],
        "url": facts.url,
        **({"version": facts.version} if facts.version else {}),
    }
    body = ", ".join(f"{key} = {{{value}}}" for key, value in fields.items())
    return f"@misc{{cellsemi_dataset, {body}}}"
