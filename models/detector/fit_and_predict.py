"""Trains a box detector, whatever its network, and predicts images of any size with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cellsemi.configs.models import DetectorConfig
from cellsemi.configs.training import InferenceConfig
from cellsemi.models.base import Begun, Encoded, FitResult, FitTask, Image, Progress, Recovered
from cellsemi.models.crops.cell_size import cell_size_of
from cellsemi.models.crops.normalise import normalise
from cellsemi.models.crops.source import CropSource
from cellsemi.models.detector.cell_crops import CellCrops
from cellsemi.models.detector.detections import Detections
from cellsemi.models.detector.draw_masks import cells_in_boxes
from cellsemi.models.detector.explain import DetectorParts, Frame, Watch, boxes_of, proposal_maps
from cellsemi.models.detector.merge_views import transform_view
from cellsemi.models.detector.merge_windows import merge_everywhere, windows_everywhere
from cellsemi.models.detector.targets import DetectorBatch, DetectorBatches, MapMaker, resized
from cellsemi.models.explanation import Explanation
from cellsemi.models.inference.activations import hooked, recorded
from cellsemi.models.inference.less_memory import at_once, smaller_tiles
from cellsemi.models.inference.tiling import SHARED_BATCH_PX
from cellsemi.models.inference.windows import fullest, part_of, windows
from cellsemi.models.model_files import CellSize, StartWeights
from cellsemi.models.training.device import compute_settings, pick_device, seeded
from cellsemi.models.training.loop import Loop, LossParts
from cellsemi.models.training.result import write_result
from cellsemi.models.training.schedule import Parts
from cellsemi.models.training.start import start_from_teacher
from cellsemi.models.training.validation_loss import ValidationBatches
from cellsemi.rounds import pulse
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.seeds import derive_seed

Losses = Callable[[DetectorBatch], tuple[Tensor, Mapping[str, Tensor]]]  # what a step minimises, and its parts by name
# Images (B, 3, h, w) in [0, 1] -> the detections of each, and whether proposals were cut off.
DetectImages = Callable[[Tensor], list[tuple[Detections, bool]]]
Window = NDArray[np.float32]


def fit_detector(
    task: FitTask,
    config: DetectorConfig,
    net: nn.Module,
    losses: Losses,
    progress: Progress,
    *,
    parts: Parts,
    started_from: StartWeights | None,
    makers: Mapping[str, MapMaker] | None = None,
) -> FitResult:
    """Train `net` by its `losses`, or go on from the checkpoint of the same task, into `task.out_dir`.

    `parts` are those of `net` that may be frozen; `makers` draw the maps of extra
    heads; `started_from` goes into the model file.
    """
    device = pick_device(task.device)
    start_from_teacher(net, task)
    size = cell_size_of(task)
    source = CropSource.of(task, config.augment, size, channels=3)

    def loss_of(_: nn.Module, batch: DetectorBatch, step: int) -> LossParts:
        batch = replace(batch, images=batch.images.to(memory_format=torch.channels_last))
        with seeded(derive_seed(task.seed, "sampling", step), device):
            return LossParts(*losses(batch))

    with compute_settings(task.training.threads):
        loop = Loop.of(task, net, device, parts=parts)
        made = DetectorBatches(source, config.upscale, makers or {})
        trained = loop.run(made, loss_of, progress, _validation(task, made, size))
    parameters = sum(parameter.numel() for parameter in net.parameters())
    result = write_result(task, trained, parameters, size, started_from)
    loop.clear()
    return result


def _validation(task: FitTask, made: DetectorBatches, size: CellSize) -> ValidationBatches[DetectorBatch] | None:
    """Batches of the validation images as those that train are made; None where there are none."""
    crops = CropSource.on_validation(task, size, channels=3)
    return None if crops is None else ValidationBatches(replace(made, source=crops), crops.count)


@dataclass(frozen=True, slots=True)
class WindowDetections:
    """What the network says of one window (h, w): boxes (n, 4) in its pixels, masks (n, M, M), scores, classes."""

    size: tuple[int, int]
    boxes: NDArray[np.float64]
    masks: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_id: NDArray[np.int64]

    def cells(self) -> CellCrops:
        """The cells, drawn; in any thread."""
        return cells_in_boxes(*self.size, self.boxes, self.masks, self.scores, self.class_id)


class DetectorPredictor:
    """A trained detector and how it predicts images; see models.base.StagedPredictor."""

    images_at_once = 1

    def __init__(
        self,
        net: nn.Module,
        detect: DetectImages,
        config: DetectorConfig,
        inference: InferenceConfig,
        device: torch.device,
        *,
        one_class_per_image: bool,
        parts: DetectorParts | None = None,
    ) -> None:
        self.warnings: Counter[str] = Counter()
        net.to(device=device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self._detect, self._config, self._inference, self._device = detect, config, inference, device
        self._one_class_per_image, self._parts = one_class_per_image, parts
        self._most_px = SHARED_BATCH_PX / config.upscale**2 if device.type != "cpu" else 0.0  # of windows seen at once

    def predict(self, images: Sequence[Image], scale: float = 1.0) -> list[Instances]:
        """Cells of each (H, W) or (H, W, 3) image of any size: state `predicted`, score in [0, 1].

        The score of a cell is its box score times the mean probability of its mask's pixels, averaged over
        the views.
        """
        begun = (self.begin([self.prepare(image)], (), scale)[0] for image in images)
        return [each.recover().encode() for each in begun]

    def explain(self, image: Image, scale: float = 1.0) -> Explanation:
        """The stages, proposals, boxes and heads for one window, and the cells of the image; see `Explains`."""
        (cells,) = self.predict([image], scale)
        pixels = self.prepare(image)
        if self._parts is None or (pixels == pixels[0, 0]).all():
            return Explanation(cells, notes=("An image of one colour has no cell; it is not predicted.",))
        inference = smaller_tiles(self._shown(pixels, scale), int(self._most_px), *pixels.shape[:2])
        zoom = inference.scales[0]
        shown = transform_view(pixels, "identity", zoom)
        placed = windows(shown.shape[0], shown.shape[1], inference)
        window = fullest(placed, (cells.bbox[:, :2] + cells.bbox[:, 2:]) / 2 * zoom)
        cut = np.ascontiguousarray(shown[window.y.start : window.y.stop, window.x.start : window.x.stop])
        watch, before = Watch(self._parts), self.warnings.copy()
        with compute_settings(inference.threads), recorded(self._parts.stages) as recorder, hooked(watch.hooks()):
            enlarged = self._enlarged([cut])
            with torch.inference_mode():
                ((watch.detections, _),) = self._detect(enlarged)
        self.warnings = before  # the whole image has counted them
        size = enlarged.shape[2], enlarged.shape[3]
        filled = tuple(side / self._parts.filled_up(side) for side in size)
        frame = Frame(size, part_of(window, zoom, *pixels.shape[:2]), (filled[0], filled[1]))
        seen = recorder.seen(frame.part, frame.filled, len(placed))
        return Explanation(
            cells,
            maps=(*seen.maps, *proposal_maps(watch, frame)),
            boxes=boxes_of(watch, frame),
            activations=seen.activations,
            notes=(*self._parts.notes, *self._never_cells(), *seen.notes),
        )

    def _never_cells(self) -> list[str]:
        """What of the boxes never becomes a cell, in words."""
        config, least = self._config, self._inference.min_area_px
        return [
            f"Boxes with a score below model.score_threshold {config.score_threshold:g}, those that overlap a better "
            f"one with IoU above model.nms_iou {config.nms_iou:g}, and cells of fewer than inference.min_area_px "
            f"{least} pixels are not recorded."
        ]

    def prepare(self, image: Image) -> NDArray[np.float32]:
        """See models.base.StagedPredictor."""
        return normalise(image, 3)

    def begin(self, prepared: Sequence[NDArray[np.float32]], image_ids: Sequence[str], scale: float) -> list[Begun]:
        """See models.base.StagedPredictor."""
        found = []
        with compute_settings(self._inference.threads):
            for pixels in prepared:
                inference = smaller_tiles(self._shown(pixels, scale), int(self._most_px), *pixels.shape[:2])
                groups = self._together(windows_everywhere(pixels, inference))
                seen = [each for group in groups for each in self.look_at(group)]
                found.append(Begun(partial(self._recover, pixels.shape[0], pixels.shape[1], inference, seen)))
        return found

    def _shown(self, pixels: NDArray[np.float32], scale: float) -> InferenceConfig:
        return self._inference.scaled(scale).on_image(*pixels.shape[:2])

    def _together(self, windows: Iterable[Window]) -> Iterator[list[Window]]:
        """The windows in their order: on a GPU as many of a size as the network takes at once, on a CPU one by one.

        On a CPU the bits of a network's output depend on the batch that it is in.
        """
        for (height, width), alike in groupby(windows, key=lambda window: window.shape[:2]):
            most = max(1, at_once(int(self._most_px)) // (height * width))
            while group := list(islice(alike, most)):
                yield group

    def look_at(self, shown: Sequence[Window]) -> list[WindowDetections]:
        """The detections of each window (h, w, 3) in [0, 1], all of one size; `warnings` counts the caps reached."""
        pulse.beat()
        height, width = shown[0].shape[:2]
        images = self._enlarged(shown)
        with torch.inference_mode():
            answers = self._detect(images)
        back = np.array([width / images.shape[3], height / images.shape[2]] * 2)
        return [self._of_window((height, width), back, *answer) for answer in answers]

    def _enlarged(self, shown: Sequence[Window]) -> Tensor:
        """Windows (h, w, 3) of one size as the network takes them, (n, 3, h, w)."""
        enlarged = np.stack([resized(window, self._config.upscale) for window in shown])
        return torch.from_numpy(np.ascontiguousarray(enlarged.transpose(0, 3, 1, 2))).to(self._device)

    def _of_window(
        self, size: tuple[int, int], back: NDArray[np.float64], found: Detections, proposals_capped: bool
    ) -> WindowDetections:
        if found.capped:
            cap = self._config.max_detections
            self.warnings[f"the cap of {cap} detections a tile (max_detections) was reached: cells may be missing"] += 1
        if proposals_capped:
            cap = self._config.rpn_proposals
            self.warnings[f"the cap of {cap} proposals a tile (rpn_proposals) was reached: cells may be missing"] += 1
        return WindowDetections(
            size,
            found.boxes.cpu().numpy() * back,
            found.masks.cpu().numpy(),
            found.scores.cpu().numpy(),
            found.labels.cpu().numpy() - 1,
        )

    def _recover(
        self, height: int, width: int, inference: InferenceConfig, seen: Sequence[WindowDetections]
    ) -> Recovered:
        cells = merge_everywhere(height, width, inference, [each.cells() for each in seen])
        if inference.fill_holes:
            cells = masks.without_holes(cells) if isinstance(cells, Instances) else cells.without_holes()
        if self._one_class_per_image and len(cells.score):
            votes = np.bincount(cells.class_id, weights=cells.area * cells.score)
            same = np.full(len(cells.score), votes.argmax(), np.int32)
            cells = replace(cells, class_id=same)
        return Encoded(cells) if isinstance(cells, Instances) else cells
