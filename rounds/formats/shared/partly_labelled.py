"""Marks what nobody labelled in partly labelled images (data.partial): one ignored mask, NOT_LABELLED, for each.

Annotations that outline what was labelled, or background, are no cells and are taken out. What is not labelled is
neither learnt nor scored, as every ignored mask; cells keep their pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.data import PartialConfig
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instance_map import NOT_LABELLED
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.formats.base import IMAGE_CLASS, REGION, UNCLASSIFIED, Item, Loaded


def mark_not_labelled(items: Sequence[Item], config: PartialConfig) -> list[Item]:
    """The items, the annotated ones with what was not labelled marked as they are loaded."""
    if not config.active:
        return list(items)
    return [item if item.split == "unlabelled" else replace(item, load=partial(_load, item, config)) for item in items]


def cells_alone(classes: Sequence[str], config: PartialConfig) -> tuple[str, ...]:
    """The class names of a data set without those of regions and background; () where then no cell has a class."""
    kept = tuple(name for name in classes if name not in (*config.regions, *config.background))
    return IMAGE_CLASS if len(kept) < len(classes) and kept == (UNCLASSIFIED,) else kept


def not_labelled(cells: Instances) -> NDArray[np.bool_]:
    """bool (N,): which masks say where nobody looked."""
    return np.array([reason == NOT_LABELLED for reason in cells.reason], bool)


def _load(item: Item, config: PartialConfig) -> Loaded:
    loaded = item.load()
    if loaded.record.instances is None:
        return loaded
    cells, regions, background = _sorted_out(loaded, config)
    unknown = _unknown(cells, regions, background, config, item.split in config.only_cells)
    classes = cells_alone(loaded.classes, config)
    names = np.array([classes.index(name) if name in classes else 0 for name in loaded.classes], np.int64)
    drawn = cells.select(~not_labelled(cells))
    drawn = drawn.with_(class_id=names[drawn.class_id]) if len(names) else drawn
    if unknown.any():
        mark = masks.from_crops(
            cells.height, cells.width, [(unknown, 0, 0)], state="ignored", reason=NOT_LABELLED, class_id=0
        )
        drawn = Instances.concat(cells.height, cells.width, [drawn, mark])
    return replace(loaded, record=loaded.record.with_(instances=drawn), classes=classes)


def _sorted_out(loaded: Loaded, config: PartialConfig) -> tuple[Instances, Instances, Instances]:
    """The cells of an image (what a label map marks as not labelled among them), its regions and its background."""
    cells = loaded.record.instances
    assert cells is not None
    names = [loaded.classes[i] if loaded.classes else "" for i in cells.class_id.tolist()]
    of_region = np.array([name in config.regions for name in names], bool)
    of_background = np.array([name in config.background for name in names], bool)
    regions = cells.select(of_region)
    if loaded.regions is not None and REGION in config.regions:
        regions = Instances.concat(cells.height, cells.width, [regions, loaded.regions])
    return cells.select(~(of_region | of_background)), regions, cells.select(of_background)


def _unknown(
    cells: Instances, regions: Instances, background: Instances, config: PartialConfig, only_cells: bool
) -> NDArray[np.bool_]:
    """bool (H, W): the pixels that were not labelled; what a cell covers always was."""
    marked = not_labelled(cells)
    unknown = masks.union_map(cells.select(marked))
    human = cells.in_state("human")
    if len(regions) or only_cells:
        unknown |= ~masks.union_map(regions)
    if only_cells and config.ring_px:
        unknown &= ~masks.union_map(human, config.ring_px)
    return unknown & ~masks.union_map(human) & ~masks.union_map(background)
