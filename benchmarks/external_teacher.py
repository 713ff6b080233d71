"""Measures a campaign whose only teacher is a folder of imperfect masks; the table goes to external_teacher.md.

    python benchmarks/external_teacher.py [--seed 0 ...] [--root FOLDER] [--out runs]

The images are those of Usiigaci (Tsai et al. 2019, MIT), halved. The folder is made here, by the seed: the human masks
of all images with 30 % of the cells dropped, moved, merged with a neighbour, or with a speck beside them. The run has
labels for validation and test alone: the training images and those unlabelled ones whose labels are known are its pool.
A run that exists is continued or reused; `--table-only` writes the table of what is finished.
"""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).parent))
from machine import describe, skip

from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.matching import hits
from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.evaluation.leaderboard import Row
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.run import RunPaths

HERE = Path(__file__).parent
USIIGACI = HERE.parents[1] / "shared" / "data" / "usiigaci"  # where a checkout may have it
SHARE = 0.3  # of the cells that are spoiled
WAYS = ("dropped", "moved", "merged", "speck")
STEPS = 2000
Labels = NDArray[np.int32]


# --- the data ------------------------------------------------------------------------------------------


def halved(image: NDArray[Any]) -> NDArray[Any]:
    """Every second row and column of a label map or image (H, W), of an image the mean of four pixels."""
    even = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
    if image.dtype != np.uint8:
        return even[::2, ::2]
    return even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2).mean((1, 3)).astype(np.uint8)


def spoiled(labels: Labels, rng: np.random.Generator) -> Labels:
    """A label map (H, W) with SHARE of its cells spoiled, in each of WAYS as many, at random.

    Moved: by .6 of its diameter, in any direction, over what lies there; IoU below .5. Merged: it gets the number of
    the cell with the nearest centre, and the gap is closed. A speck, 3 px in radius, has a number of its own, on
    background.
    """
    numbers = np.setdiff1d(labels, [0])
    chosen = rng.permutation(numbers)[: round(SHARE * len(numbers))]
    out = labels.copy()
    centres = dict(zip(numbers.tolist(), ndimage.center_of_mass(labels > 0, labels, numbers), strict=True))
    for index, number in enumerate(chosen.tolist()):
        way = WAYS[index % len(WAYS)]
        own = labels == number
        if way == "speck":
            _speck(out, rng)
            continue
        out[(out == number) & own] = 0
        if way == "moved":
            _move(out, own, number, rng)
        elif way == "merged" and len(numbers) > 1:
            others = [each for each in centres if each != number and (out == each).any()]
            nearest = min(others, key=lambda each: float(np.hypot(*np.subtract(centres[each], centres[number]))))
            both = own | (out == nearest)
            closed = ndimage.binary_closing(np.pad(both, 8), iterations=6)[8:-8, 8:-8] & ((out == 0) | (out == nearest))
            out[closed | own] = nearest
    return out


def _move(out: Labels, own: NDArray[np.bool_], number: int, rng: np.random.Generator) -> None:
    angle, length = rng.uniform(0, 2 * np.pi), 0.6 * 2 * np.sqrt(own.sum() / np.pi)
    y, x = np.nonzero(own)
    y, x = y + round(length * np.sin(angle)), x + round(length * np.cos(angle))
    inside = (y >= 0) & (y < out.shape[0]) & (x >= 0) & (x < out.shape[1])
    out[y[inside], x[inside]] = number


def _speck(out: Labels, rng: np.random.Generator) -> None:
    y, x = np.nonzero(ndimage.binary_erosion(out == 0, iterations=5))
    at = rng.integers(len(y))
    yy, xx = np.ogrid[: out.shape[0], : out.shape[1]]
    out[(yy - y[at]) ** 2 + (xx - x[at]) ** 2 <= 3**2] = out.max() + 1


def prepare(root: Path, out: Path, seed: int) -> Path:
    """Write the halved data set, training images unlabelled, and the folder of spoiled masks; returns its folder."""
    folder = out / f"usiigaci-half-s{seed}"
    rng = np.random.default_rng(seed)
    rows = [row for row in csv.DictReader((root / "manifest.csv").open()) if int(row["n_instances"]) > 0]
    for name in ("images", "masks", "hidden", "teacher"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    lines = [["id", "split"]]
    for row in sorted(rows, key=lambda row: row["id"]):
        split = row["split"] if row["split"] in ("val", "test") else "unlabelled"
        image = halved(np.asarray(Image.open(root / "images" / f"{row['id']}.png")).astype(np.uint8))
        labels = halved(np.asarray(Image.open(root / "masks" / f"{row['id']}.png")).astype(np.int32))
        Image.fromarray(image).save(folder / "images" / f"{row['id']}.png")
        where = "hidden" if split == "unlabelled" else "masks"
        for place, content in ((where, labels), ("teacher", spoiled(labels, rng))):
            Image.fromarray(content.astype(np.uint16)).save(folder / place / f"{row['id']}.png")
        lines.append([row["id"], split])
    (folder / "manifest.csv").write_text("\n".join(map(",".join, lines)) + "\n")
    return folder


# --- the runs ------------------------------------------------------------------------------------------


def command(folder: Path, out: Path, seed: int, settings: Sequence[str]) -> list[str]:
    """The run of a seed."""
    models = (
        f"models=[{{kind: masks, name: folder, folder: '{folder / 'teacher'}'}}, "
        f"{{kind: flow-unet, name: student, first_round: 1, augment: light}}]"
    )
    pairs = [
        f"data.root={folder}",
        "data.classes=[cell]",
        models,
        "filter.quality=regressed",
        f"training.steps={STEPS}",
        "training.batch=8",
        f"run.seed={seed}",
        f"run.root={out}",
        *settings,
    ]
    sets = [part for pair in pairs for part in ("--set", pair)]
    options = ["--config", "label-maps", "--run", run_name(seed), "--engine", "inline"]
    return ["cellsemi", "round", "--n", "1", *options, *sets]


def run_name(seed: int) -> str:
    """The run of a seed, as its folder is called."""
    return f"external-s{seed}"


@dataclass(frozen=True, slots=True)
class Right:
    """Masks that are a hidden cell at IoU > .5, of `found` masks and `there` hidden cells."""

    right: int
    found: int
    there: int

    @property
    def precision(self) -> float:
        return self.right / self.found if self.found else 0.0

    @property
    def recall(self) -> float:
        return self.right / self.there


def of_the_pool(paths: RunPaths, hidden: Path, table: Path, state: str) -> Right:
    """The masks in a table of the pool that have a state, beside the hidden labels."""
    right = found = there = 0
    for record in shards.read_folder(table):
        assert record.instances is not None
        truth = masks.from_label_map(np.asarray(Image.open(hidden / f"{record.image_id}.png")).astype(np.int32))
        kept = record.instances.in_state(state)
        right += int(hits(kept, truth).sum())
        found, there = found + len(kept), there + len(truth)
    return Right(right, found, there)


def cells_of(seed: int, out: Path) -> list[str] | None:
    """One line of the table; None when the run is not finished."""
    paths = RunPaths(out / run_name(seed))
    if len(paths.finished_rounds()) < 2:
        return None
    hidden = out / f"usiigaci-half-s{seed}" / "hidden"
    given = of_the_pool(paths, hidden, paths.predictions(0, "folder", "unlabelled"), "predicted")
    passed = of_the_pool(paths, hidden, paths.pseudo(1), "accepted")
    rows = {(row.round, row.model): row for row in leaderboard.read(paths.leaderboard)}
    teacher, student = rows[0, "folder"], rows[1, "ensemble"]
    return [
        str(seed),
        *(f"{each.precision:.3f} / {each.recall:.3f} ({each.found})" for each in (given, passed)),
        *(_score(row) for row in (teacher, student)),
        *(f"{row.f1:.3f}" for row in (teacher, student)),
        f"{student.change.value:+.3f} ({student.change.low:+.3f} to {student.change.high:+.3f})"
        if student.change
        else "-",
    ]


def _score(row: Row) -> str:
    return f"{row.test_map.value:.3f}" if row.test_map else "-"


HEAD = ["seed", "folder on the pool", "accepted", "folder mAP", "student mAP", "folder F1", "student F1", "change"]


def page(rows: Sequence[Sequence[str]], settings: Sequence[str]) -> str:
    """The whole page."""
    extra = "".join(f" --set {setting}" for setting in settings)
    table = "\n".join("| " + " | ".join(row) + " |" for row in [HEAD, ["---"] * len(HEAD), *rows])
    return f"""# A folder of imperfect masks as the only teacher

{describe()}. Written by `benchmarks/external_teacher.py`{extra}.

Usiigaci, halved to 511 x 512: 20 images are the pool (the training images and the unlabelled ones whose labels are
known), 6 validate, 8 test; no human training image. The teacher is a folder of the human masks with {SHARE:.0%} of the
cells of each image spoiled: a quarter of these dropped, moved, merged with a neighbour, or with a speck beside them;
the others are exact to the pixel. One round, one student from scratch: a flow U-Net, {STEPS} steps,
`augment: light` (all images have one magnification), `filter.quality: regressed`.

*folder on the pool* and *accepted*: precision / recall (masks) at IoU > .5 against the hidden labels. *mAP*: Kaggle
Sartorius (mean over IoU .50 to .95) on test; *F1*: test, IoU > .5; *change*: student less folder, paired over the test
images (95 %).

{table}
"""


@click.command()
@click.option("--seed", "seeds", multiple=True, type=int, default=(0, 1, 2))
@click.option("--root", type=click.Path(path_type=Path), default=USIIGACI, help="Folder of Usiigaci.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs"), help="Folder of the runs.")
@click.option("--set", "settings", multiple=True, help="One more setting for every run.")
@click.option("--table", "target", type=click.Path(path_type=Path), default=HERE / "external_teacher.md")
@click.option("--table-only", is_flag=True, help="Only write the table of the runs that are there.")
def main(
    seeds: tuple[int, ...], root: Path, out: Path, settings: tuple[str, ...], target: Path, table_only: bool
) -> None:
    """Run and tabulate."""
    if not table_only:
        if not (root / "manifest.csv").is_file():
            skip(f"Usiigaci is not at {root}; --root names its folder")
        for seed in seeds:
            folder = prepare(root, out.resolve(), seed)
            line = command(folder, out.resolve(), seed, settings)
            print("$", " ".join(line), flush=True)
            subprocess.run(line, check=True)
    rows = [row for seed in seeds if (row := cells_of(seed, out)) is not None]
    if rows:
        target.write_text(page(rows, settings), encoding="utf-8")


if __name__ == "__main__":
    main()
