"""Where and how exactly a network computes: device, threads, determinism, precision."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator
from typing import Literal

import torch

from cellsemi.configs.errors import ModelError

Precision = Literal["float32", "bfloat16"]


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA when there is one; ModelError when a device is asked for that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ModelError(f"engine.device {name!r} is not a device; use auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"engine.device is {name!r} but torch {torch.__version__} sees no CUDA device; use cpu")
    return device


@contextlib.contextmanager
def compute_settings(threads: int) -> Iterator[None]:
    """Use `threads` CPU threads and deterministic kernels inside; restore what was set before."""
    before = torch.get_num_threads()
    cudnn = (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark)
    torch.set_num_threads(threads)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's global generators start from `seed` inside, and are restored after.

    For networks that draw from them: detectors sample boxes, Cellpose drops layers.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def choose_precision(wanted: Literal["auto", "float32", "bfloat16"], device: torch.device) -> Precision:
    """`auto` becomes bfloat16 only where a measurement says that it is clearly faster."""
    if wanted != "auto":
        return wanted
    return "bfloat16" if _bfloat16_is_faster(device.type) else "float32"


@functools.cache
def _bfloat16_is_faster(device_type: str) -> bool:
    """Time one small convolution both ways, once per process: a few milliseconds, at worst about a second.

    It cannot be read off the processor's name: with native support bfloat16 is several times faster,
    without it tens of times slower.
    """
    device = torch.device(device_type)
    layer = torch.nn.Conv2d(32, 32, 3, padding=1).to(device)
    images = torch.zeros(2, 32, 48, 48, device=device)
    seconds = {dtype: _time(layer, images, dtype) for dtype in (torch.float32, torch.bfloat16)}
    return seconds[torch.bfloat16] < 0.8 * seconds[torch.float32]


def _time(layer: torch.nn.Module, images: torch.Tensor, dtype: torch.dtype) -> float:
    """Fastest of three passes forward and back, in seconds, after one to warm up."""
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
            loss = layer(images).float().sum()
        loss.backward()
        if images.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])
