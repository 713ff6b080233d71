"""One contract for all model families: the same questions to each of them, with settings of test size.

What a family cannot show here (a framework that is not installed) is skipped with the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import pytest
import torch
from helpers.contract import ENTRIES, ONE_EACH, SIDE, ContractCase, learnt, losses, picture, prepared, record, task_of
from helpers.model_folder import at_scale
from helpers.pictures import quiet, row
from numpy.typing import NDArray

from cellsemi.configs.describe import field_table
from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import ModelConfig
from cellsemi.configs.training import InferenceConfig
from cellsemi.models import model_files, registry
from cellsemi.models.base import FitResult, FitTask, Predictor, ProbabilityPredictor
from cellsemi.models.explanation import SHOWN_PX, explanation_of
from cellsemi.rounds.cells import rle
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.store import files

OF_OTHERS = {"masks", "python"}  # no networks of ours: test_campaign_masks.py, test_own_family.py
# So low that networks after three steps find some cells.
EAGER = InferenceConfig(tile_px=64, tta=("identity", "flip_x"), cell_probability=0.05, min_area_px=1)
SCALED = EAGER.model_copy(update={"tta": ("identity", "rot90"), "scales": (1.0, 0.3, 1.5)})


@pytest.fixture(scope="module", params=ENTRIES, ids=lambda entry: entry.name)
def entry(request: pytest.FixtureRequest) -> Iterator[ContractCase]:
    with prepared(request.param) as chosen:
        yield chosen


@pytest.fixture(scope="module", params=ONE_EACH, ids=lambda entry: entry.kind)
def one_each(request: pytest.FixtureRequest) -> Iterator[ContractCase]:
    with prepared(request.param) as chosen:
        yield chosen


@pytest.fixture(scope="module")
def trained(entry: ContractCase, tmp_path_factory: pytest.TempPathFactory) -> tuple[FitTask, FitResult]:
    """A fit of three steps on three pictures, one of them pseudo-labelled."""
    records = [record(0), record(1), record(2, "unlabelled", state="accepted", weight=0.6)]
    task = task_of(entry, tmp_path_factory.mktemp("contract"), records, steps=3)
    return task, registry.family(entry.kind).fit(task, quiet)


@pytest.fixture(scope="module")
def predictor(trained: tuple[FitTask, FitResult]) -> Predictor:
    return registry.load_predictor(Path(trained[0].out_dir), EAGER, "cpu")


@pytest.fixture(scope="module")
def scaled(trained: tuple[FitTask, FitResult]) -> Predictor:
    return registry.load_predictor(Path(trained[0].out_dir), SCALED, "cpu")


def test_cells_at_a_probability_are_those_of_the_setting(
    trained: tuple[FitTask, FitResult], predictor: Predictor
) -> None:
    task, _ = trained
    if not task.model.has_cell_probability:
        assert not hasattr(predictor, "at_probabilities")
        pytest.skip("a detector: its pixels have no limit to choose")
    image = picture(4)[0]
    probabilities = (0.05, 0.5, 0.6)
    found, pixels = cast(ProbabilityPredictor, predictor).at_probabilities(image, probabilities)
    assert pixels.shape == image.shape[:2] and pixels.min() >= 0 and pixels.max() <= 1
    sure = registry.load_predictor(
        Path(task.out_dir), EAGER.model_copy(update={"background_probability": 0.4}), "cpu"
    ).predict([image])[0]
    assert sure.background is not None
    assert np.array_equal(rle.decode(sure.background, *pixels.shape), pixels < np.float32(0.4))
    for probability, cells in zip(probabilities, found, strict=True):
        again = registry.load_predictor(Path(task.out_dir), EAGER.at_probability(probability), "cpu")
        (expected,) = again.predict([image])
        assert (cells.rle, cells.score.tolist()) == (expected.rle, expected.score.tolist())
    assert len({cells.rle for cells in found}) > 1


def test_an_explanation_holds_the_cells_that_are_predicted_and_leaves_the_network_as_it_was(
    predictor: Predictor,
) -> None:
    image = picture(4, side=100)[0]  # several windows of EAGER
    (expected,) = predictor.predict([image])
    warned = Counter(predictor.warnings)
    found = explanation_of(predictor, image)
    assert same(found.cells, expected) and len(expected)
    assert len(found.maps) > 3 and sum(found.shares().values()) == pytest.approx(1)
    assert all(share > 0 for share in found.shares().values())
    for each in found.maps:
        assert np.isfinite(each.values).all() and max(each.values.shape[:2]) <= SHOWN_PX, each.name
        if each.values.ndim == 2:
            assert each.values.min() >= each.low and each.values.max() <= each.high * 1.001, each.name
        x0, y0, x1, y1 = each.part or (0, 0, 100, 100)
        assert 0 <= x0 < x1 <= 100 and 0 <= y0 < y1 <= 100
    assert any("windows" in note for note in found.notes)
    for boxes in found.boxes:
        assert boxes.boxes.shape == (len(boxes.scores), 4)
        assert boxes.scores.tolist() == sorted(boxes.scores.tolist(), reverse=True), boxes.name
    assert same(predictor.predict([image])[0], expected)
    if not found.boxes:  # one look at the whole image, not two
        assert predictor.warnings == warned


def fit(entry: ContractCase, folder: Path, records: list[Any], steps: int = 1, **changes: Any) -> FitTask:
    task = task_of(entry, folder, records, steps, **changes)
    registry.family(entry.kind).fit(task, quiet)
    return task


def same(one: Instances, other: Instances) -> bool:
    columns = ("class_id", "score", "bbox", "area")
    return one.rle == other.rle and all(np.array_equal(getattr(one, c), getattr(other, c)) for c in columns)


# --- all families ----------------------------------------------------------------------------------


def test_every_family_is_under_contract() -> None:
    assert {entry.kind for entry in ENTRIES} | OF_OTHERS == set(registry.FAMILIES)
    configured = {section.model_fields["kind"].default for section in get_args(get_args(ModelConfig)[0])}
    assert configured == set(registry.FAMILIES)


def test_every_default_of_every_family_is_stated() -> None:
    stated = {dotted: (default, description) for dotted, _, default, description in field_table()}
    for section in get_args(get_args(ModelConfig)[0]):
        kind = section.model_fields["kind"].default
        for name, field in section.model_fields.items():
            default, description = stated.get(f"models.N ({kind}).{name}") or stated[f"models.N.{name}"]
            assert description and description == field.description, f"{kind}: {name}"
            assert default or field.default_factory is not None, f"{kind}: {name} has no default in the table"


# --- one family ------------------------------------------------------------------------------------


def test_the_model_file_says_what_was_trained(trained: tuple[FitTask, FitResult], entry: ContractCase) -> None:
    task, result = trained
    folder = Path(task.out_dir)
    about = model_files.read_model_file(folder)
    assert about.kind == entry.kind and about.classes == ("bright", "dim") and about.model.name == "m"
    assert about.training.steps == result.steps == 3 and about.training.seed == task.seed
    assert about.weights_sha256 == files.sha256_bytes((folder / model_files.WEIGHTS_FILE).read_bytes())
    weights = learnt(task)
    assert 0 < about.training.parameters == result.parameters <= sum(v.size for v in weights.values())
    assert {str(value.dtype) for value in weights.values()} == {"float32"}
    assert len(losses(task)) == 3 and np.isfinite(losses(task)).all() and np.isfinite(result.loss)
    assert {path.name for path in folder.iterdir()} == {
        model_files.MODEL_FILE,
        model_files.WEIGHTS_FILE,
        "loss.parquet",
        "usage.jsonl",
    }


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1, 1), np.uint8),
        ((1, 90), np.uint16),
        ((90, 1), np.float32),
        ((33, 47), np.uint8),
        ((33, 47, 3), np.uint8),
        ((33, 47), np.uint16),
        ((33, 47, 3), np.float32),
        ((64, 130), np.uint8),
    ],
)
def test_any_size_and_type_is_predicted(scaled: Predictor, shape: tuple[int, ...], dtype: Any) -> None:
    largest = 1 if dtype == np.float32 else np.iinfo(dtype).max
    light = np.random.default_rng(0).random(shape) * largest
    (cells,) = scaled.predict([light.astype(dtype)])
    assert (cells.height, cells.width) == shape[:2]


def test_cells_are_what_a_prediction_may_be(predictor: Predictor) -> None:
    found = predictor.predict([picture(seed)[0] for seed in range(3)])
    assert sum(len(cells) for cells in found) > 0  # else this says nothing
    for cells in found:
        assert set(cells.state) <= {"predicted"} and set(cells.class_id.tolist()) <= {0, 1}
        assert np.isfinite(cells.score).all() and (cells.score >= 0).all() and (cells.score <= 1).all()
        assert np.array_equal(cells.quality, cells.score) and (cells.area >= 1).all()
    assert isinstance(predictor.warnings, Counter) and all(" " in sentence for sentence in predictor.warnings)


@pytest.mark.parametrize("shape", [(1, 1), (40, 70), (30, 30, 3)])
def test_an_empty_image_has_no_cells(trained: tuple[FitTask, FitResult], shape: tuple[int, ...]) -> None:
    predictor = registry.load_predictor(Path(trained[0].out_dir), InferenceConfig(cell_probability=0.6), "cpu")
    for value in (0, 90):
        assert len(predictor.predict([np.full(shape, value, np.uint8)])[0]) == 0
    assert predictor.predict([]) == []


def test_a_batch_is_its_images_one_by_one(predictor: Predictor) -> None:
    images: list[NDArray[np.uint8]] = [picture(0)[0], picture(1, 80)[0], picture(2)[0][:40]]
    together = predictor.predict(images)
    for image, cells in zip(images, together, strict=True):
        assert same(predictor.predict([image])[0], cells)


def test_what_was_saved_predicts_the_same_when_loaded(
    trained: tuple[FitTask, FitResult], predictor: Predictor, tmp_path: Path
) -> None:
    for name in (model_files.MODEL_FILE, model_files.WEIGHTS_FILE):
        (tmp_path / name).write_bytes((Path(trained[0].out_dir) / name).read_bytes())
    again = registry.load_predictor(tmp_path, EAGER, "cpu")
    for seed in (0, 5):
        assert same(again.predict([picture(seed)[0]])[0], predictor.predict([picture(seed)[0]])[0])
    content = bytearray((tmp_path / model_files.WEIGHTS_FILE).read_bytes())
    content[-1] ^= 1
    (tmp_path / model_files.WEIGHTS_FILE).write_bytes(content)
    with pytest.raises(ModelError, match="altered"):
        registry.load_predictor(tmp_path, EAGER, "cpu")
    (tmp_path / model_files.WEIGHTS_FILE).unlink()
    with pytest.raises(ModelError, match="missing"):
        registry.load_predictor(tmp_path, EAGER, "cpu")
    with pytest.raises(ModelError, match="no trained model"):
        registry.load_predictor(tmp_path / "nowhere", EAGER, "cpu")


def test_a_model_predicts_at_the_size_of_its_crops(
    trained: tuple[FitTask, FitResult], predictor: Predictor, tmp_path: Path
) -> None:
    """The scale of the model file is one on images, whatever the family: crops and images meet at one cell size."""
    folder = Path(trained[0].out_dir)
    about = model_files.read_model_file(folder)
    assert about.cell_size.scale == 1 and about.cell_size.diameter_px == pytest.approx(14, abs=1)
    image = picture(3)[0]
    (own,), (enlarged,) = predictor.predict([image]), predictor.predict([image], 1.5)
    (found,) = registry.load_predictor(at_scale(folder, tmp_path, 1.5), EAGER, "cpu").predict([image])
    assert same(found, enlarged) and not same(found, own)


def test_crops_are_brought_to_the_cell_size_asked(one_each: ContractCase, tmp_path: Path) -> None:
    """A size twice that of the cells teaches what images twice as large do not: another loss at the first step."""
    plain, twice = (
        fit(one_each, tmp_path / name, [record(0), record(1)], training={"cell_px": cell_px})
        for name, cell_px in (("plain", None), ("twice", 28.0))
    )
    sizes = [model_files.read_model_file(Path(task.out_dir)).cell_size for task in (plain, twice)]
    assert sizes[0].scale == 1 and sizes[1].scale == pytest.approx(2, rel=0.08)
    assert sizes[0].diameter_px == sizes[1].diameter_px and losses(plain)[0] != losses(twice)[0]


def test_an_interrupted_fit_ends_with_the_same_weights(
    entry: ContractCase, trained: tuple[FitTask, FitResult], tmp_path: Path
) -> None:
    """And so a fit is a function of its task: this one was broken off, and started in another folder.

    What others draw of torch's generator makes no difference to it, and it leaves that as it was.
    """

    def interrupt(step: int, steps: int) -> None:
        if step == 2:
            raise KeyboardInterrupt

    task = replace(trained[0], out_dir=str(tmp_path / "again"), checkpoint_s=0)
    family = registry.family(entry.kind)
    with pytest.raises(KeyboardInterrupt):
        family.fit(task, interrupt)
    torch.manual_seed(77)
    before = torch.get_rng_state()
    assert family.fit(task, quiet).resumed_at == 2
    assert torch.equal(torch.get_rng_state(), before)
    assert model_files.read_weights(Path(task.out_dir)) == model_files.read_weights(Path(trained[0].out_dir))
    assert losses(task) == losses(trained[0])


def test_training_lowers_the_loss_on_one_image(entry: ContractCase, tmp_path: Path) -> None:
    found = losses(fit(entry, tmp_path, [record(0)], steps=entry.steps))
    assert np.mean(found[-3:]) < 0.9 * np.mean(found[:3])


def test_five_hundred_cells_train_and_are_predicted(one_each: ContractCase, tmp_path: Path) -> None:
    pixels, labels = picture(0, side=253, step=11, radius=4)
    assert labels.max() >= 500
    task = fit(one_each, tmp_path, [row("many", pixels, labels, "labelled")], training={"crop_px": 256, "batch": 1})
    assert np.isfinite(losses(task)).all()
    (cells,) = registry.load_predictor(Path(task.out_dir), InferenceConfig(), "cpu").predict([pixels])
    assert (cells.height, cells.width) == (253, 253)


def test_devices_and_types_of_numbers_are_honoured(one_each: ContractCase, tmp_path: Path) -> None:
    whole = fit(one_each, tmp_path, [record(0), record(1)], out_dir=str(tmp_path / "whole"))
    wrong = ["nonsense"] if torch.cuda.is_available() else ["nonsense", "cuda"]
    for device in wrong:
        with pytest.raises(ModelError, match=device):
            registry.family(one_each.kind).fit(replace(whole, device=device, out_dir=str(tmp_path / device)), quiet)
        with pytest.raises(ModelError, match=device):
            registry.load_predictor(Path(whole.out_dir), EAGER, device)
    half = fit(one_each, tmp_path, [record(0), record(1)], training={"precision": "bfloat16"})
    assert {str(value.dtype) for value in learnt(half).values()} == {"float32"}  # what is kept is exact
    assert losses(half) != losses(whole) and losses(half) == pytest.approx(losses(whole), rel=0.1)


def test_where_all_is_ignored_nothing_is_learnt(one_each: ContractCase, tmp_path: Path) -> None:
    """Two pictures that differ, each under one ignored cell: both leave the weights as they were at the start."""
    whole = np.ones((SIDE, SIDE), np.int32)
    tasks = [
        fit(
            one_each,
            tmp_path / str(seed),
            [record(seed, labels=whole, state="ignored")],
            out_dir=str(tmp_path / str(seed)),
        )
        for seed in (0, 1)
    ]
    assert losses(tasks[0]) == losses(tasks[1]) == [0]
    one, other = learnt(tasks[0]), learnt(tasks[1])
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_ignored_cells_and_weights_reach_the_loss(one_each: ContractCase, tmp_path: Path) -> None:
    """The first step's loss on the same pixels, by the same draw: half of the cells have another state or weight."""
    _, labels = picture(0)
    half = np.arange(labels.max()) % 2 == 0
    records = {
        state: record(0, state=np.where(half, state, "human").tolist()) for state in ("human", "ignored", "rejected")
    }
    records["light"] = record(0, weight=np.where(half, 0.25, 1))
    found = {name: losses(fit(one_each, tmp_path / name, [what]))[0] for name, what in records.items()}
    assert len(set(found.values())) == 4
    other = fit(one_each, tmp_path / "seed", [records["human"]], seed=1)
    assert losses(other)[0] not in found.values()
