"""The benchmark of the rounds: what a seed draws, that no test image is learnt from, how its figures are made."""

from __future__ import annotations

import csv
import importlib.util
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from cellsemi.configs.data import GeneratedConfig
from cellsemi.configs.errors import DataError
from cellsemi.configs.loading import load_config
from cellsemi.configs.schema import Config, PromotionConfig
from cellsemi.rounds import files, leaderboard, masks, shards
from cellsemi.rounds.evaluation import Evaluation, write_evaluations
from cellsemi.rounds.instances import Instances
from cellsemi.rounds.metrics import ImageScore, Tally
from cellsemi.rounds.run import SPLITS, RunPaths, open_run
from cellsemi.rounds.sources import open_data
from cellsemi.rounds.tables import ImageRecord

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
DATA = BENCHMARKS.parents[1] / "shared" / "data" / "dsb2018"
SEEDS = (0, 1, 2)
NUCLEI = ("uncovered", "mixed", "few", "enough")
LABELLED = {  # regime: images of each modality to train on, for val
    "uncovered": ({"fluorescence": 5}, {"fluorescence": 3}),
    "mixed": ({"fluorescence": 4, "histology": 1}, {"fluorescence": 2, "histology": 1}),
    "few": ({"fluorescence": 5}, {"fluorescence": 3}),
    "enough": ({"fluorescence": 16}, {"fluorescence": 8}),
}


def script(name: str) -> ModuleType:
    """A module of benchmarks/, under a name that is not that of a package of the source tree."""
    sys.path.append(str(BENCHMARKS))  # for what it imports beside itself
    path_before = list(sys.path)
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    sys.path[:] = path_before
    return module


benchmark = script("rounds")
import regimes  # noqa: E402
import rounds_runs  # noqa: E402
import rounds_table  # noqa: E402


def listing() -> list[dict[str, str]]:
    """A manifest with every kind of image in every split, 40 labelled of each."""
    kinds = [("fluorescence", "256"), ("fluorescence", "512"), ("histology", "256"), ("brightfield", "1024")]
    sizes = {"labelled": 30, "unlabelled": 7, "val": 10, "test": 5}
    return [
        {"id": f"{split}-{kind}-{side}-{i}", "height": side, "width": side, "modality": kind, "split": split}
        for kind, side in kinds
        for split, count in sizes.items()
        for i in range(count)
    ]


def ids(rows: list[dict[str, str]], *splits: str) -> set[str]:
    return {row["id"] for row in rows if row["split"] in splits}


def check_draw(name: str, rows: list[dict[str, str]], drawn: list[dict[str, str]]) -> None:
    """What holds for every draw, told from the rows alone."""
    modalities = ("fluorescence", "histology", "brightfield") if name == "mixed" else ("fluorescence",)
    known = [row for row in rows if row["modality"] in modalities]
    assert len(drawn) == len({row["id"] for row in drawn})
    for split in ("unlabelled", "test"):
        assert ids(drawn, split) == ids(known, split)
    assert ids(drawn, "labelled", "val") <= ids(known, "labelled", "val")
    for split, expected in zip(("labelled", "val"), LABELLED[name], strict=True):
        assert Counter(row["modality"] for row in drawn if row["split"] == split) == expected
    small = [row for row in drawn if row["split"] in ("labelled", "val") and row["modality"] == "fluorescence"]
    if name in ("uncovered", "mixed"):
        assert {(row["height"], row["width"]) for row in small} == {("256", "256")}


@pytest.mark.parametrize("name", NUCLEI)
def test_a_draw_labels_what_the_regime_says_and_leaves_pool_and_test_as_they_are(name: str) -> None:
    rows = listing()
    draws = [regimes.draw(name, seed, rows) for seed in range(20)]
    for drawn in draws:
        check_draw(name, rows, drawn)
    assert draws[3] == regimes.draw(name, 3, rows)
    assert len({frozenset(ids(drawn, "labelled")) for drawn in draws}) > 10
    from_val = {image_id for drawn in draws for image_id in ids(drawn, "labelled") if image_id.startswith("val-")}
    assert from_val  # validation images of the data set count as labels that may be drawn


def test_few_draws_images_of_other_sizes_too() -> None:
    drawn = [row for seed in range(5) for row in regimes.draw("few", seed, listing()) if row["split"] == "labelled"]
    assert {row["height"] for row in drawn} == {"256", "512"}


def test_the_ceiling_has_every_label_but_those_of_the_test() -> None:
    rows = listing()
    every = regimes.all_of(rows, ("fluorescence",))
    known = [row for row in rows if row["modality"] == "fluorescence"]
    assert ids(every, "labelled") == ids(known, "labelled", "unlabelled")
    assert ids(every, "val") == ids(known, "val")
    assert ids(every, "test") == ids(known, "test")
    assert not ids(every, "unlabelled")


def config_of(name: str, root: Path) -> Config:
    plan = plan_of(root, regimes=(name,))
    job = next(job for job in plan.jobs() if "-ours-" in job.name)
    return load_config(job.preset, [*job.settings, f"data.root={root}"]).config


@pytest.mark.skipif(not DATA.is_dir(), reason=f"DSB2018 is not at {DATA}; see benchmarks/README.md")
@pytest.mark.parametrize("name", NUCLEI)
def test_no_test_image_is_learnt_from_in_the_real_data(name: str, tmp_path: Path) -> None:
    rows = regimes.read_rows(DATA)
    for seed in SEEDS:
        folder = tmp_path / f"s{seed}"
        regimes.build(name, seed, folder, DATA)
        regimes.build_all(regimes.REGIMES[name].ceiling, seed, tmp_path / "all", DATA)
        with (folder / "manifest.csv").open(newline="") as file:
            check_draw(name, rows, list(csv.DictReader(file)))
        found, every = [open_data(config_of(name, root)).items for root in (folder, tmp_path / "all")]
        test = {item.image_id for item in found if item.split == "test"}
        assert test == {item.image_id for item in every if item.split == "test"}
        assert len(test) == (133 if name == "mixed" else 110)
        for items in (found, every):
            assert not test & {item.image_id for item in items if item.split != "test"}
        assert {item.image_id for item in found} <= {item.image_id for item in every}


@pytest.mark.skipif(not DATA.is_dir(), reason=f"DSB2018 is not at {DATA}; see benchmarks/README.md")
def test_hidden_labels_are_those_of_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row for row in regimes.read_rows(DATA) if row["split"] != "unlabelled" or row["id"] < "05"]
    monkeypatch.setattr(regimes, "read_rows", lambda root: rows)
    truth = regimes.hidden_truth("few", DATA)
    pool = {row["id"]: row for row in rows if row["split"] == "unlabelled" and row["modality"] == "fluorescence"}
    assert truth.keys() == pool.keys() and len(pool) > 3
    assert {key: len(cells) for key, cells in truth.items()} == {k: int(r["n_instances"]) for k, r in pool.items()}


def test_another_draw_in_the_same_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regimes, "read_rows", lambda root: listing())
    regimes.build("few", 0, tmp_path / "few", tmp_path)
    before = (tmp_path / "few" / "manifest.csv").read_bytes()
    regimes.build("few", 0, tmp_path / "few", tmp_path)
    with pytest.raises(DataError, match="another draw"):
        regimes.build("few", 1, tmp_path / "few", tmp_path)
    assert (tmp_path / "few" / "manifest.csv").read_bytes() == before


# --- generated cells ----------------------------------------------------------------------------------


def records_of(folder: Path) -> dict[str, list[ImageRecord]]:
    return {split: list(shards.read_folder(folder / split)) for split in SPLITS}


def test_a_seed_of_generated_cells_draws_other_labels_and_the_same_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = GeneratedConfig(labelled=3, val=3, unlabelled=3, test=2, height_px=64, width_px=80)
    monkeypatch.setattr(regimes, "GENERATED", tiny)
    monkeypatch.setattr("os.fsync", lambda handle: None)
    for seed in (0, 1):
        regimes.build("classes", seed, tmp_path / str(seed), tmp_path)
    regimes.build_all("classes", 1, tmp_path / "all", tmp_path)
    zero, one, every = (records_of(tmp_path / name) for name in ("0", "1", "all"))

    def pixels(*records: list[ImageRecord]) -> set[str]:
        return {record.sha256 for part in records for record in part}

    assert pixels(zero["test"]) == pixels(one["test"]) == pixels(every["test"])
    assert pixels(zero["unlabelled"]) == pixels(one["unlabelled"])
    assert not pixels(zero["labelled"], zero["val"]) & pixels(one["labelled"], one["val"])
    assert pixels(every["labelled"]) == pixels(one["labelled"], one["unlabelled"]) and not every["unlabelled"]
    assert pixels(every["val"]) == pixels(one["val"])
    assert not pixels(one["test"]) & pixels(one["labelled"], one["val"], one["unlabelled"])
    assert all(record.instances is None for record in one["unlabelled"])
    truth = regimes.hidden_truth("classes", tmp_path)
    taught = {record.image_id: record.instances for record in every["labelled"] if record.image_id in truth}
    assert taught.keys() == truth.keys() == {record.image_id for record in one["unlabelled"]}
    for key, cells in truth.items():
        assert taught[key] is not None and taught[key].rle == cells.rle
    listed = Counter(item.split for item in open_data(config_of("classes", tmp_path / "1")).items)
    assert listed == {"labelled": 3, "unlabelled": 3, "val": 3, "test": 2}


def test_the_generated_regime_has_twelve_labels() -> None:
    assert regimes.GENERATED.labelled + regimes.GENERATED.val == 12


# --- the runs -----------------------------------------------------------------------------------------


def plan_of(out: Path, **changes: Any) -> Any:
    asked: dict[str, Any] = {"regimes": tuple(regimes.REGIMES), "seeds": SEEDS, "n": 1, "steps": 300, "root": out}
    asked |= {"out": out, "settings": (), "ablate": True, "images": None}
    return benchmark.Plan(**(asked | changes))


def test_every_run_has_a_valid_config_and_its_own_name(tmp_path: Path) -> None:
    jobs = plan_of(tmp_path).jobs()
    names = [job.name for job in jobs]
    assert len(names) == len(set(names)) == 3 * (5 * 2 + 3 + len(benchmark.ABLATIONS))
    configs = {job.name: load_config(job.preset, [*job.settings, "data.root=x"]).config for job in jobs}
    for job in jobs:
        config = configs[job.name]
        assert f"-s{config.run.seed}" in job.name
        n = 0 if "-all-" in job.name else 1 + ("two-of-as-many-steps" in job.name)
        assert (job.n, config.training.steps) == (n, 300 if n else 1200)
        steps = [config.training_of(model).steps for round in range(n + 1) for model in config.models_of(round)]
        assert len(steps) == n + 1 and sum(steps) == 1200, "one student a round, together as long as the ceiling"
        assert config.rounds.control == ("-ours-" in job.name or "-all-" in job.name)


def test_plain_takes_one_threshold_and_every_round(tmp_path: Path) -> None:
    for name, regime in regimes.REGIMES.items():
        job = next(job for job in plan_of(tmp_path, regimes=(name,)).jobs() if f"{name}-plain-" in job.name)
        config = load_config(job.preset, [*job.settings, "data.root=x"]).config
        assert isinstance(config.screen.limits, dict) and tuple(config.screen.limits) == regime.classes
        assert {(limit.accept, limit.reject) for limit in config.screen.limits.values()} == {(0.5, 0.5)}
        assert not config.screen.weight_by_quality and config.rounds.promotion.min_probability == 0


def test_a_part_off_differs_from_ours_in_more_than_its_control(tmp_path: Path) -> None:
    jobs = {job.name: set(job.settings) for job in plan_of(tmp_path, seeds=(0,)).jobs()}
    ours = jobs["uncovered-ours-s0"]
    for part in benchmark.ABLATIONS:
        assert jobs[f"uncovered-without-{benchmark.slug(part)}-s0"] - ours - {"rounds.control=false"}


# --- figures ------------------------------------------------------------------------------------------


def scene(seed: int) -> tuple[Instances, Instances]:
    """Screened predictions (all states, overlapping) and true cells of two classes in one small image."""
    rng = np.random.default_rng(seed)

    def boxes(n: int) -> list[tuple[np.ndarray, int, int]]:
        corners = rng.integers(0, 20, (n, 2)).tolist()
        return [(np.ones(tuple(rng.integers(5, 9, 2)), bool), x, y) for x, y in corners]

    truth = masks.from_crops(32, 32, boxes(5), class_id=rng.integers(0, 2, 5), state="human")
    near = [(crop, x + int(rng.integers(0, 2)), y) for crop, x, y in masks.crops(truth) for _ in range(2)]
    states = rng.choice(["accepted", "ignored", "rejected"], 12).tolist()
    ids = [*np.repeat(truth.class_id, 2), *rng.integers(0, 2, 2)]
    return masks.from_crops(
        32, 32, [*near, *boxes(2)], class_id=np.array(ids), score=rng.random(12), state=states
    ), truth


def most_pairs(predicted: Instances, truth: Instances) -> int:
    """The largest number of one-to-one pairs of one class with IoU > .5, from pixels."""
    found = np.zeros((len(truth), len(predicted)), bool)
    for i, j in np.ndindex(*found.shape):
        a, b = (masks.decode(cells.rle[k], 32, 32) for cells, k in ((truth, i), (predicted, j)))
        found[i, j] = truth.class_id[i] == predicted.class_id[j] and (a & b).sum() / (a | b).sum() > 0.5
    return int((maximum_bipartite_matching(csr_array(found)) >= 0).sum())


def test_pseudo_labels_are_counted_as_by_an_independent_matching() -> None:
    total = rounds_table.Counts()
    for seed in range(30):
        screened, truth = scene(seed)
        counts = rounds_table.count(screened, truth)
        of = {state: screened.in_state(state) for state in ("accepted", "ignored", "rejected")}
        assert (counts.accepted, counts.ignored, counts.truth) == (len(of["accepted"]), len(of["ignored"]), 5)
        assert counts.right == most_pairs(of["accepted"], truth)
        assert counts.seen == most_pairs(screened.in_state("accepted", "ignored"), truth)
        total += counts
    assert 0 < total.right < total.seen < total.truth == 150
    assert total.precision == total.right / total.accepted and total.accounted == total.seen / 150


def test_nothing_accepted_has_no_precision() -> None:
    screened, truth = scene(0)
    counts = rounds_table.count(screened.with_(state="rejected"), truth)
    assert (counts.precision, counts.recall) == (None, 0)


@dataclass
class Known:
    """A seed whose figures are given."""

    a: float | None
    b: float | None
    c: float | None
    d: float | None
    e: float | None
    seed: int = 0

    def value(self, letter: str) -> float | None:
        found: float | None = getattr(self, letter)
        return found

    @property
    def complete(self) -> bool:
        return None not in (self.a, self.c, self.e)

    @property
    def change(self) -> float | None:
        return None if self.a is None or self.d is None else self.d - self.a


def verdicts(results: dict[str, list[Known]]) -> dict[tuple[str, str], tuple[str, str]]:
    return {
        (name, stated[:9]): (measured, reached) for name, stated, measured, reached in rounds_table.targets(results)
    }


def test_the_gap_is_that_of_the_means_and_not_the_mean_of_ratios() -> None:
    seeds = [Known(0.1, 0.40, 0.3, 0.45, 0.50), Known(0.1, 0.20, 0.3, 0.25, 0.60, seed=1)]
    found = verdicts({"few": seeds, "uncovered": seeds})
    assert found["few", "a third o"] == ("+20%", "**no**")  # .05 of .25; the ratios are .5 and .125
    assert found["uncovered", "(d) above"] == ("d - c +0.050", "yes")
    assert found["all", "no promot"] == ("0 of 4 runs below", "yes")


def test_a_gap_that_is_hardly_there_is_not_divided_by() -> None:
    assert verdicts({"mixed": [Known(0.4, 0.5, 0.5, 0.6, 0.505)]})["mixed", "half of t"][1] == "undefined"
    assert rounds_runs.gap_closed(0.5, 0.6, 0.505) is None


class ByClass(Known):
    """A seed whose test mAP within the classes is that of all cells, but for (d): nothing in the last class."""

    def row(self, letter: str) -> Any:
        within = dict.fromkeys(regimes.NEURAL, self.value(letter))
        return SimpleNamespace(test_class_map=within | ({regimes.NEURAL[-1]: 0.0} if letter == "d" else {}))


def test_classes_are_compared_class_by_class() -> None:
    found = verdicts({"classes": [ByClass(0.1, 0.2, 0.3, 0.33, 0.9)]})
    assert found["classes", "(d) above"] == ("d - c +0.030", "yes")
    assert found["classes", "the same "] == ("d - c -0.080", "**no**")


def test_the_guard_names_the_seed_that_fell() -> None:
    found = verdicts({"enough": [Known(0.5, 0.4, 0.3, 0.49, 0.6, seed=2), Known(0.5, 0.4, 0.3, 0.5, 0.6)]})
    assert found["all", "no promot"] == ("1 of 2 runs below: enough seed 2 -0.010", "**no**")
    assert found["enough", "(d) at le"][1] == "yes"


def test_a_missing_seed_leaves_the_target_open() -> None:
    found = verdicts({"few": [Known(0.4, 0.5, 0.4, 0.6, 0.7), Known(None, None, None, None, 0.7, seed=1)]})
    assert {reached.partition(" (")[0] for _, reached in found.values()} == {"open"}


# --- a run on disk ------------------------------------------------------------------------------------


def evaluated(round: int, model: str, split: str, tenths: list[int]) -> Evaluation:
    """Images of one cell each that is right at so many of the ten thresholds: scores in tenths."""
    tallies = [Tally(1, 1, tuple(int(t < n) for t in range(10)), 0.9) for n in tenths]
    scores = tuple(ImageScore(f"i{k}", tally, {0: tally}) for k, tally in enumerate(tallies))
    return Evaluation(round, model, split, 0.5, scores)


def written(out: Path, name: str, rounds: dict[int, dict[str, list[int]]], promoted: set[int]) -> RunPaths:
    """A run of these models and test scores, as far as the benchmark reads it."""
    paths = open_run(load_config("label-maps", [f"run.root={out}", f"run.name={name}", "data.root=x"]).config)
    rows = []
    for number, models in rounds.items():
        test = {model: evaluated(number, model, "test", tenths) for model, tenths in models.items()}
        write_evaluations(paths.evaluation(number), test.values(), ("cell",), "")
        rows += [
            leaderboard.make_row(
                evaluated(number, model, "val", [5]),
                evaluation,
                baseline=None,
                control=None,
                classes=("cell",),
                counts={"accepted": 0, "ignored": 0, "rejected": 0},
                promoted=number in promoted and model == "ensemble",
                seconds=1.0,
                config=PromotionConfig(bootstrap=100),
                seed=0,
            )
            for model, evaluation in test.items()
        ]
    leaderboard.write(paths.leaderboard, rows, "", "")
    return paths


def test_the_lines_of_a_seed_are_read_from_its_runs(tmp_path: Path) -> None:
    ours = {0: {"ensemble": [4, 4]}, 1: {"ensemble": [7, 6]}, 2: {"ensemble": [5, 5], "control": [5, 6]}}
    paths = written(tmp_path, "few-ours-s0", ours, promoted={0, 1})
    files.write_json(paths.model(2, "control") / "manifest.json", {"steps": 900})
    written(tmp_path, "few-plain-s0", {r: {"ensemble": [3 + r, 3]} for r in range(3)}, promoted={0, 1, 2})
    written(tmp_path, "fluorescence-all-s0", {0: {"ensemble": [8, 8]}}, promoted={0})
    plan = plan_of(tmp_path, regimes=("few",), seeds=(0, 1), n=2)
    seed, missing = benchmark.read(plan)["few"]
    assert [seed.value(letter) for letter in "abcde"] == pytest.approx([0.4, 0.55, 0.4, 0.65, 0.8])
    assert (seed.ours.promoted, seed.ours.last, seed.b_steps) == (1, 2, 900)
    assert seed.over_b() == pytest.approx((0.0, 0.2))  # differences of the two images: .2 and .0
    assert [missing.value(letter) for letter in "abcde"] == [None] * 5
    figures = "| 0.400 | 0.550 | 0.400 | 0.650 | 0.800 | +40% | +0.250 | +0.100 |"
    lines = rounds_table.class_table([seed], ["cell"]).splitlines()[2:]
    assert lines == [f"| {name} {figures}" for name in ("cell", "all, seed 0", "all")]
    lines = rounds_table.regime_table([seed], 2).splitlines()
    assert lines[2].startswith("| 0 | 0.400 | 0.550 (900) | 0.400 | 0.650 | 0.500 | 0.650 (round 1) | 0.800 | +40% |")
    means = rounds_table.regime_table([seed, missing], 2).splitlines()[-1]
    assert means.startswith("| mean of 1 | 0.400 | 0.550 |"), "of the seeds whose lines are all there"


def test_a_run_on_its_way_counts_as_missing(tmp_path: Path) -> None:
    written(tmp_path, "run", {0: {"ensemble": [4]}, 1: {"ensemble": [5]}}, promoted={0, 1})
    assert rounds_runs.Line.read(tmp_path / "run", 3) is None
    assert rounds_runs.Line.read(tmp_path / "nothing", 3) is None
    line = rounds_runs.Line.read(tmp_path / "run", 1)
    assert line is not None and line.last == 1
