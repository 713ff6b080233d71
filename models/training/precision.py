"""Chooses whether training computes in float32 or bfloat16, by what the hardware can do.

With native support bfloat16 is twice as fast and more, without it tens of times slower. A stopwatch is no judge: on a
busy machine the same hardware gives one answer now and another one later.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bfloat16"]
Wanted = Literal["auto", "float32", "bfloat16"]

CUDA_COMPUTE = (8, 0)  # the first compute capability with bfloat16 units
CPU_FLAGS = ("amx_bf16", "avx512_bf16")  # the instructions of a processor that multiply in bfloat16
CLEARLY = 0.75  # bfloat16 is clearly faster when it needs at most this share of float32's time
PASSES = 5
CPU_INFO = Path("/proc/cpuinfo")


def choose_precision(wanted: Wanted, device: torch.device) -> Precision:
    """`auto` becomes bfloat16 where the device has instructions for it (`native_bfloat16`)."""
    if wanted != "auto":
        return wanted
    return "bfloat16" if native_bfloat16(device) else "float32"


def native_bfloat16(device: torch.device) -> str:
    """What of the device computes in bfloat16 ("CUDA compute 9.0", "amx_bf16"); "" where nothing does, or is known to.

    The processor's instructions are read from /proc/cpuinfo, which only Linux has.
    """
    import torch

    if device.type == "cuda":
        found = torch.cuda.get_device_capability(device)
        return f"CUDA compute {found[0]}.{found[1]}" if found >= CUDA_COMPUTE else ""
    if device.type != "cpu" or not CPU_INFO.is_file():
        return ""
    lines = CPU_INFO.read_text(encoding="utf-8").splitlines()
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return next((flag for flag in CPU_FLAGS if flag in flags), "")


def measured_faster(device: torch.device) -> bool:
    """Whether bfloat16 is clearly faster now: times one convolution both ways, in at most about a second."""
    import torch

    layer = torch.nn.Conv2d(64, 64, 3, padding=1).to(device).to(memory_format=torch.channels_last)
    images = torch.ones(4, 64, 64, 64, device=device).to(memory_format=torch.channels_last)
    _time(layer, images, torch.float32)  # to warm up
    exact = min(_time(layer, images, torch.float32) for _ in range(PASSES))
    best = _time(layer, images, torch.bfloat16)
    if best > 2 * exact:
        return False
    best = min(best, *(_time(layer, images, torch.bfloat16) for _ in range(PASSES)))
    return best < CLEARLY * exact


def _time(layer: torch.nn.Module, images: torch.Tensor, dtype: torch.dtype) -> float:
    """Seconds of one pass forward and back."""
    import torch

    started = time.perf_counter()
    with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
        loss = layer(images).float().sum()
    loss.backward()
    if images.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
