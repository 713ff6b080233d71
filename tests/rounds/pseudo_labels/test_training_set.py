"""Merging: provenance survives, leaks are refused, and no image turns into background silently."""

from __future__ import annotations

import numpy as np
import pytest

from cellsemi.configs.errors import DataError
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.pseudo_labels.training_set import (
    OF_JUDGED,
    Known,
    MergeCounts,
    human_labels,
    pseudo_labels,
    with_images,
)
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.manifest import TrainingCounts
from cellsemi.rounds.store.schemas import ImageRecord

SIZE = 30


def merge(humans, pseudo, counts, left_out=None, not_taught=()):
    known = Known.of((each.image_id, each.sha256) for each in humans)
    return [*human_labels(humans, counts), *pseudo_labels(pseudo, known, counts, left_out, not_taught)]


def cells(*states, **columns):
    crops = [(np.ones((4, 4), bool), 6 * k, 0) for k in range(len(states))]
    reason = ["" if state in ("accepted", "human") else "uncertain" for state in states]
    return masks.from_crops(SIZE, SIZE, crops, **columns).with_(state=states, reason=reason)


def record(name, found, split="unlabelled", **values):
    values = {"image": name.encode(), "sha256": f"hash of {name}", "source": f"{name}.png", **values}
    return ImageRecord(image_id=name, height=SIZE, width=SIZE, split=split, instances=found, **values)


def human(name, found=None, **values):
    return record(name, cells("human") if found is None else found, split="labelled", **values)


def test_records_and_their_provenance_are_kept(tmp_path):
    pseudo = record("p", cells("accepted", "ignored", "rejected", round=[2, 2, 2], votes=[3, 1, 2], weight=[0.8, 0, 0]))
    counts = MergeCounts()
    merged = list(merge([human("h"), human("empty", Instances.empty(SIZE, SIZE))], [pseudo], counts))
    assert [r.image_id for r in merged] == ["h", "empty", "p"]
    assert merged[2] is pseudo
    shards.write_shard(tmp_path / "part-00000.parquet", merged, "hash")
    again = list(shards.read_folder(tmp_path))[2]
    assert again.image == b"p"
    assert again.instances.state == ("accepted", "ignored", "rejected")
    assert again.instances.round.tolist() == [2, 2, 2]
    assert again.instances.votes.tolist() == [3, 1, 2]
    assert again.instances.weight.tolist() == pytest.approx([0.8, 0, 0])
    assert counts.as_record().model_dump() == {
        "human_images": 2,
        "human_cells": 1,
        "pseudo_images": 1,
        "cells": {"accepted": 1, "ignored: uncertain": 1, "rejected: uncertain": 1},
        "left_out": {},
    }


def test_pseudo_images_that_could_only_teach_background_are_left_out_and_counted():
    counts = MergeCounts()
    pseudo = [
        record("unseen", None),
        record("nothing", Instances.empty(SIZE, SIZE)),
        record("unsure", cells("ignored", "rejected")),
        record("noise", cells("rejected")),
        record("good", cells("rejected", "accepted")),
    ]
    assert [r.image_id for r in merge([], pseudo, counts)] == ["good"]
    assert counts.left_out == {"not predicted": 1, "no cell found": 1, "no cell accepted": 2}
    assert counts.pseudo_images + sum(counts.left_out.values()) == len(pseudo)


def test_images_of_a_class_whose_cells_are_missed_are_left_out_and_counted():
    counts = MergeCounts()
    pseudo = [
        record("long", cells("accepted", "accepted", "accepted", class_id=[1, 1, 0])),
        record("round", cells("accepted", "ignored", "ignored", class_id=[0, 1, 1])),
        record("unsure", cells("ignored", class_id=[1])),
    ]
    assert [r.image_id for r in merge([human("h")], pseudo, counts, not_taught={1})] == ["h", "round"]
    assert counts.left_out == {"too many cells of its class are missed": 1, "no cell accepted": 1}


def test_images_that_are_named_are_left_out_and_counted_once():
    counts = MergeCounts()
    pseudo = [record("judged", cells("accepted")), record("also", None), record("good", cells("accepted"))]
    assert [r.image_id for r in merge([], pseudo, counts, left_out=dict.fromkeys(("judged", "also"), OF_JUDGED))] == [
        "good"
    ]
    assert counts.left_out == {"of a group or of pixels that evaluate the fold": 2}
    assert counts.pseudo_images == 1 and counts.cells == {"accepted": 1}


def test_records_are_taken_one_at_a_time():
    seen = []

    def source():
        for name in "ab":
            seen.append(name)
            yield human(name)

    stream = human_labels(source(), MergeCounts())
    next(stream)
    assert seen == ["a"]


def test_the_counts_of_shards_add_up_to_those_of_the_whole():
    pseudo = [record("p", cells("accepted", "ignored")), record("q", None), record("r", cells("accepted"))]
    whole, parts = MergeCounts(), [MergeCounts() for _ in range(4)]
    merge([human("h"), human("i")], pseudo, whole)
    merge([human("h")], [], parts[0])
    merge([human("i")], pseudo[:1], parts[1])
    merge([], pseudo[1:2], parts[2])
    merge([], pseudo[2:], parts[3])
    assert TrainingCounts.sum(part.as_record() for part in parts) == whole.as_record()
    assert TrainingCounts.sum([]) == MergeCounts().as_record()


def test_an_image_id_on_both_sides_is_refused():
    with pytest.raises(DataError, match=r"x \(x.png\): this image id stands among the labelled and the unlabelled"):
        list(merge([human("x")], [record("x", cells("accepted"), sha256="other")], MergeCounts()))


@pytest.mark.parametrize("found", [cells("accepted"), Instances.empty(SIZE, SIZE), None])
def test_the_same_pixels_on_both_sides_are_refused_even_if_they_would_be_left_out(found):
    with pytest.raises(DataError, match=r"y \(y.png\): the same pixels as the labelled image x"):
        list(merge([human("x", sha256="same")], [record("y", found, sha256="same")], MergeCounts()))


def test_an_unknown_hash_is_no_evidence():
    pair = [human("x", sha256="")], [record("y", cells("accepted"), sha256="")]
    assert len(list(merge(*pair, MergeCounts()))) == 2


def test_records_that_do_not_belong_here_are_refused():
    def run(humans=(), pseudo=()):
        return list(merge(humans, pseudo, MergeCounts()))

    with pytest.raises(ValueError, match="split 'labelled', got 'val'"):
        run([record("v", cells("human"), split="val")])
    with pytest.raises(ValueError, match="split 'unlabelled', got 'test'"):
        run(pseudo=[record("t", cells("accepted"), split="test")])
    with pytest.raises(ValueError, match=r"got \['predicted'\]"):
        run(pseudo=[record("p", cells("accepted", "predicted"))])
    with pytest.raises(ValueError, match=r"got \['accepted'\]"):
        run([human("h", cells("accepted"))])
    with pytest.raises(DataError, match="never annotated"):
        run([record("h", None, split="labelled")])


def test_images_are_joined_row_by_row():
    labels = [record(name, cells("accepted"), image=None) for name in "ab"]
    images = [record(name, None) for name in "ab"]
    joined = list(with_images(labels, images))
    assert [(r.image, r.instances.state) for r in joined] == [(b"a", ("accepted",)), (b"b", ("accepted",))]
    with pytest.raises(ValueError, match="expected the label of 'b', got that of 'a'"):
        list(with_images(labels, images[::-1]))
    with pytest.raises(ValueError, match="shorter"):
        list(with_images(labels, images[:1]))
