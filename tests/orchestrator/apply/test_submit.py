"""A submission names every image, holds no pixel twice, and is never uploaded."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from helpers.applied import small_run, write_images
from helpers.terminal import invoke

from cellsemi.configs.errors import UsageError
from cellsemi.configs.loading import load_config
from cellsemi.orchestrator.apply.submit import pixel_order
from cellsemi.rounds.datasets.check_files import check_submission


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_submission_for_new_images(here: Path, fake_models: None) -> None:
    paths = small_run(here)
    files = write_images(paths, "unlabelled", here / "test")
    (here / "test" / "broken.png").write_bytes(b"")
    result = invoke("submit", str(paths.root), "--images", "test", "--out", "s/submission.csv", "--competition", "sart")
    assert result.exit_code == 0, result.output
    out = here / "s" / "submission.csv"
    found = rows(out)
    assert {row["id"] for row in found} == {path.stem for path in files} | {"broken"}
    assert [row["predicted"] for row in found if row["id"] == "broken"] == [""]
    assert not check_submission(out, "row").problems
    assert "kaggle competitions submit -c sart -f s/submission.csv" in result.output
    assert "1 image cannot be used" in result.output


def test_a_file_that_exists_is_kept(here: Path, fake_models: None) -> None:
    paths = small_run(here)
    write_images(paths, "test", here / "test")
    Path("s.csv").write_text("mine")
    args = ("submit", str(paths.root), "--images", "test", "--out", "s.csv")
    assert isinstance(invoke(*args).exception, UsageError) and Path("s.csv").read_text() == "mine"
    assert invoke(*args, "--force").exit_code == 0 and rows(Path("s.csv"))
    assert isinstance(invoke(*args[:-1], "s.txt").exception, UsageError)


def test_pixels_are_counted_as_the_data_set_does(here: Path, fake_models: None) -> None:
    paths = small_run(here)
    write_images(paths, "test", here / "test")
    by_order = {}
    for order in ("row", "column"):
        args = ("submit", str(paths.root), "--images", "test", "--out", f"{order}.csv", "--order", order, "--json")
        assert json.loads(invoke(*args).stdout)["order"] == order
        by_order[order] = rows(Path(f"{order}.csv"))
    assert len(by_order["row"]) == len(by_order["column"]) and by_order["row"] != by_order["column"]
    root = f"data.root={here}"
    assert pixel_order(load_config("demo", [root, "data.source=dsb2018"]).config) == "column"
    assert pixel_order(load_config("sartorius", [root]).config) == "row" and pixel_order(None) == "row"


def test_images_of_one_name_are_refused(here: Path, fake_models: None) -> None:
    paths = small_run(here)
    write_images(paths, "test", here / "test" / "a")
    write_images(paths, "test", here / "test" / "b")
    with pytest.raises(UsageError, match="another image has this name"):
        raise invoke("submit", str(paths.root), "--images", "test", "--out", "s.csv").exception or AssertionError
