"""A COCO file of LIVECell's size: time and memory of cellsemi's import and of pycocotools; to coco.md.

    python benchmarks/coco.py [--instances N] [--images N] [--peer-images N]

The file is generated: outlines of cells as polygons, every tenth as compressed run lengths, the annotations of
all images mixed. Each measurement is a process of its own. pycocotools holds all annotations and makes a bitmap
of each mask; it does so for some of the images, and the time is scaled.
"""

from __future__ import annotations

import contextlib
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from pycocotools import mask as coco
from pycocotools.coco import COCO

from cellsemi.configs.data import DataConfig
from cellsemi.configs.loading import config_hash
from cellsemi.configs.schema import Config
from cellsemi.rounds.datasets.ingest import ingest
from cellsemi.rounds.datasets.open import open_data
from cellsemi.rounds.store.image_codec import to_png
from cellsemi.rounds.store.run import versions

sys.path.insert(0, str(Path(__file__).parent))
from machine import describe

HERE = Path(__file__).parent
HEIGHT, WIDTH = 520, 704
UNLABELLED = 8192  # distinct masks
FILE = "annotations.json"
HEADER = ("what", "seconds", "cells/s", "peak memory, MB")


@click.command()
@click.option("--instances", default=1_600_000, show_default=True)
@click.option("--images", default=5000, show_default=True)
@click.option("--peer-images", default=250, show_default=True, help="Images whose masks pycocotools decodes.")
@click.option("--step", type=click.Choice(["generate", "import", "load", "peer"]), hidden=True)
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
def main(instances: int, images: int, peer_images: int, step: str | None, folder: Path | None) -> None:
    """Measure and write the table."""
    sizes = {"instances": instances, "images": images, "peer_images": min(peer_images, images)}
    if step is not None:
        assert folder is not None
        print(json.dumps(_measured(lambda: STEPS[step](folder, **sizes))))
        return
    with tempfile.TemporaryDirectory() as made:
        found = {step: _in_a_process(step, Path(made), sizes) for step in STEPS}
        megabytes = (Path(made) / FILE).stat().st_size / 1e6
    text = _text(found, sizes, megabytes)
    (HERE / "coco.md").write_text(text)
    print(text)


def _in_a_process(step: str, folder: Path, sizes: dict[str, int]) -> dict[str, float]:
    options = [f"--{name.replace('_', '-')}={value}" for name, value in sizes.items()]
    command = [sys.executable, __file__, *options, f"--step={step}", f"--folder={folder}"]
    result: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    print(f"{step}: {result}", file=sys.stderr)
    return result


def _measured(step: Callable[[], dict[str, float]]) -> dict[str, float]:
    started = time.perf_counter()
    found = step()
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, **found}


# --- the steps ----------------------------------------------------------------------------------------


def generate(folder: Path, instances: int, images: int, peer_images: int) -> dict[str, float]:
    """The file and its images, each with its number in the pixels, so that no two are the same."""
    rng = np.random.default_rng(0)
    masks = [_mask(rng, as_rle=i % 10 == 0) for i in range(UNLABELLED)]
    (folder / "images").mkdir()
    for i in range(images):
        pixels = np.full((HEIGHT, WIDTH), 128, np.uint8)
        pixels[0, :4] = np.frombuffer(i.to_bytes(4, "little"), np.uint8)
        (folder / "images" / f"{i}.png").write_bytes(to_png(pixels))
    owners = rng.permutation(np.arange(instances) % images).tolist()
    chosen = rng.integers(0, UNLABELLED, instances).tolist()
    listed = [{"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in range(images)]
    with (folder / FILE).open("w") as file:
        file.write(f'{{"images": {json.dumps(listed)}, "categories": [{{"id": 1, "name": "cell"}}],\n"annotations": [')
        for number, (owner, mask) in enumerate(zip(owners, chosen, strict=True)):
            comma = "," if number else ""
            file.write(f'{comma}\n{{"id": {number}, "image_id": {owner}, "category_id": 1, {masks[mask]}}}')
        file.write("]}\n")
    return {}


def _mask(rng: np.random.Generator, as_rle: bool) -> str:
    """The JSON of one wavy ellipse of 30 to 60 points and some 300 pixels, with its box and area."""
    turn = np.linspace(0, 2 * np.pi, rng.integers(30, 61), endpoint=False)
    radius = 1 + 0.15 * np.sin(rng.integers(2, 6) * turn + rng.uniform(0, 6))
    x = rng.uniform(20, WIDTH - 20) + rng.uniform(6, 16) * radius * np.cos(turn)
    y = rng.uniform(20, HEIGHT - 20) + rng.uniform(6, 16) * radius * np.sin(turn)
    ring = np.stack([x, y], axis=1).round(2).reshape(-1).tolist()
    (rle,) = coco.frPyObjects([ring], HEIGHT, WIDTH)
    segmentation = {"size": rle["size"], "counts": rle["counts"].decode()} if as_rle else [ring]
    box = coco.toBbox([rle])[0].tolist()
    content = {"segmentation": segmentation, "bbox": box, "area": float(coco.area([rle])[0]), "iscrowd": 0}
    return json.dumps(content)[1:-1]


def import_all(folder: Path, instances: int, images: int, peer_images: int) -> dict[str, float]:
    """cellsemi's import: listing, images decoded and hashed, cells, splits, leak check, Parquet shards."""
    config = _config(folder)
    report = ingest(config, folder / "shards", config_hash(config), lambda *_: None)
    assert sum(report.cells.values()) == instances and not report.quarantined
    return {}


def load_all(folder: Path, instances: int, images: int, peer_images: int) -> dict[str, float]:
    """Only the listing, and every image with its cells, one after the other."""
    started = time.perf_counter()
    items = open_data(_config(folder)).items
    listing = time.perf_counter() - started
    count = sum(len(found) for item in items if (found := item.load().record.instances) is not None)
    assert count == instances
    return {"listing": listing}


def peer(folder: Path, instances: int, images: int, peer_images: int) -> dict[str, float]:
    """pycocotools: the whole file in memory, and a bitmap of each mask of some images."""
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = COCO(str(folder / FILE))
    listing = time.perf_counter() - started
    count, started = 0, time.perf_counter()
    for image in sorted(dataset.imgs)[:peer_images]:
        for annotation in dataset.imgToAnns[image]:
            dataset.annToMask(annotation)
            count += 1
    decoding = (time.perf_counter() - started) * instances / count
    return {"seconds": listing + decoding, "listing": listing, "decoded": count}


def _config(folder: Path) -> Config:
    return Config(data=DataConfig(source="coco", root=str(folder), annotations=FILE, classes=("cell",)))


STEPS: dict[str, Callable[..., dict[str, float]]] = {
    "generate": generate,
    "import": import_all,
    "load": load_all,
    "peer": peer,
}


# --- the table ----------------------------------------------------------------------------------------


def _text(found: dict[str, dict[str, Any]], sizes: dict[str, int], megabytes: float) -> str:
    cells = sizes["instances"]
    load, whole = found["load"], found["peer"]
    rows = [
        _row("cellsemi: import into shards", found["import"], cells),
        _row(f"cellsemi: every image and its cells (of it {load['listing']:.0f} s for the listing)", load, cells),
        _row(f"pycocotools: COCO(), annToMask (of it {whole['listing']:.0f} s for COCO())", whole, cells),
    ]
    lines = ["| " + " | ".join(row) + " |" for row in [HEADER, ["---"] * len(HEADER), *rows]]
    less = whole["memory"] / found["import"]["memory"]
    share = load["seconds"] / whole["seconds"]
    return f"""# COCO: {cells:,} cells on {sizes["images"]:,} images of {WIDTH}x{HEIGHT}

{describe()}, pycocotools {versions()["pycocotools"]}. The generated file has {megabytes:,.0f} MB: wavy ellipses of
30-60 points ({UNLABELLED} distinct ones, reused), every tenth as compressed run lengths, the annotations of all images
mixed. One process each, one core. Written by
`benchmarks/coco.py --instances {cells} --images {sizes["images"]} --peer-images {sizes["peer_images"]}`.

{chr(10).join(lines)}

pycocotools' time is `COCO()` plus `annToMask` of {whole["decoded"]:,} cells (the first {sizes["peer_images"]} images),
scaled to all of them; it does not read an image, check a mask or measure it. Both times of cellsemi have the images
decoded and hashed. Peak memory of pycocotools is {less:.1f} times that of the import; reading all cells takes
{share:.2f} of the time that bitmaps of all cells take.
"""


def _row(what: str, result: dict[str, float], cells: int) -> list[str]:
    return [what, f"{result['seconds']:.0f}", f"{cells / result['seconds']:,.0f}", f"{result['memory']:,.0f}"]


if __name__ == "__main__":
    main()
