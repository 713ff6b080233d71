"""Makes the pictures of an explanation, in the order in which a person reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cellsemi.models.explanation import Explanation, Map
from cellsemi.orchestrator.explain.explain import Explained
from cellsemi.orchestrator.explain.numbered import Numbered, Page
from cellsemi.orchestrator.explain.reasons import CellRow
from cellsemi.orchestrator.explain.run_image import PseudoLabels
from cellsemi.orchestrator.explain.sheets import (
    Panel,
    bars_of_shares,
    sheet_of_boxes,
    sheet_of_maps,
    sheet_of_panels,
    with_outlines,
)
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.colours import PALETTE, Colour
from cellsemi.rounds.drawing import RGB, class_colours, scaled

KEPT, DROPPED = "kept", "dropped"
ORANGE, GREEN, RED = PALETTE[0], PALETTE[2], PALETTE[5]
HARDLY = 0.1  # of the score that is asked for: dropped cells below would hide the others
SPECK_PX = 9
OF_CELLS: dict[str, Colour] = {KEPT: GREEN, DROPPED: RED}
OF_STATES: dict[str, Colour] = {"accepted": GREEN, "ignored": ORANGE, "rejected": RED}


@dataclass(frozen=True, slots=True)
class Figure:
    """A PNG with its file name, its title, and the sentences that explain it."""

    name: str
    title: str
    notes: tuple[str, ...]
    content: bytes


def ground_of(found: Explained) -> RGB:
    """uint8 (H, W, 3): the image from its dark to its bright end."""
    return scaled(found.pixels, found.record.low or 0.0, found.record.high or 0.0)


def all_figures(found: Explained) -> Iterator[Figure]:
    """Every picture of an explanation."""
    ground = ground_of(found)
    yield from of_cells(found, ground)
    for pseudo in () if found.known is None else found.known.pseudo:
        yield from of_pseudo_labels(pseudo, ground)
    yield from of_shares(found)
    for name, member in found.members.items():
        yield from of_member(name, member, ground, found.classes)


def of_cells(found: Explained, ground: RGB) -> Iterator[Figure]:
    """The cells with their numbers, then what each member found beside what they make together, and the human cells."""
    drawn = [i for i, row in enumerate(found.rows) if row.kept or _is_seen(row)]
    kinds = [KEPT if found.rows[i].kept else DROPPED for i in drawn]
    numbers = [found.rows[i].number for i in drawn]
    pages, left = Numbered(ground, found.cells.select(drawn), numbers, kinds, OF_CELLS).pages()
    hardly = len(found.rows) - len(drawn)
    note = (
        f"{hardly} of the dropped ones are not drawn: they have less than a tenth of the score that is asked for, or "
        f"fewer than {SPECK_PX} pixels."
        if hardly
        else ""
    )
    yield from _numbered("cells", "Cells, kept and dropped", pages, left, note)
    panels = [Panel("the image", with_outlines(ground, _none(found), found.classes, {}), _whole(ground))]
    colours = class_colours(found.classes) if len(found.classes) > 1 else {}
    if found.fused:
        panels += [
            _panel(f"{name}: {len(member.cells)} cells", ground, member.cells, found.classes, colours)
            for name, member in found.members.items()
        ]
    title = f"{'together' if found.fused else 'kept'}: {len(found.kept)} kept"
    panels.append(_panel(title, ground, found.kept, found.classes, colours))
    truth = None if found.known is None else found.known.truth
    if truth is not None:
        panels.append(_panel(f"human: {len(truth)} cells", ground, truth, found.classes, colours))
    notes = ["Of the members all cells are drawn, of whatever score."] if found.fused else []
    if colours:
        notes.append("Colours are those of the classes; grey with stripes: to be ignored.")
    yield Figure("instances.png", "Instances", tuple(notes), sheet_of_panels(panels))


def of_pseudo_labels(pseudo: PseudoLabels, ground: RGB) -> Iterator[Figure]:
    """The pseudo-labels of an image with their numbers, coloured by what the filter said."""
    if pseudo.cells is None:
        return
    numbers = [row.number for row in pseudo.rows]
    name = f"pseudo-labels{pseudo.fold}"
    states = [str(state) for state in pseudo.cells.state]
    pages, left = Numbered(ground, pseudo.cells, numbers, states, OF_STATES).pages()
    yield from _numbered(name, f"Pseudo-labels of round {pseudo.round}{pseudo.fold}", pages, left)


def of_member(name: str, member: Explanation, ground: RGB, classes: Sequence[str]) -> Iterator[Figure]:
    """What one model computed: a sheet of each group of maps, then its boxes."""
    for group in dict.fromkeys(each.group for each in member.maps):
        every = [each for each in member.maps if each.group == group]
        notes = dict.fromkeys(f"{_titles(every, each.note)}: {each.note}." for each in every)
        yield Figure(f"{name}-{group}.png", f"{name}: {group}", tuple(notes), sheet_of_maps(ground, every, classes))
    if member.boxes:
        notes = dict.fromkeys(f"{each.name[0].upper()}{each.name[1:]}: {each.note}." for each in member.boxes)
        yield Figure(f"{name}-boxes.png", f"{name}: boxes", tuple(notes), sheet_of_boxes(ground, member.boxes))


def of_shares(found: Explained) -> Iterator[Figure]:
    """How the activation is shared out over the components of each network, where any is known."""
    shares = {name: own for name, member in found.members.items() if (own := member.shares())}
    if shares:
        note = (
            "The mean absolute activation of a component, over all numbers that it puts out for the window that is "
            "shown, over the sum of those of all components. It says how large the numbers are that a component passes "
            "on, and not how much it matters."
        )
        yield Figure("shares.png", "Share of activation", (note,), bars_of_shares(shares))


def _numbered(name: str, title: str, pages: Sequence[Page], left: int, note: str = "") -> Iterator[Figure]:
    for number, page in enumerate(pages, start=1):
        x0, y0, x1, y1 = page.area
        many = len(pages) > 1
        notes = [f"Drawn {page.zoom:.2g} times as large." if page.zoom != 1 else "Drawn at its own size."]
        if many:
            notes.append(f"This part shows x {x0} to {x1}, y {y0} to {y1}; the legend counts the whole image.")
        if page.unnumbered:
            notes.append(f"{page.unnumbered} small cells have no number here, where it would hide another.")
        if left and number == len(pages):
            notes.append(f"{left} cells lie in parts that are not drawn; they stand in the table.")
        notes += [note] if note and number == 1 else []
        yield Figure(
            f"{name}-{number}.png" if many else f"{name}.png",
            f"{title}, part {number} of {len(pages)}" if many else title,
            tuple(notes),
            page.content,
        )


def _panel(title: str, ground: RGB, cells: Instances, classes: Sequence[str], colours: dict[str, Colour]) -> Panel:
    return Panel(title, with_outlines(ground, cells, classes, colours), _whole(ground))


def _is_seen(row: CellRow) -> bool:
    """Whether a dropped cell is drawn."""
    return row.score >= HARDLY * row.min_score and row.area_px >= SPECK_PX


def _whole(ground: RGB) -> tuple[int, int, int, int]:
    return 0, 0, ground.shape[1], ground.shape[0]


def _none(found: Explained) -> Instances:
    return Instances.empty(*np.shape(found.pixels)[:2])


def _titles(maps: Sequence[Map], note: str) -> str:
    """The names of the maps that a sentence is about."""
    names = list(dict.fromkeys(each.name for each in maps if each.note == note))
    text = ", ".join(names) if len(names) < 4 else f"{names[0]} to {names[-1]}"
    return f"{text[0].upper()}{text[1:]}"
