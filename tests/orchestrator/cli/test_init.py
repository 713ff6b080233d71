"""`cellsemi init`: what it writes of a folder and of a preset is what was recognised, and `round` reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from helpers.layouts import LAYOUTS, manifest, paired, pictures, sartorius
from helpers.terminal import invoke

from cellsemi.configs.errors import CellsemiError, ConfigError, DataError, UsageError
from cellsemi.configs.loading import load_config
from cellsemi.orchestrator.describe_dataset import describe, look, with_classes
from cellsemi.rounds.datasets.open import open_data


def written(*args: str) -> str:
    done = invoke("init", *args)
    assert done.exit_code == 0, done.output + str(done.exception)
    return Path("cellsemi.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_file_of_a_folder_is_what_was_recognised_and_reads_its_images(name: str, here: Path) -> None:
    LAYOUTS[name](here / "my data")
    text = written("my data")
    described = describe(Path("my data"), None, ())
    config = load_config().config
    seen = look(described, None, None, lambda *_: None)
    assert config == seen.suggested.config
    recognised = with_classes(described, lambda *_: None).data.model_dump(exclude={"clean", "one_class_per_image"})
    assert config.data.model_dump(exclude={"clean", "one_class_per_image"}) == recognised
    assert config.run.name == "my-data"
    counts = [item.split for item in open_data(config).items]  # refuses class names that are not those of the data
    assert {split: counts.count(split) for split in seen.found.listed} == seen.found.listed
    assert set(yaml.safe_load(text)) <= {"run", "data"}


def test_each_line_says_why_and_the_hints_that_are_settings_are_lines(here: Path) -> None:
    sartorius(here / "cells")
    lines = written("cells").splitlines()
    assert "  source: rle-csv  # train.csv has the columns id and annotation" in lines
    assert "  group_column: sample_id  # images of one sample_id look alike: they stay on one side of a split" in lines
    assert "  one_class_per_image: true  # cell_type states one class for each image" in lines
    astro = sum(len(p.cells) for p in pictures("labelled", "val", "test") if p.cell_type == "astro")
    assert f"  # {astro} cells of astro in 8 images, " in "\n".join(lines)
    assert all("  # " in line or line.endswith(":") or lines[i - 1].lstrip().startswith("#")
               for i, line in enumerate(lines) if line and not line.lstrip().startswith("#"))  # fmt: skip
    few = "# - only 6 validation images decide thresholds and promotion"
    assert any(line.startswith(few) and "rounds.folds: 5" in line for line in lines)


def test_a_setting_of_the_call_stands_against_a_hint(here: Path) -> None:
    sartorius(here / "cells")
    written("cells", "--set", "data.clean.fill_holes=false", "--set", "run.name=mine", "--set", "training.steps=9")
    config = load_config().config
    assert (config.data.clean.fill_holes, config.run.name, config.training.steps) == (False, "mine", 9)
    assert config.models == load_config("paired", ["data.root=x"]).config.models  # the defaults, not those of the demo


def test_inspect_shows_the_same_lines_and_names_the_command(here: Path) -> None:
    manifest(here / "cells")
    text = written("cells")
    shown = invoke("data", "inspect", "cells", "--no-picture").output
    assert text in shown and "Next: cellsemi init cells " in shown


def test_the_file_that_lists_the_images_will_do(here: Path) -> None:
    manifest(here / "cells")
    written("cells/manifest.csv")
    assert load_config().config.data.root == "cells"


def test_class_names_are_those_of_all_images_even_where_few_are_read(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    LAYOUTS["class-tifs"](here / "cells")
    monkeypatch.setattr("cellsemi.orchestrator.describe_dataset.SAMPLE", 1)
    text = written("cells")
    assert load_config().config.data.classes == ("class1", "class2", "class3", "class4")
    assert "# class-files: 17 labelled, 0 unlabelled, 4 val, 3 test images; figures of 1 of them" in text


def test_an_import_is_recognised(here: Path) -> None:
    sartorius(here / "cells")
    assert invoke("data", "import", "cells", "--out", "cells-shards").exit_code == 0
    written("cells-shards")
    config = load_config().config
    assert (config.data.source, config.data.classes) == ("shards", ("astro", "cort", "shsy5y"))
    assert len(open_data(config).items) == 30


def test_a_preset_is_meant_where_a_folder_has_its_name(here: Path) -> None:
    paired(here / "paired")
    done = invoke("init", "paired")
    assert isinstance(done.exception, ConfigError) and "the folder of that name is ./paired" in str(done.exception)
    written("./paired")
    assert load_config().config.data.source == "paired"
    written("paired", "--set", "data.root=paired", "--force")
    assert load_config().config == load_config("paired", ["data.root=paired"]).config
    assert "Next: cellsemi init ./paired" in invoke("data", "inspect", "paired", "--no-picture").output


def test_what_is_neither_is_said(here: Path) -> None:
    (here / "empty").mkdir()
    done = invoke("init", "empty")
    assert isinstance(done.exception, DataError) and "no data set that is known" in str(done.exception)
    done = invoke("init", "dmo")
    assert isinstance(done.exception, UsageError) and "no such file or folder" in str(done.exception)
    assert not (here / "cellsemi.yaml").exists()


def test_a_preset_is_short_unless_all_is_asked_for(here: Path) -> None:
    short = written("label-maps", "--set", "data.root=cells", "--set", "run.name=mine")
    loaded = load_config()
    assert loaded.origin == "./cellsemi.yaml"
    assert (loaded.config.data.root, loaded.config.run.name) == ("cells", "mine")
    assert "# Your own folder of images, label maps and a manifest" in short and "lr:" not in short
    full = written("label-maps", "--set", "data.root=cells", "--set", "run.name=mine", "--full", "--force")
    assert "# Peak learning rate" in full and load_config() == loaded


def test_nothing_is_overwritten_unasked(here: Path) -> None:
    (here / "cellsemi.yaml").write_text("mine", encoding="utf-8")
    done = invoke("init")
    assert isinstance(done.exception, CellsemiError) and "--force" in str(done.exception)
    assert (here / "cellsemi.yaml").read_text() == "mine"
    written("--force")
    assert load_config().config == load_config("demo").config


def test_another_file_says_how_to_use_it(here: Path) -> None:
    assert "--config sub/other.yaml" in invoke("init", "--out", "sub/other.yaml").output
    assert load_config("sub/other.yaml").config == load_config("demo").config
