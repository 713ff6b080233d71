"""Moves a batch between processes and to a device: all its tensors as one block of memory.

A batch is a tensor, or a dataclass, list, tuple or mapping that holds batches; anything else in it stays as it is. One
block needs one file handle, one pinned buffer and one copy, however many tensors the batch has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

ALIGNED = 64  # bytes: each tensor begins at a multiple of it

B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor lies in the block."""

    start: int
    size: int  # in bytes
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Packed:
    """A batch as one block of bytes; `form` is the batch with a place in the block for each tensor."""

    block: Tensor  # (bytes,) uint8
    form: Any

    @classmethod
    def of(cls, batch: Any) -> Self:
        """Copy the tensors of a batch, which lie on the CPU, into a block."""
        tensors: list[Tensor] = []
        places: list[_Place] = []

        def place(tensor: Tensor) -> _Place:
            start = places[-1].start + places[-1].size if places else 0
            size = tensor.numel() * tensor.element_size()
            found = _Place(-(-start // ALIGNED) * ALIGNED, size, tensor.dtype, tuple(tensor.shape))
            tensors.append(tensor.contiguous())
            places.append(found)
            return found

        form = each(batch, Tensor, place)
        block = torch.empty(places[-1].start + places[-1].size if places else 0, dtype=torch.uint8)
        for at, tensor in zip(places, tensors, strict=True):
            block[at.start : at.start + at.size].copy_(tensor.reshape(-1).view(torch.uint8))
        return cls(block, form)

    def pin_memory(self) -> Packed:
        """The same in memory from which a GPU copies while both go on; torch's DataLoader calls this."""
        return Packed(self.block.pin_memory(), self.form)

    def batch(self, device: torch.device) -> Any:
        """The batch on a device; its tensors are views of one block there."""
        block = self.block.to(device, non_blocking=True)

        def tensor(at: _Place) -> Tensor:
            return block[at.start : at.start + at.size].view(at.dtype).view(at.shape)

        return each(self.form, _Place, tensor)


def on_device(batch: B, device: torch.device) -> B:
    """A batch with its tensors on a device."""
    moved: B = each(batch, Tensor, lambda tensor: tensor.to(device))
    return moved


def each(node: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """A batch in which every `kind` is changed."""
    if isinstance(node, kind):
        return change(node)
    if isinstance(node, list | tuple):
        return type(node)([each(child, kind, change) for child in node])
    if isinstance(node, Mapping):
        return {name: each(child, kind, change) for name, child in node.items()}
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        fields = {field.name: each(getattr(node, field.name), kind, change) for field in dataclasses.fields(node)}
        return type(node)(**fields)
    return node
