"""Recovers a label map from cell probability and flow.

The pixels move along the flow (`integrate_flow`, Euler steps of one pixel) and those that end at the same point are
one cell (`cellpose.dynamics`). Two limits of Cellpose do not apply: it removes masks larger than 40 % of the image
(switched off here) and needs more than ten pixels at a point (`_with_small_components`). Its slow
check of the flow is replaced by `flow_errors`, with the target the network was trained on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellsemi.models.flow.integrate import integrate_flow
from cellsemi.models.flow.targets import FlowTarget, flow_targets

ITERATIONS = 200  # Euler steps of at most one pixel: the longest way from the tip of a cell to its centre
EIGHT = np.ones((3, 3), bool)


def recover_labels(
    probability: NDArray[np.float32],
    flow: NDArray[np.float32],
    *,
    threshold: float = 0.5,
    iterations: int = ITERATIONS,
    min_area_px: int = 1,
) -> NDArray[np.int32]:
    """An int32 (H, W) label map, 1..N without gaps, from probability (H, W) and unit flow (2, H, W).

    Pixels with probability > `threshold` are cells. Cells of fewer than `min_area_px` pixels are left out;
    nothing else is, and there is no limit on how many or how large they are.
    """
    foreground = probability > threshold
    if not foreground.any():
        return np.zeros(foreground.shape, np.int32)
    labels = _converged(foreground, flow, iterations)
    labels = _with_small_components(labels, foreground)
    return keep_large(labels, min_area_px)


def keep_large(labels: NDArray[np.int32], min_area_px: int) -> NDArray[np.int32]:
    """The label map without the labels of fewer than `min_area_px` pixels, renumbered 1..N in order."""
    inside = labels > 0
    counts = np.bincount(labels[inside], minlength=1)
    kept = counts >= max(min_area_px, 1)
    if kept[1:].all():
        return labels
    new = np.zeros(len(counts), np.int32)
    new[kept] = np.arange(1, kept.sum() + 1)
    renumbered: NDArray[np.int32] = new[labels]
    return renumbered


def flow_errors(
    labels: NDArray[np.int32], flow: NDArray[np.float32], target: FlowTarget, device: Any = "cpu"
) -> NDArray[np.float64]:
    """float64 (N,): the mean squared distance of the predicted flow to the target made anew from each mask 1..N.

    A mask that is not a cell of its own does not produce the flow that led to it. With `diffusion` this is Cellpose's
    flow error (dynamics.flow_error), the measure of its `flow_threshold`; `device` as in flow_targets.
    """
    n = int(labels.max(initial=0))
    if not n:
        return np.zeros(0, np.float64)
    return mean_inside(((flow - flow_targets(labels, target, device)) ** 2).sum(0), labels, n)


def flow_agreement(errors: NDArray[np.float64]) -> NDArray[np.float32]:
    """float32 (N,) in [0, 1]: how well the flow fits masks of these `flow_errors`.

    1 for equal vectors, 0 for vectors at a right angle or worse: half the squared length is the scale.
    """
    return np.clip(1.0 - errors / 2.0, 0.0, 1.0).astype(np.float32)


def mean_inside(values: NDArray[Any], labels: NDArray[np.int32], n: int) -> NDArray[np.float64]:
    """float64 (n,): mean of `values` over the pixels of each label 1..n (each has at least one)."""
    inside = labels > 0
    flat = labels[inside]
    total = np.bincount(flat, values[inside].astype(np.float64), minlength=n + 1)[1:]
    return total / np.maximum(np.bincount(flat, minlength=n + 1)[1:], 1)


def _converged(foreground: NDArray[np.bool_], flow: NDArray[np.float32], iterations: int) -> NDArray[np.int32]:
    """Label map of the points where the pixels of the foreground end."""
    import torch
    from cellpose import dynamics

    # One pixel of margin: Cellpose divides by (side - 1), and images of one pixel a side exist.
    inside = np.pad(foreground, 1)
    field = np.pad(flow * foreground, ((0, 0), (1, 1), (1, 1)))
    where = np.nonzero(inside)
    ends = torch.from_numpy(integrate_flow(field, where, iterations)).int()
    if not _has_peak(ends, inside.shape):
        return np.zeros(foreground.shape, np.int32)
    # Stated explicitly, or torch warns that sparse tensors are not checked (Cellpose builds one).
    with torch.no_grad(), torch.sparse.check_sparse_tensor_invariants(False):  # type: ignore[no-untyped-call]
        found = dynamics.get_masks_torch(ends, where, inside.shape, max_size_fraction=1.0)
    labels: NDArray[np.int32] = found[1:-1, 1:-1].astype(np.int32)
    return labels


def _has_peak(ends: Any, shape: tuple[int, ...]) -> bool:
    """Whether Cellpose will find a point with more than ten pixels; without one it only logs a warning."""
    flat = (ends[0].clamp(0, shape[0] - 1) * shape[1] + ends[1].clamp(0, shape[1] - 1)).numpy()
    return bool(np.bincount(flat).max() > 10)


def _with_small_components(labels: NDArray[np.int32], foreground: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Components of the foreground that hold no mask at all become one cell each.

    Cellpose starts a mask only where more than ten pixels meet; a cell of ten pixels would be dropped.
    """
    components, n = ndimage.label(foreground, EIGHT)
    touched = np.zeros(n + 1, bool)
    touched[components[labels > 0]] = True
    touched[0] = True
    missed = ~touched[components]
    if not missed.any():
        return labels
    return np.where(missed, components + labels.max(), labels).astype(np.int32)
