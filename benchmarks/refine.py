"""Fusion by `refine` against `weighted` and the others, of a flow U-Net and a Mask R-CNN: to refine.md.

    python benchmarks/refine.py [--root FOLDER] [--out runs] [--images 60] [--draws N] [--short]

Both models are trained on the labelled images of development draws of DSB2018 (other images than those of the rounds
benchmark, whose test stays out) and on generated cells; their predictions are then fused by each method. The score
threshold of each is chosen on val; test is only reported. About forty minutes on two cores, ten with --short, which
trains the detector on small crops.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import click

from cellsemi.configs.rounds import FusionConfig
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.matching import scorable
from cellsemi.rounds.evaluation.bootstrap import bootstrap_interval
from cellsemi.rounds.evaluation.ensemble import read_calibrations
from cellsemi.rounds.evaluation.metrics import best_threshold, image_values, score_image, summarise
from cellsemi.rounds.pseudo_labels.fusion import fuse
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.prediction_pairs import cells_of
from cellsemi.rounds.store.predictions import evaluated_sets, pairs_of
from cellsemi.rounds.store.run import RunPaths, read_config, read_precision

sys.path.insert(0, str(Path(__file__).parent))
import regimes
from machine import DSB2018, describe, skip

HERE = Path(__file__).parent
DRAWS = (("enough", 0), ("crowded", 0), ("enough", 1))
FLOW, BOXES = "unet", "maskrcnn"
IOUS = (0.15, 0.5)
SAMPLES, LEVEL = 2000, 0.95
SHORT = {"training.batch": "2", "training.crop_px": "96", "roi_batch": "64", "rpn_proposals": "200", "rpn_batch": "64"}


def methods() -> dict[str, FusionConfig]:
    """The fusions that are compared, all with no pixel twice."""
    found = {}
    for iou in IOUS:
        for method in ("weighted", "vote", "nms"):
            found[f"{method}, IoU {iou:g}"] = FusionConfig(method=method, iou=iou, overlaps="resolve")
        found[f"refine by the flow model, IoU {iou:g}"] = FusionConfig(
            method="refine", boundaries=(FLOW,), iou=iou, overlaps="resolve"
        )
        found[f"refine by the detector, IoU {iou:g}"] = FusionConfig(
            method="refine", boundaries=(BOXES,), iou=iou, overlaps="resolve"
        )
    return found


@dataclass(frozen=True)
class Split:
    """The images of a split: what is true, and what each model predicts, with calibrated scores."""

    truth: list[Instances]
    predicted: dict[str, list[Instances]]
    recalls: dict[str, tuple[float, ...]]

    def pairs(
        self, config: FusionConfig | None, names: tuple[str, ...], lock: bool
    ) -> list[tuple[Instances, Instances]]:
        """(predictions, truth) of each image, of one model or fused."""
        found = []
        for k, true in enumerate(self.truth):
            each = {name: self.predicted[name][k] for name in names}
            fused = each[names[0]] if config is None else fuse(each, config, lock, self.recalls)
            found.append(scorable(fused, true))
        return found


@click.command()
@click.option("--root", type=click.Path(path_type=Path), default=DSB2018)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs"), help="Folder of the runs and draws.")
@click.option("--images", default=60, help="Test images of each draw, at most.")
@click.option("--draws", type=click.IntRange(1, len(DRAWS)), default=len(DRAWS), show_default=True)
@click.option("--short", is_flag=True, help="Train the detector on crops of 96 px, two at once.")
def main(root: Path, out: Path, images: int, draws: int, short: bool) -> None:
    """Train, fuse and tabulate."""
    if not root.is_dir():
        skip(f"no DSB2018 at {root}; give --root")
    tables = []
    for name, seed in DRAWS[:draws]:
        paths = trained(name, seed, root, out, images, SHORT if short else {})
        tables.append((f"{regimes.called(name).says}; seed {seed}", list(rows_of(paths))))
        agreed = read_precision(paths)
    precision = "the stated precision" if agreed is None else agreed.training
    (HERE / "refine.md").write_text(page(tables, precision, SHORT if short else {}))


def trained(name: str, seed: int, root: Path, out: Path, images: int, changes: dict[str, str]) -> RunPaths:
    """The run of a draw, both models trained once on its labelled images."""
    data, run = out / f"refine-data-{name}-{seed}", f"refine-{name}-{seed}"
    regime = regimes.called(name)
    regimes.build(name, seed, data, root, images, development=bool(regime.modalities))
    pairs = [f"data.root={data}", f"run.seed={seed}", f"run.root={out}", "rounds.control=false"]
    if not regime.modalities:
        pairs += ["data.source=shards", "data.where={}", f"data.classes=[{','.join(regime.classes)}]"]
        pairs += ["data.one_class_per_image=true"]
    pairs += [f"models.1.{setting}={value}" for setting, value in changes.items()]
    sets = [part for pair in pairs for part in ("--set", pair)]
    command = ["cellsemi", "round", "--n", "0", "--config", "dsb2018-mixed", "--run", run, "--engine", "inline", *sets]
    print("$", " ".join(command), flush=True)
    subprocess.run(command, check=True)
    return RunPaths(out / run)


def read_split(paths: RunPaths, split: str) -> Split:
    """Predictions and truth of a split of round 0."""
    config = read_config(paths)
    calibrations = read_calibrations(paths.calibration(0), config.data.classes)
    predicted, truth = {}, list[Instances]()
    for name in (FLOW, BOXES):
        folders = pairs_of(paths, evaluated_sets(config, 0, name, split))
        truth = list(cells_of(*(images for _, images in folders)))
        cells = (row.instances for row in chain.from_iterable(shards.read_folder(each) for each, _ in folders))
        predicted[name] = [calibrations[name].as_scores(each) for each in cells if each is not None]
    return Split(truth, predicted, {name: found.recalls for name, found in calibrations.items()})


def rows_of(paths: RunPaths) -> Iterator[tuple[str, ...]]:
    """A row for each model alone and each method: val mAP, test mAP, its change against `weighted` at IoU .15."""
    config = read_config(paths)
    lock, classes = config.data.one_class_per_image, config.data.classes
    splits = {split: read_split(paths, split) for split in ("val", "test")}
    ways: dict[str, tuple[FusionConfig | None, tuple[str, ...]]] = {f"{n} alone": (None, (n,)) for n in (FLOW, BOXES)}
    ways |= {label: (fusion, (FLOW, BOXES)) for label, fusion in methods().items()}
    base = None
    found = []
    for label, (fusion, names) in ways.items():
        val = splits["val"].pairs(fusion, names, lock)
        chosen = best_threshold(val)
        test = splits["test"].pairs(fusion, names, lock)
        scores = [score_image(str(k), true, cells, chosen.value) for k, (cells, true) in enumerate(test)]
        found.append((label, chosen, scores))
        base = image_values(scores) if label == f"weighted, IoU {IOUS[0]:g}" else base
    assert base is not None, "it is one of the methods"
    for label, chosen, scores in found:
        summary = summarise(scores, classes)
        change = image_values(scores) - base
        low, high = bootstrap_interval(change, SAMPLES, LEVEL, 0)
        against = "-" if not change.any() else f"{change.mean():+.3f} ({low:+.3f}..{high:+.3f})"
        yield (
            label, f"{chosen.map:.3f}", f"{summary.map:.3f}", against, f"{summary.f1:.3f}", f"{summary.mean_iou:.3f}",
            str(len(scores)),
        )  # fmt: skip


def page(tables: list[tuple[str, list[tuple[str, ...]]]], precision: str, changes: dict[str, str]) -> str:
    """All tables, below what they were made with."""
    stated = ", ".join(f"{setting} {value}" for setting, value in changes.items())
    short = f" (the detector with {stated}: short trainings on a busy machine)" if changes else ""
    text = f"""# Fusion: boundaries of a flow model where a detector agrees

{describe()}; training in {precision}.

`refine` takes the mask of one model where another finds the cell, too, and scores it as `weighted` does. Both models
are those of the preset `dsb2018-mixed`, 300 steps from scratch{short}. Their scores are calibrated on val, the score
threshold of each row is chosen on val, and no pixel is given twice. The change is of test mAP against `weighted` at
IoU .15, with the 95 % interval over the images; it does not hold the chance of another training seed. Written by
`benchmarks/refine.py`.
"""
    for says, rows in tables:
        text += f"\n## {says}\n\n| | val mAP | test mAP | change | F1 | IoU | n |\n|---|---|---|---|---|---|---|\n"
        text += "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return text


if __name__ == "__main__":
    main()
