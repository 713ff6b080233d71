"""`cellsemi data`: what is inspected, imported and exported, from small data sets made here to the files written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import yaml
from helpers.run_folders import finish_first_round, finish_folder
from helpers.terminal import cellsemi, invoke

from cellsemi.configs.errors import ConfigError, DataError, RunError, UsageError
from cellsemi.configs.loading import load_config
from cellsemi.orchestrator.cli.data import SPLITS, STATES, data
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.cutoffs import Cutoffs
from cellsemi.rounds.datasets import import_shards
from cellsemi.rounds.datasets.export import EXPORTED
from cellsemi.rounds.evaluation.evaluation_table import Evaluation, write_evaluations
from cellsemi.rounds.evaluation.metrics import score_image
from cellsemi.rounds.formats.qupath import geojson
from cellsemi.rounds.formats.registry import all_specs
from cellsemi.rounds.store import files, run, shards
from cellsemi.rounds.store.image_codec import decode_image, to_png
from cellsemi.rounds.store.run import RunPaths
from cellsemi.rounds.store.schemas import SCHEMA_VERSION, ImageRecord

SHAPE = (24, 32)


def labels(i: int) -> np.ndarray[Any, Any]:
    made = np.zeros(SHAPE, np.uint16)
    made[2:8, 3 + i : 9 + i] = 1
    made[12:20, 10:20] = 2
    return made


def pixels(i: int) -> np.ndarray[Any, Any]:
    return (np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE) % (90 + i)).astype(np.uint8)


def data_set(root: Path, splits: str = "labelled labelled val test unlabelled") -> Path:
    """A folder of label maps whose images have two kinds, in turn."""
    rows = ["id,split,kind,well"]
    for i, split in enumerate(splits.split()):
        for folder, content in (("images", pixels(i)), ("masks", labels(i))):
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / f"im{i}.png").write_bytes(to_png(content))
        rows.append(f"im{i},{split},{'xy'[i % 2]},w{i}")
    (root / "manifest.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def told(*args: str) -> Any:
    done = invoke(*args, "--json")
    assert done.exit_code == 0, done.output + str(done.exception)
    return json.loads(done.stdout)


def test_the_choices_are_those_of_the_registries() -> None:
    (option,) = (option for option in data.commands["export"].params if option.name == "kind")
    assert isinstance(option.type, click.Choice)
    assert set(option.type.choices) == {spec.name for spec in all_specs() if spec.writer is not None}
    assert STATES == EXPORTED and SPLITS == run.SPLITS


# --- inspect --------------------------------------------------------------------------------------------


def test_inspect_says_what_it_is_and_writes_a_section_that_reads_it(here: Path) -> None:
    data_set(here / "cells")
    done = invoke("data", "inspect", "cells")
    assert done.exit_code == 0, done.output
    for words in ("manifest.csv has the columns id and split", "2 labelled, 1 unlabelled, 1 val, 1 test",
                  "8 in 4 annotated images", "inspect-cells.png",
                  "Next: cellsemi init cells   #", "      cellsemi round --n 3",
                  "Or first: cellsemi data import cells --out cells-shards"):  # fmt: skip
        assert words in done.output, words
    section = done.output[done.output.index("run:\n") : done.output.index("\nNext")]
    assert yaml.safe_load(section)["data"] == {
        "source": "label-maps", "root": "cells", "class_column": "kind", "group_column": "well", "classes": ["x", "y"],
        "one_class_per_image": True,
    }  # fmt: skip
    (here / "cellsemi.yaml").write_text(section, encoding="utf-8")
    assert load_config().config.data.classes == ("x", "y")
    picture = here / "inspect-cells.png"
    assert decode_image(picture.read_bytes(), picture.name).shape[1] > 1000


def test_inspect_as_json_holds_the_figures_and_the_section(here: Path) -> None:
    data_set(here / "cells")
    found = told("data", "inspect", "cells", "--no-picture", "--limit", "3")
    assert (found["source"], found["seen"], found["sampled"], found["picture"]) == ("label-maps", 3, True, None)
    assert found["by_class"]["x"]["area"]["50"] == 58 and found["data"]["classes"] == ["x", "y"]
    assert sorted(path.name for path in here.iterdir()) == ["cells"]


def test_a_damaged_image_is_counted_and_shown(here: Path) -> None:
    data_set(here / "cells")
    (here / "cells" / "images" / "im0.png").write_bytes(b"no image")
    done = invoke("data", "inspect", "cells", "--out", "sub/p.png")
    assert done.exit_code == 0 and "1 of 5 images cannot be used" in done.output
    assert "images/im0.png: not a PNG, JPEG, BMP or TIFF file" in done.output and (here / "sub" / "p.png").is_file()


def test_settings_change_what_was_recognised_and_are_handed_on(here: Path) -> None:
    data_set(here / "cells")
    args = ["data", "inspect", "cells", "--no-picture", "--set", "data.where={kind: x}"]
    assert told(*args)["listed"] == {"labelled": 1, "unlabelled": 1, "val": 1, "test": 0}
    shown = invoke(*args).output
    assert "--out cells-shards --set 'data.where={kind: x}'" in shown
    assert "Next: cellsemi init cells --set 'data.where={kind: x}'" in shown
    wrong = invoke("data", "inspect", "cells", "--set", "data.group_colum=well")
    assert isinstance(wrong.exception, ConfigError) and "did you mean 'data.group_column'" in str(wrong.exception)


def test_a_config_that_states_the_source_is_not_second_guessed(here: Path) -> None:
    data_set(here / "cells")
    found = told("data", "inspect", "cells", "--no-picture", "--config", "label-maps")
    assert found["why"] == "as the config says" and "class_column" not in found["data"]
    found = told("data", "inspect", "cells", "--no-picture", "--set", "data.source=label-maps")
    assert (found["why"], found["by_class"].keys()) == ("as the config says", {"cell"})
    found = told("data", "inspect", "--no-picture", "--config", "demo", "--set", "data.generated.unlabelled=0")
    assert found["source"] == "generated" and found["classes"] == ["astro", "cort", "shsy5y"]
    done = invoke("data", "inspect", "cells/manifest.csv", "--config", "label-maps")
    assert isinstance(done.exception, UsageError) and "PATH is data.root" in str(done.exception)


@pytest.mark.parametrize(("args", "words"), [(["--out", "p.jpg"], "the picture is a PNG"), (["--limit", "0"], "x>=1")])
def test_wrong_options_of_inspect_are_wrong_usage(here: Path, args: list[str], words: str) -> None:
    data_set(here / "cells")
    done = cellsemi("data", "inspect", "cells", *args, cwd=here)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr


def test_a_folder_that_is_no_data_set_ends_with_one(here: Path) -> None:
    (here / "x").mkdir()
    done = invoke("data", "inspect", "x")
    assert isinstance(done.exception, DataError) and "no data set that is known" in str(done.exception)


# --- import ---------------------------------------------------------------------------------------------


def test_an_import_is_written_whole_and_read_by_the_command_that_it_prints(here: Path) -> None:
    data_set(here / "cells")
    done = invoke("data", "import", "cells", "--out", "my shards")
    assert done.exit_code == 0, done.output + str(done.exception)
    assert (
        "Next: cellsemi round --n 3 --run my-shards --set data.source=shards --set 'data.root=my shards'" in done.output
    )
    content = files.read_json(here / "my shards" / "import.json")
    assert (content["classes"], content["source"]) == (["x", "y"], "label-maps")
    assert content["settings"]["group_column"] == "well" and content["report"]["images"]["labelled"] == 2
    assert content["shards"]["val"][0]["rows"] == 1 and content["schema_version"] == SCHEMA_VERSION
    (image,) = shards.read_folder(here / "my shards" / "val")
    assert image.instances is not None and np.array_equal(masks.to_label_map(image.instances) > 0, labels(2) > 0)
    settings = ["data.source=shards", "data.root=my shards", 'data.classes=["x", "y"]']
    paths = run.open_run(load_config("demo", [*settings, f"run.root={here}"]).config)
    found = import_shards.import_data(run.read_config(paths), here / "again", lambda *_: None)
    assert found.cells == content["report"]["cells"] and found.class_cells == content["report"]["class_cells"]
    assert invoke("data", "check", "my shards").exit_code == 0


def test_the_same_data_give_the_same_bytes(here: Path) -> None:
    data_set(here / "cells")
    for name in ("a", "b"):
        assert told("data", "import", "cells", "--out", name)["folder"] == name
    first, second = ({p.relative_to(here / n): p.read_bytes() for p in (here / n).rglob("*.*")} for n in "ab")
    assert first == second and len(first) == 7


def test_a_finished_import_is_made_anew_only_by_force_and_a_cut_one_always(here: Path) -> None:
    data_set(here / "cells")
    args = ["data", "import", "cells", "--out", "s"]
    assert invoke(*args).exit_code == 0
    again = invoke(*args)
    assert isinstance(again.exception, UsageError) and "--force" in str(again.exception)
    assert invoke(*args, "--force").exit_code == 0
    (here / "s" / "import.json").unlink()
    (here / "s" / "val" / ".part-00001.parquet.1a.tmp").touch()
    assert invoke(*args).exit_code == 0 and (here / "s" / "import.json").is_file()


def test_an_import_that_fails_leaves_no_finish_mark(here: Path) -> None:
    data_set(here / "cells")
    assert invoke("data", "import", "cells", "--out", "s").exit_code == 0
    (here / "cells" / "images" / "im1.png").write_bytes((here / "cells" / "images" / "im2.png").read_bytes())
    failed = invoke("data", "import", "cells", "--out", "s", "--force")
    assert isinstance(failed.exception, DataError) and "leak" in str(failed.exception)
    assert not (here / "s" / "import.json").exists()
    done = invoke("data", "inspect", "s")
    assert isinstance(done.exception, DataError)


@pytest.mark.parametrize("foreign", ["notes.txt", "val/mine.png", "other/part-00000.parquet", "manifest.json"])
def test_a_folder_with_anything_else_is_never_written_into(here: Path, foreign: str) -> None:
    data_set(here / "cells")
    (here / "s" / foreign).parent.mkdir(parents=True)
    (here / "s" / foreign).touch()
    done = invoke("data", "import", "cells", "--out", "s", "--force")
    assert isinstance(done.exception, UsageError) and "which no import wrote" in str(done.exception)
    assert len([path for path in (here / "s").rglob("*") if path.is_file()]) == 1


def test_an_import_may_lack_splits_but_not_all_images(here: Path) -> None:
    data_set(here / "cells", "unlabelled unlabelled")
    done = invoke("data", "import", "cells", "--out", "s")
    assert done.exit_code == 0 and "no cells in labelled, val, test" in done.output
    for path in (here / "cells" / "images").iterdir():
        path.write_bytes(b"")
    done = invoke("data", "import", "cells", "--out", "t", "--set", "data.max_quarantined=1")
    assert isinstance(done.exception, DataError) and "no image that can be used" in str(done.exception)


def test_stated_classes_and_a_class_map_are_kept(here: Path) -> None:
    data_set(here / "cells")
    args = ["data", "import", "cells", "--out"]
    assert told(*args, "a", "--set", "data.classes=[y, x]")["classes"] == ["y", "x"]
    found = told(*args, "b", "--set", "data.classes=[cell]", "--set", "data.class_map={x: ignore, '*': cell}")
    assert found["ignored"]["val"] == 2 and found["class_cells"]["test"] == {"cell": 2}
    done = invoke(*args, "c", "--set", "data.classes=[x]")
    assert isinstance(done.exception, DataError) and "class 'y'" in str(done.exception)


# --- export ---------------------------------------------------------------------------------------------


def imported(here: Path) -> Path:
    data_set(here / "cells")
    assert invoke("data", "import", "cells", "--out", "s").exit_code == 0
    return here / "s"


def coco_of(path: Path) -> tuple[int, list[str]]:
    content = json.loads(path.read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    return len(content["images"]), sorted(names[cell["category_id"]] for cell in content["annotations"])


def test_an_import_is_exported_with_its_class_names(here: Path) -> None:
    imported(here)
    found = told("data", "export", "s", "--format", "coco", "--out", "a.json")
    assert coco_of(here / "a.json") == (4, ["x"] * 4 + ["y"] * 4)
    assert (found["images"], found["cells"], found["losses"]) == (4, 8, {})
    assert told("data", "export", "s", "--format", "coco", "--out", "b.json", "--split", "val")["images"] == 1
    found = told("data", "export", "s/test", "--format", "coco", "--out", "c.json")
    assert found["cells"] == 2 and coco_of(here / "c.json") == (1, ["y", "y"])
    found = told("data", "export", "s", "--format", "coco", "--out", "d.json", "--split", "unlabelled")
    assert found["losses"] == {"images without annotation, left out": 1} and found["images"] == 0


def test_rejected_cells_are_never_written_and_what_is_left_out_is_counted(here: Path) -> None:
    cells = masks.from_label_map(labels(0), state=["rejected", "accepted"], score=[0.9, 0.4], class_id=[0, 3])
    record = ImageRecord("a", *SHAPE, "val", instances=cells)
    shards.write_folder(here / "p", [record], 9, "h")
    args = ["data", "export", "p", "--format", "coco", "--out"]
    assert told(*args, "a.json")["losses"] == {"rejected cells, left out": 1}
    assert coco_of(here / "a.json") == (1, ["class3"])
    found = told(*args, "b.json", "--min-score", "0.5")
    assert found["losses"]["cells below the cutoffs of score and area, left out"] == 1 and found["cells"] == 0
    found = told(*args, "c.json", "--state", "human", "--state", "ignored")
    assert found["losses"] == {"rejected cells, left out": 1, "accepted cells, left out": 1}
    assert invoke(*args, "d.json", "--state", "rejected").exit_code == 2


def test_what_is_there_is_overwritten_only_by_force_and_a_folder_never(here: Path) -> None:
    imported(here)
    (here / "a.json").write_text("mine")
    args = ["data", "export", "s", "--format", "coco", "--out"]
    assert isinstance(invoke(*args, "a.json").exception, UsageError) and (here / "a.json").read_text() == "mine"
    assert invoke(*args, "a.json", "--force").exit_code == 0 and coco_of(here / "a.json")[0] == 4
    assert "is a folder" in str(invoke(*args, "s", "--force").exception)
    done = invoke("data", "export", "s", "--format", "label-maps", "--out", "cells", "--force")
    assert isinstance(done.exception, UsageError) and "not an empty folder" in str(done.exception)


def broken_writer(records: Any, out: Path, classes: Any) -> None:
    (out / "half.txt").write_text("x")
    raise DataError("the disk broke")


def test_a_folder_is_whole_or_absent(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imported(here)
    monkeypatch.setattr(geojson, "GEOJSON", replace(geojson.GEOJSON, writer=broken_writer))
    done = invoke("data", "export", "s", "--format", "geojson", "--out", "g")
    assert isinstance(done.exception, DataError) and sorted(p.name for p in here.iterdir()) == ["cells", "s"]


def finished_run(here: Path) -> RunPaths:
    """A run with one round done: an ensemble that saw val and test, and pseudo-labels of round 1."""
    config = load_config("demo", ["run.name=r", f"run.root={here / 'runs'}", "data.classes=[x, y]"]).config
    paths = run.open_run(config)
    for number, split in enumerate(("labelled", "unlabelled", "val", "test")):
        human = masks.from_label_map(labels(number), state="human", class_id=1)
        record = ImageRecord(split, *SHAPE, split, image=to_png(pixels(number)), source=f"{split}.png")
        record = record.with_(instances=None if split == "unlabelled" else human)
        shards.write_folder(paths.split(split), [record], 9, "h")
        finish_folder(paths.split(split))
        if split in ("val", "test"):
            cells = masks.from_label_map(labels(number), score=[0.3, 0.8], class_id=[0, 1])
            seen = record.with_(image=None, instances=cells)
            shards.write_folder(paths.predictions(0, "ensemble", split), [seen], 9, "h")
            finish_folder(paths.predictions(0, "ensemble", split))
    score = score_image("val", human, human)
    write_evaluations(
        paths.evaluation(0), [Evaluation(0, "ensemble", "val", Cutoffs.same(0.5, 2), (score,))], ("x", "y"), "h"
    )
    finish_first_round(paths)
    states = ["accepted", "rejected"]
    pseudo = ImageRecord("unlabelled", *SHAPE, "unlabelled", instances=masks.from_label_map(labels(1), state=states))
    shards.write_folder(paths.pseudo(1), [pseudo], 9, "h")
    finish_folder(paths.pseudo(1))
    return paths


def test_a_run_gives_what_its_ensemble_sees_from_its_threshold_on(here: Path) -> None:
    finished_run(here)
    found = told("data", "export", "r", "--format", "coco", "--out", "a.json")
    assert (found["images"], found["cells"]) == (1, 1) and coco_of(here / "a.json") == (1, ["y"])
    assert "ensemble of round 0 of r on test, cells with a score from 0.5 on (chosen on val" in found["what"]
    assert found["losses"] == {"cells below the cutoffs of score and area, left out": 1}
    found = told(
        "data", "export", "runs/r", "--format", "coco", "--out", "b.json", "--min-score", "0.1", "--split", "val"
    )
    assert found["cells"] == 2 and json.loads((here / "b.json").read_text())["images"][0]["file_name"] == "val.png"


def test_human_labels_and_pseudo_labels_of_a_run(here: Path) -> None:
    finished_run(here)
    found = told("data", "export", "r", "--format", "coco", "--out", "a.json", "--split", "labelled")
    assert coco_of(here / "a.json") == (1, ["y", "y"]) and "human labels of r" in found["what"]
    found = told("data", "export", "r", "--format", "kaggle", "--out", "p.csv", "--pseudo")
    assert found["cells"] == 1 and found["losses"]["rejected cells, left out"] == 1
    assert "pseudo-labels of round 1" in found["what"]


@pytest.mark.parametrize(
    ("args", "kind", "words"),
    [
        (["--model", "unet-b"], RunError, "unet-b of round 0 has not predicted the test images; there are: ensemble"),
        (
            ["--split", "unlabelled"],
            RunError,
            "has not predicted the unlabelled images; rounds whose ensemble has: none",
        ),
        (["--round", "4"], UsageError, "round 4 is not finished; those that are: 0"),
        (["--split", "labelled", "--model", "m"], UsageError, "is what people drew"),
        (["--pseudo", "--round", "3"], RunError, "round 3 has no pseudo-labels; rounds that have: 1"),
        (["--pseudo", "--split", "val"], UsageError, "--pseudo takes the unlabelled"),
    ],
)
def test_what_a_run_does_not_have_is_said(here: Path, args: list[str], kind: type[Exception], words: str) -> None:
    finished_run(here)
    done = invoke("data", "export", "r", "--format", "coco", "--out", "a.json", *args)
    assert isinstance(done.exception, kind) and words in str(done.exception)
    assert not (here / "a.json").exists()


def test_options_of_a_run_are_refused_for_shards_and_a_wrong_name_is_told(here: Path) -> None:
    imported(here)
    args = ["--format", "coco", "--out", "a.json"]
    done = invoke("data", "export", "s", *args, "--model", "m")
    assert isinstance(done.exception, UsageError) and "not a run" in str(done.exception)
    done = invoke("data", "export", "s/val", *args, "--split", "val")
    assert isinstance(done.exception, UsageError) and "the shards of one split" in str(done.exception)
    assert isinstance(invoke("data", "export", "nowhere", *args).exception, UsageError)


def test_predictions_that_do_not_fit_their_images_are_refused(here: Path) -> None:
    paths = finished_run(here)
    shards.write_folder(paths.split("test"), [ImageRecord("other", *SHAPE, "test")], 9, "h")
    done = invoke("data", "export", "r", "--format", "coco", "--out", "a.json")
    assert isinstance(done.exception, RunError) and not (here / "a.json").exists()
