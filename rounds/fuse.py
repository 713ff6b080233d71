"""Several teachers, one set of masks: cluster by IoU, vote pixel by pixel, score by agreement.

The winners of the Sartorius competition fused heterogeneous models this way (mask clusters, then a pixel
vote). Here a cluster is complete: all its members agree pairwise, and so no teacher stands in it twice.
The result depends on what the teachers said and not on the order in which they are listed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellsemi.configs.schema import FusionConfig
from cellsemi.rounds.instances import Instances
from cellsemi.rounds.masks import Bitmap, crops, from_crops, iou_matrix

Links = dict[tuple[int, int], float]  # (i, j), i < j -> IoU of two cells of different teachers


@dataclass(frozen=True, slots=True)
class _Pool:
    """All cells of all teachers in an order that depends on their content; names only break ties."""

    cells: Instances
    teacher: NDArray[np.int64]  # (N,) index into the sorted names


def fuse(per_teacher: Mapping[str, Instances], config: FusionConfig, one_class_per_image: bool) -> Instances:
    """One set of cells from those of each teacher on the same image; state `predicted`, best score first.

    - Cluster: pairs of cells of different teachers with IoU >= `config.iou` are joined, best pair first,
      as long as every member agrees with every other (complete linkage).
    - Mask: a pixel is in when members with at least half of the cluster's score hold it. Only the largest
      connected part of it is kept, unless it is exactly a member's mask. Never empty: members without a
      common majority fall back to the best of them. A lone member is unchanged.
    - `votes`: teachers in the cluster. `score`: the sum of the members' scores over the number of *all*
      teachers (who saw nothing counts 0), times the members' mean pairwise IoU (1 for a lone member).
      Thus one cell that all see alike keeps its mean score, and one seen by one of three keeps a third.
    - Class: the one with most score among the members; `one_class_per_image`: among all cells of the image.
      Ties go to the lowest class id.

    ValueError when there is no teacher, or when their images differ in size.
    """
    pool = _pool(per_teacher)
    links = _links(pool, config.iou)
    clusters = _clusters(len(pool.cells), links)
    cells = _consensus(pool.cells, clusters)
    class_ids = np.array([_class(pool.cells, members) for members in clusters], dtype=np.int32)
    if one_class_per_image and len(pool.cells):
        class_ids[:] = _class(pool.cells, range(len(pool.cells)))
    fused = cells.with_(
        class_id=class_ids,
        votes=[len(members) for members in clusters],
        round=[pool.cells.round[members].max() for members in clusters],
        weight=1.0,
        state="predicted",
        reason="",
    )
    scores = [_score(pool.cells, members, links, len(per_teacher)) for members in clusters]
    return _best_first(fused.with_(score=scores, quality=scores))


def _pool(per_teacher: Mapping[str, Instances]) -> _Pool:
    if not per_teacher:
        raise ValueError("expected the cells of at least one teacher, got none")
    names = sorted(per_teacher)
    first = per_teacher[names[0]]
    cells = Instances.concat(first.height, first.width, [per_teacher[name] for name in names])
    teacher = np.repeat(np.arange(len(names)), [len(per_teacher[name]) for name in names])
    order = _order(cells)
    return _Pool(cells.select(order), teacher[order])


def _order(cells: Instances) -> NDArray[np.int64]:
    """Best score first; then by box, mask and class. A stable sort: what is equal keeps its place."""
    scores, boxes, classes = cells.score.tolist(), cells.bbox.tolist(), cells.class_id.tolist()
    keys = [(-s, box, rle, c) for s, box, rle, c in zip(scores, boxes, cells.rle, classes, strict=True)]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)


def _best_first(cells: Instances) -> Instances:
    return cells.select(_order(cells))


def _links(pool: _Pool, threshold: float) -> Links:
    """The pairs of different teachers that overlap with IoU >= `threshold`."""
    links: Links = {}
    indices = [np.flatnonzero(pool.teacher == t) for t in np.unique(pool.teacher)]
    for first, second in combinations(indices, 2):
        iou = iou_matrix(pool.cells.select(first), pool.cells.select(second))
        for a, b in np.argwhere((iou >= threshold) & (iou > 0)).tolist():
            i, j = sorted((int(first[a]), int(second[b])))
            links[i, j] = float(iou[a, b])
    return links


def _clusters(n: int, links: Links) -> list[list[int]]:
    """Groups of cells that are all linked to each other, made by joining the best pairs first.

    Cells of one teacher are never linked, so no teacher is in a cluster twice.
    """
    clusters = [[i] for i in range(n)]
    of_cell = list(range(n))
    for i, j in sorted(links, key=lambda pair: (-links[pair], pair)):
        a, b = of_cell[i], of_cell[j]
        if a == b or not all((min(p, q), max(p, q)) in links for p in clusters[a] for q in clusters[b]):
            continue
        for member in clusters[b]:
            of_cell[member] = a
        clusters[a] += clusters[b]
        clusters[b] = []
    return [sorted(members) for members in clusters if members]


def _score(cells: Instances, members: list[int], links: Links, teachers: int) -> float:
    mean = float(cells.score[members].sum(dtype=np.float64)) / teachers
    pairs = [links[pair] for pair in combinations(members, 2)]
    return mean * (sum(pairs) / len(pairs) if pairs else 1.0)


def _class(cells: Instances, members: list[int] | range) -> int:
    index = list(members)
    return int(np.argmax(np.bincount(cells.class_id[index], weights=_weights(cells.score[index]))))


def _weights(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """What each vote weighs: its score, or the same for all where every score is zero."""
    return scores.astype(np.float64) if scores.any() else np.ones(len(scores))


def _consensus(cells: Instances, clusters: list[list[int]]) -> Instances:
    """One mask per cluster, in their order."""
    bitmaps = crops(cells)
    kept: list[int] = []  # cells whose own mask is the consensus
    voted: list[tuple[Bitmap, int, int]] = []
    place: list[tuple[bool, int]] = []
    for members in clusters:
        found = _vote([bitmaps[i] for i in members], cells.score[members])
        if isinstance(found, int):
            place.append((False, len(kept)))
            kept.append(members[found])
        else:
            place.append((True, len(voted)))
            voted.append(found)
    parts = [cells.select(kept), from_crops(cells.height, cells.width, voted)]
    order = [index + (len(kept) if is_voted else 0) for is_voted, index in place]
    return Instances.concat(cells.height, cells.width, parts).select(order)


def _vote(members: list[tuple[Bitmap, int, int]], scores: NDArray[np.float32]) -> int | tuple[Bitmap, int, int]:
    """The consensus as a crop, or the index of the member whose mask it is. Members come best first."""
    if len(members) == 1:
        return 0
    x0, y0 = min(x for _, x, _ in members), min(y for _, _, y in members)
    x1 = max(x + crop.shape[1] for crop, x, _ in members)
    y1 = max(y + crop.shape[0] for crop, _, y in members)
    layers = np.zeros((len(members), y1 - y0, x1 - x0), bool)
    for layer, (crop, x, y) in zip(layers, members, strict=True):
        layer[y - y0 : y - y0 + crop.shape[0], x - x0 : x - x0 + crop.shape[1]] = crop
    weights = _weights(scores)
    consensus = 2 * np.tensordot(weights, layers, axes=1) >= weights.sum()
    if not consensus.any():
        return 0
    for index, layer in enumerate(layers):
        if (layer == consensus).all():
            return index
    return _largest_part(consensus), x0, y0


def _largest_part(bitmap: Bitmap) -> Bitmap:
    """Its largest 8-connected component; of equal ones the first in reading order."""
    labels, count = ndimage.label(bitmap, structure=np.ones((3, 3)))
    if count == 1:
        return bitmap
    part: Bitmap = labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1
    return part
