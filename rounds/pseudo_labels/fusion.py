"""Fuses several teachers' masks into one set: cluster by mask IoU, one mask per cluster, score by agreement.

The methods (`fusion_methods`) differ in these three; all of them keep to this: only cells of different teachers
are joined, a teacher has at most one vote in a cluster, and the result depends on what the teachers predicted, not
on their names or the order in which they or their cells are listed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.rounds import FusionConfig
from cellsemi.configs.schema import OF_A_FOLD
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.masks import instances_runs, without_overlaps
from cellsemi.rounds.cells.overlap import overlap_of_runs
from cellsemi.rounds.cells.rle import Bitmap, Runs, draw_flat, runs_of_flat, texts_of
from cellsemi.rounds.pseudo_labels.fusion_methods import (
    METHODS,
    Bitmaps,
    Clusters,
    Links,
    Method,
    VotesCast,
    pair_ious,
    sums,
)

Member = tuple[str, int]  # the name of a teacher, and the place of a cell among its own


@dataclass(frozen=True, slots=True)
class _AllCells:
    """All cells of all teachers, best score first, in an order that depends on their content alone."""

    cells: Instances
    teacher: NDArray[np.int64]  # (N,) one number per teacher
    recalls: tuple[Recalls, ...]  # of each teacher, by its number
    origin: tuple[Member, ...]  # of each cell


Recalls = Sequence[float]  # of each class id, the share of its cells that a teacher finds; () is 1 for all of them


def fuse(
    per_teacher: Mapping[str, Instances],
    config: FusionConfig,
    one_class_per_image: bool,
    recalls: Mapping[str, Recalls] | None = None,
) -> Instances:
    """One set of cells from those of each teacher on the same image; state `predicted`, best score first.

    Cells of different teachers with IoU >= `config.iou` are linked. In each method a lone cell keeps its mask,
    and `votes` counts the teachers in the cluster; `agreement` is the mean pairwise mask IoU of the members, that
    of the cell itself where it is alone. A teacher that predicts nothing there has no vote on the pixels.

    - `vote`. Cluster: cells that are all linked to each other, best pair first. Mask: pixels of members with at
      least half of the cluster's score; only the largest connected part of them, unless they are exactly a
      member's mask; that of the best member where no pixel has half. `score`: the mean over *all* teachers, those
      that found nothing there with 0, times the members' mean pairwise IoU (1 for a lone cell). `quality` is the same.
    - `weighted`. As `vote`, with quality (the calibrated score; the score itself where nothing is calibrated)
      in the place of the score; no factor for the IoU.
    - In these means a silent teacher weighs its recall of the class (`recalls`, by teacher; without it 1), a member
      the same, or its own score where that is more; a pair of members by both (`VotesCast`). So a teacher that finds
      one cell in ten does not silence one that finds all. Where all have the recall 1, a cell that all predict alike
      keeps its mean score, and one predicted by one of three keeps a third.
    - `nms`. Cluster: the best scored cell and all linked to it that no better one took. Mask, `score` and
      `quality`: those of the best. Other cells of its own teacher stay; two of one other teacher are both
      taken, with one vote.
    - `union`. As `vote`, but the mask is all pixels of any member.
    - `refine`. As `weighted`, but the mask is that of the best scored member of the teachers `config.boundaries`, in
      whatever fold, or of the best scored of all where they found nothing there.
    - Class: the one with most score (`weighted`: quality) among the members, one per teacher;
      `one_class_per_image`: among all cells of the image. Ties go to the lowest class id.
    - `config.overlaps` = `resolve`: then each pixel is left to the best scored of the fused cells that hold it;
      a cell without a pixel of its own is no longer there. Scores and votes stay.

    ValueError when there is no teacher, or when their images differ in size.
    """
    return fuse_with_members(per_teacher, config, one_class_per_image, recalls)[0]


def fuse_with_members(
    per_teacher: Mapping[str, Instances],
    config: FusionConfig,
    one_class_per_image: bool,
    recalls: Mapping[str, Recalls] | None = None,
) -> tuple[Instances, list[tuple[Member, ...]]]:
    """The same, and of each fused cell the cells that it was made of, best scored first.

    A cell that stands in none of them was covered whole by better ones (`config.overlaps`).
    """
    method = METHODS[config.method]
    every = _all_cells(per_teacher, recalls or {}, config.boundaries)
    cells, runs = every.cells, instances_runs(every.cells)
    links = _links(every, runs, config.iou)
    clusters = method.clusters(every.teacher, links)
    classes = _classes(cells, clusters, method, one_class_per_image)
    votes_cast = _votes_cast(every, clusters, classes, method, links)
    scored = [method.scores(each) for each in votes_cast]
    rounds = cells.round.tolist()
    draws = np.array([_draws(name, config.boundaries) for name, _ in every.origin], bool)
    rles, boxes, areas = _drawn(cells, runs, clusters, method, draws)
    fused = Instances.build(
        cells.height,
        cells.width,
        rles,
        boxes,
        areas,
        class_id=classes,
        score=[score for score, _ in scored],
        quality=[quality for _, quality in scored],
        votes=[len(members) for members in clusters],
        agreement=_agreement(cells, clusters, [each.agreement for each in votes_cast]),
        round=[max([rounds[i] for i in members]) for members in clusters],
    )
    order = _order(fused)
    found = fused.select(order)
    made_of = [tuple(every.origin[i] for i in clusters[k]) for k in order.tolist()]
    if config.overlaps != "resolve":
        return found, made_of
    resolved, lost = without_overlaps(found)
    left = np.flatnonzero(lost < found.area).tolist()
    return resolved, [made_of[i] for i in left]


def _draws(teacher: str, boundaries: Sequence[str]) -> bool:
    """Whether masks of a teacher, in whatever fold, are taken before others."""
    return OF_A_FOLD.sub("", teacher) in boundaries


def _all_cells(
    per_teacher: Mapping[str, Instances], recalls: Mapping[str, Recalls], boundaries: Sequence[str]
) -> _AllCells:
    """All cells; teachers are numbered by their predictions, so those that predict the same are interchangeable."""
    if not per_teacher:
        raise ValueError("expected the cells of at least one teacher, got none")
    own = []
    for name, cells in per_teacher.items():
        best_first = _order(cells)
        own.append((cells.select(best_first), tuple(recalls.get(name, ())), name, best_first))
    heads = [_keys(cells.select([0] if len(cells) else [])) for cells, *_ in own]
    if all(heads.count(head) == 1 for head in heads):  # the best cells already tell them apart
        numbered = [own[i] for i in sorted(range(len(own)), key=heads.__getitem__)]
    else:
        numbered = sorted(own, key=lambda each: (_keys(each[0]), each[1], _draws(each[2], boundaries)))
    teachers = [cells for cells, *_ in numbered]
    origin = [(name, i) for _, _, name, best_first in numbered for i in best_first.tolist()]
    cells = Instances.concat(teachers[0].height, teachers[0].width, teachers)
    teacher = np.repeat(np.arange(len(teachers)), [len(t) for t in teachers])
    order = _order(cells)
    return _AllCells(
        cells.select(order),
        teacher[order],
        tuple(known for _, known, *_ in numbered),
        tuple(origin[i] for i in order.tolist()),
    )


def _votes_cast(
    every: _AllCells, clusters: Clusters, classes: NDArray[np.int32], method: Method, links: Links
) -> list[VotesCast]:
    """What the teachers say of each cluster, which has its class."""
    members = np.array([i for each in clusters for i in each], np.int64)
    sizes = [len(each) for each in clusters]
    known, of_class = np.unique(np.repeat(classes, sizes), return_inverse=True)
    recall = np.array([[own[c] if own else 1.0 for c in known.tolist()] for own in every.recalls])
    spoke = every.teacher[members]
    score, quality = (each[members].astype(np.float64) for each in (every.cells.score, every.cells.quality))
    votes = np.maximum(recall[spoke, of_class], quality if method.weigh_by == "quality" else score)
    spoken = sums(votes, np.cumsum([0, *sizes])).tolist()
    silence: dict[tuple[int, int], float] = {}  # of the class and those who spoke, a bit each
    found, last = [], 0
    bits, column = [1 << t for t in spoke.tolist()], of_class.tolist()
    for each, total in zip(clusters, spoken, strict=True):
        first, last = last, last + len(each)
        key = column[first], sum(bits[first:last])
        if key not in silence:
            silent = np.ones(len(recall), bool)
            silent[spoke[first:last]] = False
            silence[key] = float(recall[silent, key[0]].sum())
        part, ious = slice(first, last), pair_ious(every.cells, each, links) if len(each) > 1 else ()
        found.append(VotesCast(votes[part], score[part], quality[part], total, ious, silence[key]))
    return found


def _keys(cells: Instances) -> list[tuple[Any, ...]]:
    """What orders cells: best score first; then box, mask and whatever else reaches the result."""
    columns = (-cells.score, cells.bbox, cells.class_id, -cells.quality, -cells.agreement, cells.votes, cells.round)
    score, box, *others = (column.tolist() for column in columns)
    return list(zip(score, box, cells.rle, *others, strict=True))


def _order(cells: Instances) -> NDArray[np.int64]:
    """The indices of the cells by their keys. A stable sort: what is equal keeps its place."""
    order = np.argsort(-cells.score, kind="stable")
    same = np.diff(cells.score[order]) == 0
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same)) if len(order) else order
    if len(tied):  # the score, which comes first in the keys, leaves each group of equal ones in its places
        keys = _keys(cells.select(order[tied]))
        order[tied] = order[tied][sorted(range(len(keys)), key=keys.__getitem__)]
    return order


def _links(found: _AllCells, runs: Runs, threshold: float) -> Links:
    """The pairs of different teachers that overlap with IoU >= `threshold`."""
    links: Links = {}
    cells = found.cells
    indices = [np.flatnonzero(found.teacher == t) for t in np.unique(found.teacher)]
    masks = [(runs.select(index), cells.bbox[index]) for index in indices]
    for a, b in combinations(range(len(indices)), 2):
        pairs = overlap_of_runs(masks[a], masks[b], cells.height, cells.width)
        linked = pairs.iou >= threshold
        one, other = indices[a][pairs.rows[linked]], indices[b][pairs.columns[linked]]
        keys = zip(np.minimum(one, other).tolist(), np.maximum(one, other).tolist(), strict=True)
        links.update(zip(keys, pairs.iou[linked].tolist(), strict=True))
    return links


def _classes(cells: Instances, clusters: Clusters, method: Method, one_class_per_image: bool) -> NDArray[np.int32]:
    """The class of each cluster, or that of the image for all."""
    own = cells.class_id.tolist()

    def voted(members: Sequence[int]) -> int:
        return int(np.argmax(np.bincount(cells.class_id[members], weights=method.weights(cells, members))))

    if one_class_per_image and len(cells):
        return np.full(len(clusters), voted(list(range(len(cells)))), dtype=np.int32)
    if len(set(own)) == 1:
        return np.full(len(clusters), own[0], dtype=np.int32)
    one = [own[members[0]] for members in clusters]
    alike = [all(own[i] == class_id for i in members) for members, class_id in zip(clusters, one, strict=True)]
    each = zip(clusters, one, alike, strict=True)
    return np.array([class_id if same else voted(members) for members, class_id, same in each], dtype=np.int32)


def _agreement(cells: Instances, clusters: Clusters, agreed: Sequence[float]) -> list[float]:
    """The column: what a lone cell brings, as one merged from several views does, is kept."""
    own = cells.agreement.tolist()
    return [own[members[0]] if len(members) == 1 else mean for members, mean in zip(clusters, agreed, strict=True)]


def _drawn(
    cells: Instances, runs: Runs, clusters: Clusters, method: Method, draws: Bitmap
) -> tuple[list[bytes], NDArray[np.int32], NDArray[np.int64]]:
    """The masks of the clusters, in their order: RLE, box and area."""
    several = [k for k, members in enumerate(clusters) if len(members) > 1]
    boxes = cells.bbox.astype(np.int64)
    bitmaps = Bitmaps(*draw_flat(runs, boxes, cells.height), boxes)
    chosen, made = method.draw(bitmaps, method.groups(cells, [clusters[k] for k in several], draws))
    # Masks of cells stand first, those that were drawn behind them.
    place = np.array([members[0] for members in clusters], np.int64)
    new = np.flatnonzero(chosen < 0)
    place[several] = [clusters[k][max(number, 0)] for k, number in zip(several, chosen.tolist(), strict=True)]
    place[np.array(several, np.int64)[new]] = len(cells) + np.arange(len(new))
    drawn = runs_of_flat(made.pixels, made.boxes, cells.height).select(new)
    new_boxes, new_areas = drawn.measure(cells.height)
    rles = [*cells.rle, *texts_of(drawn, cells.height * cells.width)]
    return (
        [rles[i] for i in place.tolist()],
        np.concatenate([cells.bbox, new_boxes])[place],
        np.concatenate([cells.area, new_areas])[place],
    )
