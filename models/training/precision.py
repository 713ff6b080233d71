"""Chooses whether training computes in float32 or bfloat16: measured once for a run and a kind of hardware.

The processor's name is no guide: with native support bfloat16 is twice as fast and more, without
it tens of times slower. Two students that measured for themselves could come to two answers, and a run to
other tables than the same run again: the first answer is kept in the run's folder.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import time
import uuid
from pathlib import Path
from typing import Literal

import torch

from cellsemi.rounds.store import files

Precision = Literal["float32", "bfloat16"]
Wanted = Literal["auto", "float32", "bfloat16"]

CLEARLY = 0.75  # bfloat16 is taken when it needs at most this share of float32's time
PASSES = 5


def choose_precision(wanted: Wanted, device: torch.device, memory: Path | None = None) -> Precision:
    """`auto` becomes bfloat16 only where it is clearly faster in a measurement.

    With a folder `memory` the first answer for this kind of hardware is written there, and every later fit takes it.
    """
    if wanted != "auto":
        return wanted
    if memory is None:
        return _measured(device.type)
    path = memory / f"{hardware(device)}.json"
    if not path.is_file():
        _write_first(path, _measured(device.type))
    found: Precision = files.read_json(path)["precision"]
    return found


def hardware(device: torch.device) -> str:
    """The kind of hardware, as a file name: "cuda-nvidia-h200", "cpu-intel-r-xeon-r-processor-avx512"."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{_processor()} {torch.backends.cpu.get_cpu_capability()}"
    return re.sub(r"[^a-z0-9]+", "-", f"{device.type} {name}".lower()).strip("-")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def _write_first(path: Path, precision: Precision) -> None:
    """Write the answer unless another process was faster; its answer stands then."""
    own = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    files.write_json(own, {"precision": precision})
    try:
        os.link(own, path)  # fails where the name is taken, at the same moment too
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        own.replace(path)
    finally:
        own.unlink(missing_ok=True)


@functools.cache
def _measured(device_type: str) -> Precision:
    """Time one convolution both ways, once per process: tens of milliseconds, without support about a second."""
    device = torch.device(device_type)
    layer = torch.nn.Conv2d(64, 64, 3, padding=1).to(device).to(memory_format=torch.channels_last)
    images = torch.ones(4, 64, 64, 64, device=device).to(memory_format=torch.channels_last)
    _time(layer, images, torch.float32)  # to warm up
    exact = min(_time(layer, images, torch.float32) for _ in range(PASSES))
    best = _time(layer, images, torch.bfloat16)
    if best > 2 * exact:
        return "float32"
    best = min(best, *(_time(layer, images, torch.bfloat16) for _ in range(PASSES)))
    return "bfloat16" if best < CLEARLY * exact else "float32"


def _time(layer: torch.nn.Module, images: torch.Tensor, dtype: torch.dtype) -> float:
    """Seconds of one pass forward and back."""
    started = time.perf_counter()
    with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
        loss = layer(images).float().sum()
    loss.backward()
    if images.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
