"""Names the parts of Cellpose-SAM's network that an explanation shows, and reads where its transformer attends to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cellsemi.models.inference.activations import Watched

NOTE = (
    "the attention that a patch of the image receives, mean over all heads and over all patches that look; 1 is the "
    "attention of every patch if all were attended to alike"
)


def watched_parts(net: nn.Module) -> list[Watched]:
    """Four blocks of the transformer and their attention, the neck, and the convolution that reads the features."""
    assert isinstance(net.out, nn.Module)
    found: list[Watched] = []
    encoder: Any = getattr(net, "encoder", None)
    if encoder is not None:
        for i in shown_blocks(len(encoder.blocks)):
            block = encoder.blocks[i]
            found.append(Watched(f"block {i + 1}", block, "transformer", channels_last=True))
            found.append(Watched(f"attention of block {i + 1}", block.attn, "attention", read=received, note=NOTE))
        found.append(Watched("neck", encoder.neck, "transformer"))
    return [*found, Watched("readout", net.out, None)]


def shown_blocks(count: int) -> list[int]:
    """Four of so many blocks, evenly apart, the last among them.

    >>> shown_blocks(24), shown_blocks(2)
    ([5, 11, 17, 23], [0, 1])
    """
    return sorted({max(0, -(-count * k // 4) - 1) for k in range(1, 5)})


def received(attention: Any, inputs: Any) -> Tensor:
    """(h, w): the attention that each patch receives from all, times the number of patches; see NOTE.

    `attention` is that of Segment Anything (Kirillov et al. 2023; segment_anything.modeling.image_encoder.Attention),
    `inputs` its arguments: features (1, h, w, C). One head at a time: (h w) x (h w) numbers are in memory.
    """
    from segment_anything.modeling.image_encoder import add_decomposed_rel_pos

    (features,) = inputs
    _, height, width, _ = features.shape
    count = height * width
    queries, keys, _ = attention.qkv(features).reshape(count, 3, attention.num_heads, -1).permute(1, 2, 0, 3)
    total = torch.zeros(count, device=features.device)
    for query, key in zip(queries, keys, strict=True):
        scores = (query * attention.scale) @ key.T
        if attention.use_rel_pos:
            places = (height, width)
            scores = add_decomposed_rel_pos(
                scores[None], query[None], attention.rel_pos_h, attention.rel_pos_w, places, places
            )[0]
        total += scores.float().softmax(-1).mean(0)
    mean: Tensor = total / attention.num_heads * count
    return mean.view(height, width)
