"""How well a flow U-Net agrees with itself once it is written as TorchScript; the table goes to exchange.md.

    python benchmarks/exchange.py [--root FOLDER] [--out runs]

A flow U-Net is trained by the command a user would type (round 0 alone), on generated cells and, where it is there,
on DSB2018. The test images, which it never saw, are then predicted by cellsemi and by the exported file.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from cellsemi.configs.training import InferenceConfig, View
from cellsemi.models.flow_unet.torchscript import quiet, to_torchscript
from cellsemi.models.registry import load_predictor
from cellsemi.orchestrator.runs.export_model import inference_of, model_of
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.masks import from_label_map, iou_matrix
from cellsemi.rounds.cells.matching import scorable
from cellsemi.rounds.evaluation.metrics import score_image
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.image_codec import decode_image
from cellsemi.rounds.store.run import RunPaths

sys.path.insert(0, str(Path(__file__).parent))
from machine import DSB2018, describe

HERE = Path(__file__).parent
MODEL = "unet"
VIEWS: tuple[tuple[View, ...], ...] = (
    ("identity",),
    ("identity", "flip_x"),
    ("identity", "flip_x", "flip_y", "rot90", "rot180", "rot270"),
)
HEADER = (
    "data",
    "views",
    "images",
    "masks of ours",
    "masks of the file",
    "equal",
    "IoU > .95",
    "mAP, ours",
    "mAP, ours from the score threshold on",
    "mAP, file",
    "s/image, ours",
    "s/image, file",
    "MB",
)


@dataclass
class Agreement:
    """Sums over images."""

    images: int = 0
    ours: int = 0
    theirs: int = 0
    equal: int = 0
    close: int = 0  # masks of ours that one of the file has with IoU > .95
    map_ours: float = 0.0
    map_kept: float = 0.0
    map_theirs: float = 0.0
    ours_s: float = 0.0
    theirs_s: float = 0.0


@click.command()
@click.option("--root", type=click.Path(path_type=Path), default=DSB2018)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs"), help="Folder of the runs.")
def main(root: Path, out: Path) -> None:
    """Train, export, compare and write the table."""
    commands = {"generated": _command("demo", out)}
    if root.is_dir():
        commands["DSB2018"] = [*_command("dsb2018", out), "--set", f"data.root={root}"]
    else:
        print(f"DSB2018 skipped: nothing at {root}; give --root")
    rows = []
    for data, command in commands.items():
        print("$", " ".join(command), flush=True)
        subprocess.run(command, check=True)
        paths = RunPaths((out / command[command.index("--run") + 1]).resolve())
        rows += [_row(data, paths, views, out) for views in VIEWS]
    lines = ["| " + " | ".join(cells) + " |" for cells in [HEADER, ["---"] * len(HEADER), *rows]]
    text = f"""# A flow U-Net as TorchScript, beside cellsemi

{describe()}; one thread.

Trained by `cellsemi round --n 0 --config demo` and `--config dsb2018`, each with one flow U-Net of default settings,
then written by `cellsemi weights export RUN/{MODEL} --format torchscript`. Test images only, which the model never saw.
`equal`: masks of ours that the file has pixel by pixel; `IoU > .95`: share of our masks that it has to that IoU. Both
predict with the same cell probability. mAP (Kaggle Sartorius) against the true cells: ours with cells of every score,
ours from the score threshold that validation images chose (for one view), and the file, which computes no score.
Other programs used the machine, so the seconds are upper bounds. Written by `benchmarks/exchange.py`.

{chr(10).join(lines)}
"""
    (HERE / "exchange.md").write_text(text)
    print(text)


def _command(preset: str, out: Path) -> list[str]:
    name = f"exchange-{preset}"
    models = f"models=[{{kind: flow-unet, name: {MODEL}}}]"
    return [
        "cellsemi",
        "round",
        "--n",
        "0",
        "--config",
        preset,
        "--run",
        name,
        "--set",
        f"run.root={out}",
        "--set",
        models,
    ]


def _row(data: str, paths: RunPaths, views: tuple[View, ...], out: Path) -> list[str]:
    folder = paths.model(0, MODEL)
    inference = inference_of(folder, paths).without_search().model_copy(update={"tta": views})
    file = out / "exchange.pt"
    to_torchscript(folder, inference, file)
    found = _compare(paths, folder, inference, file, model_of(paths, folder).cutoffs.min_score[0])
    n = max(found.images, 1)
    return [
        data,
        str(len(views)),
        str(found.images),
        str(found.ours),
        str(found.theirs),
        f"{found.equal / max(found.ours, 1):.4f}",
        f"{found.close / max(found.ours, 1):.4f}",
        *(f"{total / n:.3f}" for total in (found.map_ours, found.map_kept, found.map_theirs)),
        *(f"{seconds / n:.2f}" for seconds in (found.ours_s, found.theirs_s)),
        f"{file.stat().st_size / 1e6:.1f}",
    ]


def _compare(paths: RunPaths, folder: Path, inference: InferenceConfig, file: Path, threshold: float) -> Agreement:
    torch.set_num_threads(1)
    predictor = load_predictor(folder, inference, "cpu")
    with quiet():
        module = torch.jit.load(file)
    sums = Agreement()
    for record in shards.read_folder(paths.split("test")):
        assert record.image is not None and record.instances is not None
        image = decode_image(record.image, record.image_id, 10**9)
        started = time.perf_counter()
        (ours,) = predictor.predict([image])
        between = time.perf_counter()
        theirs = from_label_map(_labels(module, image))
        sums.theirs_s += time.perf_counter() - between
        sums.ours_s += between - started
        _add(sums, ours, theirs)
        sums.map_ours += _score(record.image_id, record.instances, ours, 0.0)
        sums.map_kept += _score(record.image_id, record.instances, ours, threshold)
        sums.map_theirs += _score(record.image_id, record.instances, theirs, 0.0)
    return sums


def _labels(module: Any, image: NDArray[Any]) -> NDArray[np.int32]:
    channels = image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0)
    found = module(torch.from_numpy(np.ascontiguousarray(channels[None], np.float32)))
    labels: NDArray[np.int32] = found[0, 0].numpy().astype(np.int32)
    return labels


def _add(sums: Agreement, ours: Instances, theirs: Instances) -> None:
    best = iou_matrix(ours, theirs).max(axis=1, initial=0.0)
    sums.images += 1
    sums.ours += len(ours)
    sums.theirs += len(theirs)
    sums.equal += int((best == 1).sum())
    sums.close += int((best > 0.95).sum())


def _score(image_id: str, truth: Instances, found: Instances, threshold: float) -> float:
    predicted, known = scorable(found, truth)
    return score_image(image_id, known, predicted, threshold).total.ap


if __name__ == "__main__":
    main()
