"""Draws the pictures of docs/explain.md from a finished run with a flow model and a detector.

cellsemi round --n 0 --config docs/explain.yaml --engine inline
python docs/make_explain_pictures.py runs/explain test-00000
"""

from __future__ import annotations

import argparse
from io import BytesIO
from pathlib import Path

from PIL import Image

import cellsemi
from cellsemi.models.explanation import Explanation
from cellsemi.orchestrator.explain.pictures import ground_of, of_cells, of_member

HERE = Path(__file__).parent
WIDTH_PX, COLOURS = 900, 256  # small enough for a repository


def small(content: bytes) -> bytes:
    """The PNG at most WIDTH_PX wide, in few colours."""
    picture = Image.open(BytesIO(content)).convert("RGB")
    if picture.width > WIDTH_PX:
        size = WIDTH_PX, round(picture.height * WIDTH_PX / picture.width)
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    buffer = BytesIO()
    picture.quantize(COLOURS, Image.Quantize.MAXCOVERAGE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def main(run: str, image: str) -> None:
    """Write the pictures beside the guides."""
    found = cellsemi.explain(image, run=run)
    ground = ground_of(found)

    def of(name: str, member: Explanation, ending: str) -> bytes:
        figures = of_member(name, member, ground, found.classes)
        return next(figure.content for figure in figures if figure.name.endswith(ending))

    flow = next((name, member) for name, member in found.members.items() if not member.boxes)
    detector = next((name, member) for name, member in found.members.items() if member.boxes)
    pictures = {
        "explain-cells.png": next(of_cells(found, ground)).content,
        "explain-outputs.png": of(*flow, "-outputs.png"),
        "explain-boxes.png": of(*detector, "-boxes.png"),
    }
    for name, content in pictures.items():
        (HERE / name).write_bytes(small(content))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("image")
    arguments = parser.parse_args()
    main(arguments.run, arguments.image)
