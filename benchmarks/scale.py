"""A pool of many small images from files to trained students: the driver's memory and time, and where it goes.

    python benchmarks/scale.py --images N [--full-size] [--engine ray] [--workers 2] [--keep FOLDER] [--json]

The images are generated as PNG files of 64 x 64 px, a few round cells in each, no two alike. One run reads them,
trains a small teacher on 24 labelled ones, labels all others in one round and trains a student on them: the work of a
real run, with networks that take no time. The driver is a process of its own; this one looks at its memory, at its CPU
seconds and at its workers four times a second. The line goes to scale.json, and the table of all lines to scale.md.
With `--full-size` the images are of 520 x 704 px with 300 cells, for the bytes and the CPU seconds of such ones; with
`--engine inline` all CPU seconds are those of one process.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from datetime import datetime
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil
import yaml
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from machine import describe

HERE = Path(__file__).parent
SIDE_PX = 64
FULL_PX = (520, 704)  # of LIVECell (Edlund et al. 2021), with some 300 cells an image
FULL_STEP_PX = 35
PER_FOLDER = 1000  # files of the pool in one folder
ANNOTATED = {"labelled": 24, "val": 8, "test": 8}
LOOK_EVERY_S = 0.25
DRIVER = """
import resource, sys
from cellsemi.orchestrator.cli.main import main
try:
    main()
finally:
    used = resource.getrusage(resource.RUSAGE_SELF)
    print("USED", used.ru_maxrss, used.ru_utime, used.ru_stime, file=sys.stderr, flush=True)
"""
KINDS = {  # the first words of a stage's name -> its row
    "read images": "read images",
    "build": "build training sets",
    "train": "train",
    "label unlabelled": "label unlabelled images (predict, fuse, filter)",
    "predict unlabelled": "predict unlabelled images",
    "predict": "predict val and test",
    "fuse": "fuse",
    "filter": "filter",
    "check drift": "check drift",
}
OTHERS = "calibrate, evaluate, finish"
BETWEEN = "start, end, between stages"


# --- the images ---------------------------------------------------------------------------------------


def make_image(number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(image, label map) of 64 x 64 px: one to four bright discs apart, on noise; a function of `number`."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX]
    image = rng.integers(8, 24, (SIDE_PX, SIDE_PX), np.uint8)
    labels = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    quarters = rng.permutation(4)[: rng.integers(1, 5)]
    for cell, quarter in enumerate(quarters.tolist(), start=1):
        radius = rng.uniform(5, 11)
        top, left = divmod(quarter, 2)
        inside = np.hypot(y - 32 * top - rng.uniform(13, 19), x - 32 * left - rng.uniform(13, 19)) <= radius
        labels[inside] = cell
        image[inside] += np.uint8(rng.integers(90, 200))
    return image, labels


def make_full_image(number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """The same of 520 x 704 px, with a disc in each place of a grid: 280 cells."""
    rng = np.random.default_rng(number)
    image = rng.integers(8, 24, FULL_PX, np.uint8)
    labels = np.zeros(FULL_PX, np.uint16)
    for cell in range((FULL_PX[0] // FULL_STEP_PX) * (FULL_PX[1] // FULL_STEP_PX)):
        row, column = divmod(cell, FULL_PX[1] // FULL_STEP_PX)
        radius = rng.uniform(7, 12)
        y, x = np.mgrid[:FULL_STEP_PX, :FULL_STEP_PX]
        inside = np.hypot(y - rng.uniform(14, 20), x - rng.uniform(14, 20)) <= radius
        place = np.s_[row * FULL_STEP_PX :, column * FULL_STEP_PX :]
        labels[place][:FULL_STEP_PX, :FULL_STEP_PX][inside] = cell + 1
        image[place][:FULL_STEP_PX, :FULL_STEP_PX][inside] += np.uint8(rng.integers(90, 200))
    return image, labels


def encoded(pixels: NDArray[Any]) -> bytes:
    """PNG bytes, made fast."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def make_images(root: Path, images: int, full_size: bool = False) -> int:
    """The data set below `root`, unless it is there; returns the bytes of its files."""
    made = root.parent / f"made-{images}.json"
    if made.is_file():
        return int(json.loads(made.read_text(encoding="utf-8")))
    size, number, make = 0, 0, make_full_image if full_size else make_image
    for split, count in ANNOTATED.items():
        (root / split).mkdir(parents=True)
        for _ in range(count):
            image, labels = make(number)
            for name, pixels in ((f"a{number:03d}.png", image), (f"a{number:03d}_masks.png", labels)):
                (root / split / name).write_bytes(encoded(pixels))
            number += 1
    for index in range(images):
        if index % PER_FOLDER == 0:
            folder = root / "pool" / f"{index // PER_FOLDER:04d}"
            folder.mkdir(parents=True)
        content = encoded(make(number + index)[0])
        (folder / f"p{index:07d}.png").write_bytes(content)
        size += len(content)
    made.write_text(json.dumps(size), encoding="utf-8")
    return size


def config_of(root: Path, engine: str, workers: int) -> dict[str, Any]:
    """The settings of the run: the smallest real teacher, and the defaults elsewhere."""
    places = {split: split for split in ANNOTATED}
    return {
        "data": {
            "source": "paired",
            "root": str(root / "data"),
            "images": {**places, "unlabelled": "pool"},
            "masks": places,
            "split_seed": 0,
        },
        "models": [{"kind": "flow-unet", "name": "unet", "width": 4, "depth": 2, "augment": "light"}],
        "training": {"steps": 150, "batch": 8, "crop_px": 64},
        "inference": {"tta": ["identity"]},
        "rounds": {"promotion": {"unlabelled_sizes": False}},
        "engine": {"kind": engine, "workers": workers},
    }


# --- looking at it ------------------------------------------------------------------------------------


@dataclass
class Look:
    """What the processes of a run held and had used at a time (UTC, seconds)."""

    at: float
    driver_mb: float
    driver_cpu_s: float
    workers_cpu_s: float
    workers_mb: float
    workers: int


@dataclass
class StageLine:
    """One kind of stage: wall seconds, CPU seconds of the driver and of its workers, the most that the driver held."""

    seconds: float = 0.0
    driver_cpu_s: float = 0.0
    workers_cpu_s: float = 0.0
    driver_peak_mb: float = 0.0


@dataclass
class Line:
    """One run."""

    images: int
    full_size: bool
    engine: str
    workers: int
    machine: str
    bytes_in: int
    generate_s: float
    seconds: float
    driver_peak_mb: float
    driver_cpu_s: float
    worker_peak_mb: float
    most_workers: int
    accepted_cells: int
    taught_images: int
    files: int
    bytes_by_folder: dict[str, int] = field(default_factory=dict)
    stages: dict[str, StageLine] = field(default_factory=dict)


def look(driver: psutil.Process) -> Look | None:
    """The memory and the CPU seconds of the driver, and the largest of the processes below it; None when it is gone."""
    try:
        times = driver.cpu_times()
        held = driver.memory_info().rss
        below = [each for each in driver.children(recursive=True) if each.name().startswith("ray::")]
        sizes = [each.memory_info().rss for each in below]
        work = [each.cpu_times() for each in below]
    except psutil.NoSuchProcess:
        return None
    used = sum(each.user + each.system for each in work)
    return Look(time.time(), held / 2**20, times.user + times.system, used, max(sizes, default=0) / 2**20, len(sizes))


def run(folder: Path, config: Path) -> tuple[float, list[Look], tuple[float, float]]:
    """Do the run; wall seconds, what was seen, and (peak MB, CPU seconds) as the driver states them at its end."""
    command = [sys.executable, "-c", DRIVER, "round", "--n", "1", "--config", str(config), "--run", "scale"]
    started = time.monotonic()
    with (folder / "driver.err").open("w+", encoding="utf-8") as errors:
        child = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=errors)
        process, looks = psutil.Process(child.pid), []
        while child.poll() is None:
            if (seen := look(process)) is not None:
                looks.append(seen)
            time.sleep(LOOK_EVERY_S)
        seconds = time.monotonic() - started
        errors.seek(0)
        text = errors.read()
    if child.returncode:
        raise SystemExit(f"the run failed:\n{text[-4000:]}")
    used = next(line.split() for line in reversed(text.splitlines()) if line.startswith("USED"))
    return seconds, looks, (int(used[1]) / 1024, float(used[2]) + float(used[3]))


def stages_of(run: Path, looks: list[Look]) -> dict[str, StageLine]:
    """What was seen, by kind of stage."""
    spans, begun = [], (0.0, "")
    for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        at = datetime.fromisoformat(event["time"]).timestamp()
        if event["event"] == "stage":
            begun = (at, event["stage"])
        elif event["event"] == "finish":
            row = next((row for words, row in KINDS.items() if begun[1].startswith(words)), OTHERS)
            spans.append((begun[0], at, row))
    found: defaultdict[str, StageLine] = defaultdict(StageLine)
    for first, last, row in spans:
        found[row].seconds += last - first
    for before, after in pairwise(looks):
        middle = (before.at + after.at) / 2
        row = next((row for first, last, row in spans if first <= middle <= last), BETWEEN)
        line = found[row]
        line.driver_cpu_s += after.driver_cpu_s - before.driver_cpu_s
        line.workers_cpu_s += max(after.workers_cpu_s - before.workers_cpu_s, 0.0)  # less where one has ended
        line.driver_peak_mb = max(line.driver_peak_mb, after.driver_mb)
    found[BETWEEN].seconds = looks[-1].at - looks[0].at - sum(last - first for first, last, _ in spans)
    return {row: found[row] for row in (*dict.fromkeys(KINDS.values()), OTHERS, BETWEEN) if row in found}


def sizes_of(run: Path) -> tuple[int, dict[str, int]]:
    """How many files a run has, and the bytes of its larger folders."""
    places = {
        "data/unlabelled": run / "data" / "unlabelled",
        "predictions of unlabelled": run / "round-00" / "students" / "unet" / "predictions" / "unlabelled",
        "fused": run / "round-00" / "students" / "ensemble" / "predictions" / "unlabelled",
        "pseudo": run / "round-01" / "pseudo",
        "train": run / "round-01" / "train",
    }
    files = sum(1 for path in run.rglob("*") if path.is_file())
    return files, {
        name: sum(path.stat().st_size for path in folder.glob("*.parquet")) for name, folder in places.items()
    }


def measure(folder: Path, images: int, full_size: bool, engine: str, workers: int) -> Line:
    """Make the images, do the run, and say what it took."""
    started = time.monotonic()
    size = make_images(folder / "data", images, full_size)
    generate_s = time.monotonic() - started
    config = folder / "scale.yaml"
    config.write_text(yaml.safe_dump(config_of(folder, engine, workers)), encoding="utf-8")
    seconds, looks, (peak_mb, cpu_s) = run(folder, config)
    place = folder / "runs" / "scale"
    merged = json.loads((place / "round-01" / "train" / "manifest.json").read_text(encoding="utf-8"))["merged"]
    files, by_folder = sizes_of(place)
    return Line(
        images=images,
        full_size=full_size,
        engine=engine,
        workers=workers,
        machine=describe(),
        bytes_in=size,
        generate_s=round(generate_s, 1),
        seconds=round(seconds, 1),
        driver_peak_mb=round(max(peak_mb, *(each.driver_mb for each in looks))),
        driver_cpu_s=round(cpu_s, 1),
        worker_peak_mb=round(max(each.workers_mb for each in looks)),
        most_workers=max(each.workers for each in looks),
        accepted_cells=merged["cells"].get("accepted", 0),
        taught_images=merged["pseudo_images"],
        files=files,
        bytes_by_folder=by_folder,
        stages=stages_of(place, looks),
    )


# --- the table ----------------------------------------------------------------------------------------


def page_of(lines: list[dict[str, Any]]) -> str:
    """All lines as Markdown."""
    rows = [
        f"| {each['images']:,}{FULL[each['full_size']]} | {each['engine']}, {each['workers']} | {each['seconds']:,.0f} "
        f"| {each['driver_peak_mb']:,} | {each['worker_peak_mb']:,} | {each['driver_cpu_s']:,.0f} "
        f"| {1000 * each['driver_cpu_s'] / each['images']:.2f} | {each['taught_images']:,} | {each['files']:,} |"
        for each in lines
    ]
    page = [
        "# Many images",
        "",
        f"{lines[-1]['machine']}. Generated images of {SIDE_PX} x {SIDE_PX} px, from files through one round of "
        "labelling and the training of its student and control. Written by `benchmarks/scale.py` (`--images N`), which "
        "says how it is measured; memory is the largest resident set of a process.",
        "",
        "| images | engine, workers | wall s | driver MB | largest worker MB | driver CPU s | driver CPU ms an image "
        "| pseudo-labelled images that teach | files of the run |",
        "|---|---|---|---|---|---|---|---|---|",
        *rows,
    ]
    for each in lines:
        page += [
            "",
            f"## {each['images']:,} images{FULL[each['full_size']]}, {each['engine']}, {each['workers']} workers",
            "",
        ]
        page += [f"{each['machine']}.", ""]
        page += [
            "| stage | wall s | images/s | driver CPU s | workers' CPU s | driver MB at most |",
            "|---|---|---|---|---|---|",
        ]
        for name, stage in each["stages"].items():
            rate = f"{each['images'] / stage['seconds']:,.0f}" if name in OVER_ALL and stage["seconds"] else ""
            page.append(
                f"| {name} | {stage['seconds']:,.1f} | {rate} | {stage['driver_cpu_s']:,.1f} "
                f"| {stage['workers_cpu_s']:,.1f} | {stage['driver_peak_mb']:,.0f} |"
            )
        sizes = ", ".join(f"{name} {size / each['images']:,.0f}" for name, size in each["bytes_by_folder"].items())
        page += ["", f"Bytes an image: files {each['bytes_in'] / each['images']:,.0f}, {sizes}."]
    return "\n".join(page) + "\n"


FULL = {False: "", True: " of 520 x 704 px"}
OVER_ALL = ("read images", "build training sets", "predict unlabelled images", "fuse", "filter", "check drift")


@click.command()
@click.option("--images", type=click.IntRange(16), default=2000, show_default=True, help="Unlabelled images.")
@click.option("--full-size", is_flag=True, help="Images of 520 x 704 px with 280 cells.")
@click.option("--engine", type=click.Choice(["ray", "inline"]), default="ray", show_default=True)
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True)
@click.option("--keep", type=click.Path(path_type=Path), help="Work in this folder, and leave it.")
@click.option("--json", "as_json", is_flag=True, help="Print the line as JSON; write no table.")
@click.option("--table", "target", type=click.Path(path_type=Path), default=HERE / "scale.md")
def main(
    images: int, full_size: bool, engine: str, workers: int, keep: Path | None, as_json: bool, target: Path
) -> None:
    """Run once and add the line to the table."""
    folder = Path(tempfile.mkdtemp(prefix="scale-")) if keep is None else keep
    try:
        line = json.loads(json.dumps(asdict(measure(folder, images, full_size, engine, workers))))
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    if as_json:
        print(json.dumps(line, indent=1))
        return
    store = target.with_suffix(".json")
    before = json.loads(store.read_text(encoding="utf-8")) if store.is_file() else []
    same = ("images", "full_size", "engine", "workers")
    lines = [each for each in before if any(each[key] != line[key] for key in same)] + [line]
    lines.sort(key=lambda each: (each["full_size"], each["images"], each["engine"], each["workers"]))
    store.write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")
    target.write_text(page_of(lines), encoding="utf-8")
    print(page_of(lines))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
