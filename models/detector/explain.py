"""Shows what a box detector does with one window of an image: its stages, proposals, boxes and heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from cellsemi.models.detector.detections import Detections
from cellsemi.models.detector.draw_masks import paste_in_box
from cellsemi.models.explanation import Boxes, Map, Part, small
from cellsemi.models.inference.activations import Watched, without_margin

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class DetectorParts:
    """Where the parts of a detector are.

    `stages` are those of the backbone and what else is a component, in the order of the data. `objectness` is the head
    of the proposal network, whose first output holds logits (1, A, h, w) of each level; `proposals` the whole of it, of
    whose output `boxes_of` reads boxes (n, 4) in pixels of its input and scores (n,), best first. The first output
    of `box_head` has a row for each proposal, that of `mask_head` (m, C, M, M) is of detections. What the network sees
    is filled up to a multiple of `stride` pixels.
    """

    stages: Sequence[Watched]
    objectness: nn.Module
    proposals: nn.Module
    boxes_of: Callable[[Any], tuple[Tensor, Tensor]]
    box_head: nn.Module
    mask_head: nn.Module
    stride: int
    notes: tuple[str, ...] = ()

    def filled_up(self, side: int) -> int:
        """The side of what the network sees, margin included."""
        return -(-side // self.stride) * self.stride


@dataclass(slots=True)
class Watch:
    """What the proposal network and the heads put out, in pixels of the enlarged window."""

    parts: DetectorParts
    levels: list[Floats] = field(default_factory=list)  # probability that there is a cell, the most of all anchors
    proposals: Floats = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    scores: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    box_activity: Floats | None = None  # of each proposal
    mask_activity: Floats | None = None  # (m, M, M) of each detection
    detections: Detections | None = None

    def hooks(self) -> list[tuple[nn.Module, Callable[..., None]]]:
        """What `activations.hooked` is to call."""
        return [
            (self.parts.objectness, self._take_levels),
            (self.parts.proposals, self._take_proposals),
            (self.parts.box_head, self._take_box_head),
            (self.parts.mask_head, self._take_mask_head),
        ]

    def _take_levels(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.levels = [_array(level[0].float().sigmoid().amax(0)) for level in output[0]]

    def _take_proposals(self, module: nn.Module, inputs: Any, output: Any) -> None:
        boxes, scores = self.parts.boxes_of(output)
        self.proposals, self.scores = _array(boxes), _array(scores)

    def _take_box_head(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self.box_activity is None:  # that of the first stage of a cascade
            self.box_activity = _array(output.float().abs().flatten(1).mean(1))

    def _take_mask_head(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.mask_activity = _array(output.float().abs().mean(1))


@dataclass(frozen=True, slots=True)
class Frame:
    """How the enlarged window, `size` (h, w) pixels that the network saw, lies in the image: it shows `part` of it."""

    size: tuple[int, int]
    part: Part
    filled: tuple[float, float]  # as Recorder.seen

    def on_image(self, boxes: Floats) -> Floats:
        """Boxes (n, 4) of the enlarged window in pixels of the image."""
        x0, y0, x1, y1 = self.part
        factor = np.array([(x1 - x0) / self.size[1], (y1 - y0) / self.size[0]] * 2, np.float32)
        moved: Floats = boxes * factor + np.array([x0, y0, x0, y0], np.float32)
        return moved


def proposal_maps(watch: Watch, frame: Frame) -> tuple[Map, ...]:
    """Maps of the proposal network and of the heads."""
    note = "the probability that a box here holds a cell, the largest of all anchors"
    maps = [
        Map("proposals", f"objectness, level {place + 1}", without_margin(level, frame.filled), note, part=frame.part)
        for place, level in enumerate(watch.levels)
    ]
    found = watch.detections
    if watch.box_activity is not None and len(watch.box_activity) == len(watch.proposals):
        note = "mean absolute activation of the box head, mean over the proposals that hold the pixel"
        maps.append(_heat("box head", _painted(watch.proposals, watch.box_activity, frame.size), note, frame))
    if found is None:
        return tuple(maps)
    boxes = _array(found.boxes)
    if watch.mask_activity is not None and len(watch.mask_activity) == len(boxes):
        note = "mean absolute activation of the mask head over the channels, the most of all boxes"
        maps.append(_heat("mask head", _pasted(boxes, watch.mask_activity, frame.size), note, frame))
    note = "the probability that a pixel belongs to the cell of its box, the most of all boxes"
    masks = small(_pasted(boxes, _array(found.masks), frame.size))
    maps.append(Map("heads", "mask probability", masks, note, part=frame.part))
    return tuple(maps)


def boxes_of(watch: Watch, frame: Frame) -> tuple[Boxes, ...]:
    """The proposals and the boxes that were kept."""
    proposals = Boxes(
        "proposals",
        frame.on_image(watch.proposals),
        watch.scores,
        "where the proposal network sees something, with the probability that it is a cell",
        frame.part,
    )
    if watch.detections is None:
        return (proposals,)
    kept = Boxes(
        "boxes",
        frame.on_image(_array(watch.detections.boxes)),
        _array(watch.detections.scores),
        "what the heads make of them: each with the probability of its class, overlapping ones suppressed",
        frame.part,
    )
    return proposals, kept


def _heat(name: str, values: Floats, note: str, frame: Frame) -> Map:
    return Map("heads", name, small(values), note, high=float(values.max(initial=0.0)) or 1.0, part=frame.part)


def _painted(boxes: Floats, values: Floats, size: tuple[int, int]) -> Floats:
    """float32 (h, w): of each pixel the mean of the values of the boxes that hold it; 0 where none does."""
    total, count = np.zeros(size, np.float32), np.zeros(size, np.float32)
    for (x0, y0, x1, y1), value in zip(np.rint(boxes).astype(int).clip(0).tolist(), values.tolist(), strict=True):
        total[y0:y1, x0:x1] += value
        count[y0:y1, x0:x1] += 1
    return np.asarray(total / np.maximum(count, 1), np.float32)


def _pasted(boxes: Floats, values: Floats, size: tuple[int, int]) -> Floats:
    """float32 (h, w): of each pixel the largest of the values (n, M, M) that are spread over the boxes."""
    most = np.zeros(size, np.float32)
    for box, own in zip(boxes, values, strict=True):
        drawn, x, y = paste_in_box(own, box, *size)
        place = most[y : y + drawn.shape[0], x : x + drawn.shape[1]]
        np.maximum(place, drawn, out=place)
    return most


def _array(values: Tensor) -> Floats:
    return values.detach().float().cpu().numpy()
