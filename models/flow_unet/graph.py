"""Puts normalisation, network, views and mask recovery into one module that TorchScript compiles: image in, labels out.

`torch.jit.script` compiles every function here, so only what it knows may stand in them; the network is traced, for
its reversed loop is beyond that. Only what depends on no size is traced: any image passes through the result.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cellsemi.models.flow.scripted_recovery import recover
from cellsemi.models.inference.scripted_resize import resized, scaled_side
from cellsemi.models.inference.scripted_windows import window_starts, window_weight


class CellGraph(nn.Module):
    """(B, 1 or 3, H, W) images as they are stored, as float32 -> (B, 1, H, W) float32 label maps, 0 is background.

    `net` takes (1, 1, H, W) with sides that are multiples of `stride`, and returns raw outputs. Each image is
    normalised by itself (crops.normalise). At each of `scales` it goes through the network once for each view, in
    windows of at most `tile` (height, width) pixels, `step` apart, which are blended.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        stride: int,
        tile: tuple[int, int],
        step: tuple[int, int],
        views: list[str],
        scales: list[float],
        threshold: float,
        steps: int,
        min_area_px: int,
        percentiles: tuple[float, float],
        sample_px: int,
        luminance: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self.net = net
        self.stride = stride
        self.tile = tile
        self.step = step
        self.views = views
        self.scales = scales
        self.threshold = threshold
        self.steps = steps
        self.min_area_px = min_area_px
        self.percentiles = percentiles
        self.sample_px = sample_px
        self.luminance = luminance

    def forward(self, images: Tensor) -> Tensor:
        """Label maps of images."""
        with torch.no_grad():
            labels = [self.labels_of(image) for image in images.unbind(0)]
            return torch.stack(labels).unsqueeze(1).to(torch.float32)

    def labels_of(self, image: Tensor) -> Tensor:
        """int64 (H, W) label map of one (1 or 3, H, W) image."""
        pixels = normalised(image, self.luminance, self.percentiles, self.sample_px)
        height, width = pixels.shape[0], pixels.shape[1]
        outputs = torch.zeros([3, height, width], dtype=torch.float32, device=pixels.device)
        for scale in self.scales:
            scaled = resized(pixels[None], scaled_side(height, scale), scaled_side(width, scale))
            for view in self.views:
                found = flow_turned_back(self.tiled(turn(scaled, view)), view)
                outputs = outputs + resized(found, height, width)
        outputs = outputs / (len(self.scales) * len(self.views))
        return recover(outputs[0], outputs[1:], self.threshold, self.steps, self.min_area_px)

    def tiled(self, pixels: Tensor) -> Tensor:
        """Probability, flow y and flow x (3, H, W) of (1, H, W) pixels of any size; see tiling.run_tiled."""
        height, width = pixels.shape[1], pixels.shape[2]
        tall, wide = min(self.tile[0], height), min(self.tile[1], width)
        rows = window_starts(height, self.tile[0], self.step[0])
        columns = window_starts(width, self.tile[1], self.step[1])
        if len(rows) * len(columns) == 1:
            return self.activated(pixels)
        total = torch.zeros([3, height, width], dtype=torch.float32, device=pixels.device)
        weight = torch.zeros([height, width], dtype=torch.float32, device=pixels.device)
        for i, top in enumerate(rows):
            for j, left in enumerate(columns):
                outputs = self.activated(pixels[:, top : top + tall, left : left + wide])
                taper = window_weight(rows, i, tall, pixels)[:, None] * window_weight(columns, j, wide, pixels)
                total[:, top : top + tall, left : left + wide] += outputs * taper
                weight[top : top + tall, left : left + wide] += taper
        return total / weight

    def activated(self, pixels: Tensor) -> Tensor:
        """The same of one window, which goes through the network whole."""
        raw: Tensor = self.net(filled(pixels, self.stride)[None])
        raw = raw[0, :3, : pixels.shape[1], : pixels.shape[2]]
        return torch.cat([raw[:1].sigmoid(), raw[1:]])


def normalised(
    image: Tensor, luminance: tuple[float, float, float], percentiles: tuple[float, float], sample_px: int
) -> Tensor:
    """float32 (H, W) in [0, 1] of a (1 or 3, H, W) image: crops.normalise with one channel."""
    image = torch.nan_to_num(image.to(torch.float32), nan=0.0, posinf=0.0, neginf=0.0)
    if image.shape[0] == 3:
        grey = image[0] * luminance[0] + image[1] * luminance[1] + image[2] * luminance[2]
    else:
        grey = image[0]
    every = max(1, int((grey.numel() / sample_px) ** 0.5))
    ordered = grey[::every, ::every].flatten().sort()[0]
    low, high = percentile(ordered, percentiles[0]), percentile(ordered, percentiles[1])
    if high <= low:
        low, high = float(grey.min()), float(grey.max())
    if high <= low:
        return torch.zeros_like(grey)
    # One value each, so that they round to float32 as numpy's do.
    start = torch.full([], low, dtype=torch.float32, device=grey.device)
    width = torch.full([], high - low, dtype=torch.float32, device=grey.device)
    return ((grey - start) / width).clamp(0, 1)


def percentile(ordered: Tensor, percent: float) -> float:
    """The percentile of N values in rising order, as numpy interpolates it between two of them."""
    place = (len(ordered) - 1) * (percent / 100)
    left = int(place)
    below, above = ordered[left], ordered[min(left + 1, len(ordered) - 1)]
    step, share = float(above - below), place - left
    return float(above) - step * (1 - share) if share >= 0.5 else float(below) + step * share


def filled(pixels: Tensor, stride: int) -> Tensor:
    """(1, H, W) pixels, filled with their mirror image below and on the right, to multiples of `stride`."""
    rows, columns = mirrored(pixels.shape[1], stride, pixels), mirrored(pixels.shape[2], stride, pixels)
    return pixels.index_select(1, rows).index_select(2, columns)


def mirrored(side: int, stride: int, like: Tensor) -> Tensor:
    """Which pixel stands at each place of a filled side: 0, 1 .. N - 1, N - 1 .. 1, 0, 0, 1 and so on."""
    place = torch.arange((side + stride - 1) // stride * stride, device=like.device) % (2 * side)
    return torch.where(place < side, place, 2 * side - 1 - place)


def turn(pixels: Tensor, view: str) -> Tensor:
    """The view of (C, H, W) pixels; see inference.tta.turn."""
    if view == "flip_x":
        return pixels.flip(2)
    if view == "flip_y":
        return pixels.flip(1)
    return pixels.rot90(quarters(view), [1, 2])


def flow_turned_back(outputs: Tensor, view: str) -> Tensor:
    """Outputs (probability, flow y, flow x) of a view in the image's own frame; see inference.tta.turn_outputs_back."""
    if view == "flip_x":
        back = outputs.flip(2)
        return torch.stack([back[0], back[1], -back[2]])
    if view == "flip_y":
        back = outputs.flip(1)
        return torch.stack([back[0], -back[1], back[2]])
    back = outputs.rot90(-quarters(view), [1, 2])
    for _ in range(quarters(view)):
        back = torch.stack([back[0], back[2], -back[1]])
    return back


def quarters(view: str) -> int:
    """How many quarter turns, counter-clockwise, a view is."""
    if view == "rot90":
        return 1
    if view == "rot180":
        return 2
    return 3 if view == "rot270" else 0
