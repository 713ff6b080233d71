"""Tables: what is written is read back, the same records give the same bytes, damage is named."""

from __future__ import annotations

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
