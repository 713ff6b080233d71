"""The attention that is shown is that of the network: against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything.modeling.image_encoder import Attention

from cellsemi.models.cellpose_sam.attention import received
from cellsemi.models.inference.activations import Watched, recorded

HEIGHT, WIDTH, HEADS, DIM = 3, 4, 2, 8


@pytest.mark.parametrize("rel_pos", [False, True])
def test_the_attention_that_each_patch_receives(rel_pos: bool) -> None:
    torch.manual_seed(0)
    attention = Attention(DIM, HEADS, use_rel_pos=rel_pos, input_size=(HEIGHT, WIDTH))
    if rel_pos:
        torch.nn.init.normal_(attention.rel_pos_h)
        torch.nn.init.normal_(attention.rel_pos_w)
    features = torch.randn(1, HEIGHT, WIDTH, DIM)
    found = []
    with torch.no_grad(), recorded([Watched("a", attention, "attention", read=received)]) as recorder:
        attention(features)
    ((_, _, found),) = recorder.maps
    assert found.shape == (HEIGHT, WIDTH) and found.mean() == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(found, by_hand(attention, features, rel_pos), rtol=1e-4)
    assert recorder.activations() == {}  # it is no component


def by_hand(attention: Attention, features: torch.Tensor, rel_pos: bool) -> np.ndarray:
    weight, bias = (value.detach().double().numpy() for value in (attention.qkv.weight, attention.qkv.bias))
    x = features.double().numpy().reshape(-1, DIM)
    count, size = len(x), DIM // HEADS
    q, k, _ = (x @ weight.T + bias).reshape(count, 3, HEADS, size).transpose(1, 2, 0, 3)
    total = np.zeros(count)
    for head in range(HEADS):
        scores = q[head] @ k[head].T / np.sqrt(size)
        for i in range(count if rel_pos else 0):
            for j in range(count):
                (yi, xi), (yj, xj) = divmod(i, WIDTH), divmod(j, WIDTH)
                down = attention.rel_pos_h[yi - yj + HEIGHT - 1].detach().double().numpy()
                right = attention.rel_pos_w[xi - xj + WIDTH - 1].detach().double().numpy()
                scores[i, j] += q[head][i] @ down + q[head][i] @ right
        weights = np.exp(scores - scores.max(1, keepdims=True))
        total += (weights / weights.sum(1, keepdims=True)).sum(0)
    return (total / HEADS).reshape(HEIGHT, WIDTH)
