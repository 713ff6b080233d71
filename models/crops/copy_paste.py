"""Pastes cells of one training crop into another (Ghiasi et al. 2021).

Cells stay where they stood in their own crop, so that those cut by its border are cut by the border of the
other too. Only their own pixels are copied, never what surrounds them: nothing unlabelled becomes
background this way.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.phases import CopyPasteConfig
from cellsemi.rounds.cells.instance_map import IGNORE

if TYPE_CHECKING:
    from cellsemi.models.crops.crop import Crop  # which pastes


def pasteable(
    instance_map: NDArray[np.int32], whole_area: NDArray[Any], trust: NDArray[np.float32], config: CopyPasteConfig
) -> NDArray[np.bool_]:
    """bool (cells + 1,): the cells of a crop, by their number in the instance map, that may be pasted into another.

    `whole_area` is the area in pixels of the crop that each cell has inside and outside of it, `trust` is 1
    for human cells, else the calibrated confidence. A cell must be trusted by `min_quality` and have the
    share `keep` of its area in the crop.
    """
    area = np.bincount(np.maximum(instance_map, 0).ravel(), minlength=len(trust))
    fit: NDArray[np.bool_] = (area > 0) & (area >= config.keep * whole_area) & (trust >= config.min_quality)
    fit[0] = False
    return fit


def paste(
    target: Crop, source: Crop, trusted: NDArray[np.bool_], config: CopyPasteConfig, rng: np.random.Generator
) -> Crop:
    """`target` with cells of `source`, a crop of the same shape: the share `select` of its `trusted` cells.

    A cell of the target of which more than `occlusion` is covered is no longer learnt: what is left of it
    becomes IGNORE. The others keep as their label what is still visible of them. What was IGNORE stays so where
    no cell covers it. Pasted cells get new numbers at the end of the tables, with their class and weight. Along
    their edges they are mixed with what they cover, so that no hard edge shows; pixels beside
    them stay as they are. The result depends on the arguments and `rng` only.
    """
    available = np.flatnonzero(trusted)
    chosen = np.sort(rng.permutation(available)[: int(config.select * len(available) + 0.5)])
    numbers = np.zeros(len(trusted), np.int32)
    numbers[chosen] = np.arange(len(chosen)) + len(target.cell_class)
    pasted = numbers[np.maximum(source.instance_map, 0)]
    if not pasted.any():
        return target
    return replace(
        target,
        pixels=_mixed(target.pixels, source.pixels, pasted > 0),
        instance_map=np.where(pasted > 0, pasted, _without_hidden(target, pasted > 0, config.occlusion)),
        cell_class=np.concatenate([target.cell_class, source.cell_class[chosen]]),
        cell_weight=np.concatenate([target.cell_weight, source.cell_weight[chosen]]),
    )


def _without_hidden(target: Crop, covered: NDArray[np.bool_], occlusion: float) -> NDArray[np.int32]:
    """The instance map of the target; cells that are covered by more than `occlusion` become IGNORE."""
    cells = np.maximum(target.instance_map, 0)
    area = np.bincount(cells.ravel(), minlength=len(target.cell_class))
    lost = np.bincount(cells[covered], minlength=len(target.cell_class))
    hidden = lost > occlusion * area
    hidden[0] = False
    return np.where(hidden[cells], np.int32(IGNORE), target.instance_map)


def _mixed(below: NDArray[np.float32], above: NDArray[np.float32], where: NDArray[np.bool_]) -> NDArray[np.float32]:
    """`above` in the place of `below` where it is pasted; a pixel on the edge by its share of pasted neighbours."""
    import cv2

    share = cv2.blur(where.astype(np.float32), (3, 3), borderType=cv2.BORDER_REPLICATE) * where
    share = share if below.ndim == 2 else share[..., None]
    mixed: NDArray[np.float32] = (below + (above - below) * share).clip(0, 1)
    return mixed
