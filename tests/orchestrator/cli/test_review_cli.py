"""`cellsemi review` and `round --take-new` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.applied import small_run
from helpers.terminal import invoke

from cellsemi.configs.errors import CellsemiError, UsageError

pytestmark = pytest.mark.usefixtures("fake_models")


def test_hand_out_take_back_and_go_on(here: Path) -> None:
    small_run(here)
    shown = invoke("review", "demo", "--top", "2", "--format", "geojson")
    assert shown.exit_code == 0 and "cellsemi review demo --take review-demo" in shown.stdout
    content = json.loads(invoke("review", "demo", "--top", "2", "--out", "again", "--json").stdout)
    assert content["format"] == "seg-npy" and [row["rank"] for row in content["images"]] == [1, 2]
    table = here / "again" / "review.csv"
    table.write_text(table.read_text().replace(",,", ",yes,", 1))
    taken = invoke("review", "demo", "--take", "again")
    assert taken.exit_code == 0 and "1 images are human labels from round" in taken.stdout
    assert "1 stay as they were: not changed and not marked as seen" in taken.stdout
    number = json.loads(invoke("review", "demo", "--take", "again", "--json").stdout)["from_round"]
    done = invoke("round", "--n", str(number), "--run", "demo", "--engine", "inline")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--as", "part"], "--as goes with --take DIR"),
        (["--take", ".", "--top", "3"], "it takes no --top, --out or --format"),
        (["--take", "."], "no folder of `cellsemi review`"),
        (["--top", "0"], "0 is not in the range"),
        (["--format", "labelme"], "'labelme' is not one of"),
    ],
)
def test_wrong_usage_is_exit_code_2(here: Path, words: list[str], message: str) -> None:
    small_run(here)
    result = invoke("review", "demo", *words)
    error = result.exception
    code = error.exit_code if isinstance(error, CellsemiError) else result.exit_code
    assert code == 2 and message in f"{error} {result.output}"


def test_a_folder_that_holds_something_is_never_overwritten(here: Path) -> None:
    small_run(here)
    (here / "full").mkdir()
    (here / "full" / "mine.txt").write_text("mine")
    result = invoke("review", "demo", "--out", "full")
    assert isinstance(result.exception, UsageError) and "--out names a new one" in str(result.exception)
    assert [path.name for path in (here / "full").iterdir()] == ["mine.txt"]
