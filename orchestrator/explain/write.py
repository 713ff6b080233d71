"""Writes an explanation into a folder: pictures, the table of its cells, and a page that shows them all.

FOLDER/index.html              open it in a browser
FOLDER/cells.csv cells.md      a row for each cell, kept or dropped, and why
FOLDER/pseudo-labels.csv       what the filter said, of an unlabelled image of the run
FOLDER/*.png
"""

from __future__ import annotations

import csv
import html
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from io import StringIO
from pathlib import Path
from typing import Any

from cellsemi.configs.errors import UsageError
from cellsemi.orchestrator.explain.explain import Explained
from cellsemi.orchestrator.explain.pictures import (
    Figure,
    ground_of,
    of_cells,
    of_member,
    of_pseudo_labels,
    of_shares,
)
from cellsemi.orchestrator.explain.reasons import CellRow, PseudoRow
from cellsemi.orchestrator.explain.run_image import PseudoLabels
from cellsemi.rounds.store import files

INDEX = "index.html"
MARK = "cellsemi explain"  # what the index names as its generator; a folder without it is not written over
LISTED = 200  # rows of a table on the page; the file has all
STYLE = """
:root { color-scheme: light dark; --line: #8886; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 0 auto; padding: 1rem; }
img { max-width: 100%; height: auto; background: #fff; }
figure { margin: 1rem 0 2rem; } figcaption { max-width: 60rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; }
th, td { border-bottom: 1px solid var(--line); padding: .2rem .6rem; text-align: left; white-space: nowrap; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
"""


def write_explanation(found: Explained, out: Path) -> list[Path]:
    """Write everything into the folder `out`, in the place of an earlier explanation; returns the files.

    UsageError when `out` holds anything else.
    """
    if out.is_dir() and any(out.iterdir()) and not _is_ours(out):
        raise UsageError(f"{out}: holds other files; name a new folder with --out")
    fresh = out.with_name(f".{out.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    with files.atomic_folder(fresh) as folder:
        _write(found, folder)
    with files.explained(out):
        if out.is_dir():
            shutil.rmtree(out)
        fresh.replace(out)
    return sorted(out.iterdir())


def summary(found: Explained) -> str:
    """What was found, in one sentence."""
    kept = len(found.kept)
    return (
        f"{found.model}: {len(found.rows)} cells found in {found.image_id}, {kept} kept, {len(found.rows) - kept} not"
    )


def _is_ours(out: Path) -> bool:
    page = out / INDEX
    return page.is_file() and MARK in page.read_text(encoding="utf-8", errors="replace")[:400]


def _write(found: Explained, folder: Path) -> None:
    body = [f"<h1>{_text(found.image_id)}</h1>", *_paragraphs([summary(found) + ".", *found.notes])]
    ground = ground_of(found)
    body += _figures(of_cells(found, ground), folder)
    rows = [asdict(row) for row in found.rows]
    columns = [field.name for field in fields(CellRow)]
    files.write_text(folder / "cells.csv", _csv(columns, rows))
    files.write_text(folder / "cells.md", _markdown(summary(found), columns, rows))
    body += _table("Why each cell was kept or dropped", columns, rows, "cells.csv")
    for pseudo in () if found.known is None else found.known.pseudo:
        body += _pseudo(pseudo, found, folder)
    body += _figures(of_shares(found), folder)
    for name, member in found.members.items():
        body += [f"<h2>{_text(name)}</h2>", *_paragraphs(member.notes)]
        body += _figures(of_member(name, member, ground, found.classes), folder)
    files.write_text(folder / INDEX, _page(found.image_id, body))


def _pseudo(pseudo: PseudoLabels, found: Explained, folder: Path) -> Iterator[str]:
    yield f"<h2>As a pseudo-label of round {pseudo.round}{_text(pseudo.fold)}</h2>"
    if pseudo.cells is None:
        yield from _paragraphs(["No teacher could predict this image: it trained nobody."])
        return
    said = (
        "What the filter said of each cell that the teachers of the round found together, with their settings for "
        "unlabelled images: accepted ones train with their weight, ignored ones leave the loss, rejected ones are "
        "background."
    )
    yield from _paragraphs([said])
    yield from _figures(of_pseudo_labels(pseudo, ground_of(found)), folder)
    rows, columns = [asdict(row) for row in pseudo.rows], [field.name for field in fields(PseudoRow)]
    name = f"pseudo-labels{pseudo.fold}.csv"
    files.write_text(folder / name, _csv(columns, rows))
    yield from _table("What the filter said", columns, rows, name)


def _figures(figures: Iterator[Figure], folder: Path) -> Iterator[str]:
    for figure in figures:
        files.write_bytes(folder / figure.name, figure.content)
        caption = " ".join(figure.notes)
        yield (
            f'<figure><h3>{_text(figure.title)}</h3><img src="{_text(figure.name)}" alt="{_text(figure.title)}">'
            f"<figcaption>{_text(caption)}</figcaption></figure>"
        )


def _table(title: str, columns: Sequence[str], rows: Sequence[dict[str, Any]], file: str) -> Iterator[str]:
    yield f"<h3>{_text(title)}</h3>"
    shown = f"The first {LISTED} of {len(rows)} rows; all" if len(rows) > LISTED else "All"
    yield f'<p>{shown} are in <a href="{_text(file)}">{_text(file)}</a>.</p>'
    head = "".join(f"<th>{_text(_heading(name))}</th>" for name in columns)
    yield f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>'
    for row in rows[:LISTED]:
        yield "<tr>" + "".join(_cell(row[name]) for name in columns) + "</tr>"
    yield "</tbody></table></div>"


def _cell(value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f'<td class="n">{_shown(value)}</td>' if number else f"<td>{_text(_shown(value))}</td>"


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _heading(name: str) -> str:
    return name.replace("_", " ")


def _csv(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    buffer = StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _markdown(title: str, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    lines = [f"# {title}", "", f"| {' | '.join(map(_heading, columns))} |", f"|{'---|' * len(columns)}"]
    lines += ["| " + " | ".join(_shown(row[name]).replace("|", "\\|") for name in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _page(title: str, body: Sequence[str]) -> str:
    return "\n".join(
        [
            "<!doctype html>",
            f'<html lang="en"><head><meta charset="utf-8"><meta name="generator" content="{MARK}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{_text(title)} explained</title><style>{STYLE}</style></head><body><main>",
            *body,
            "</main></body></html>\n",
        ]
    )


def _paragraphs(sentences: Sequence[str]) -> list[str]:
    return [f"<p>{_text(sentence)}</p>" for sentence in sentences]


def _text(text: str) -> str:
    return html.escape(text)
