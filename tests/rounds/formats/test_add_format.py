"""A format is added by one new file and one line of configs/formats.py; everything else follows from that."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.terminal import MAIN

from cellsemi.configs.formats import FORMATS, FormatEntry
from cellsemi.rounds.formats import registry
from cellsemi.rounds.formats.registry import FormatSpec, all_specs
from cellsemi.rounds.formats.shards import SHARDS
from cellsemi.rounds.store.image_codec import to_png

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("configs", "rounds", "models", "orchestrator")
LIST = "configs/formats.py"
BEFORE = '    FormatEntry(\n        "paired",'  # the last rule of detection takes any images with files of their names

# One file for all images: `ID x0 y0 x1 y1` a line, a box a cell.
BOX_LIST = '''
"""Reads and writes boxes.txt: a line per cell."""

from functools import partial

import numpy as np

from cellsemi.rounds.cells import masks
from cellsemi.rounds.formats.base import Exported, Item, Loaded
from cellsemi.rounds.formats.registry import FormatSpec
from cellsemi.rounds.formats.shared.detection import Detected
from cellsemi.rounds.formats.shared.folder import Folder
from cellsemi.rounds.store.files import atomic_file


def detect(scan, file):
    if "boxes.txt" not in (scan.top.files if file is None else (file,)):
        return None
    return Detected("toy", {"root": str(scan.root), "images": "."}, "boxes.txt lists boxes")


class Boxes:
    classes = notes = ()

    def __init__(self, part):
        self.part, self.folder = part, Folder(part.root, part.images, "data.images")
        self.lines = [line.split() for line in (part.root / "boxes.txt").read_text().splitlines()]

    left_out = {}

    def files(self):
        return {"boxes.txt": "", **dict.fromkeys(self.folder.paths, "")}

    def items(self):
        for image_id, path in self.folder.ids().items():
            yield Item(image_id, self.part.split, path, partial(self.load, image_id, path))

    def load(self, image_id, path):
        record = self.folder.record(path, image_id, self.part.data)
        boxes = [tuple(map(int, box)) for name, *box in self.lines if name == image_id]
        crops = [(np.ones((y1 - y0, x1 - x0), bool), x0, y0) for x0, y0, x1, y1 in boxes]
        cells = masks.from_crops(record.height, record.width, crops, state="human")
        return Loaded(record.with_(instances=cells))


def write(records, out, classes):
    done = Exported(files=[out.name])
    with atomic_file(out) as file:
        for record in records:
            done.images += 1
            for box in record.instances.bbox.tolist():
                file.write(f"{record.image_id} {' '.join(map(str, box))}\\n".encode())
                done.cells += 1
    return done


TOY = FormatSpec("toy", detect=detect, evidence="boxes.txt", reader=Boxes, writer=write)
'''

# A file for each image, beside it: `x0 y0 x1 y1` a line.
BOX_FILES = '''
"""Reads and writes ID.box beside its image: a line per cell."""

import numpy as np

from cellsemi.rounds.cells import masks
from cellsemi.rounds.formats.base import FileCells
from cellsemi.rounds.formats.registry import FormatSpec
from cellsemi.rounds.formats.shared.per_image import write_each


def read(content, path, record):
    boxes = [tuple(map(int, line.split())) for line in content.decode().splitlines()]
    crops = [(np.ones((y1 - y0, x1 - x0), bool), x0, y0) for x0, y0, x1, y1 in boxes]
    return FileCells(masks.from_crops(record.height, record.width, crops, state="human"))


def write(records, out, classes):
    def encode(cells, image, done):
        done.cells += len(cells)
        return "".join(f"{' '.join(map(str, box))}\\n" for box in cells.bbox.tolist()).encode()

    return write_each(records, out, ".box", encode)


TOY = FormatSpec("toy", read_annotation=read, writer=write, writes_folder=True)
'''

_MODULE = '"cellsemi.rounds.formats.toy:TOY"'
LIST_ENTRY = f'    FormatEntry("toy", {_MODULE}, "boxes.txt beside images", reads=True, writes=True),\n'
FILES_ENTRY = f'    FormatEntry("toy", {_MODULE}, "X.box beside X.png", (".box",), writes=True),\n'


def copy_with_toy(to: Path, module: str, entry: str) -> None:
    """The four packages in `to`/cellsemi, with a format more."""
    for name in PACKAGES:
        shutil.copytree(ROOT / name, to / "cellsemi" / name, ignore=shutil.ignore_patterns("__pycache__"))
    (to / "cellsemi/rounds/formats/toy.py").write_text(module.lstrip(), encoding="utf-8")
    listed = (to / "cellsemi" / LIST).read_text(encoding="utf-8")
    assert listed.count(BEFORE) == 1
    (to / "cellsemi" / LIST).write_text(listed.replace(BEFORE, entry + BEFORE), encoding="utf-8")


def differing(to: Path) -> Iterator[str]:
    """The files below the four packages that are new or have another content."""
    for name in PACKAGES:
        waiting = [filecmp.dircmp(ROOT / name, to / "cellsemi" / name, ignore=["__pycache__", ".mypy_cache"])]
        for pair in waiting:
            waiting += pair.subdirs.values()
            assert not pair.left_only
            found = (*pair.right_only, *filecmp.cmpfiles(pair.left, pair.right, pair.common_files, shallow=False)[1])
            yield from (str((Path(pair.right) / file).relative_to(to / "cellsemi")) for file in found)


def data_set(root: Path, beside: bool) -> list[str]:
    """Six images with two boxes each; the lines that list them, sorted."""
    root.mkdir()
    lines = []
    for i in range(6):
        (root / f"im{i}.png").write_bytes(to_png(np.full((20, 30), 40 + i, np.uint8)))
        boxes = [f"{i} 2 {i + 5} 9", f"{i + 12} 10 {i + 20} 18"]
        lines += [f"im{i} {box}" for box in boxes]
        if beside:
            (root / f"im{i}.box").write_text("".join(f"{box}\n" for box in boxes))
    if not beside:
        (root / "boxes.txt").write_text("".join(f"{line}\n" for line in lines))
    return sorted(lines)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    ("module", "entry", "source"), [(BOX_LIST, LIST_ENTRY, "toy"), (BOX_FILES, FILES_ENTRY, "paired")]
)
def test_one_file_and_one_line_add_a_format(tmp_path: Path, module: str, entry: str, source: str) -> None:
    copy_with_toy(tmp_path, module, entry)
    assert sorted(differing(tmp_path)) == [LIST, "rounds/formats/toy.py"]
    lines = data_set(tmp_path / "boxes", beside=source == "paired")
    env = os.environ | {"PYTHONPATH": str(tmp_path)}

    def call(*args: str) -> str:
        where = "import cellsemi.configs.formats as f; assert f.__file__.startswith(sys.argv.pop()), f.__file__"
        command = [sys.executable, "-c", f"import sys; {where}; {MAIN}", "data", *args, str(tmp_path)]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    found = json.loads(call("inspect", "boxes", "--no-picture", "--json"))
    assert found["source"] == source and found["cells"] == 12 and found["quarantined"] == []
    call("import", "boxes", "--out", "shards")
    done = json.loads(call("export", "shards", "--format", "toy", "--out", "out", "--json"))
    assert (done["images"], done["cells"]) == (6, 12)
    if source == "toy":
        assert sorted(_lines(tmp_path / "out")) == lines
    else:
        again = [f"{path.stem} {box}" for path in (tmp_path / "out").glob("*.box") for box in _lines(path)]
        assert sorted(again) == lines
    assert "toy" in call("export", "--help")


def test_every_entry_has_its_spec_and_says_what_it_can() -> None:
    assert [spec.name for spec in all_specs()] == [entry.name for entry in FORMATS]
    assert len({entry.name for entry in FORMATS}) == len(FORMATS)
    for spec in all_specs():
        assert spec.reader or spec.read_annotation or spec.writer
        assert (spec.detect is None) == (spec.reader is None) == (not spec.evidence)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (FormatEntry("other", "cellsemi.rounds.formats.shards:SHARDS", "", reads=True), "not the FormatSpec"),
        (FormatEntry("shards", "cellsemi.rounds.formats.shards:IMPORT_FILE", "", reads=True), "not the FormatSpec"),
        (FormatEntry("shards", "cellsemi.rounds.formats.shards:SHARDS", ""), "`reads` of 'shards' does not fit"),
        (FormatEntry("shards", "cellsemi.rounds.formats.shards:SHARDS", "", (".x",), True), "`extensions` of"),
        (FormatEntry("shards", "cellsemi.rounds.formats.shards:SHARDS", "", (), True, True), "`writes` of"),
    ],
)
def test_an_entry_that_does_not_fit_its_spec_is_refused(entry: FormatEntry, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        registry.load(entry)
    assert isinstance(SHARDS, FormatSpec)


def test_a_format_that_is_only_written_is_no_source() -> None:
    with pytest.raises(ValueError, match="no reader of data sets"):
        registry.reader_of("kaggle")
