"""How honest and how sharp a pseudo-label's quality is, on generated cells with simulated teachers; to quality.md.

    python benchmarks/quality.py

Two teachers see generated cells and err as teachers do: they merge neighbours that touch, cut cells short, find cells
where there are none, and are hardly less sure of it. Their masks are fused, a quality is fitted on few images, and
thresholds are chosen there; what these promise is compared with fresh images. No network is involved, so that the
errors are known: this measures `rounds/pseudo_labels/quality.py`, not a model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.random import Generator
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from cellsemi.configs.data import GeneratedConfig
from cellsemi.configs.rounds import FilterConfig, FusionConfig
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.masks import crops, from_crops
from cellsemi.rounds.cells.matching import hits
from cellsemi.rounds.cells.rle import Bitmap
from cellsemi.rounds.datasets.synthetic import SHAPES, make, well
from cellsemi.rounds.pseudo_labels.fusion import fuse
from cellsemi.rounds.pseudo_labels.iou_regressor import Regressor
from cellsemi.rounds.pseudo_labels.mask_features import FEATURES, Floats, features
from cellsemi.rounds.pseudo_labels.quality import best_iou, fit_quality
from cellsemi.rounds.pseudo_labels.thresholds import choose_thresholds

sys.path.insert(0, str(Path(__file__).parent))
from machine import describe

HERE = Path(__file__).parent
CLASSES = tuple(SHAPES)
IMAGES, FRESH, SEEDS = 12, 48, 5
FOR_MERGES = ("solidity", "second_core", "children")
# How sure a teacher is (mean, concentration of a Beta distribution), by what the mask is.
SURE = {"cell": (0.75, 8), "merge": (0.72, 8), "part": (0.66, 8), "nothing": (0.55, 7)}
MERGED, CUT, MISSED = 0.8, 0.2, 0.1  # chances: of two cells that touch, of a cell

Pair = tuple[Instances, Instances]
Mask = tuple[Bitmap, str]  # bool (H, W), and what it is in SURE


Measured = dict[str, float]  # the figures of one seed, by name


def simulate(count: int, seed: int) -> list[Pair]:
    """(fused predictions of two simulated teachers, truth) of generated images of all classes."""
    config = GeneratedConfig(labelled=count, unlabelled=1, val=1, test=1, height_px=192, width_px=256)
    found = []
    for index in range(count):
        truth = make(config, CLASSES, seed, "labelled", index).instances
        assert truth is not None
        rng = np.random.default_rng([seed, index])
        fused = fuse({name: teacher(truth, rng) for name in ("a", "b")}, FusionConfig(), one_class_per_image=True)
        found.append((fused, truth))
    return found


def teacher(truth: Instances, rng: Generator) -> Instances:
    """What one simulated teacher finds; without cells, one mask of nothing."""
    masks = _errors([_drawn(truth, i) for i in range(len(truth))], rng)
    masks += [(_blob(truth.height, truth.width, rng), "nothing") for _ in range(1 + rng.poisson(len(truth) / 12))]
    masks = [(mask, what) for mask, what in masks if mask.any()]
    score = [rng.beta(mean * n, (1 - mean) * n) for mean, n in (SURE[what] for _, what in masks)]
    drawn = [(mask, 0, 0) for mask, _ in masks]
    class_id = int(truth.class_id[0]) if len(truth) else 0
    return from_crops(truth.height, truth.width, drawn, score=score, class_id=class_id, state="predicted")


def _drawn(cells: Instances, index: int) -> Bitmap:
    canvas = np.zeros((cells.height, cells.width), bool)
    ((crop, x, y),) = crops(cells.select([index]))
    canvas[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
    return canvas


def _errors(true: Sequence[Bitmap], rng: Generator) -> list[Mask]:
    """The true masks with the errors of a teacher: merged, cut, missed, and none drawn exactly."""
    taken: set[int] = set()
    found: list[Mask] = []
    for i, mask in enumerate(true):
        if i in taken:
            continue
        grown = ndimage.binary_dilation(mask)
        beside = [j for j in range(i + 1, len(true)) if j not in taken and (grown & true[j]).any()]
        if beside and rng.random() < MERGED:
            taken.add(beside[0])
            found.append((_redrawn(mask | true[beside[0]], rng), "merge"))
        elif rng.random() > MISSED:
            cut = rng.random() < CUT
            found.append((_cut(mask, rng), "part") if cut else (_redrawn(mask, rng), "cell"))
    return found


def _redrawn(mask: Bitmap, rng: Generator) -> Bitmap:
    """The mask with an outline that a smooth random field moves by up to about two pixels."""
    field = ndimage.gaussian_filter(rng.standard_normal(mask.shape), 4)
    depth = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    return np.asarray(depth > field / field.std() * 0.9)


def _cut(mask: Bitmap, rng: Generator) -> Bitmap:
    """What of the mask lies on one side of a line at 30 to 60 % of its length."""
    y, x = np.nonzero(mask)
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * y + np.sin(angle) * x
    part = np.zeros_like(mask)
    inside = along < np.quantile(along, rng.uniform(0.3, 0.6))
    part[y[inside], x[inside]] = True
    return part


def _blob(height: int, width: int, rng: Generator) -> Bitmap:
    y, x = np.ogrid[:height, :width]
    radii = rng.uniform(3, 9, 2)
    place = ((y - rng.uniform(0, height)) / radii[0]) ** 2 + ((x - rng.uniform(0, width)) / radii[1]) ** 2
    return np.asarray(place <= 1)


# --- what is measured -----------------------------------------------------------------------------------


def merged(predicted: Instances, truth: Instances) -> np.ndarray:
    """bool (P,): masks that hold most of two or more true cells and are none of them at IoU > .5."""
    inside = np.zeros(len(predicted), int)
    true = [_drawn(truth, i) for i in range(len(truth))]
    for i in range(len(predicted)):
        mask = _drawn(predicted, i)
        inside[i] = sum(2 * int((mask & each).sum()) > int(each.sum()) for each in true)
    return (inside > 1) & (best_iou(predicted, truth) <= 0.5)


def measure(seed: int) -> Measured:
    """Fit on IMAGES images, and compare what is stated there with FRESH others."""
    validation, fresh = simulate(IMAGES, seed), simulate(FRESH, 1000 + seed)
    values: Measured = {}
    right = np.concatenate([hits(predicted, truth) for predicted, truth in fresh])
    is_merged = np.concatenate([merged(predicted, truth) for predicted, truth in fresh])
    values["share merged"] = float(is_merged.mean())
    values["share right"] = float(right.mean())
    judged = right | is_merged
    rows, new = _rows(validation), _rows(fresh)
    iou = np.concatenate([best_iou(predicted, truth) for predicted, truth in validation])
    hidden = [FEATURES.index(name) for name in FOR_MERGES]
    for name, blind in (("without", hidden), ("with", [])):
        guessed = Regressor.fit(_without(rows, blind), iou)(_without(new, blind))
        values[f"AUC {name}"] = float(roc_auc_score(right, guessed))
        values[f"AUC of merges {name}"] = float(roc_auc_score(right[judged], guessed[judged]))
    score = np.concatenate([predicted.score for predicted, _ in fresh])
    values["AUC score"] = float(roc_auc_score(right, score))
    values["AUC of merges score"] = float(roc_auc_score(right[judged], score[judged]))
    config = FilterConfig(quality="regressed")
    wells = [well(CLASSES, "labelled", index) for index in range(IMAGES)]
    quality, unseen = fit_quality(validation, CLASSES, config, wells)
    seen = [(quality.apply(predicted), truth) for predicted, truth in validation]
    tested = [(quality.apply(predicted), truth) for predicted, truth in fresh]
    for name, pairs in (("seen", seen), ("unseen", unseen)):
        thresholds = choose_thresholds(pairs, [truth for _, truth in validation], CLASSES, config)
        limits = [thresholds.by_class[each].accept for each in CLASSES]
        values |= {f"stated {key} {name}": value for key, value in _kept(pairs, limits).items()}
        values |= {f"fresh {key} {name}": value for key, value in _kept(tested, limits).items()}
    return values


def _rows(pairs: Sequence[Pair]) -> Floats:
    return np.concatenate([features(predicted) for predicted, _ in pairs])


def _without(rows: Floats, columns: Sequence[int]) -> Floats:
    """The rows with some columns made constant: trees learn nothing from them."""
    blind = rows.copy()
    blind[:, list(columns)] = 0
    return blind


def _kept(pairs: Sequence[Pair], accept: Sequence[float]) -> dict[str, float]:
    """Precision and F.5 at IoU > .5 of the masks from the accept threshold of their class on."""
    kept = [(predicted.select(predicted.quality >= np.take(accept, predicted.class_id)), t) for predicted, t in pairs]
    hit = sum(int(hits(predicted, truth).sum()) for predicted, truth in kept)
    count, true = sum(len(predicted) for predicted, _ in kept), sum(len(truth) for _, truth in kept)
    return {"precision": hit / count, "F0.5": 1.25 * hit / (0.25 * true + count)}


def table(measured: Sequence[Measured]) -> str:
    """The tables of quality.md."""
    of = _mean_of(measured)
    sharp = [
        ("the score", of("AUC score"), of("AUC of merges score")),
        (f"trees without {', '.join(FOR_MERGES)}", of("AUC without"), of("AUC of merges without")),
        ("trees", of("AUC with"), of("AUC of merges with")),
    ]
    honest = [
        (name, *(of(f"{when} {key} {where}") for key in ("precision", "F0.5") for when in ("stated", "fresh")))
        for name, where in (("trees that saw the image", "seen"), ("trees of other wells", "unseen"))
    ]
    return "\n".join(
        [
            "| judged by | right against all others | right against merges |",
            "|---|---|---|",
            *(f"| {' | '.join(row)} |" for row in sharp),
            "",
            "| thresholds chosen by | precision: stated | fresh | F0.5: stated | fresh |",
            "|---|---|---|---|---|",
            *(f"| {' | '.join(row)} |" for row in honest),
        ]
    )


def _mean_of(measured: Sequence[Measured]) -> Callable[[str], str]:
    def text(name: str) -> str:
        values = [each[name] for each in measured]
        return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"

    return text


def main() -> None:
    """Measure and write the tables."""
    measured = [measure(seed) for seed in range(SEEDS)]
    right, merges = (100 * np.mean([each[f"share {name}"] for each in measured]) for name in ("right", "merged"))
    text = f"""# The quality of pseudo-labels: how sharp, how honest

{describe()}. Written by `benchmarks/quality.py`: two simulated teachers on generated cells, fused;
{IMAGES} images to fit on, {FRESH} fresh ones, {SEEDS} seeds: mean (least to largest). Of the fresh masks {right:.0f} %
are right and {merges:.0f} % are merges of cells. The errors are simulated: the figures compare ways to judge a mask,
they are not those of a model.

Area under the ROC curve on fresh images, of a mask that is a cell at IoU > .5:

{table(measured)}

Stated: of the accepted masks, on the images that thresholds were chosen on; fresh: on others.
"""
    (HERE / "quality.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
