"""Tables: what is written is read back, the same records give the same bytes, damage is named."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from cellsemi.configs.errors import RunError
from cellsemi.rounds.cells import masks, rle
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.store import schemas, shards
from cellsemi.rounds.store.schemas import ImageRecord


def record(i: int, cells: Instances | None) -> ImageRecord:
    return ImageRecord(
        image_id=f"im[{i}] ä", height=8, width=9, split="val", image=bytes([i]), source="here", group=None,
        cell_type="cort", sha256="0" * 64, instances=cells,
    )  # fmt: skip


def some_cells(seed: int) -> Instances:
    labels = np.random.default_rng(seed).integers(0, 4, (8, 9)).astype(np.int32)
    n = len(np.unique(labels)) - 1
    scores = np.linspace(0, 1, n)
    return masks.from_label_map(
        labels, score=scores, state="ignored", reason="uncertain", class_id=2, round=3, agreement=0.25
    ).with_(background=rle.encode(labels == 0) if seed % 2 else None)


def same(a: Instances, b: Instances) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("height", "width", "background", *schemas.COLUMNS)
    )


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    written = [record(0, some_cells(0)), record(1, None), record(2, Instances.empty(8, 9)), record(3, some_cells(1))]
    written += [record(i, None) for i in range(4, 9)]
    commit = shards.write_shard(tmp_path / "part-00000.parquet", written, "abc")
    assert commit.rows == 9 and commit.cells == sum(len(r.instances) for r in written if r.instances is not None)
    for found in (list(shards.read_folder(tmp_path)), list(shards.ShardSet([tmp_path / "part-00000.parquet"]))):
        assert [r.image_id for r in found] == [r.image_id for r in written]
        assert found[1].instances is None
        assert found[2].instances is not None and len(found[2].instances) == 0
        for place in (0, 3):
            one, other = found[place].instances, written[place].instances
            assert one is not None and other is not None and same(one, other)


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    first = shards.write_shard(tmp_path / "a.parquet", [record(0, some_cells(1))], "abc")
    second = shards.write_shard(tmp_path / "b.parquet", [record(0, some_cells(1))], "abc")
    assert first.sha256 == second.sha256


def test_a_person_can_open_a_shard_with_pandas(tmp_path: Path) -> None:
    shards.write_shard(tmp_path / "part-00000.parquet", [record(0, some_cells(0))], "abc")
    frame = pd.read_parquet(tmp_path / "part-00000.parquet")
    assert frame.image_id[0] == "im[0] ä" and frame.instances[0][0]["reason"] == "uncertain"


def test_records_are_found_by_their_number_over_all_shards(tmp_path: Path) -> None:
    paths = []
    for part in range(3):
        paths.append(tmp_path / shards.part_name(part))
        shards.write_shard(paths[-1], [record(10 * part + i, None) for i in range(7)], "abc")
    data = shards.ShardSet(paths)
    order = np.random.default_rng(0).permutation(len(data))
    assert [data[int(i)].image_id for i in order] == [f"im[{10 * (i // 7) + i % 7}] ä" for i in order]


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "part-00000.parquet"
    table = schemas.to_table([record(0, None)], "abc")
    pq.write_table(table.replace_schema_metadata({schemas.VERSION_KEY: b"99"}), path)
    with pytest.raises(RunError, match="schema version 99"):
        list(shards.read_shard(path))


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    path = tmp_path / "part-00000.parquet"
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(RunError, match=r"part-00000.parquet: damaged: not a readable Parquet file"):
        list(shards.read_shard(path))
    with pytest.raises(RunError, match="missing"):
        list(shards.read_shard(tmp_path / "part-00001.parquet"))


@pytest.mark.parametrize("counts", [(1, 2, 3), (99_998, 99_999, 100_000, 100_001), (999_999, 1_000_000, 10_000_000)])
def test_names_sort_as_their_numbers_do(counts: tuple[int, ...]) -> None:
    names = [shards.part_name(number) for number in counts]
    assert names == sorted(names) and len(set(names)) == len(names)


def test_many_shards_are_read_with_few_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "OPEN_SHARDS", 3)
    for part in range(20):
        shards.write_shard(tmp_path / shards.part_name(part), [record(part, None)], "abc")
    before = open_files()
    data = shards.ShardSet(shards.shard_paths(tmp_path))
    assert open_files() == before, "none is open before a record is wanted"
    assert [data[i].image_id for i in range(20)] == [f"im[{i}] ä" for i in range(20)]
    assert [data[i].image_id for i in (0, 19, 0, 18)] == [f"im[{i}] ä" for i in (0, 19, 0, 18)]
    assert open_files() == before + 3
    del data
    assert open_files() == before


def open_files() -> int:
    """How many Parquet files this process holds open."""
    links = (path for path in Path("/proc/self/fd").iterdir() if path.is_symlink())
    return sum(str(path.readlink()).endswith(".parquet") for path in links)


def test_labels_are_joined_with_the_images_of_their_ids(tmp_path: Path) -> None:
    """The shards of labels lack some of the images, as a training set does."""
    images = [[record(10 * part + i, None) for i in range(6)] for part in range(3)]
    for part, (records, kept) in enumerate(zip(images, ([1, 4, 5], [], [0]), strict=True)):
        shards.write_shard(tmp_path / f"images-{part}", records, "abc")
        labels = [records[i].with_(image=None, instances=some_cells(i)) for i in kept]
        shards.write_shard(tmp_path / f"labels-{part}", labels, "abc")
    paths = [[tmp_path / f"{kind}-{part}" for part in range(3)] for kind in ("labels", "images")]
    data = shards.ShardSet(*paths, rows=[3, 0, 1])
    assert [(r.image_id, r.image) for r in data] == [(f"im[{i}] ä", bytes([i])) for i in (1, 4, 5, 20)]
    assert data[3].instances is not None and data[-1].image_id == data[3].image_id
    for copy in (deepcopy(data), shards.ShardSet(*paths)):
        assert [r.image_id for r in copy] == [r.image_id for r in data]
    shards.write_shard(tmp_path / "images-0", images[1], "abc")
    with pytest.raises(RunError, match=r"images-0: does not hold the image 'im\[1\] ä'"):
        shards.ShardSet(*paths)[0]
    with pytest.raises(ValueError, match="for each of 3 shards, got 1"):
        shards.ShardSet(paths[0], paths[1][:1])
    with pytest.raises(IndexError):
        data[4]


def test_an_image_is_left_where_it_is_when_it_is_not_wanted(tmp_path: Path) -> None:
    shards.write_shard(tmp_path / "a.parquet", [record(3, some_cells(1))], "abc")
    (without,) = shards.read_shard(tmp_path / "a.parquet", images=False)
    (whole,) = shards.read_shard(tmp_path / "a.parquet")
    assert without.image is None and whole.image == bytes([3])
    assert schemas.to_row(without) == schemas.to_row(whole.with_(image=None))
