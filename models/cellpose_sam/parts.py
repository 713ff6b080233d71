"""Builds Cellpose-SAM's network, and defines its weights, its loss and its normalisation of images.

Read from cellpose 4.2 (vit, train, transforms, dynamics); Pachitariu et al. 2025. Nothing of it that loads
or downloads weights is called: its loader takes the stock model where a file is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cellsemi.configs.errors import ModelError
from cellsemi.models.base import Image
from cellsemi.models.crops.crop import TrainingImage
from cellsemi.models.crops.normalise import Scaling
from cellsemi.models.crops.source import CropSource
from cellsemi.models.flow.batch import FlowBatch
from cellsemi.models.flow.loss import CLASS_SCALE, class_loss, probability_loss
from cellsemi.models.flow.outputs import FLOW_CHANNELS
from cellsemi.models.training.loop import LossParts
from cellsemi.models.training.losses import weighted_mean_of_batch
from cellsemi.models.training.schedule import Parts
from cellsemi.rounds.store.image_codec import intensity_range

TILE_SIDES = (64, 128, 256, 512)  # those for which cellpose cuts its position embedding evenly; 256 is the stock one
FLOW_SCALE = 5.0  # the network outputs unit vectors times this
LOW, HIGH = 1.0, 99.0  # Cellpose's percentiles
CLASS_HIDDEN = 64  # channels of the class head
NET = "net."  # prefix of the names of Cellpose's own tensors
HEAD = ("classes.",)
PARTS = Parts(body=(NET,), backbone=(NET,), heads=HEAD, predictors=HEAD)

Outputs = NDArray[np.float32]


# --- network ------------------------------------------------------------------------------------------


def build_net(bsize: int) -> nn.Module:
    """Cellpose's own network without weights, for tiles of `bsize` pixels.

    (B, 3, bsize, bsize) -> (flow y, flow x, cell logit) (B, 3, bsize, bsize), style. It has `out`, the
    convolution that reads its features, and `ps`, the pixels of a feature.
    """
    if bsize not in TILE_SIDES:
        raise ModelError(f"model.bsize is {bsize}; cellpose-sam's tiles are {', '.join(map(str, TILE_SIDES))} pixels")
    exact = torch.backends.cuda.matmul.allow_tf32
    from cellpose.vit import CPSAM

    torch.backends.cuda.matmul.allow_tf32 = exact  # its import changes this for every model of the process
    net: nn.Module = CPSAM(bsize=bsize)
    return net


def load_net(state: Mapping[str, Tensor], bsize: int, origin: str) -> tuple[nn.Module, list[str]]:
    """The network with exactly these weights, and the names in `state` that it has no use for.

    The tensors are taken over, not copied. ModelError, naming `origin`, when one is missing or of another
    shape: Cellpose itself would leave it at its random start.
    """
    with torch.device("meta"):
        net = build_net(bsize)
    wanted = net.state_dict()
    missing = sorted(wanted.keys() - state.keys())
    if missing:
        raise ModelError(
            f"{origin}: not weights of cellpose-sam, {len(missing)} of its {len(wanted)} tensors are missing "
            f"({', '.join(missing[:3])}, ...); those of Cellpose 3 and of CPDINO do not fit"
        )
    for name, tensor in wanted.items():
        if state[name].shape != tensor.shape:
            raise ModelError(
                f"{origin}: {name} is {list(state[name].shape)}, the network of model.bsize {bsize} has "
                f"{list(tensor.shape)}; stock weights are for bsize 256"
            )
    net.load_state_dict({name: state[name].float() for name in wanted}, assign=True)
    _fix_constants(net)
    return net, sorted(state.keys() - wanted.keys())


def _fix_constants(net: nn.Module) -> None:
    """Make buffers, under the same names, of the parameters that Cellpose does not train."""
    for name, parameter in list(net.named_parameters(recurse=False)):
        if not parameter.requires_grad:
            delattr(net, name)
            net.register_buffer(name, parameter.detach())


class CellposeNet(nn.Module):
    """Cellpose's network `net`, and with several classes a head `classes` on the features that it reads out.

    (B, 3, P, P) -> raw outputs (B, 3 + classes, P, P) in the order and the units of flow.outputs: cell logit,
    flow y, flow x (unit vectors), class logits. With one class there is no head.
    """

    def __init__(self, net: nn.Module, classes: int) -> None:
        super().__init__()
        self.net = net
        self.classes = _class_head(net, classes) if classes > 1 else None

    def forward(self, images: Tensor) -> Tensor:
        """Raw outputs."""
        features: list[Tensor] = []
        # Cellpose's forward does not return its features; they are the input of its readout.
        assert isinstance(self.net.out, nn.Module)
        handle = self.net.out.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
        try:
            raw = self.net(images)[0]
        finally:
            handle.remove()
        parts = [raw[:, 2:3], raw[:, :2] / FLOW_SCALE]
        if self.classes is not None:
            parts.append(self.classes(features[0]))
        return torch.cat(parts, 1)


def _class_head(net: nn.Module, classes: int) -> nn.Sequential:
    """Three convolutions at the resolution of the features; the last one spreads to pixels, as the readout does."""
    assert isinstance(net.out, nn.Conv2d) and isinstance(net.ps, int)
    return nn.Sequential(
        nn.Conv2d(net.out.in_channels, CLASS_HIDDEN, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(CLASS_HIDDEN, CLASS_HIDDEN, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(CLASS_HIDDEN, classes * net.ps**2, 1),
        nn.PixelShuffle(net.ps),
    )


def with_classes(net: nn.Module, classes: int, seed: int) -> CellposeNet:
    """The network with a fresh class head, the same for the same seed; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CellposeNet(net, classes)


def cellpose_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of the tensors of a CellposeNet those that stock Cellpose knows, under its names."""
    return {name.removeprefix(NET): value for name, value in state.items() if name.startswith(NET)}


def cellpose_loss(raw: Tensor, batch: FlowBatch) -> LossParts:
    """Cellpose's loss (train._loss_fn_seg) of raw outputs (B, 3 + classes, P, P), float32, with weights.

    `flow`: half the mean squared error of 5 x the vector, zero outside of cells; `prob`: binary cross
    entropy; both the weighted mean over all pixels, which with equal weights is Cellpose's own value.
    `class`: cross entropy over the pixels of cells. A pixel of weight 0 changes neither value nor gradient.
    """
    prob = probability_loss(raw, batch)
    squared = (FLOW_SCALE * (raw[:, 1:FLOW_CHANNELS] - batch.flow)).square().mean(1) / 2
    flow = weighted_mean_of_batch(squared, batch.weight)
    classes = class_loss(raw, batch)
    return LossParts(prob + flow + CLASS_SCALE * classes, {"prob": prob, "flow": flow, "class": classes})


# --- images -------------------------------------------------------------------------------------------


def cellpose_pixels(image: Image | Outputs) -> Outputs:
    """float32 (H, W, 3) as Cellpose's weights expect it, of a (H, W) or (H, W, 3) image.

    Each channel so that its percentiles 1 and 99 are 0 and 1, without clipping; a channel where they are
    equal is 0. Grey fills the first channel and leaves the others 0. In one thing Cellpose is not followed:
    a grey image whose percentiles are equal (a few bright cells on flat ground) is not blanked, but scaled
    from its minimum to its maximum. Values that are not finite count as 0.
    """
    pixels = np.nan_to_num(image.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    return _in_ranges(pixels, _ranges(pixels))


def _ranges(pixels: Outputs) -> tuple[tuple[float, float], ...]:
    """What becomes 0 and 1 in each channel of a finite (H, W) or (H, W, 3) image."""
    if pixels.ndim == 3:
        return tuple(_range(pixels[..., channel]) for channel in range(3))
    low, high = _range(pixels)
    return ((low, high) if high > low else intensity_range(pixels),)


def _in_ranges(pixels: Outputs, ranges: tuple[tuple[float, float], ...]) -> Outputs:
    """float32 (h, w, 3) of an image, or of a part of it, with its ranges."""
    scaled = np.zeros((*pixels.shape[:2], 3), np.float32)
    for channel, (low, high) in enumerate(ranges):
        scaled[..., channel] = _scaled(pixels if pixels.ndim == 2 else pixels[..., channel], low, high)
    return scaled


def _range(channel: Outputs) -> tuple[float, float]:
    low, high = np.percentile(channel, (LOW, HIGH)).tolist()
    return low, high


def _scaled(channel: Outputs, low: float, high: float) -> Outputs:
    if high <= low:
        return np.zeros_like(channel)
    scaled: Outputs = (channel - np.float32(low)) / np.float32(high - low)
    return scaled


class CellposeCrops(CropSource):
    """Crops of images that are scaled as for prediction, then clipped to [0, 1], which augmentation asks for.

    The scaling takes the whole image, as in prediction. Augmentation reaches the empty channels of a grey
    image too: they may hold noise, which the network learns to ignore.
    """

    def _decoded(self, row: int) -> TrainingImage:
        image = super()._decoded(row)
        stored = image.stored
        if stored.ndim == 3 and all(np.array_equal(stored[..., 0], stored[..., c]) for c in (1, 2)):
            stored = stored[..., 0].copy()  # grey, as a colour file
        assert isinstance(image.scaling, Scaling)
        first = replace(image.scaling, channels=1 if stored.ndim == 2 else 3)
        return replace(image, stored=stored, scaling=CellposeScaling.of(stored, first))


@dataclass(frozen=True, slots=True)
class CellposeScaling:
    """How a part of one image becomes float32 (h, w, 3) in [0, 1]: as in `cellpose_pixels`, then clipped."""

    first: Scaling
    ranges: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, stored: NDArray[Any], first: Scaling) -> Self:
        """That of an image whose pixels `first` brings to [0, 1]."""
        return cls(first, _ranges(first(stored)))

    def __call__(self, part: NDArray[Any]) -> Outputs:
        """The pixels of a part (h, w) or (h, w, 3) of the image."""
        return np.clip(_in_ranges(self.first(part), self.ranges), 0, 1)
