"""Draws docs/demo.png from a finished run of the demo: image, human labels, round 0, what the run recommends.

    cellsemi round --n 3 && python docs/make_picture.py runs/demo

Of each magnification the test image is shown whose gain is the median: neither the best nor the worst.
"""

from __future__ import annotations

import argparse
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import cellsemi
from cellsemi.orchestrator.apply.choose_model import of_run
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.colours import INK, PAPER
from cellsemi.rounds.drawing import cell_colours, class_colours, draw_cells, scaled
from cellsemi.rounds.evaluation.ensemble import delivered, read_ensemble
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.image_codec import decode_image
from cellsemi.rounds.store.run import RunPaths, read_config
from cellsemi.rounds.store.schemas import ImageRecord

HERE = Path(__file__).parent
WIDTH_PX, GAP_PX, TITLE_PX = 320, 8, 24
TITLES = ("image", "human labels", "before: round 0", "after the rounds")


def predictions(paths: RunPaths, round: int, name: str) -> dict[str, Instances]:
    """The cells of the test images that are kept, by image."""
    cutoffs = of_run(paths, round, name).model.recipe.cutoffs
    found = shards.read_folder(paths.predictions(round, name, "test"))
    cells = {record.image_id: record.instances for record in found if record.instances is not None}
    return {image_id: cutoffs.kept(each) for image_id, each in cells.items()}


def chosen(paths: RunPaths) -> list[tuple[ImageRecord, Instances, Instances]]:
    """(image, cells of round 0, cells of what is recommended) of the median gain, for each magnification."""
    after = delivered(paths)
    first = read_ensemble(paths, 0)
    before, now = predictions(paths, 0, first.name), predictions(paths, after.round, after.name)
    count = len(read_config(paths).data.generated.magnifications)
    gains: list[list[tuple[float, ImageRecord]]] = [[] for _ in range(count)]
    for record in shards.read_folder(paths.split("test")):
        assert record.instances is not None
        score = [cellsemi.score(each[record.image_id], record.instances).map for each in (before, now)]
        assert record.group is not None, "generated images belong to wells, which take the magnifications in turn"
        well = int(record.group.rpartition("well")[2])
        gains[well % count].append((score[1] - score[0], record))
    shown = [sorted(each, key=lambda pair: pair[0])[len(each) // 2][1] for each in gains]
    return [(record, before[record.image_id], now[record.image_id]) for record in shown]


def panels(record: ImageRecord, before: Instances, now: Instances, classes: tuple[str, ...]) -> list[Image.Image]:
    """The four pictures of a row; the outlines are drawn at the size at which they are shown."""
    assert record.image is not None and record.instances is not None
    size = WIDTH_PX, round(WIDTH_PX * record.height / record.width)
    pixels = decode_image(record.image, record.image_id)
    ground = Image.fromarray(scaled(pixels, record.low or 0.0, record.high or 255.0)).resize(
        size, Image.Resampling.BICUBIC
    )
    found = [ground]
    for cells in (record.instances, before, now):
        canvas = np.array(ground)
        labels = Image.fromarray(masks.to_label_map(cells)).resize(size, Image.Resampling.NEAREST)
        draw_cells(canvas, np.array(labels), cells, cell_colours(cells, classes, class_colours(classes)))
        found.append(Image.fromarray(canvas))
    return found


def strip(paths: RunPaths) -> bytes:
    """The PNG of the whole picture."""
    classes = read_config(paths).data.classes
    rows = [panels(*row, classes) for row in chosen(paths)]
    height = rows[0][0].height
    size = (len(TITLES) * (WIDTH_PX + GAP_PX) - GAP_PX, TITLE_PX + len(rows) * (height + GAP_PX) - GAP_PX)
    sheet = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for column, title in enumerate(TITLES):
        x = column * (WIDTH_PX + GAP_PX)
        draw.text((x + 2, 3), title, fill=INK, font=font)
        for row, pictures in enumerate(rows):
            sheet.paste(pictures[column], (x, TITLE_PX + row * (height + GAP_PX)))
    buffer = BytesIO()
    sheet.quantize(255, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def main() -> None:
    """Draw the picture of a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.add_argument("--out", type=Path, default=HERE / "demo.png")
    options = parser.parse_args()
    options.out.write_bytes(strip(RunPaths(options.run.resolve())))


if __name__ == "__main__":
    main()
