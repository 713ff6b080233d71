"""The fenced blocks of the guides, and a folder in which they run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tifffile
import torch
from helpers import exports, layouts
from helpers.applied import records, small_run, write_images, write_labels

from cellsemi.rounds.store.image_codec import decode_image

ROOT = Path(__file__).resolve().parents[2]
GUIDES = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, its text, and the number of its first line."""

    language: str
    text: str
    line: int


def blocks(name: str, language: str) -> Iterator[Block]:
    """The blocks of a guide in one language."""
    content = (ROOT / name).read_text(encoding="utf-8")
    for found in re.finditer(r"^```([a-z]*)\n(.*?)^```", content, re.M | re.S):
        if found[1] == language:
            yield Block(language, found[2], content[: found.start()].count("\n") + 2)


def shell_lines(name: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, words) of every line of the shell blocks, continued lines joined, comments taken off."""
    for block in blocks(name, "bash"):
        number = block.line
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words:
                yield number, words
            number += 1


def furnish(folder: Path) -> None:
    """What the guides take for granted: a finished run, labelled and unlabelled images, images of the user's own."""
    paths = small_run(folder)
    write_images(paths, "unlabelled", folder / "new_images")
    write_images(paths, "test", folder / "test_images")
    write_images(paths, "labelled", folder / "my_images" / "labelled")
    for split in ("labelled", "val", "test"):
        write_images(paths, split, folder / "my_images" / "labelled")
        write_labels(paths, split, folder / "my_images" / "labelled")
    write_images(paths, "unlabelled", folder / "my_images" / "unlabelled")
    write_images(paths, "test", folder / "labelled_images")
    write_labels(paths, "test", folder / "labelled_images")
    write_labels(paths, "test", folder / "other_tool")
    for name in ("cpsam", "cpsam.pth"):  # weights of a network that no test runs
        torch.save({"a": torch.zeros(1)}, folder / name)
    image = records(paths, "test")[0]
    assert image.image is not None
    tifffile.imwrite(folder / "plate7.tif", decode_image(image.image, "x"))


def furnish_sources(folder: Path) -> None:
    """What docs/how-to.md takes for granted: a small folder of each source's layout, below `data`."""
    sources = {
        "sartorius": layouts.sartorius,
        "livecell": layouts.livecell,
        "class-tiffs": layouts.class_tifs,
        "dsb2018": layouts.manifest,
        "dsb2018-kaggle": exports.bbbc038,
    }
    for name, write in sources.items():
        write(folder / "data" / name)
    for number, picture in enumerate(layouts.pictures("unlabelled")):
        layouts.save(folder / "data" / "sartorius" / "test" / f"{number:012x}.png", picture.pixels)
        layouts.save(folder / "data" / "class-tiffs" / "unlabelled" / picture.name / "image.tif", picture.pixels)
        place = folder / "data" / "dsb2018-kaggle" / "stage1_test" / picture.name
        layouts.save(place / "images" / f"{picture.name}.png", picture.pixels)
