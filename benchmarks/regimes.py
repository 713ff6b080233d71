"""Draws the data of the regimes of rounds.py: which images of a seed are labelled, unlabelled, test.

A regime on DSB2018 is a folder with links to the images and label maps and a manifest of its own. Labelled
images are drawn from the splits `labelled` and `val`; those that are not drawn are left out. Unlabelled and
test images are the splits `unlabelled` and `test`, the same for every seed. A regime of generated cells is a
folder of image shards: `run.seed` would draw another test with every seed, so the cells are made here, unlabelled
and test images always from DATA_SEED, the labelled images from the seed.

A development draw on DSB2018 is for choices: it draws other images, its test are the images of the splits
`labelled` and `val` that were not drawn, and the split `test` is left out.

The ceiling of a regime (`all_of`) holds every image that is not test with its label, and the test as it is.
"""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cellsemi.configs.data import DataConfig, GeneratedConfig
from cellsemi.configs.errors import DataError
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.datasets import synthetic
from cellsemi.rounds.formats.label_map.reader import LabelMaps
from cellsemi.rounds.formats.shards import IMPORT_FILE, ImportRecord
from cellsemi.rounds.store import files, shards
from cellsemi.rounds.store.run import SPLITS
from cellsemi.rounds.store.schemas import SCHEMA_VERSION, ImageRecord

Row = dict[str, str]  # one line of the manifest

EVERY = ("fluorescence", "histology", "brightfield")
DRAWN = ("labelled", "val")  # splits of DSB2018 that labelled images are drawn from
NUCLEUS = ("nucleus",)
NEURAL = ("shsy5y", "astro", "cort")
GENERATED = GeneratedConfig(labelled=8, val=4, unlabelled=96, test=40)
CROWDED = GeneratedConfig(labelled=9, val=9, unlabelled=200, test=36, densities=(1.6, 2.2))
DATA_SEED = 0  # of the generated unlabelled and test images
SHARD_IMAGES = 16


@dataclass(frozen=True, slots=True)
class Regime:
    """What is labelled: images of each modality to train on and for val; `size` is that of the fluorescence ones.

    `modalities` are those of the unlabelled and test images, none where the cells are generated; `ceiling` names
    the data of line (e), which regimes of equal test share.
    """

    says: str
    ceiling: str
    classes: tuple[str, ...] = NUCLEUS
    train: Mapping[str, int] | None = None
    val: Mapping[str, int] | None = None
    size: tuple[str, str] | None = None  # height, width as the manifest writes them
    modalities: tuple[str, ...] = ("fluorescence",)
    generated: GeneratedConfig | None = None


REGIMES: dict[str, Regime] = {
    "uncovered": Regime(
        "8 labelled fluorescence images of 256x256 (5 train, 3 val); unlabelled and test: fluorescence of all sizes",
        ceiling="fluorescence",
        train={"fluorescence": 5},
        val={"fluorescence": 3},
        size=("256", "256"),
    ),
    "mixed": Regime(
        "6 labelled fluorescence images of 256x256 (4 train, 2 val) and 2 of histology (1 train, 1 val); unlabelled "
        "and test: every modality and size",
        ceiling="mixed",
        train={"fluorescence": 4, "histology": 1},
        val={"fluorescence": 2, "histology": 1},
        size=("256", "256"),
        modalities=EVERY,
    ),
    "few": Regime(
        "8 labelled fluorescence images of any size (5 train, 3 val); unlabelled and test: fluorescence",
        ceiling="fluorescence",
        train={"fluorescence": 5},
        val={"fluorescence": 3},
    ),
    "enough": Regime(
        "24 labelled fluorescence images of any size (16 train, 8 val); unlabelled and test: fluorescence",
        ceiling="fluorescence",
        train={"fluorescence": 16},
        val={"fluorescence": 8},
    ),
    "classes": Regime(
        f"generated cells of three classes, one class per image, {GENERATED.labelled} labelled to train and "
        f"{GENERATED.val} for val, {GENERATED.unlabelled} unlabelled, {GENERATED.test} test",
        ceiling="classes",
        classes=NEURAL,
        modalities=(),
        generated=GENERATED,
    ),
}

MORE: dict[str, Regime] = {
    "crowded": Regime(
        f"generated cells of three classes, crowded and among more debris, {CROWDED.labelled} labelled to train and "
        f"{CROWDED.val} for val, {CROWDED.unlabelled} unlabelled, {CROWDED.test} test",
        ceiling="crowded",
        classes=NEURAL,
        modalities=(),
        generated=CROWDED,
    ),
}  # of neurons.py


# --- folders ------------------------------------------------------------------------------------------


def build(name: str, seed: int, out: Path, root: Path, images: int | None = None, *, development: bool = False) -> None:
    """Write the data of a regime and seed into `out`, a folder that is there already only if it holds the same.

    `root` is DSB2018; it is not read for generated cells. `images` keeps so many of the unlabelled and
    test images only, to try the script out. DataError when `out` holds another draw, ValueError for a development
    draw of generated cells.
    """
    regime = called(name)
    if regime.modalities:
        rows = read_rows(root)
        drawn = draw_development(name, seed, rows, images) if development else draw(name, seed, rows, images)
        write_manifest(drawn, out, root)
    elif development:
        raise ValueError(f"{name}: its cells are generated; take another seed for development")
    else:
        _write_shards(_generated(regime, seed, images), regime, out, f"{name}, seed {seed}, images {images}")


def build_all(ceiling: str, seed: int, out: Path, root: Path, images: int | None = None) -> None:
    """Write the data of line (e) into `out`: every image that is not test with its label. DataError as `build`."""
    regime = of_ceiling(ceiling)
    if regime.modalities:
        write_manifest(all_of(read_rows(root), regime.modalities, images), out, root)
    else:
        _write_shards(
            _with_labels(regime, _generated(regime, seed, images)),
            regime,
            out,
            f"{ceiling}, all, seed {seed}, images {images}",
        )


def called(name: str) -> Regime:
    """The regime of a name."""
    return REGIMES[name] if name in REGIMES else MORE[name]


def of_ceiling(ceiling: str) -> Regime:
    """A regime with this ceiling: what its modalities and classes are."""
    return next(regime for regime in [*REGIMES.values(), *MORE.values()] if regime.ceiling == ceiling)


def hidden_truth(name: str, root: Path) -> dict[str, Instances]:
    """The cells of every unlabelled image, by id, which no run was given. `root`: DSB2018 itself."""
    regime = called(name)
    if config := regime.generated:
        ids = synthetic.image_ids(config, "unlabelled")
        return {key: synthetic.hidden_truth(config, regime.classes, DATA_SEED, key) for key in ids}
    data = LabelMaps(DataConfig(source="label-maps", root=str(root), classes=regime.classes))
    known = {row["id"] for row in read_rows(root) if row["modality"] in regime.modalities}
    unlabelled = [row for row in data.rows if row.split == "unlabelled" and row.image_id in known]
    return {row.image_id: data.read_hidden_truth(data.load(row).record) for row in unlabelled}


# --- DSB2018 ------------------------------------------------------------------------------------------


def read_rows(root: Path) -> list[Row]:
    """The manifest of DSB2018: a dict for every image, in the order of the file."""
    with (root / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def draw(name: str, seed: int, rows: Sequence[Row], images: int | None = None) -> list[Row]:
    """The rows of a regime and seed: those drawn, as `labelled` or `val`, and all unlabelled and test images."""
    drawn = _drawn(REGIMES[name], f"{name}/{seed}", rows)
    return _with_drawn(drawn, [row for row in rows if row["split"] in ("unlabelled", "test")], name, rows, images)


def draw_development(name: str, seed: int, rows: Sequence[Row], images: int | None = None) -> list[Row]:
    """The rows of a development draw: the test is what was not drawn of `labelled` and `val`."""
    drawn = _drawn(REGIMES[name], f"dev/{name}/{seed}", rows)
    known = [{**row, "split": "test"} if row["split"] in DRAWN else row for row in rows if row["split"] != "test"]
    rest = [row for row in known if row["id"] not in drawn]
    return _with_drawn(drawn, rest, name, known, images)


def _drawn(regime: Regime, key: str, rows: Sequence[Row]) -> dict[str, str]:
    """Id of each image that is drawn -> `labelled` or `val`; a key always draws the same."""
    assert regime.train is not None and regime.val is not None
    rng = random.Random(key)
    split: dict[str, str] = {}
    for modality, n_train in regime.train.items():
        free = [row for row in rows if row["split"] in DRAWN and row["modality"] == modality]
        if regime.size and modality == "fluorescence":
            free = [row for row in free if (row["height"], row["width"]) == regime.size]
        n_val = regime.val[modality]
        drawn = [row["id"] for row in rng.sample(free, n_val + n_train)]
        split |= dict.fromkeys(drawn[:n_val], "val") | dict.fromkeys(drawn[n_val:], "labelled")
    return split


def _with_drawn(
    split: Mapping[str, str], rest: Sequence[Row], name: str, rows: Sequence[Row], images: int | None
) -> list[Row]:
    """Those drawn and the `rest` of the regime's modalities, in the order of `rows`."""
    kept = {row["id"] for row in _first([row for row in rest if row["modality"] in REGIMES[name].modalities], images)}
    return [{**row, "split": split.get(row["id"], row["split"])} for row in rows if row["id"] in kept | split.keys()]


def all_of(rows: Sequence[Row], modalities: Sequence[str], images: int | None = None) -> list[Row]:
    """The rows with every label: `unlabelled` becomes `labelled`; val and test stay as they are."""
    kept = _first([row for row in rows if row["modality"] in modalities], images)
    return [{**row, "split": "labelled" if row["split"] == "unlabelled" else row["split"]} for row in kept]


def _first(rows: Sequence[Row], images: int | None) -> list[Row]:
    """The first `images` rows of each split; None: all."""
    return [row for split in SPLITS for row in [row for row in rows if row["split"] == split][:images]]


def write_manifest(rows: Sequence[Row], out: Path, root: Path) -> None:
    """Write the manifest of a draw, beside links to the images and masks below `root`. DataError as `build`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    out.mkdir(parents=True, exist_ok=True)
    for folder in ("images", "masks"):
        (out / folder).unlink(missing_ok=True)
        (out / folder).symlink_to((root / folder).resolve(), target_is_directory=True)
    _write_once(out / "manifest.csv", text.getvalue())


def _write_once(path: Path, text: str) -> bool:
    """Write a file that is not there; False when it is there and the same, DataError when it is another."""
    if not path.is_file():
        files.write_text(path, text)
        return True
    if path.read_text(encoding="utf-8") != text:
        raise DataError(f"{path}: of another draw than this one; remove its folder and the runs, or give another --out")
    return False


# --- generated cells ----------------------------------------------------------------------------------


def _generated(regime: Regime, seed: int, images: int | None) -> Iterator[ImageRecord]:
    """Labelled and val images of the seed; unlabelled and test images of DATA_SEED."""
    config = regime.generated
    assert config is not None
    for split in SPLITS:
        shared = split in ("unlabelled", "test")
        count = len(synthetic.image_ids(config, split))
        for index in range(min(count, images or count) if shared else count):
            yield synthetic.make(config, regime.classes, DATA_SEED if shared else seed, split, index)


def _with_labels(regime: Regime, records: Iterator[ImageRecord]) -> Iterator[ImageRecord]:
    assert regime.generated is not None
    for record in records:
        if record.split == "unlabelled":
            cells = synthetic.hidden_truth(regime.generated, regime.classes, DATA_SEED, record.image_id)
            yield record.with_(split="labelled", instances=cells)
        else:
            yield record


def _write_shards(records: Iterator[ImageRecord], regime: Regime, out: Path, what: str) -> None:
    """Image shards of each split, and last the file that `data.source: shards` looks for."""
    _write_once(out / "drawn.txt", f"{what}, {regime.generated!r}, schema {SCHEMA_VERSION}\n")
    if (out / IMPORT_FILE).is_file():
        return
    by_split: dict[str, list[ImageRecord]] = {split: [] for split in SPLITS}
    for record in records:
        by_split[record.split].append(record)
    written = {
        split: [shard.model_dump(mode="json") for shard in shards.write_folder(out / split, mine, SHARD_IMAGES, "")]
        for split, mine in by_split.items()
    }
    record = ImportRecord(
        classes=NEURAL,
        source="generated",
        settings={"what": what},
        report={},
        shards=written,
        versions={},
        schema_version=SCHEMA_VERSION,
    )
    files.write_json(out / IMPORT_FILE, record.model_dump(mode="json"))
