"""Looks at the parts of a network while it sees one window, by forward hooks; of them only small maps are kept."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from cellsemi.models.explanation import Map, Part, small


@dataclass(frozen=True, slots=True)
class Watched:
    """A part of a network: the component `name`, shown in `group` (None: only its activation is counted).

    Its output is a tensor (1, C, h, w), or with `channels_last` (1, h, w, C), or several of them; other tensors are
    counted and not shown. What `read` makes of (module, inputs), a tensor (h, w), is shown instead, and not counted:
    such a part is no component.
    """

    name: str
    module: nn.Module
    group: str | None
    channels_last: bool = False
    read: Callable[[nn.Module, Any], Tensor] | None = None
    note: str = "mean absolute activation over the channels"


@dataclass(frozen=True, slots=True)
class Seen:
    """What the parts of the network did for one window."""

    maps: tuple[Map, ...] = ()
    activations: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class Recorder:
    """What the watched parts put out, in the order in which they did: sums of absolute values, and small maps."""

    total: dict[str, float] = field(default_factory=dict)
    count: dict[str, int] = field(default_factory=dict)
    maps: list[tuple[Watched, str, NDArray[np.float32]]] = field(default_factory=list)

    def activations(self) -> dict[str, float]:
        """The mean absolute activation of each component, over all numbers that it put out."""
        return {name: total / max(self.count[name], 1) for name, total in self.total.items()}

    def seen(self, part: Part, filled: tuple[float, float], count: int) -> Seen:
        """What was recorded of one of `count` windows, which shows `part` of the image.

        `filled` (y, x) is the share of what the network saw that is image, not margin. Each map is shown from 0 to its
        own largest value.
        """
        made = []
        for watched, name, values in self.maps:
            assert watched.group is not None
            inside = without_margin(values, filled)
            top = float(inside.max(initial=0.0)) or 1.0
            made.append(Map(watched.group, name, small(inside), watched.note, high=top, part=part))
        return Seen(tuple(made), self.activations(), window_note(part, count))

    def take(self, watched: Watched, inputs: Any, output: Any) -> None:
        """Take in one output of a part."""
        if watched.read is not None:
            self.maps.append((watched, watched.name, watched.read(watched.module, inputs).float().cpu().numpy()))
            return
        for key, tensor in _tensors(output):
            magnitude = tensor.detach().float().abs()
            self.total[watched.name] = self.total.get(watched.name, 0.0) + float(magnitude.double().sum())
            self.count[watched.name] = self.count.get(watched.name, 0) + magnitude.numel()
            if watched.group is not None and magnitude.ndim == 4 and len(magnitude) == 1:
                mean = magnitude[0].mean(-1 if watched.channels_last else 0)
                self.maps.append((watched, f"{watched.name} {key}".strip(), mean.cpu().numpy()))


@contextlib.contextmanager
def recorded(parts: Sequence[Watched]) -> Iterator[Recorder]:
    """Inside, what the parts put out is recorded; afterwards no hook is left."""
    recorder = Recorder()

    def hook_of(part: Watched) -> Callable[..., None]:
        return lambda module, inputs, output: recorder.take(part, inputs, output)

    with hooked([(part.module, hook_of(part)) for part in parts]):
        yield recorder


@contextlib.contextmanager
def hooked(hooks: Sequence[tuple[nn.Module, Callable[..., None]]]) -> Iterator[None]:
    """Inside, each hook is called with (module, inputs, output) after its module; afterwards no hook is left."""
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def window_note(part: Part, count: int) -> tuple[str, ...]:
    """A sentence where the network sees an image in several windows, of which one is shown."""
    x0, y0, x1, y1 = part
    if count == 1:
        return ()
    return (
        f"The image is predicted in {count} windows; the parts of the network are shown for the one with most cells: "
        f"x {x0} to {x1}, y {y0} to {y1}.",
    )


def without_margin(values: NDArray[np.float32], filled: tuple[float, float]) -> NDArray[np.float32]:
    """A map (h, w) of what the network saw, without what its margin covers; see Recorder.shown."""
    height, width = values.shape
    return values[: max(1, round(height * filled[0])), : max(1, round(width * filled[1]))]


def _tensors(output: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors of an output with what tells them apart; "" where there is one."""
    if isinstance(output, Tensor):
        yield "", output
    elif isinstance(output, Mapping):
        yield from ((str(key), value) for key, value in output.items() if isinstance(value, Tensor))
    elif isinstance(output, list | tuple):
        yield from ((str(place), value) for place, value in enumerate(output) if isinstance(value, Tensor))
