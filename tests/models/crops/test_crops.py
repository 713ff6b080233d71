"""Which images a student sees: human labels at the end, classes and groups in balance, the same for all families."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers import pictures
from helpers.contract import ONE_EACH, ContractCase, prepared, task_of
from helpers.contract import record as small_record
from helpers.pictures import quiet, record
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cellsemi.configs.errors import ImageError
from cellsemi.configs.models import FlowUnetConfig
from cellsemi.configs.phases import AugmentConfig, CopyPasteConfig
from cellsemi.configs.training import Balance, TrainingConfig
from cellsemi.models.base import FitTask
from cellsemi.models.crops.crop import training_image
from cellsemi.models.crops.sampling import ImageSampler, chances
from cellsemi.models.crops.source import CropSource
from cellsemi.models.detector.targets import batch_of
from cellsemi.models.flow.batch import flow_batch
from cellsemi.models.model_files import CellSize
from cellsemi.models.registry import family
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.schemas import ImageRecord

TRAINING = TrainingConfig(steps=8, batch=40, crop_px=32, precision="float32", human_last=0)
DRAWS = 6000
task_in = partial(pictures.task_in, model=FlowUnetConfig(name="m", width=4), training=TRAINING)


def pseudo(seed: int, **columns: object) -> ImageRecord:
    return record(seed, "unlabelled", state="accepted", weight=0.5, **columns)


def crops_of(
    folder: Path, records: list[ImageRecord], augment: AugmentConfig | None = None, **training: object
) -> CropSource:
    task = task_in(folder, records, training=TRAINING.model_copy(update=training))
    return CropSource.of(task, augment or task.model.augment, CellSize())


def human_shares(source: CropSource) -> list[float]:
    """Share of crops of human-labelled images at each step, by the weight of their cells."""
    return [float(np.mean([crop.cell_weight[1:].min() == 1 for crop in source(step)])) for step in range(8)]


def test_the_last_steps_see_human_labels_only(tmp_path: Path) -> None:
    records = [record(0), *(pseudo(i) for i in range(1, 4))]
    shares = human_shares(crops_of(tmp_path, records, human_fraction=0.25, human_last=0.375))
    assert shares[5:] == [1, 1, 1] and min(shares[:5]) > 0 and max(shares[:5]) < 0.6
    assert max(human_shares(crops_of(tmp_path, records, human_fraction=0.25))) < 0.6


def test_what_is_pasted_in_the_last_steps_is_human_too(tmp_path: Path) -> None:
    pasting = AugmentConfig(copy_paste=CopyPasteConfig(probability=1.0))
    source = crops_of(tmp_path, [record(0), pseudo(1)], pasting, human_last=0.375)
    weights = [{float(weight) for crop in source(step) for weight in crop.cell_weight[1:]} for step in range(8)]
    assert weights == [{1, 0.5}] * 5 + [{1}] * 3


@pytest.mark.parametrize("records", [[record(0), record(1)], [pseudo(0), pseudo(1)]], ids=["human", "pseudo"])
def test_with_images_of_one_kind_the_last_steps_are_like_the_others(tmp_path: Path, records: list[ImageRecord]) -> None:
    plain, ending = crops_of(tmp_path, records, batch=4), crops_of(tmp_path, records, batch=4, human_last=0.375)
    for step in range(8):
        for one, other in zip(plain(step), ending(step), strict=True):
            assert np.array_equal(one.pixels, other.pixels) and np.array_equal(one.instance_map, other.instance_map)


def test_there_is_a_step_left_for_pseudo_labels(tmp_path: Path) -> None:
    shares = human_shares(crops_of(tmp_path, [record(0), pseudo(1)], human_fraction=0.0, human_last=0.99))
    assert shares == [0] + [1] * 7
    with pytest.raises(ValidationError, match="human_last"):
        TrainingConfig(human_last=1)


@pytest.mark.parametrize("entry", ONE_EACH, ids=lambda entry: entry.kind)
def test_no_family_opens_a_pseudo_labelled_image_in_the_last_steps(tmp_path: Path, entry: ContractCase) -> None:
    broken = replace(small_record(1, "unlabelled", state="accepted"), image=b"no image")

    def task(last: float) -> FitTask:
        training = {"human_fraction": 0.0, "human_last": last}
        return task_of(entry, tmp_path, [small_record(0), broken], 1, training=training)

    with prepared(entry):
        assert family(entry.kind).fit(task(1), quiet).steps == 1
        with pytest.raises(ImageError, match="im1"):
            family(entry.kind).fit(task(0), quiet)


def test_background_weighs_what_the_accepted_cells_of_its_image_weigh() -> None:
    cells = pseudo(1).instances
    assert cells is not None
    weights = np.linspace(0.3, 0.9, len(cells))
    states = ["accepted"] * (len(cells) - 1) + ["ignored"]
    labelled_by_teachers = replace(pseudo(1), instances=cells.with_(weight=weights, state=states))
    image = training_image(labelled_by_teachers, 0)
    assert image.cell_weight[0] == pytest.approx(weights[:-1].mean())
    assert image.cell_weight[1:] == pytest.approx(weights[:-1])
    assert training_image(record(1), 0).cell_weight[0] == 1
    unweighted = replace(pseudo(1), instances=cells.with_(weight=1.0))  # filter.weight_by_quality: false
    assert training_image(unweighted, 0).cell_weight[0] == 1
    none = replace(pseudo(1), instances=cells.with_(state="ignored"))
    assert training_image(none, 0).cell_weight[0] == 1


def test_every_family_takes_the_weight_of_the_background(tmp_path: Path) -> None:
    (crop,) = crops_of(tmp_path, [pseudo(1)], batch=1)(0)
    background = crop.instance_map == 0
    assert background.any()
    weight = flow_batch([crop], "geodesic").weight[0]
    assert (weight[background] == 0.5).all()
    colour = replace(crop, pixels=np.repeat(crop.pixels[..., None], 3, axis=2))
    detector = batch_of([colour], 1.0, {})
    assert detector.targets[0].weights[0] == 0.5
    assert (detector.weight[0].numpy()[detector.targets[0].instance_map.numpy() == 0] == 0.5).all()


# --- balance ------------------------------------------------------------------------------------------

names = st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=12)


def test_images_of_a_rare_class_are_drawn_more_often() -> None:
    found = chances(4, [["a", "a", "a", "b"]])
    np.testing.assert_allclose(found, [2 / 3, 2 / 3, 2 / 3, 2])


def test_groups_are_equally_likely_within_their_class() -> None:
    classes, groups = ["a", "a", "a", "b", "b"], ["x", "x", "y", "x", "z"]
    np.testing.assert_allclose(chances(5, [classes, groups]) / 5, [1 / 8, 1 / 8, 1 / 4, 1 / 4, 1 / 4])


def test_images_without_a_name_keep_their_share() -> None:
    np.testing.assert_allclose(chances(5, [["a", "a", "b", None, None]]) / 5, [0.15, 0.15, 0.3, 0.2, 0.2])
    np.testing.assert_allclose(chances(3, [[None, None, None]]), 1)


@settings(deadline=None, max_examples=50)
@given(names)
def test_chances_add_up_and_known_names_are_equal(given_names: Sequence[str | None]) -> None:
    found = chances(len(given_names), [given_names])
    assert found.min() > 0 and found.mean() == pytest.approx(1)
    sums = {name: sum(c for c, n in zip(found, given_names, strict=True) if n == name) for name in set(given_names)}
    assert sums.pop(None, 0) == pytest.approx(given_names.count(None))
    assert not sums or min(sums.values()) == pytest.approx(max(sums.values()))


def shards_of(folder: Path, records: list[ImageRecord]) -> list[Path]:
    """The rows in two shards, the first with five rows: more than a row group."""
    paths = [folder / "one.parquet", folder / "two.parquet"]
    for path, part in zip(paths, (records[:5], records[5:]), strict=True):
        shards.write_shard(path, part, "x")
    return paths


def shares(paths: list[Path], balance: Balance, human_fraction: float = 0.5) -> dict[int, float]:
    """How often each row is sampled."""
    sampler = ImageSampler(paths, human_fraction=human_fraction, human_from=10, balance=balance, classes=("a", "b"))
    rng = np.random.default_rng(0)
    counts = Counter(sampler.sample(rng, 0) for _ in range(DRAWS))
    return {row: counts[row] / DRAWS for row in range(8)}


def mixed() -> list[ImageRecord]:
    """Human-labelled rows 0, 1, 3, 4 and pseudo-labelled rows 2, 5, 6; row 7 is not annotated."""
    zero, one = [0] * 6, [0, 0, 1, 1, 1, 1]
    return [
        record(0, class_id=zero).with_(group="x"),
        record(1, class_id=zero).with_(group="x"),
        pseudo(2, class_id=zero).with_(group="x"),
        record(3, class_id=one).with_(group="x"),
        record(4, class_id=one).with_(cell_type="a", group="y"),  # what is stated comes first
        pseudo(5, class_id=one).with_(group="y"),
        record(6, "unlabelled", class_id=one, state=("accepted", "accepted", *["ignored"] * 4)).with_(group="y"),
        replace(record(7), instances=None),
    ]


@pytest.mark.parametrize(
    ("balance", "expected"),
    [
        ("none", [1 / 8, 1 / 8, 1 / 6, 1 / 8, 1 / 8, 1 / 6, 1 / 6]),
        ("class", [1 / 12, 1 / 12, 1 / 8, 1 / 4, 1 / 12, 1 / 4, 1 / 8]),
        ("group", [1 / 12, 1 / 12, 1 / 4, 1 / 12, 1 / 4, 1 / 8, 1 / 8]),
        ("class-group", [1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 8, 1 / 4, 1 / 8]),
    ],
)
def test_images_are_drawn_as_asked(tmp_path: Path, balance: Balance, expected: list[float]) -> None:
    found = shares(shards_of(tmp_path, mixed()), balance)
    assert found.pop(7) == 0
    np.testing.assert_allclose(list(found.values()), expected, atol=4 * np.sqrt(0.25 * 0.75 / DRAWS))


def test_an_image_without_cells_has_no_class_but_is_sampled(tmp_path: Path) -> None:
    empty = replace(record(0), instances=Instances.empty(72, 72))
    paths = shards_of(tmp_path, [empty, record(1, class_id=0), record(2, class_id=0), record(3, class_id=1), record(4)])
    found = shares(paths, "class")
    assert found[0] == pytest.approx(1 / 5, abs=0.03) and found[3] == pytest.approx(4 / 10, abs=0.03)


def test_without_balance_all_is_sampled_as_the_place_says(tmp_path: Path) -> None:
    paths = shards_of(tmp_path, mixed())
    sampler = ImageSampler(paths, human_fraction=0.3, human_from=10, balance="none", classes=("a", "b"))
    for seed in range(200):
        chance, place = np.random.default_rng(seed).random(2)
        expected = [0, 1, 3, 4][int(place * 4)] if chance < 0.3 else [2, 5, 6][int(place * 3)]
        assert sampler.sample(np.random.default_rng(seed), 0) == expected


def test_balanced_crops_are_a_function_of_the_seed_and_the_step(tmp_path: Path) -> None:
    records = [record(0, class_id=1), *(record(i, class_id=0) for i in range(1, 9))]
    source = crops_of(tmp_path, records, balance="class")
    source(0)
    later, again = source(5), crops_of(tmp_path, records, balance="class")(5)
    for one, other in zip(later, again, strict=True):
        assert np.array_equal(one.pixels, other.pixels) and np.array_equal(one.cell_class, other.cell_class)
    rare = np.mean([crop.cell_class[1] == 1 for step in range(8) for crop in source(step)])
    assert 0.4 < rare < 0.6
