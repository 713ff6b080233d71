"""Ingest: shards in order, the same bytes twice, bad images put aside and counted, leaks refused."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from cellsemi.configs.data import DataConfig, GeneratedConfig
from cellsemi.configs.errors import DataError
from cellsemi.configs.schema import Config, RunConfig
from cellsemi.rounds.datasets import synthetic
from cellsemi.rounds.datasets.ingest import ingest
from cellsemi.rounds.datasets.ingest_report import IngestReport, sentences
from cellsemi.rounds.store.image_codec import to_png
from cellsemi.rounds.store.run import SPLITS
from cellsemi.rounds.store.shards import read_folder, read_shard, shard_paths

DSB2018 = Path(__file__).resolve().parents[4] / "shared" / "data" / "dsb2018"
SPLIT_OF = ["labelled"] * 4 + ["unlabelled"] * 5 + ["val"] * 3 + ["test"] * 3
LABELS = np.zeros((20, 24), np.uint16)
LABELS[2:8, 3:9], LABELS[10:15, 10:20] = 1, 2


def quiet(split: str, done: int, of: int) -> None:
    """Watch nothing."""


def build(root: Path, columns: dict[int, str] | None = None, header: str = "") -> Path:
    """A data set of fifteen small images, im00 .. im14; `columns` adds values to the rows of the manifest."""
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    lines = [f"id,split{header}"]
    for i, split in enumerate(SPLIT_OF):
        image = np.random.default_rng(i).integers(0, 256, LABELS.shape, np.uint8)
        (root / "images" / f"im{i:02d}.png").write_bytes(to_png(image))
        (root / "masks" / f"im{i:02d}.png").write_bytes(to_png(LABELS))
        lines.append(f"im{i:02d},{split}{(columns or {}).get(i, '')}")
    (root / "manifest.csv").write_text("\n".join(lines[:1] + lines[:0:-1]))
    return root


def config(root: Path, **options: Any) -> Config:
    options.setdefault("shard_images", 2)
    return Config(data=DataConfig(source="label-maps", root=str(root), **options))


def small_demo(**options: Any) -> Config:
    generated = GeneratedConfig(labelled=6, unlabelled=4, val=3, test=3, height_px=96, width_px=96)
    classes = ("shsy5y", "astro", "cort")
    return Config(data=DataConfig(classes=classes, generated=generated, **options), run=RunConfig(seed=0))


def ids(out: Path, split: str) -> list[str]:
    return [record.image_id for record in read_folder(out / split)]


def test_shards_hold_the_images_in_the_order_of_their_ids(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    out = tmp_path / "out"
    report = ingest(config(build(tmp_path / "d")), out, "abc", lambda *event: seen.append(event))
    assert ids(out, "unlabelled") == [f"im{i:02d}" for i in range(4, 9)]
    assert [len(list(read_shard(p))) for p in shard_paths(out / "unlabelled")] == [2, 2, 1]
    assert report.images == {"labelled": 4, "unlabelled": 5, "val": 3, "test": 3}
    assert report.cells == {"labelled": 8, "unlabelled": 0, "val": 6, "test": 6}
    assert report.class_cells["val"] == {"cell": 6} and report.class_cells["unlabelled"] == {}
    assert [s.rows for s in report.shards["unlabelled"]] == [2, 2, 1]
    assert [e for e in seen if e[0] == "val"] == [("val", 2, 3), ("val", 3, 3)]
    assert len(seen) == 9 and report.quarantined == [] and report.seconds > 0
    assert pq.read_table(out / "quarantine.parquet").num_rows == 0
    assert json.loads(json.dumps(report.to_json()))["cells"]["test"] == 6


def test_the_same_data_gives_the_same_bytes_and_leaves_nothing_of_an_earlier_try(tmp_path: Path) -> None:
    root = build(tmp_path / "d")
    for out in (tmp_path / "a", tmp_path / "b"):
        ingest(config(root), out, "abc", quiet)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.parquet"))
    assert len(files) == 10
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    ingest(config(root, shard_images=100), tmp_path / "a", "abc", quiet)
    assert [len(shard_paths(tmp_path / "a" / split)) for split in SPLITS] == [1, 1, 1, 1]
    assert len(ids(tmp_path / "a", "unlabelled")) == 5


def test_one_bad_image_among_many_is_put_aside_and_the_run_goes_on(tmp_path: Path) -> None:
    root, out = build(tmp_path / "d"), tmp_path / "out"
    (root / "images" / "im06.png").write_bytes((root / "images" / "im06.png").read_bytes()[:200])
    (root / "masks" / "im10.png").unlink()
    report = ingest(config(root), out, "abc", quiet)
    assert [(q.image_id, q.split, q.path) for q in report.quarantined] == [
        ("im06", "unlabelled", "images/im06.png"),
        ("im10", "val", "masks/im10"),
    ]
    assert "truncated" in report.quarantined[0].problem and "no such file" in report.quarantined[1].problem
    assert report.images == {"labelled": 4, "unlabelled": 4, "val": 2, "test": 3}
    assert ids(out, "unlabelled") == ["im04", "im05", "im07", "im08"]
    table = pq.read_table(out / "quarantine.parquet")
    assert table.column("problem").to_pylist() == [q.problem for q in report.quarantined]
    assert table.schema.metadata[b"cellsemi.config_hash"] == b"abc"


def test_too_many_bad_images_stop_the_run_with_the_first_problems(tmp_path: Path) -> None:
    root = build(tmp_path / "d")
    for i in range(8):
        (root / "images" / f"im{i:02d}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"8 of 15 images cannot be used.*20%") as caught:
        ingest(config(root), tmp_path / "out", "abc", quiet)
    assert "images/im00.png: the file is empty" in str(caught.value)
    assert "and 3 more" in str(caught.value)
    assert pq.read_table(tmp_path / "out" / "quarantine.parquet").num_rows == 8


def test_the_allowed_share_is_inclusive(tmp_path: Path) -> None:
    root = build(tmp_path / "d")
    for i in (4, 5, 6):
        (root / "images" / f"im{i:02d}.png").write_bytes(b"")
    assert len(ingest(config(root, max_quarantined=0.2), tmp_path / "a", "x", quiet).quarantined) == 3
    with pytest.raises(DataError, match="3 of 15"):
        ingest(config(root, max_quarantined=0.19), tmp_path / "b", "x", quiet)


@pytest.mark.parametrize(("split", "indices"), [("labelled", range(4)), ("val", range(9, 12)), ("test", range(12, 15))])
def test_a_needed_split_without_a_usable_image_or_a_cell_is_refused(tmp_path: Path, split: str, indices: range) -> None:
    root = build(tmp_path / "d")
    for i in indices:
        (root / "masks" / f"im{i:02d}.png").write_bytes(to_png(LABELS * 0))
    with pytest.raises(DataError, match=f"none of the {len(indices)} images of the split '{split}' has a cell"):
        ingest(config(root), tmp_path / "a", "x", quiet)
    for i in indices:
        (root / "masks" / f"im{i:02d}.png").unlink()
    with pytest.raises(DataError, match=f"no usable image in the split '{split}'.*\n  masks/im"):
        ingest(config(root, max_quarantined=0.5), tmp_path / "b", "x", quiet)


def test_an_empty_annotated_image_is_kept_and_counted(tmp_path: Path) -> None:
    root = build(tmp_path / "d")
    (root / "masks" / "im00.png").write_bytes(to_png(LABELS * 0))
    report = ingest(config(root), tmp_path / "out", "x", quiet)
    assert report.empty == {"labelled": 1, "unlabelled": 0, "val": 0, "test": 0}
    first = next(read_folder(tmp_path / "out" / "labelled"))
    assert first.instances is not None and len(first.instances) == 0


def test_an_empty_pool_is_legal(tmp_path: Path) -> None:
    root = build(tmp_path / "d")
    manifest = (root / "manifest.csv").read_text().splitlines()
    (root / "manifest.csv").write_text("\n".join(line for line in manifest if "unlabelled" not in line))
    report = ingest(config(root), tmp_path / "out", "x", quiet)
    assert report.images["unlabelled"] == 0 and ids(tmp_path / "out", "unlabelled") == []


def test_a_copied_picture_is_a_leak_between_splits_and_a_duplicate_within_one(tmp_path: Path) -> None:
    root = build(tmp_path / "d")
    copy = (root / "images" / "im04.png").read_bytes()
    (root / "images" / "im05.png").write_bytes(copy)
    report = ingest(config(root), tmp_path / "a", "x", quiet)
    assert report.duplicates == {"labelled": 0, "unlabelled": 1, "val": 0, "test": 0}
    (root / "images" / "im13.png").write_bytes(copy)
    with pytest.raises(DataError, match="'im04' in unlabelled and 'im13' in test"):
        ingest(config(root), tmp_path / "b", "x", quiet)


def test_a_group_on_two_sides_is_a_leak(tmp_path: Path) -> None:
    wells = {i: f",w{i % 7}" for i in range(15)}
    root = build(tmp_path / "d", wells, ",well")
    with pytest.raises(DataError, match="group 'w"):
        ingest(config(root, group_column="well"), tmp_path / "out", "x", quiet)
    assert ingest(config(root), tmp_path / "out", "x", quiet).images["test"] == 3


def test_labelled_images_that_are_not_drawn_are_in_no_split(tmp_path: Path) -> None:
    root = build(tmp_path / "d")
    drawn = {}
    for limit in (1, 3):
        report = ingest(config(root, labelled_limit=limit), tmp_path / str(limit), "x", quiet)
        drawn[limit] = set(ids(tmp_path / str(limit), "labelled"))
        assert report.images == {"labelled": limit, "unlabelled": 5, "val": 3, "test": 3}
        assert report.labelled_not_drawn == 4 - limit
    assert drawn[1] < drawn[3]
    with pytest.raises(DataError, match="labelled_limit is 5, but there are 4"):
        ingest(config(root, labelled_limit=5), tmp_path / "x", "x", quiet)


def test_a_hidden_image_with_the_pixels_of_a_drawn_one_is_left_out_and_counted(tmp_path: Path) -> None:
    """im00 .. im03 are labelled and two of them are one picture: the draw may part them."""
    root = build(tmp_path / "d")
    (root / "images" / "im01.png").write_bytes((root / "images" / "im00.png").read_bytes())
    twins, parted = {"im00", "im01"}, 0
    for limit in (1, 2, 3):
        out = tmp_path / str(limit)
        report = ingest(config(root, labelled_limit=limit, limit_rest="unlabelled"), out, "x", quiet)
        drawn, hidden = set(ids(out, "labelled")), set(ids(out, "unlabelled"))
        one = len(drawn & twins) == 1
        assert report.hidden_twins == one and report.images["unlabelled"] == 5 + 4 - limit - one
        assert drawn | hidden == {f"im{i:02d}" for i in range(9)} - (twins - drawn if one else set())
        parted += one
        said = "1 of these have the pixels of an image that is drawn, and are left out"
        assert (said in sentences(report, config(root, labelled_limit=limit, limit_rest="unlabelled").data)) == one
    assert parted, "this seed parts them"


def test_classes_of_images_become_the_classes_of_their_cells(tmp_path: Path) -> None:
    kinds = {i: ",astro" if i % 2 else ",cort" for i in range(15)}
    root = build(tmp_path / "d", kinds, ",kind")
    options = {"classes": ("cort", "astro"), "class_column": "kind", "one_class_per_image": True}
    report = ingest(config(root, **options), tmp_path / "out", "x", quiet)
    assert report.class_cells["labelled"] == {"cort": 4, "astro": 4}
    for record in read_folder(tmp_path / "out" / "val"):
        assert record.instances is not None and record.cell_type is not None
        assert set(record.instances.class_id) == {("cort", "astro").index(record.cell_type)}


def test_generated_images_come_in_whole(tmp_path: Path) -> None:
    config = small_demo(labelled_limit=3, shard_images=4)
    report = ingest(config, tmp_path, "x", quiet)
    assert report.images == {"labelled": 3, "unlabelled": 4, "val": 3, "test": 3}
    assert set(report.class_cells["labelled"]) == {
        "shsy5y",
        "astro",
        "cort",
    }  # a plain draw of seed 0 has no cort
    made = {r.image_id: r for r in synthetic.generate(config.data.generated, config.data.classes, 0)}
    for split in SPLITS:
        for record in read_folder(tmp_path / split):
            original = made[record.image_id]
            assert (record.image, record.sha256, record.group) == (
                original.image,
                original.sha256,
                original.group,
            )


def test_images_are_not_all_held_in_memory(tmp_path: Path) -> None:
    root = build(tmp_path / "d")
    lines = (root / "manifest.csv").read_text().splitlines()
    for i in range(60):
        image = np.random.default_rng(i).integers(0, 256, (128, 128), np.uint8)
        (root / "images" / f"more{i:02d}.png").write_bytes(to_png(image))
        lines.append(f"more{i:02d},unlabelled")
    (root / "manifest.csv").write_text("\n".join(lines))
    held: list[int] = []
    tracemalloc.start()
    ingest(config(root), tmp_path / "out", "x", lambda *_: held.append(tracemalloc.get_traced_memory()[0]))
    tracemalloc.stop()
    assert max(held[20:]) - min(held[20:]) < 10 * 128 * 128  # all sixty would be 60 * 128 * 128


def test_the_report_knows_every_split_from_the_start() -> None:
    assert all(set(getattr(IngestReport(), name)) == set(SPLITS) for name in ("images", "cells", "empty", "shards"))


def test_a_few_real_images(tmp_path: Path) -> None:
    if not (DSB2018 / "manifest.csv").is_file():
        pytest.skip("no DSB2018 beside the repository (../shared/data/dsb2018)")
    lines = (DSB2018 / "manifest.csv").read_text().splitlines()
    chosen = [next(x for x in lines if x.endswith(f",fluorescence,{split}")) for split in SPLITS]
    for folder in ("images", "masks"):
        (tmp_path / "d" / folder).mkdir(parents=True)
        for line in chosen:
            name = line.split(",")[0] + ".png"
            (tmp_path / "d" / folder / name).write_bytes((DSB2018 / folder / name).read_bytes())
    (tmp_path / "d" / "manifest.csv").write_text("\n".join([lines[0], *chosen]))
    report = ingest(config(tmp_path / "d", classes=("nucleus",)), tmp_path / "out", "x", quiet)
    expected = {line.split(",")[5]: int(line.split(",")[3]) for line in chosen}
    assert report.cells == expected | {"unlabelled": 0}
