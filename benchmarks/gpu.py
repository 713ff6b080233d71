"""Measures every model family on one GPU against its own bare network; the table goes to gpu.md.

    python benchmarks/gpu.py [--device cuda] [--only flow-unet ...] [--json FILE] [--budget 330] [--tiny]

For each family: the first loss and the masks, CPU against device; seconds a training step of the product and of the
same network on one batch that lies on the device; images/s of a labelling job and of the bare forward on the same
pixels; how busy the GPU was (nvidia-smi, share of the time in which any kernel ran); peak memory. Neither Ray nor a
network is used, weights are random. `--device cpu --tiny` runs every branch of the script without a GPU.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))
from gpu_families import FAMILIES, Measured
from gpu_table import Row, page

from cellsemi.configs.errors import ModelError
from cellsemi.configs.training import InferenceConfig
from cellsemi.models.base import FitTask, Predictor
from cellsemi.models.registry import family, load_predictor
from cellsemi.models.training import loop
from cellsemi.models.training.precision import choose_precision
from cellsemi.models.training.transport import on_device
from cellsemi.orchestrator.engine.resources import cpu_count
from cellsemi.orchestrator.steps.jobs import PredictJob, ShardStage
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.image_codec import decode_image, to_png
from cellsemi.rounds.store.image_record import record_of

HERE = Path(__file__).parent
CLASSES = ("a", "b")
INFERENCE = InferenceConfig(tta=("identity",), cell_probability=0.5)
MIN_STEPS = 8  # of a training that is timed; those before are for caches and kernels to warm up
SAMPLE_S = 0.1  # between two looks at the GPU


# --- pictures -----------------------------------------------------------------------------------------


def picture(seed: int, height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Bright ellipses on dark ground, and their label map."""
    rng = np.random.default_rng(seed)
    labels, number = np.zeros((height, width), np.int32), 0
    y, x = np.mgrid[:height, :width]
    pixels = rng.normal(90, 6, (height, width))
    for _ in range(height * width // 2000):
        centre, axes = rng.uniform((8, 8), (height - 8, width - 8)), rng.uniform(5, 13, 2)
        inside = ((y - centre[0]) / axes[0]) ** 2 + ((x - centre[1]) / axes[1]) ** 2 < 1
        if not labels[inside].any():
            number += 1
            labels[inside] = number
            pixels[inside] += 70
    return pixels.clip(0, 255).astype(np.uint8), labels


def write_data(folder: Path, seeds: Sequence[int], side: tuple[int, int], split: str) -> Path:
    """A shard of pictures."""
    records = []
    for seed in seeds:
        pixels, labels = picture(seed, *side)
        cells = masks.from_label_map(labels)
        cells = cells.with_(class_id=np.arange(len(cells)) % len(CLASSES), state="human", score=1.0, quality=1.0)
        records.append(
            replace(record_of(pixels, f"{split}{seed}", "generated", split, to_png(pixels)), instances=cells)
        )
    path = folder / split / shards.part_name(0)
    shards.write_shard(path, records, "benchmark")
    return path


# --- the GPU -------------------------------------------------------------------------------------------


class Device:
    """A device, and how it is watched."""

    def __init__(self, name: str) -> None:
        self.name, self.torch = name, torch.device(name)
        self.cuda = self.torch.type == "cuda"

    def wait(self) -> None:
        """Until everything that was asked for is done."""
        if self.cuda:
            torch.cuda.synchronize()

    def peak_mb(self) -> int | None:
        """The most memory that tensors took, since `forget`."""
        return round(torch.cuda.max_memory_allocated() / 1e6) if self.cuda else None

    def forget(self) -> None:
        """Give unused memory back, and forget the peak."""
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    @contextmanager
    def busy(self, found: list[float]) -> Iterator[None]:
        """Append to `found`, every SAMPLE_S, the share of time in which a kernel ran; nothing without nvidia-smi."""
        program = shutil.which("nvidia-smi")
        if not self.cuda or program is None:
            yield
            return
        over = threading.Event()

        def look() -> None:
            while not over.wait(SAMPLE_S):
                asked = [program, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
                said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split()
                found.extend(float(word) / 100 for word in said[:1] if word.isdigit())

        watching = threading.Thread(target=look)
        watching.start()
        try:
            yield
        finally:
            over.set()
            watching.join()


def mean(found: Sequence[float]) -> float | None:
    """The mean; None of nothing."""
    return float(np.mean(found)) if found else None


# --- training ------------------------------------------------------------------------------------------


def fit(task: FitTask) -> float:
    """Seconds a step, the first MIN_STEPS left out, where there are more."""
    at: list[tuple[int, float]] = []
    family(task.model.kind).fit(task, lambda step, _: at.append((step, time.perf_counter())))
    late = [each for each in at if each[0] >= min(MIN_STEPS, task.steps // 2)]
    if len(late) < 2:
        return float("nan")
    return (late[-1][1] - late[0][1]) / (late[-1][0] - late[0][0])


@contextmanager
def every_step_reported() -> Iterator[None]:
    """`progress` is called after each step, not once a second."""
    before, loop.REPORT_S = loop.REPORT_S, 0.0
    try:
        yield
    finally:
        loop.REPORT_S = before


@contextmanager
def one_resident_batch() -> Iterator[None]:
    """Every step of a fit takes the same batch, which lies on the device: what is left is the network."""

    def resident(make: Callable[[int], Any], steps: range, _: int, device: torch.device) -> Iterator[Any]:
        batch = on_device(make(0), device)
        for _ in steps:
            yield batch

    before, loop.batches = loop.batches, resident  # type: ignore[assignment]
    try:
        yield
    finally:
        loop.batches = before


def losses(task: FitTask) -> list[float]:
    """The loss of each step of a finished fit."""
    found: list[float] = pq.read_table(Path(task.out_dir) / "loss.parquet")["loss"].to_pylist()
    return found


def measure_training(row: Row, about: Measured, task: FitTask, device: Device, tiny: bool) -> FitTask:
    """Fill in what training shows; returns the task of the model that was trained longest."""
    folder = Path(task.out_dir)
    exact = about.training_config(tiny, 2, "float32")
    on_cpu = replace(task, training=exact, steps=2, device="cpu", out_dir=str(folder / "cpu"))
    on_cpu = replace(on_cpu, training=exact.model_copy(update={"threads": cpu_count()}))
    there = replace(task, training=exact, steps=2, out_dir=str(folder / "exact"))
    fit(on_cpu)
    fit(there)
    first, other = losses(on_cpu)[0], losses(there)[0]
    row.loss_off = abs(first - other) / max(abs(first), 1e-6)
    if not row.loss_off <= about.tolerance:
        row.failed.append(f"the first loss is {other:.4g}, on the CPU {first:.4g}")
    with one_resident_batch():
        row.bare_step_s = fit(replace(task, out_dir=str(folder / "bare")))
    device.forget()
    seen: list[float] = []
    with device.busy(seen):
        row.step_s = fit(task)
    row.train_busy, row.peak_mb = mean(seen), device.peak_mb()
    if not np.isfinite(losses(task)).all():
        row.failed.append("a loss is not finite")
    return task


# --- labelling -----------------------------------------------------------------------------------------


class Recorder:
    """Calls of the bare network: they are done, and their inputs kept."""

    def __init__(self, call: Any, device: Device) -> None:
        self.call, self.device, self.inputs, self.half = call, device, list[Any](), False

    def __call__(self, *inputs: Any) -> Any:
        """As the network does."""
        self.inputs.append(inputs)
        self.half = torch.is_autocast_enabled(self.device.torch.type)
        return self.call(*inputs)

    def again(self) -> None:
        """The same calls once more, to their end."""
        for inputs in self.inputs:
            self.call(*inputs)
        self.device.wait()


def bare_seconds(predictor: Predictor, images: Sequence[NDArray[np.uint8]], device: Device) -> float:
    """Seconds an image of the network calls that a prediction makes, done again with their inputs on the device."""
    place = "_detect" if hasattr(predictor, "_detect") else "_net"
    recorder = Recorder(getattr(predictor, place), device)
    setattr(predictor, place, recorder)
    predictor.predict(images)
    setattr(predictor, place, recorder.call)
    with torch.inference_mode(), torch.autocast(device.torch.type, torch.bfloat16, enabled=recorder.half):
        recorder.again()
        started = time.perf_counter()
        recorder.again()
    return (time.perf_counter() - started) / len(images)


def matched(found: Sequence[Instances], other: Sequence[Instances]) -> float:
    """Share of the masks of both that have one of the other at IoU > .5; 1 where both are empty."""
    right, total = 0, 0
    for one, two in zip(found, other, strict=True):
        alike = masks.iou_matrix(one, two) > 0.5
        right += int(alike.any(axis=0).sum() + alike.any(axis=1).sum())
        total += len(one) + len(two)
    return right / total if total else 1.0


def measure_labelling(row: Row, task: FitTask, pool: Path, device: Device) -> None:
    """Fill in what labelling shows."""
    job = PredictJob(
        stage=ShardStage(str(pool.parent), str(Path(task.out_dir) / "labels"), "benchmark", (), "benchmark"),
        model=task.out_dir,
        inference=INFERENCE.model_copy(update={"precision": choose_precision("auto", device.torch)}),
        device=device.name,
        max_pixels=10**9,
        round=1,
        scale=1.0,
        name="label",
    )
    worker = job.start()
    worker.run(0)  # to warm up
    device.wait()
    seen: list[float] = []
    images = [
        decode_image(record.image, record.image_id, max_pixels=10**9)
        for record in shards.read_shard(pool)
        if record.image is not None
    ]
    started, runs = time.perf_counter(), 0
    with device.busy(seen):
        while not runs or (time.perf_counter() - started < 3 and device.cuda):
            worker.run(0)
            runs += 1
    device.wait()
    row.images_per_s = runs * len(images) / (time.perf_counter() - started)
    row.label_busy = mean(seen)
    exact = load_predictor(Path(task.out_dir), INFERENCE, device.name)
    row.bare_images_per_s = 1 / bare_seconds(
        load_predictor(Path(task.out_dir), job.inference, device.name), images, device
    )
    few = images[:2]
    on_device, on_cpu = exact.predict(few), load_predictor(Path(task.out_dir), INFERENCE, "cpu").predict(few)
    row.cells = round(sum(map(len, on_device)) / len(few))
    row.matched = matched(on_device, on_cpu)
    if row.matched < 0.95:
        row.failed.append(f"only {row.matched:.0%} of the masks are those of the CPU")


# --- all of it -----------------------------------------------------------------------------------------


def measure(name: str, device: Device, folder: Path, tiny: bool, steps: int) -> Row:
    """What is found for one family; an error of it is a row that failed."""
    about, row = FAMILIES[name], Row(name)
    try:
        config = about.config(folder, tiny)
        family(config.kind)
    except (ModelError, ImportError) as error:
        row.skipped = " ".join(str(error).split())
        return row
    side = (128, 160) if tiny else (520, 704)
    shard = write_data(folder / name, range(4), side, "labelled")
    pool = write_data(folder / name, range(100, 102 if tiny else 116), side, "unlabelled")
    task = FitTask(
        model=config,
        training=about.training_config(tiny, steps, "auto"),
        classes=CLASSES,
        one_class_per_image=False,
        ignore_dilation_px=2,
        shards=(str(shard),),
        out_dir=str(folder / name / "fit"),
        seed=0,
        steps=steps,
        device=device.name,
        idle_cpus=cpu_count() - 1,
    )
    with every_step_reported():
        measure_labelling(row, measure_training(row, about, task, device, tiny), pool, device)
    return row


@click.command()
@click.option("--device", "name", default="cuda", help="cuda, cuda:1, cpu")
@click.option("--only", multiple=True, type=click.Choice(list(FAMILIES)))
@click.option("--steps", type=click.IntRange(min=2), default=None, help="Of the timed training; 150, or 4 when tiny.")
@click.option("--budget", type=float, default=330.0, help="Seconds after which no further family is begun.")
@click.option("--tiny", is_flag=True, help="Small images, crops and trainings.")
@click.option("--json", "as_json", type=click.Path(path_type=Path), help="Also write the figures to this file.")
@click.option("--table", "target", type=click.Path(path_type=Path), default=HERE / "gpu.md")
def main(
    name: str, only: tuple[str, ...], steps: int | None, budget: float, tiny: bool, as_json: Path | None, target: Path
) -> None:
    """Measure the families one after another; exit code 1 when something failed."""
    if name.startswith("cuda") and not torch.cuda.is_available():
        print("skipped: torch sees no CUDA device; --device cpu --tiny tries the script", file=sys.stderr)
        return
    on = torch.cuda.get_device_name(name) if name.startswith("cuda") else None
    began, rows, device = time.monotonic(), list[Row](), Device(name)
    with tempfile.TemporaryDirectory() as folder:
        for each in only or FAMILIES:
            started = time.monotonic()
            if started - began > budget:
                rows.append(Row(each, skipped=f"the budget of {budget:g} s was spent"))
                continue
            row = measure(each, device, Path(folder), tiny, steps or (4 if tiny else 150))
            row.seconds = time.monotonic() - started
            device.forget()
            rows.append(row)
            print(json.dumps(asdict(row)), flush=True)
    if as_json:
        as_json.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
    target.write_text(page(rows, on, tiny), encoding="utf-8")
    sys.exit(any(row.failed for row in rows))


if __name__ == "__main__":
    main()
