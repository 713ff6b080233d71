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
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.masks import crops, from_crops, iou_matrix, without_overlaps
from cellsemi.rounds.pseudo_labels.fusion_methods import METHODS, Clusters, Crop, Links, Method, VotesCast, pair_ious


@dataclass(frozen=True, slots=True)
class _AllCells:
    """All cells of all teachers, best score first, in an order that depends on their content alone."""

    cells: Instances
    teacher: NDArray[np.int64]  # (N,) one number per teacher
    recalls: tuple[Recalls, ...]  # of each teacher, by its number


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
    - Class: the one with most score (`weighted`: quality) among the members, one per teacher;
      `one_class_per_image`: among all cells of the image. Ties go to the lowest class id.
    - `config.overlaps` = `resolve`: then each pixel is left to the best scored of the fused cells that hold it;
      a cell without a pixel of its own is no longer there. Scores and votes stay.

    ValueError when there is no teacher, or when their images differ in size.
    """
    method = METHODS[config.method]
    every = _all_cells(per_teacher, recalls or {})
    links = _links(every, config.iou)
    clusters = method.clusters(every.teacher, links)
    classes = _classes(every.cells, clusters, method, one_class_per_image)
    votes_cast = [
        _votes_cast(every, members, class_id, method, links)
        for members, class_id in zip(clusters, classes.tolist(), strict=True)
    ]
    scored = [method.scores(every.cells, members, each) for members, each in zip(clusters, votes_cast, strict=True)]
    fused = _drawn(every.cells, clusters, method).with_(
        class_id=classes,
        score=[score for score, _ in scored],
        quality=[quality for _, quality in scored],
        votes=[len(members) for members in clusters],
        agreement=_agreement(every.cells, clusters, [each.agreement for each in votes_cast]),
        round=[every.cells.round[members].max() for members in clusters],
        weight=1.0,
        state="predicted",
        reason="",
    )
    found = fused.select(_order(fused))
    return without_overlaps(found)[0] if config.overlaps == "resolve" else found


def _all_cells(per_teacher: Mapping[str, Instances], recalls: Mapping[str, Recalls]) -> _AllCells:
    """All cells; teachers are numbered by their predictions, so those that predict the same are interchangeable."""
    if not per_teacher:
        raise ValueError("expected the cells of at least one teacher, got none")
    numbered = sorted(
        ((cells.select(_order(cells)), tuple(recalls.get(name, ()))) for name, cells in per_teacher.items()),
        key=lambda each: (_keys(each[0]), each[1]),
    )
    teachers = [cells for cells, _ in numbered]
    cells = Instances.concat(teachers[0].height, teachers[0].width, teachers)
    teacher = np.repeat(np.arange(len(teachers)), [len(t) for t in teachers])
    order = _order(cells)
    return _AllCells(cells.select(order), teacher[order], tuple(own for _, own in numbered))


def _votes_cast(every: _AllCells, members: list[int], class_id: int, method: Method, links: Links) -> VotesCast:
    """What the teachers say of a cluster of a class."""
    recall = np.array([own[class_id] if own else 1.0 for own in every.recalls])
    spoke = every.teacher[members]
    column = every.cells.quality if method.weigh_by == "quality" else every.cells.score
    votes = np.maximum(recall[spoke], column[members].astype(np.float64))
    silent = np.setdiff1d(np.arange(len(recall)), spoke)
    return VotesCast(votes, pair_ious(every.cells, members, links), float(recall[silent].sum()))


def _keys(cells: Instances) -> list[tuple[Any, ...]]:
    """What orders cells: best score first; then box, mask and whatever else reaches the result."""
    columns = (-cells.score, cells.bbox, cells.class_id, -cells.quality, -cells.agreement, cells.votes, cells.round)
    score, box, *others = (column.tolist() for column in columns)
    return list(zip(score, box, cells.rle, *others, strict=True))


def _order(cells: Instances) -> NDArray[np.int64]:
    """The indices of the cells by their keys. A stable sort: what is equal keeps its place."""
    keys = _keys(cells)
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)


def _links(found: _AllCells, threshold: float) -> Links:
    """The pairs of different teachers that overlap with IoU >= `threshold`."""
    links: Links = {}
    indices = [np.flatnonzero(found.teacher == t) for t in np.unique(found.teacher)]
    for first, second in combinations(indices, 2):
        iou = iou_matrix(found.cells.select(first), found.cells.select(second))
        for a, b in np.argwhere((iou >= threshold) & (iou > 0)).tolist():
            i, j = sorted((int(first[a]), int(second[b])))
            links[i, j] = float(iou[a, b])
    return links


def _classes(cells: Instances, clusters: Clusters, method: Method, one_class_per_image: bool) -> NDArray[np.int32]:
    """The class of each cluster, or that of the image for all."""

    def voted(members: Sequence[int]) -> int:
        return int(np.argmax(np.bincount(cells.class_id[members], weights=method.weights(cells, members))))

    if one_class_per_image and len(cells):
        return np.full(len(clusters), voted(list(range(len(cells)))), dtype=np.int32)
    return np.array([voted(members) for members in clusters], dtype=np.int32)


def _agreement(cells: Instances, clusters: Clusters, agreed: Sequence[float]) -> list[float]:
    """The column: what a lone cell brings, as one merged from several views does, is kept."""
    return [
        float(cells.agreement[members[0]]) if len(members) == 1 else mean
        for members, mean in zip(clusters, agreed, strict=True)
    ]


def _drawn(cells: Instances, clusters: Clusters, method: Method) -> Instances:
    """One mask per cluster, in their order."""
    bitmaps = crops(cells)
    kept: list[int] = []  # cells whose own mask is the result
    drawn: list[Crop] = []
    place: list[tuple[bool, int]] = []
    for members in clusters:
        found: int | Crop = 0
        if len(members) > 1:
            found = method.draw([bitmaps[i] for i in members], method.weights(cells, members))
        if isinstance(found, int):
            place.append((False, len(kept)))
            kept.append(members[found])
        else:
            place.append((True, len(drawn)))
            drawn.append(found)
    parts = [cells.select(kept), from_crops(cells.height, cells.width, drawn)]
    order = [index + (len(kept) if is_drawn else 0) for is_drawn, index in place]
    return Instances.concat(cells.height, cells.width, parts).select(order)
