"""Defines what a page is made of: sections of text, tables, plots and pictures, whatever they are about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph, or with a `kind` one that stands out: `lead` the verdict, `missing` what cannot be shown."""

    words: str
    kind: Literal["plain", "lead", "missing"] = "plain"
    block: Literal["text"] = "text"


@dataclass(frozen=True, slots=True)
class Items:
    """A list of sentences."""

    words: Sequence[str]
    block: Literal["items"] = "items"


@dataclass(frozen=True, slots=True)
class Code:
    """Text as it stands, such as a config."""

    words: str
    block: Literal["code"] = "code"


@dataclass(frozen=True, slots=True)
class Table:
    """A table with a caption; the first cell of a row names it. `folded`: shown when it is asked for."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: bool = False
    marked: int | None = None  # the row that stands out
    block: Literal["table"] = "table"


@dataclass(frozen=True, slots=True)
class Plot:
    """An SVG drawing; `alt` says in words what it shows."""

    title: str
    svg: str
    alt: str
    block: Literal["plot"] = "plot"


@dataclass(frozen=True, slots=True)
class Plots:
    """Plots that stand beside each other where there is room, with a heading where they need one."""

    plots: Sequence[Plot]
    title: str = ""
    block: Literal["plots"] = "plots"


@dataclass(frozen=True, slots=True)
class Picture:
    """An image as a data URI of `width` x `height` pixels; `alt` says in words what it shows."""

    uri: str
    width: int
    height: int
    title: str
    words: str
    alt: str


@dataclass(frozen=True, slots=True)
class Key:
    """What a colour of pictures stands for; `dashed`: its line is."""

    colour: str
    words: str
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Gallery:
    """Pictures with a heading and the key to their colours; `small`: many of them in a row."""

    title: str
    pictures: Sequence[Picture]
    keys: Sequence[Key] = ()
    small: bool = False
    folded: bool = False
    block: Literal["gallery"] = "gallery"


Block = Text | Items | Code | Table | Plots | Gallery


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page; `name` is what a link leads to."""

    name: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Page:
    """The page of a run: its name, one line below it, and the sections in the order in which a person asks."""

    run: str
    subtitle: str
    sections: Sequence[Section]
