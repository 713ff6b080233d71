"""Writes a trained network, normalisation and mask recovery included, as one TorchScript file."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load as load_tensors

from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import FlowUnetConfig
from cellsemi.configs.training import AUTO_PROBABILITY, InferenceConfig
from cellsemi.models.flow_unet.graph import CellGraph
from cellsemi.models.flow_unet.net import build
from cellsemi.models.inference.windows import window_step
from cellsemi.models.model_files import ModelFile, read_model_file, read_weights
from cellsemi.rounds.store import files
from cellsemi.rounds.store.image_codec import HIGH, LOW, LUMINANCE, SAMPLE

ABOUT = "cellsemi.json"  # the file inside the archive that says what it holds


def to_torchscript(folder: Path, inference: InferenceConfig, out: Path) -> list[str]:
    """Write the model of a trained folder for `torch.jit.load(out)`: image in, label map out (graph.CellGraph).

    Returns what a person must know, a sentence each, first what opens the file. ModelError when the folder holds no
    model, or one of another family.
    """
    content, notes = packed(folder, inference)
    files.write_bytes(out, content)
    return [
        f"torch.jit.load({str(out)!r}) opens it: float32 (B, 1 or 3, H, W) images as they are stored go in, "
        "float32 (B, 1, H, W) label maps come out.",
        *notes,
    ]


def packed(folder: Path, inference: InferenceConfig) -> tuple[bytes, list[str]]:
    """The bytes of the TorchScript file of a trained folder, and how its predictions differ from our own."""
    about = read_model_file(folder)
    notes = differences(about, inference)
    stated = {
        "classes": about.classes,
        "cell_size": about.cell_size.model_dump(),
        "inference": inference.model_dump(mode="json"),
        "differs": notes,
    }
    buffer = io.BytesIO()
    with quiet():
        # With ABOUT inside, the file alone says what it is.
        torch.jit.save(compiled(folder, inference), buffer, _extra_files={ABOUT: json.dumps(stated, indent=1)})
    return buffer.getvalue(), notes


def compiled(folder: Path, inference: InferenceConfig) -> torch.jit.ScriptModule:
    """The TorchScript module of a trained folder, on the CPU."""
    about = read_model_file(folder)
    if not isinstance(about.model, FlowUnetConfig):
        raise ModelError(f"{folder}: a model of the kind {about.kind}, not flow-unet")
    if about.cell_size.seen(inference).resize_px is not None:
        raise ModelError(f"{folder}: it resizes each image (training.resize_px), which a TorchScript file cannot")
    net = build(about.model, about.classes, seed=0)
    net.load_state_dict(load_tensors(read_weights(folder)))
    net.eval()
    side = about.model.stride_px
    ramp = torch.linspace(0, 1, 10 * side * side)
    small, wide = ramp[: 2 * side * side].view(1, 1, 2 * side, side), ramp.view(1, 1, 2 * side, 5 * side)
    with quiet(), torch.no_grad():
        # `check_inputs`: the trace must give the network's own outputs at another size too.
        traced = torch.jit.trace(net, small, check_inputs=[(wide,)])  # type: ignore[no-untyped-call]
        tile, step = windows_of(inference)
        red, green, blue = LUMINANCE.tolist()
        graph = CellGraph(
            traced,
            stride=side,
            tile=tile,
            step=step,
            views=list(inference.tta),
            scales=list(inference.scaled(about.cell_size.scale).scales),
            threshold=inference.pixel_probability,
            steps=inference.flow_steps,
            min_area_px=inference.min_area_px,
            percentiles=(LOW, HIGH),
            sample_px=SAMPLE,
            luminance=(red, green, blue),
        )
        module: torch.jit.ScriptModule = torch.jit.script(graph.eval())
    return module


def windows_of(inference: InferenceConfig) -> tuple[tuple[int, int], tuple[int, int]]:
    """Size and distance (y, x) of the windows; those of the default settings instead of a grid."""
    if inference.grid is not None:
        inference = InferenceConfig()
    return inference.tile_size, (window_step(inference, 0), window_step(inference, 1))


def differences(about: ModelFile, inference: InferenceConfig) -> list[str]:
    """How the predictions of the file differ from our own, a sentence each."""
    notes = [
        "Cells of every score are in the label map: the score needs the flow of each mask, which the file does not "
        "compute. Figures that a run states are those of cells from its score threshold on."
    ]
    if inference.grid is not None:
        notes.append(
            f"Windows are {windows_of(inference)[0][0]} pixels a side, not those of the grid (inference.grid)."
        )
    if len(about.classes) > 1:
        notes.append(f"The label map states no classes; the model knows {', '.join(about.classes)}.")
    if inference.searches:
        notes.append("Each image is predicted once: inference.scale_search and polarity_search are left out.")
    if inference.fill_holes:
        notes.append("Holes of masks are not filled (inference.fill_holes).")
    if inference.precision != "float32":
        notes.append(f"The arithmetic is float32, not {inference.precision}.")
    if inference.cell_probability == AUTO_PROBABILITY:
        notes.append(f"No cell probability was chosen for this model: {inference.pixel_probability} is in the file.")
    return notes


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warning that torch.jit is deprecated: it is what Fiji and QuPath load."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit\..* is deprecated")
        yield
