"""Models that are trained already teach as they are: their predictions, and the classes of the run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.contract import ENTRIES, ContractCase, picture, prepared, record, task_of
from helpers.pictures import quiet

from cellsemi.configs.errors import ModelError
from cellsemi.configs.loading import load_config
from cellsemi.configs.models import CellposeSamConfig, ModelConfig
from cellsemi.configs.training import InferenceConfig
from cellsemi.models.base import FitTask, ProbabilityPredictor
from cellsemi.models.given import LEFT_OUT, class_ids
from cellsemi.models.model_files import MODEL_FILE, read_model_file, read_weights
from cellsemi.models.registry import family, load_predictor
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.store import files

EAGER = InferenceConfig(tile_px=64, cell_probability=0.05, min_area_px=1)
ONE_EACH = {entry.kind: entry for entry in reversed(ENTRIES)}


def trained(entry: ContractCase, folder: Path, **changes: Any) -> FitTask:
    task = task_of(entry, folder, [record(0), record(1)], steps=3, **changes)
    family(entry.kind).fit(task, quiet)
    return task


def as_teacher(model: ModelConfig, **changes: Any) -> ModelConfig:
    """The same settings, not trained, as a config file would state them."""
    stated = {**model.model_dump(mode="json", exclude_defaults=True), "kind": model.kind, "train": False, **changes}
    return type(model).model_validate(stated)


def taken(task: FitTask, out: Path, model: ModelConfig, classes: tuple[str, ...] = ("bright", "dim")) -> Path:
    given = replace(task, model=model, out_dir=str(out), classes=classes, steps=0, shards=())
    take = family(model.kind).take
    assert take is not None
    assert take(given).steps == 0
    return out


def found(folder: Path) -> Instances:
    return load_predictor(folder, EAGER, "cpu").predict([picture(4)[0]])[0]


@pytest.mark.parametrize("kind", sorted(ONE_EACH))
def test_an_earlier_model_teaches_as_it_is(kind: str, tmp_path: Path) -> None:
    with prepared(ONE_EACH[kind]) as entry:
        task = trained(entry, tmp_path / "fit")
        exported = tmp_path / "export" / "members" / "m"
        for name in (MODEL_FILE, "model.safetensors"):
            files.write_bytes(exported / name, (Path(task.out_dir) / name).read_bytes())
        out = taken(task, tmp_path / "out", as_teacher(task.model, weights=str(tmp_path / "export"), name="t"))
        about = read_model_file(out)
        assert (
            about.model.name == "t"
            and about.class_ids == (0, 1)
            and about.started_from == (read_model_file(Path(task.out_dir)).started_from)
        )
        assert read_weights(out) == read_weights(Path(task.out_dir))
        expected, same = found(Path(task.out_dir)), found(out)
        assert len(expected) and (same.rle, same.score.tolist()) == (expected.rle, expected.score.tolist())
        sized = {**files.read_json(exported / MODEL_FILE), "cell_size": {"diameter_px": 80.0, "scale": 0.5}}
        files.write_json(tmp_path / "sized" / MODEL_FILE, sized)
        files.write_bytes(tmp_path / "sized" / "model.safetensors", read_weights(exported))
        kept_size = taken(task, tmp_path / "half", as_teacher(task.model, weights=str(tmp_path / "sized"), name="t"))
        assert read_model_file(kept_size).cell_size.scale == 0.5
        turned = as_teacher(task.model, weights=str(exported), class_map={"bright": "b", "dim": "ignore"})
        kept = found(taken(task, tmp_path / "turned", turned, ("a", "b")))
        assert kept.rle == tuple(np.array(expected.rle, object)[expected.class_id == 0])
        assert set(kept.class_id.tolist()) <= {1}


def test_a_finished_detector_teaches_with_all_its_classes(tmp_path: Path) -> None:
    """The file holds three classes without names; the run has two others. The numbers are the file's own."""
    with prepared(ONE_EACH["torchvision-maskrcnn"]) as entry:
        task = trained(entry, tmp_path / "fit", classes=("x", "y", "z"))
        from safetensors.torch import load

        path = tmp_path / "finished.pth"
        torch.save({"model": load(read_weights(Path(task.out_dir)))}, path)
        expected = found(Path(task.out_dir))
        assert len(set(expected.class_id.tolist())) > 1
        model = as_teacher(task.model, weights=str(path), class_map={0: "dim", 1: "bright", 2: "ignore"})
        out = taken(task, tmp_path / "out", model)
        cells = found(out)
        kept = expected.class_id != 2
        assert cells.rle == tuple(np.array(expected.rle, object)[kept])
        assert cells.class_id.tolist() == [1 - old for old in expected.class_id[kept].tolist()]
        about = read_model_file(out)
        assert about.started_from is not None and about.started_from.sha256 == files.sha256_bytes(path.read_bytes())

        with pytest.raises(ModelError, match=r"class_map leads the classes 1, 2 nowhere; .* class_map: \{1: bright\}"):
            taken(task, tmp_path / "wrong", as_teacher(task.model, weights=str(path), class_map={0: "dim"}))
        backbone = {name: value for name, value in load(read_weights(Path(task.out_dir))).items() if "box" not in name}
        torch.save(backbone, tmp_path / "backbone.pth")
        with pytest.raises(ModelError, match="not a finished detector"):
            taken(task, tmp_path / "no", as_teacher(task.model, weights=str(tmp_path / "backbone.pth")))


def test_stock_cellpose_teaches_its_one_class(tmp_path: Path) -> None:
    with prepared(ONE_EACH["cellpose-sam"]) as entry:
        task = task_of(entry, tmp_path / "fit", [record(0)], steps=1, classes=("cell",))
        from cellsemi.models.cellpose_sam.fit_and_predict import pretrained

        assert isinstance(task.model, CellposeSamConfig)
        expected = pretrained(task.model, EAGER, "cpu")
        out = taken(task, tmp_path / "out", as_teacher(task.model), ("cell",))
        assert found(out).rle == expected.predict([picture(4)[0]])[0].rle
        image = picture(4)[0]
        named = taken(task, tmp_path / "b", as_teacher(task.model, class_map={"*": "b"}), ("a", "b"))
        predictor = load_predictor(named, EAGER, "cpu")
        assert isinstance(predictor.warnings, dict) and hasattr(predictor, "at_probabilities")
        every: ProbabilityPredictor = predictor
        for cells, plain in zip(
            every.at_probabilities(image, [0.05, 0.5])[0], expected.at_probabilities(image, [0.05, 0.5])[0], strict=True
        ):
            assert cells.rle == plain.rle and set(cells.class_id.tolist()) <= {1}
        with pytest.raises(ModelError, match="class_map leads the classes 0 nowhere"):
            taken(task, tmp_path / "c", as_teacher(task.model), ("a", "b"))


def test_folders_that_hold_no_model_or_several_or_another_are_refused(tmp_path: Path) -> None:
    with prepared(ONE_EACH["flow-unet"]) as entry:
        task = trained(entry, tmp_path / "fit")
        empty = tmp_path / "empty"
        empty.mkdir()
        with pytest.raises(ModelError, match="expected one trained model in this folder; there are: none"):
            taken(task, tmp_path / "out", as_teacher(task.model, weights=str(empty)))
        for name in ("m.fold-0", "m.fold-1"):
            files.write_text(empty / "members" / name / MODEL_FILE, "{}")
        with pytest.raises(ModelError, match=r"there are: .*fold-0, .*fold-1; name one"):
            taken(task, tmp_path / "out", as_teacher(task.model, weights=str(empty)))
        (tmp_path / "weights.pth").write_bytes(b"x")
        with pytest.raises(ModelError, match="no folder of `cellsemi model export`"):
            taken(task, tmp_path / "out", as_teacher(task.model, weights=str(tmp_path / "weights.pth")))
        stated = as_teacher(task.model, weights=task.out_dir, weights_sha256="0" * 64)
        with pytest.raises(ModelError, match="another model: its sha256 is"):
            taken(task, tmp_path / "out", stated)
        other = as_teacher(ONE_EACH["torchvision-maskrcnn"].model(tmp_path), weights=task.out_dir)
        with pytest.raises(ModelError, match="a flow-unet, not a torchvision-maskrcnn: set `kind: flow-unet`"):
            taken(task, tmp_path / "out", other)


def test_the_classes_of_a_model() -> None:
    assert class_ids(("nucleus",), {}, ("cell",), "w") == (0,)
    assert class_ids(("a", "b"), {}, ("b", "a"), "w") == (1, 0)
    assert class_ids(("a", "b", "c"), {"a": "ignore", "*": "b"}, ("b",), "w") == (LEFT_OUT, 0, 0)
    with pytest.raises(ModelError, match="weights w: class_map leads the classes c nowhere"):
        class_ids(("b", "c"), {}, ("b",), "w")


@pytest.mark.parametrize(
    ("models", "problem"),
    [
        ("[{kind: flow-unet, name: a, train: false}, {kind: flow-unet, name: s}]", "needs `weights`"),
        ("[{kind: flow-unet, name: a, class_map: {a: cell}}]", "class_map is read with `train: false` only"),
        ("[{kind: masks, name: a, folder: x}]", "no model takes part in round 1|no model is trained in round 1"),
        (
            "[{kind: masks, name: a, folder: x, last_round: null}, {kind: flow-unet, name: s, last_round: 2}]",
            "no model is trained in round 3",
        ),
        ("[{kind: masks, name: a, folder: x, class_map: {0: b}}, {kind: flow-unet, name: s}]", r"class_map of a leads"),
        ("[{kind: python, name: a, family: own, folder: x}]", "names no module"),
    ],
)
def test_settings_that_do_not_fit_are_refused(models: str, problem: str) -> None:
    with pytest.raises(Exception, match=problem):
        load_config("demo", [f"models={models}", "data.classes=[cell]"])


def test_a_teacher_takes_part_in_its_first_round_unless_it_says_more() -> None:
    models = "[{kind: masks, name: a, folder: x}, {kind: masks, name: b, folder: x, last_round: null}, {name: s}]"
    config = load_config("demo", [f"models={models}"]).config
    names = [[model.name for model in config.models_of(round)] for round in (0, 1)]
    assert names == [["a", "b", "s"], ["b", "s"]]
    assert [model.name for model in config.students_of(0)] == ["s"]
    assert type(config)(**json.loads(config.model_dump_json())) == config
