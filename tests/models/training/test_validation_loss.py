"""The validation loss: what it is, that it changes nothing, that it survives an interruption, for every family."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers.contract import ONE_EACH, ContractCase, prepared, record, task_of
from helpers.pictures import quiet
from torch import nn

from cellsemi.configs.models import FlowUnetConfig
from cellsemi.models.base import FitTask
from cellsemi.models.crops import source
from cellsemi.models.crops.cell_size import CellSize
from cellsemi.models.crops.source import CropSource, ValidationCrops
from cellsemi.models.flow.batch import FlowBatches
from cellsemi.models.flow.loss import flow_loss
from cellsemi.models.flow_unet.net import build
from cellsemi.models.model_files import VALIDATION_FILE, WEIGHTS_FILE, read_usage, read_weights
from cellsemi.models.registry import family
from cellsemi.models.training import ahead
from cellsemi.models.training.result import join_curves
from cellsemi.models.training.usage import is_due, resident_mb
from cellsemi.models.training.validation_loss import measuring, points
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.image_codec import decode_image


@pytest.fixture(params=ONE_EACH, ids=lambda entry: entry.name)
def entry(request: pytest.FixtureRequest) -> Iterator[ContractCase]:
    with prepared(request.param) as found:
        yield found


def with_validation(entry: ContractCase, folder: Path, **changes: Any) -> FitTask:
    """A task of four steps with three validation images, of which one holds an ignored cell."""
    task = task_of(entry, folder, [record(0), record(1)], 4, **changes)
    path = folder / "val" / "part-00000.parquet"
    rows = [record(seed, split="val") for seed in (7, 8, 9)]
    cells = rows[1].instances
    assert cells is not None
    rows[1] = rows[1].with_(instances=cells.with_(state=["ignored", *cells.state[1:]]))
    shards.write_shard(path, rows, "x")
    return replace(task, validation=(str(path),))


def rows_of(task: FitTask) -> list[dict[str, float]]:
    found: list[dict[str, float]] = pq.read_table(Path(task.out_dir) / VALIDATION_FILE).to_pylist()
    return found


def weights(task: FitTask) -> bytes:
    return (Path(task.out_dir) / WEIGHTS_FILE).read_bytes()


# --- it is a record and nothing else -----------------------------------------------------------------


def test_a_fit_is_the_same_with_and_without_and_however_it_is_done(
    entry: ContractCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, losses and validation losses: without validation images, interrupted, with processes that make crops."""
    monkeypatch.setattr(source, "VALIDATION_CROPS", 4)
    task = with_validation(entry, tmp_path, training={"ema": 0.9})
    fit = family(entry.kind).fit
    before = torch.random.get_rng_state()
    fit(task, quiet)
    assert torch.equal(torch.random.get_rng_state(), before)
    plain = replace(task, validation=(), out_dir=str(tmp_path / "plain"))
    assert plain.fingerprint == task.fingerprint
    fit(plain, quiet)
    assert weights(plain) == weights(task) and not (tmp_path / "plain" / VALIDATION_FILE).exists()
    expected = rows_of(task)
    assert [row["step"] for row in expected] == [2, 4] and all(
        np.isfinite(list(row.values())).all() for row in expected
    )
    assert set(expected[0]) == set(pq.read_table(tmp_path / "out" / "loss.parquet").column_names) - {"lr", "grad_norm"}
    for at, processes in ((1, int(entry.kind == "flow-unet")), (3, 0)):  # processes take seconds to start
        monkeypatch.setattr(ahead, "FEW_STEPS", 0)
        again = replace(task, out_dir=str(tmp_path / f"{at}"), checkpoint_s=0, input_processes=processes)

        def interrupt(step: int, steps: int, at: int = at) -> None:
            if step == at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit(again, interrupt)
        assert fit(again, quiet).resumed_at == at
        assert rows_of(again) == expected and weights(again) == weights(task)


def test_it_is_the_loss_of_the_averaged_weights_in_evaluation(tmp_path: Path) -> None:
    """The last row, against the weights that were saved, loaded anew."""
    (entry,) = (each for each in ONE_EACH if each.kind == "flow-unet")
    with prepared(entry):
        task = with_validation(entry, tmp_path, training={"ema": 0.9})
        family(entry.kind).fit(task, quiet)
        crops = CropSource.on_validation(task, CellSize())
        assert crops is not None and crops.count == source.VALIDATION_BATCHES
        model = task.model
        assert isinstance(model, FlowUnetConfig)
        net = build(model, task.classes, 5)
        from safetensors.torch import load

        net.load_state_dict(load(read_weights(Path(task.out_dir))))
        net.eval()
        batches = FlowBatches(crops, model.flow_target)
        with torch.no_grad():
            found = [flow_loss(net(batch.images), batch) for batch in map(batches, range(crops.count))]
    last = rows_of(task)[-1]
    assert last["loss"] == pytest.approx(np.mean([each.total.item() for each in found]), rel=1e-5)
    for name in found[0].parts:
        assert last[f"{name}_loss"] == pytest.approx(np.mean([each.parts[name].item() for each in found]), rel=1e-5)


def test_the_network_is_put_back_as_it_was() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout())
    net.train()
    net[1].eval()  # as a frozen backbone is
    kept = {name: value.clone() for name, value in net.state_dict().items()}
    other = {name: value + 1 for name, value in kept.items()}
    with measuring(net, other):
        assert not any(module.training for module in net.modules())
        assert all(torch.equal(value, other[name]) for name, value in net.state_dict().items())
        net(torch.ones(1, 1, 8, 8))
    assert all(torch.equal(value, kept[name]) for name, value in net.state_dict().items())
    assert [module.training for module in net] == [True, False, True] and net.training


# --- the crops ---------------------------------------------------------------------------------------


def validation_crops(tmp_path: Path, **changes: Any) -> tuple[FitTask, ValidationCrops]:
    (entry,) = (each for each in ONE_EACH if each.kind == "flow-unet")
    task = with_validation(entry, tmp_path, **changes)
    crops = CropSource.on_validation(task, CellSize())
    assert crops is not None
    return task, crops


def test_the_crops_are_parts_of_the_images_as_they_are_and_all_images_have_as_many(tmp_path: Path) -> None:
    task, crops = validation_crops(tmp_path, training={"crop_px": 32, "batch": 3})
    images = [
        decode_image(row.image, row.image_id).astype(np.float32)
        for path in task.validation
        for row in shards.read_shard(Path(path))
        if row.image is not None
    ]
    seen = [0] * len(images)
    for crop in (crop for number in range(crops.count) for crop in crops(number)):
        inside = crop.instance_map >= 0  # beyond the image a crop shows its mirror, and is ignored
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        part = crop.pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        likeness = [best_likeness(image, part) for image in images]
        assert max(likeness) > 0.95  # the brightest and the darkest pixels are clipped
        seen[int(np.argmax(likeness))] += 1
    assert sum(seen) == 3 * source.VALIDATION_BATCHES and max(seen) - min(seen) <= 1


def best_likeness(image: np.ndarray[Any, Any], part: np.ndarray[Any, Any]) -> float:
    """The largest correlation of a part with a window of an image of its size: 1 where a straight line scales it."""
    windows = np.lib.stride_tricks.sliding_window_view(image, part.shape).reshape(-1, part.size)
    far = windows - windows.mean(1, keepdims=True)
    own = part.ravel() - part.mean()
    found = (far @ own) / np.maximum(np.linalg.norm(far, axis=1) * np.linalg.norm(own), 1e-9)
    return float(found.max())


@pytest.mark.parametrize(("batch", "count"), [(1, 4), (4, 4), (12, 3), (16, 2), (100, 1)])
def test_there_are_about_as_many_crops_and_few_batches(batch: int, count: int, tmp_path: Path) -> None:
    assert validation_crops(tmp_path, training={"batch": batch})[1].count == count


def test_ranks_share_the_crops_of_a_batch(tmp_path: Path) -> None:
    task, crops = validation_crops(tmp_path, training={"batch": 3})
    parts = [CropSource.on_validation(replace(task, part=(rank, 2)), CellSize()) for rank in (0, 1)]
    assert [len(part(0)) for part in parts if part] == [2, 1]
    whole = [crop.pixels for crop in crops(1)]
    split = [crop.pixels for part in parts if part for crop in part(1)]
    assert all(np.array_equal(whole[i], split[place]) for place, i in enumerate((0, 2, 1)))


def test_without_an_annotated_validation_image_there_is_nothing_to_measure(tmp_path: Path) -> None:
    task, _ = validation_crops(tmp_path)
    path = Path(task.validation[0])
    shards.write_shard(path, [row.with_(instances=None) for row in shards.read_shard(path)], "x")
    assert CropSource.on_validation(task, CellSize()) is None
    assert CropSource.on_validation(replace(task, validation=()), CellSize()) is None


@pytest.mark.parametrize("steps", [1, 2, 3, 99, 100, 500, 501, 8000])
def test_the_last_step_is_a_point_and_they_are_few(steps: int) -> None:
    found = points(steps)
    assert max(found) == steps and min(found) >= 1 and len(found) <= 10


# --- time and memory ---------------------------------------------------------------------------------


def test_time_and_memory_go_on_after_an_interruption(tmp_path: Path) -> None:
    (entry,) = (each for each in ONE_EACH if each.kind == "flow-unet")
    with prepared(entry):
        task = replace(with_validation(entry, tmp_path), checkpoint_s=0)

        def interrupt(step: int, steps: int) -> None:
            if step == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            family(entry.kind).fit(task, interrupt)
        family(entry.kind).fit(task, quiet)
    rows = read_usage(Path(task.out_dir))
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    seconds = [row["seconds"] or 0 for row in rows]
    assert seconds == sorted(seconds) and seconds[0] > 0
    here = resident_mb()
    assert here is None or all(0.2 * here < (row["memory_mb"] or 0) < 5 * here for row in rows)
    assert {row["device_memory_mb"] for row in rows} == {None}


@pytest.mark.parametrize("steps", [1, 7, 100, 250, 8000])
def test_there_are_about_a_hundred_rows_of_usage(steps: int) -> None:
    due = [step for step in range(1, steps + 1) if is_due(step, steps)]
    assert due[-1] == steps and min(steps, 100) <= len(due) <= 200


def test_the_curves_of_parts_are_joined(tmp_path: Path) -> None:
    (entry,) = (each for each in ONE_EACH if each.kind == "flow-unet")
    parts = [tmp_path / "a" / "out", tmp_path / "b" / "out"]
    with prepared(entry):
        for part in parts:
            family(entry.kind).fit(with_validation(entry, part.parent), quiet)
    join_curves(parts, tmp_path / "whole")
    measured = [pq.read_table(part / VALIDATION_FILE)["loss"].to_pylist() for part in parts]
    table = pq.read_table(tmp_path / "whole" / VALIDATION_FILE)
    assert table["step"].to_pylist() == [2, 4, 6, 8] and table["loss"].to_pylist() == measured[0] + measured[1]
    assert pq.read_table(tmp_path / "whole" / "loss.parquet")["step"].to_pylist() == list(range(1, 9))
    each = [[row["seconds"] or 0 for row in read_usage(part)] for part in parts]
    joined = read_usage(tmp_path / "whole")
    assert [row["step"] for row in joined] == list(range(1, 9))
    assert [row["seconds"] for row in joined] == pytest.approx([*each[0], *(each[0][-1] + s for s in each[1])])
