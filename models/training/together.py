"""Lets the processes that train one network together share their sums: gradients, means, batch statistics.

Rank r of G takes the crops r, r + G, .. of each batch. With these sums the ranks compute what one process would compute
on the whole batch, up to the order in which numbers are added. A process that trains alone shares nothing.

The gradients are added in one piece after the backward pass. torch's DistributedDataParallel would begin earlier, but
wraps the network's forward pass, and the losses of detectors are methods of the network.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

PATIENCE = timedelta(minutes=10)  # for ranks that are still reading images; a rank that ended is noticed at once


def rank() -> int:
    """Which of the processes this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def ranks() -> int:
    """How many processes train the network."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextlib.contextmanager
def joined(place: Path, own_rank: int, of: int, cuda: bool) -> Iterator[None]:
    """Be one of `of` ranks inside; all of them know the file `place`, and nothing listens beyond this machine."""
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(name, "lo")
    if cuda:
        torch.cuda.set_device(own_rank)
    dist.init_process_group(
        "nccl" if cuda else "gloo", init_method=f"file://{place}", rank=own_rank, world_size=of, timeout=PATIENCE
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of a tensor over the ranks, without a gradient; the tensor itself where there is one rank."""
    if ranks() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / ranks()


class _Sum(torch.autograd.Function):
    """The sum over the ranks: what a rank's value adds to the losses of all of them comes back to it."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (own,) = gradients
        total = own.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of a tensor over the ranks, with its gradient."""
    total: Tensor = _Sum.apply(value)
    return total


def share_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the ranks; a rank that has none counts as zero."""
    if ranks() == 1:
        return
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([parameter.grad.reshape(-1) for parameter in trained if parameter.grad is not None])
    flat = mean_over_ranks(flat)
    parts = torch.split(flat, [parameter.numel() for parameter in trained])
    for parameter, part in zip(trained, parts, strict=True):
        assert parameter.grad is not None
        parameter.grad.copy_(part.view_as(parameter))


def share_batch_norm(net: nn.Module) -> None:
    """Let the batch norms of a network normalise by the whole batch, in place; names of tensors stay as they are."""
    if ranks() == 1:
        return
    for parent in net.modules():
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(parent, name, _shared(child))


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the crops of all ranks.

    torch's SyncBatchNorm does the same on GPUs alone, where it is used; this one is for the CPU.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same, float32 where it trains."""
        if not self.training:
            return super().forward(x)
        values = x.float()
        count = torch.full((1,), values.numel() / values.shape[1])
        sums = torch.cat([values.sum((0, 2, 3)), values.square().sum((0, 2, 3)), count])
        sums = sum_over_ranks(sums)
        total = sums[-1]
        mean, square = (part / total for part in sums[:-1].chunk(2))
        variance = square - mean.square()
        self._keep(mean.detach(), (variance * total / (total - 1)).detach())
        scale = self.weight * (variance + self.eps).rsqrt()
        shift: Tensor = self.bias - mean * scale
        done: Tensor = values * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)
        return done

    @torch.no_grad()
    def _keep(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


def _shared(child: nn.BatchNorm2d) -> nn.Module:
    if child.weight.is_cuda:
        made: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(child)  # type: ignore[no-untyped-call]
        return made
    child.__class__ = SharedBatchNorm
    return child
