"""Sets device, threads, determinism and seeds of torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cellsemi.configs.errors import ModelError

if TYPE_CHECKING:  # whoever only says which device is meant, such as the driver, does without
    import torch


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA when there is one; ModelError when a device is asked for that is not there."""
    import torch

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
    import torch

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
    import torch

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
