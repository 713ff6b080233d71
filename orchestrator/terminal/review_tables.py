"""Prints what `cellsemi review` handed out and took back, and the next command."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from cellsemi.orchestrator.terminal.tables import table

if TYPE_CHECKING:
    from cellsemi.orchestrator.review.add import Taken
    from cellsemi.orchestrator.review.offer import Offer

LONGEST = 32  # letters of an image's name
SHOWN = 10  # images on the terminal; all are in review.csv


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 2]}.."


def print_offer(found: Offer) -> None:
    """The first images, why, and what to do."""
    console = Console()
    grid = table("image", "changes", "cells", "doubtful", "missed", "new sizes")
    for each in found.chosen[:SHOWN]:
        cells = each.record.instances
        states = Counter(cells.state) if cells is not None else Counter()
        grid.add_row(
            escape(_short(each.record.image_id)),
            f"{each.worth.changes:.0f}",
            str(states["accepted"]),
            str(states["ignored"]),
            f"{each.worth.missed:.0f}",
            f"{each.worth.new_sizes:.0%}",
        )
    console.print(grid)
    console.print("changes: labels that a correction is expected to change; doubtful: masks that teach nothing so far")
    if len(found.chosen) > SHOWN:
        console.print(f"and {len(found.chosen) - SHOWN} more in review.csv")
    console.print(
        f"{len(found.chosen)} of {found.pool} unlabelled images, with the labels of round {found.round}, are in "
        f"{escape(str(found.out))}/masks ({found.format}).\nCorrect them, save in place, then: "
        f"cellsemi review {escape(found.run)} --take {escape(str(found.out))}",
        soft_wrap=True,
    )


def print_taken(taken: Taken) -> None:
    """What each image was taken as, what was left, and the next command."""
    console = Console()
    if taken.images:
        grid = table("image", "taken", "kept", "added", "removed", "redrawn")
        for name, image in taken.images.items():
            counts = (str(n) for n in (image.kept, image.added, image.removed, image.redrawn))
            grid.add_row(escape(_short(name)), "in part" if image.partly else "whole", *counts)
        console.print(grid)
    for reason, count in Counter(taken.left.values()).items():
        console.print(f"{count} stay as they were: {escape(reason)}", soft_wrap=True)
    if taken.images:
        console.print(
            f"{len(taken.images)} images are human labels from round {taken.from_round} on. Next: "
            f"cellsemi round --n {taken.from_round} --run {escape(taken.run)}",
            soft_wrap=True,
        )
