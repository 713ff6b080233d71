"""What each exporter writes is read, or refused under its own name; docs/formats.md has the table of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.cases import drawn, same_cells
from helpers.exports import CELLS, EXPORTS, NUMBERS, TOOLLESS, Export

from cellsemi.configs.data import DataConfig
from cellsemi.configs.errors import DataError
from cellsemi.rounds.cells.rle import decode
from cellsemi.rounds.datasets.open import list_data
from cellsemi.rounds.inspect.detect import detect
from cellsemi.rounds.inspect.tools import READ, UNREAD

DOCS = Path(__file__).resolve().parents[3] / "docs" / "formats.md"
HEAD = "| tool | export | |\n|---|---|---|\n"


def name_of(export: Export) -> str:
    """The name under which an export is refused."""
    return ", ".join(part for part in (export.tool, export.form) if part)


def row(export: Export) -> str:
    if export.source:
        return f"| {export.tool} | {export.form} | read as `{export.source}` |\n"
    line = next(kind.line for kind in UNREAD if kind.name == name_of(export))
    return f"| {export.tool} | {export.form} | not read: {line} |\n"


@pytest.mark.parametrize("export", [each for each in EXPORTS if each.source], ids=name_of)
def test_it_is_recognised_and_all_its_cells_are_read(tmp_path: Path, export: Export) -> None:
    export.write(tmp_path / "data")
    found = detect(tmp_path / "data")
    assert (found.source, found.tool) == (export.source, "" if export.tool in TOOLLESS else export.tool)
    data = DataConfig(source=found.source, **{"classes": ("cell",), **found.settings})
    records = [item.load().record for item in list_data(data, 0).items if item.split != "unlabelled"]
    masks = [[decode(rle, each.height, each.width) for rle in each.instances.rle] for each in records if each.instances]
    assert len(records) == len(masks) == len(NUMBERS) and sum(map(len, masks)) == CELLS
    for number in NUMBERS:
        assert any(same_cells(found_cells, drawn(number).cells) for found_cells in masks)


@pytest.mark.parametrize("export", [each for each in EXPORTS if not each.source], ids=name_of)
def test_it_is_refused_by_name_with_the_line_that_helps(tmp_path: Path, export: Export) -> None:
    export.write(tmp_path / "data")
    (line,) = (kind.line for kind in UNREAD if kind.name == name_of(export))
    with pytest.raises(DataError) as caught:
        detect(tmp_path / "data")
    assert f"is an export of {name_of(export)}, which is not read: {line}" in str(caught.value)


def test_each_rule_has_its_export() -> None:
    assert {kind.name for kind in UNREAD} == {name_of(each) for each in EXPORTS if not each.source}
    known = {tool for _, tool, _ in READ} - {"cellsemi", "Kaggle DSB2018"}
    assert known == {each.tool for each in EXPORTS if each.source} - set(TOOLLESS)


def test_a_named_file_that_is_not_read_is_refused_by_name(tmp_path: Path) -> None:
    export = next(each for each in EXPORTS if each.form == "CVAT for images 1.1")
    export.write(tmp_path)
    with pytest.raises(DataError, match=r"annotations\.xml is an export of CVAT, CVAT for images 1\.1"):
        detect(tmp_path / "annotations.xml")


def test_the_table_of_the_documentation_is_that_of_these_exports() -> None:
    table = HEAD + "".join(row(export) for export in EXPORTS)
    assert table in DOCS.read_text(encoding="utf-8"), f"docs/formats.md lacks this table:\n{table}"
