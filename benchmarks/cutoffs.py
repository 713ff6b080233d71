"""One score for all classes beside a score and a least area for each, on what is delivered; to cutoffs.md.

    python benchmarks/cutoffs.py [--seed 0 --seed 1 ..]

One flow U-Net is trained on the labelled images of a regime and seed. Its cell probability, and the cutoffs both ways,
are chosen on the same val images; the figures are of test images. Regimes: `classes` of regimes.py, the same with more
labelled images, and DSB2018 with its modalities as classes (development draws).

What was predicted is kept in --work, so that a call goes on where another one ended.
"""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np

from cellsemi.configs.data import DataConfig
from cellsemi.configs.models import FlowUnetConfig
from cellsemi.configs.training import InferenceConfig, TrainingConfig
from cellsemi.models.base import FitTask, Predictor
from cellsemi.models.registry import family, load_predictor
from cellsemi.models.validation.choose_probabilities import OnValidation, choose
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.evaluation.choose_cutoffs import choose_cutoffs
from cellsemi.rounds.evaluation.metrics import image_values, score_image
from cellsemi.rounds.formats.label_map.reader import LabelMaps
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.image_codec import decode_image
from cellsemi.rounds.store.prediction_pairs import paired
from cellsemi.rounds.store.schemas import ImageRecord

sys.path.insert(0, str(Path(__file__).parent))
import regimes
from machine import DSB2018, describe
from rounds_table import table

HERE = Path(__file__).parent
MAX_PIXELS = 1 << 24
INFERENCE = InferenceConfig(tta=("identity",), precision="bfloat16")
MODALITIES = ("fluorescence", "histology", "brightfield")
MORE = regimes.GENERATED.model_copy(update={"labelled": 24, "val": 24, "unlabelled": 1})
NAMES = ("classes", "classes, 24 labelled and 24 val", "dsb2018, modalities as classes")


@click.command()
@click.option("--seed", "seeds", multiple=True, type=int, default=(0, 1, 2), show_default=True)
@click.option(
    "--root", type=click.Path(path_type=Path), default=DSB2018, help="DSB2018; without it its lines are left out."
)
@click.option("--steps", default=800, show_default=True)
@click.option("--work", type=click.Path(path_type=Path), default=Path("cutoffs-work"))
def main(seeds: tuple[int, ...], root: Path, steps: int, work: Path) -> None:
    """Train, choose, measure, write the table."""
    lines = []
    for name in NAMES if root.is_dir() else NAMES[:2]:
        classes = MODALITIES if name.startswith("dsb2018") else regimes.NEURAL
        for seed in seeds:
            place = work / f"{NAMES.index(name)}-{seed}-{steps}"
            if not (place / "predicted" / "val").is_dir():
                _write_images(name, seed, place / "images", root)
                predict(place, classes, steps, seed)
            lines.append({"data": name, "seed": seed, **measure(place, classes)})
            print(json.dumps(lines[-1]), file=sys.stderr, flush=True)
    text = page(lines, steps)
    (HERE / "cutoffs.md").write_text(text)
    print(text)


def _write_images(name: str, seed: int, out: Path, root: Path) -> None:
    """Write the images of a line, a folder for each split."""
    if name.startswith("dsb2018"):
        for split, records in _by_modality(seed, out.parent / "drawn", root).items():
            shards.write_folder(out / split, iter(records), 64, "benchmark")
        return
    generated = regimes.GENERATED if name == "classes" else MORE
    regime = replace(regimes.REGIMES["classes"], generated=generated)
    found = list(regimes._generated(regime, seed, None))
    for split in ("labelled", "val", "test"):
        shards.write_folder(out / split, (each for each in found if each.split == split), 64, "benchmark")


def _by_modality(seed: int, drawn: Path, root: Path) -> dict[str, list[ImageRecord]]:
    """DSB2018 without its split `test`: by chance an eighth of it to train, an eighth for val; the rest is test."""
    with (root / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] != "test" and row["modality"] in MODALITIES]
    order = np.random.default_rng(seed).permutation(len(rows))
    split_of = {
        int(i): "labelled" if k < len(rows) // 8 else "val" if k < len(rows) // 4 else "test"
        for k, i in enumerate(order)
    }
    regimes.write_manifest([{**row, "split": split_of[i]} for i, row in enumerate(rows)], drawn, root)
    modality = {row["id"]: row["modality"] for row in rows}
    found: dict[str, list[ImageRecord]] = {}
    data = LabelMaps(DataConfig(source="label-maps", root=str(drawn), classes=("nucleus",)))
    for row in data.rows:
        record = data.load(row).record
        assert record.instances is not None
        cells = record.instances.with_(class_id=MODALITIES.index(modality[row.image_id]))
        found.setdefault(row.split, []).append(record.with_(instances=cells))
    return found


def predict(place: Path, classes: tuple[str, ...], steps: int, seed: int) -> None:
    """Train one model and keep what it predicts for val and test images."""
    images, model = place / "images", place / "model"
    task = FitTask(
        model=FlowUnetConfig(name="unet", width=16),
        training=TrainingConfig(steps=steps, crop_px=96, batch=8, precision="bfloat16", threads=1),
        classes=classes,
        one_class_per_image=False,
        ignore_dilation_px=2,
        shards=tuple(str(path) for path in shards.shard_paths(images / "labelled")),
        out_dir=str(model),
        seed=seed,
        steps=steps,
        device="cpu",
    )
    family("flow-unet").fit(task, lambda step, steps: None)
    on_val = OnValidation(str(images / "val"), INFERENCE, INFERENCE, len(classes), None, "cpu", MAX_PIXELS)
    probability = choose(on_val, model).cell_probability
    assert probability is not None
    predictor = load_predictor(model, INFERENCE.at_probability(probability.chosen), "cpu")
    for split in ("test", "val"):  # val last: with it the line is done
        found = (
            record.with_(image=None, instances=_cells(predictor, record))
            for record in shards.read_folder(images / split)
        )
        shards.write_folder(place / "predicted" / split, found, 64, "benchmark")


def _cells(predictor: Predictor, record: ImageRecord) -> Instances:
    assert record.image is not None
    return predictor.predict([decode_image(record.image, record.image_id, MAX_PIXELS)])[0]


def measure(place: Path, classes: tuple[str, ...]) -> dict[str, Any]:
    """Choose both ways on val, score test: one line of the table."""
    pairs = {split: [*paired(place / "predicted" / split, place / "images" / split)] for split in ("val", "test")}
    val, test = pairs["val"], pairs["test"]
    result: dict[str, Any] = {"images": [len(val), len(test)]}
    ways: tuple[Literal["all", "class"], ...] = ("all", "class")
    for way in ways:
        on_val = [(cells, truth) for _, cells, truth in val]
        chosen = choose_cutoffs(on_val, [name for name, _, _ in val], len(classes), way)
        scored = [
            score_image(name, truth, by.kept(cells))
            for (name, cells, truth), by in zip(val, chosen.of_others, strict=True)
        ]
        on_test = [score_image(name, truth, chosen.cutoffs.kept(cells)) for name, cells, truth in test]
        result[way] = {
            "val": float(image_values(scored).mean()),
            "test": float(image_values(on_test).mean()),
            "cutoffs": chosen.cutoffs.words(classes),
            "own": [classes[i] for i in chosen.own],
        }
    return result


def page(lines: list[dict[str, Any]], steps: int) -> str:
    """The page."""
    rows = [
        [
            line["data"], str(line["seed"]), f"{line['all']['test']:.3f}", f"{line['class']['test']:.3f}",
            f"{line['class']['test'] - line['all']['test']:+.3f}", f"{line['class']['val'] - line['all']['val']:+.3f}",
            ", ".join(line["class"]["own"]) or "none", line["class"]["cutoffs"],
        ]
        for line in lines
    ]  # fmt: skip
    for name in dict.fromkeys(line["data"] for line in lines):
        gains = [line["class"]["test"] - line["all"]["test"] for line in lines if line["data"] == name]
        rows.append([name, "mean", "", "", f"{np.mean(gains):+.3f}", "", "", ""])
    header = [
        "data",
        "seed",
        "one score for all",
        "by class",
        "gain",
        "gain on val",
        "classes of their own",
        "kept from",
    ]
    about = (
        f"`python benchmarks/cutoffs.py`: a flow U-Net of width 16, {steps} steps on the labelled images. Test mAP "
        "(Kaggle Sartorius) with the cutoffs chosen on val; *gain on val*: each image with what the others chose."
    )
    parts = ["# One score for all classes, or score and area for each", describe(), about, table(header, rows)]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
