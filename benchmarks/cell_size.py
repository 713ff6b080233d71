"""At which cell diameter a flow U-Net does best, by data set: `training.cell_px`; to cell_size.md.

    python benchmarks/cell_size.py --data usiigaci=FOLDER --data few=FOLDER [--cell-px 0 --cell-px 24 ..]

A data set is a folder of label maps with a manifest (`data.source: label-maps`). One model is trained on `labelled` for
each diameter (0: images as they are), all by the same steps, crops and seed. Cell probability and score threshold are
chosen on `val`. `--few` draws the development images of the regime `few` of regimes.py from DSB2018.

Figures of a model are kept in --work, so that a call goes on where another one ended.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from cellsemi.configs.data import DataConfig
from cellsemi.configs.models import FlowUnetConfig
from cellsemi.configs.training import InferenceConfig, TrainingConfig
from cellsemi.models.base import FitTask, Predictor
from cellsemi.models.model_files import read_model_file
from cellsemi.models.registry import family, load_predictor
from cellsemi.models.validation.choose_probabilities import OnValidation, choose
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.evaluation.metrics import best_threshold, score_image, summarise
from cellsemi.rounds.formats.label_map.reader import LabelMaps
from cellsemi.rounds.store import files, shards
from cellsemi.rounds.store.image_codec import decode_image

sys.path.insert(0, str(Path(__file__).parent))
import regimes
from machine import DSB2018, describe, skip

HERE = Path(__file__).parent
SPLITS = ("labelled", "val", "test")
CLASSES = ("cell",)
MAX_PIXELS = 1 << 24
INFERENCE = InferenceConfig(tta=("identity",), precision="bfloat16")
HEADER = [
    *("data", "crop px", "steps", "seed", "labelled cells px", "cell_px", "seen px", "val mAP", "test mAP", "test F1"),
    *("images", "fit s", "predict s/image"),
]


@click.command()
@click.option("--data", "named", multiple=True, metavar="NAME=FOLDER", help="A data set; may be repeated.")
@click.option("--few/--no-few", default=False, help="Also the regime `few` of DSB2018, its development draw.")
@click.option("--root", type=click.Path(path_type=Path), default=DSB2018, help="DSB2018, for --few.")
@click.option("--cell-px", "diameters", multiple=True, type=float, default=(0, 24, 32, 40))
@click.option("--steps", default=600)
@click.option("--crop-px", default=128)
@click.option("--seed", "seeds", multiple=True, type=int, default=(0,))
@click.option("--work", type=click.Path(path_type=Path), default=Path("cell-size-work"))
def main(
    named: tuple[str, ...],
    few: bool,
    root: Path,
    diameters: tuple[float, ...],
    steps: int,
    crop_px: int,
    seeds: tuple[int, ...],
    work: Path,
) -> None:
    """Train, measure, write the table of all models in --work."""
    folders = dict(each.split("=", 1) for each in named)
    if few:
        regimes.build("few", 0, work / "few-data", root, development=True)
        folders["few (DSB2018, development draw 0)"] = str(work / "few-data")
    if not folders:
        skip("no data set is named: --data NAME=FOLDER or --few")
    for name, folder in folders.items():
        images = work / name.split()[0]
        if not (images / "test").is_dir():
            for split in SPLITS:
                shards.write_folder(images / split, _records(Path(folder), split), 64, "benchmark")
        for seed in seeds:
            for diameter in diameters:
                training = TrainingConfig(
                    steps=steps, crop_px=crop_px, cell_px=diameter or None, precision="bfloat16", threads=1
                )
                kept = images / f"{diameter:g}-{crop_px}-{steps}-{seed}" / "figures.json"
                if not kept.is_file():
                    files.write_json(kept, {"data": name, **measure(images, kept.parent / "model", training, seed)})
    text = table([files.read_json(path) for path in sorted(work.glob("*/*/figures.json"))])
    (HERE / "cell_size.md").write_text(text)
    print(text)


def measure(images: Path, folder: Path, training: TrainingConfig, seed: int) -> dict[str, object]:
    """Train one model and score it: what one row of the table says. Seconds are of the processor."""
    model = FlowUnetConfig(name="unet", width=24)
    task = FitTask(
        model=model,
        training=training,
        classes=CLASSES,
        one_class_per_image=False,
        ignore_dilation_px=2,
        shards=tuple(str(path) for path in shards.shard_paths(images / "labelled")),
        out_dir=str(folder),
        seed=seed,
        steps=training.steps,
        device="cpu",
    )
    started = time.process_time()
    family(model.kind).fit(task, lambda step, steps: None)
    fitted = time.process_time() - started
    on_val = OnValidation(str(images / "val"), INFERENCE, INFERENCE, len(CLASSES), None, "cpu", MAX_PIXELS)
    chosen = choose(on_val, folder).cell_probability
    assert chosen is not None
    predictor = load_predictor(folder, INFERENCE.at_probability(chosen.chosen), "cpu")
    started = time.process_time()
    pairs = {split: list(predicted(predictor, images / split)) for split in ("val", "test")}
    seconds = (time.process_time() - started) / sum(map(len, pairs.values()))
    limit = best_threshold((found, truth) for _, found, truth in pairs["val"]).value
    found = {
        split: summarise([score_image(name, truth, cells, limit) for name, cells, truth in rows], CLASSES)
        for split, rows in pairs.items()
    }
    return {
        "cell_px": training.cell_px,
        "crop_px": training.crop_px,
        "steps": training.steps,
        "seed": seed,
        **read_model_file(folder).cell_size.model_dump(),
        "val": found["val"].map,
        "test": found["test"].map,
        "f1": found["test"].f1,
        "images": [len(rows) for rows in pairs.values()],
        "fit_s": fitted,
        "predict_s": seconds,
    }


def predicted(predictor: Predictor, folder: Path) -> Iterator[tuple[str, Instances, Instances]]:
    """The id, the predicted cells and the true ones of each image of a folder of shards."""
    for record in shards.read_folder(folder):
        assert record.image is not None and record.instances is not None
        (cells,) = predictor.predict([decode_image(record.image, record.image_id, MAX_PIXELS)])
        yield record.image_id, cells, record.instances


def _records(root: Path, split: str) -> Iterator[shards.ImageRecord]:
    data = LabelMaps(DataConfig(source="label-maps", root=str(root), classes=CLASSES))
    for row in data.rows:
        if row.split == split:
            yield data.load(row).record.with_(split=split)


def table(rows: list[dict[str, Any]]) -> str:
    """What cell_size.md says of the figures of some models."""
    ordered = sorted(
        rows, key=lambda row: (row["data"], row["crop_px"], row["seed"], row["scale"] * row["diameter_px"])
    )
    lines = [HEADER, ["---"] * len(HEADER), *(_cells(row) for row in ordered)]
    return f"""# At which size a flow U-Net sees cells best

{describe()}.

`training.cell_px` brings the typical cell to so many pixels, by one factor for all images of a model. **seen px**: the
diameter that the network sees; `as is` is `cell_px: null`. Width 24, bfloat16, one view; crops, steps and seed are
those of the row. Cell probability and score threshold are chosen on val; **images** are those of val and test. Seconds
are of the processor, one thread.
Written by `benchmarks/cell_size.py`; other programs may have used the machine.

{chr(10).join("| " + " | ".join(line) + " |" for line in lines)}
"""


def _cells(row: dict[str, Any]) -> list[str]:
    asked = "as is" if row["cell_px"] is None else f"{row['cell_px']:g}"
    return [
        row["data"],
        *(str(row[name]) for name in ("crop_px", "steps", "seed")),
        f"{row['diameter_px']:.1f}",
        asked,
        f"{row['scale'] * row['diameter_px']:.1f}",
        *(f"{row[name]:.3f}" for name in ("val", "test", "f1")),
        "/".join(map(str, row["images"])),
        f"{row['fit_s']:.0f}",
        f"{row['predict_s']:.2f}",
    ]


if __name__ == "__main__":
    main()
