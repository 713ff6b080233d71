"""Writes a trained network as a BioImage.IO package: the TorchScript file, its description, and a test.

The description follows the model specification 0.5 (bioimage-io/spec-bioimage-io on GitHub). It is plain YAML; the
tests validate it with `bioimageio.spec`.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from skimage.color import label2rgb

from cellsemi.configs.training import InferenceConfig
from cellsemi.models.base import Image, Publication
from cellsemi.models.crops.normalise import normalise
from cellsemi.models.flow_unet.torchscript import packed, quiet
from cellsemi.models.model_files import read_model_file
from cellsemi.rounds.store import files
from cellsemi.rounds.store.image_codec import to_png

FORMAT_VERSION = "0.5.4"
DESCRIPTION, WEIGHTS, README, COVER = "rdf.yaml", "model.pt", "README.md", "cover.png"
TEST_INPUT, TEST_OUTPUT = "test-input.npy", "test-output.npy"
TAGS = ("instance-segmentation", "2d", "cells", "unet", "pytorch", "torchscript", "semi-supervised", "cellsemi")
CHANNELS = {1: ["intensity"], 3: ["red", "green", "blue"]}
MIN_PX = 16  # side of the smallest image that the description allows; the file fills any up to what it needs
COVER_PX = 256  # side of each of its two halves
DATE = (1980, 1, 1, 0, 0, 0)  # of the files in the archive, which needs one: when they were written says nothing


def to_bioimageio(folder: Path, inference: InferenceConfig, publication: Publication, out: Path) -> list[str]:
    """Write the model of a trained folder as a BioImage.IO package (.zip).

    Returns what a person must know, a sentence each, first what opens the file. ModelError when the folder holds no
    model, or one of another family.
    """
    weights, notes = packed(folder, inference)
    with quiet():
        module = torch.jit.load(io.BytesIO(weights))  # type: ignore[no-untyped-call]
    pixels = as_tensor(publication.sample)
    labels = module(torch.from_numpy(pixels)).numpy()
    content = {
        WEIGHTS: weights,
        TEST_INPUT: _npy(pixels),
        TEST_OUTPUT: _npy(labels),
        COVER: to_png(cover(publication.sample, labels[0, 0].astype(np.int64))),
        README: documentation(publication, notes).encode(),
    }
    parameters = read_model_file(folder).training.parameters
    described = description(publication, pixels.shape[1], parameters, content)
    content[DESCRIPTION] = yaml.safe_dump(described, sort_keys=False, allow_unicode=True, width=120).encode()
    with files.atomic_file(out) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(content):
            archive.writestr(zipfile.ZipInfo(name, DATE), content[name], zipfile.ZIP_DEFLATED)
    asked = {"author": publication.authors, "licence": publication.licence}
    missing = [f"No {what} is stated: bioimage.io asks for one." for what, stated in asked.items() if not stated]
    opens = f"bioimageio.core opens {out}, as do programs that read BioImage.IO 0.5 with TorchScript weights."
    return [opens, *missing, *notes]


def description(publication: Publication, channels: int, parameters: int, content: dict[str, bytes]) -> dict[str, Any]:
    """The content of DESCRIPTION for files of these bytes."""

    def source(name: str) -> dict[str, str]:
        return {"source": name, "sha256": files.sha256_bytes(content[name])}

    inputs = {
        "id": "image",
        "description": "The image as it is stored; it is normalised inside the network's graph.",
        "axes": [
            {"type": "batch"},
            {"type": "channel", "channel_names": CHANNELS[channels]},
            *({"type": "space", "id": side, "size": {"min": MIN_PX, "step": 1}} for side in "yx"),
        ],
        "data": {"type": "float32"},
        "test_tensor": source(TEST_INPUT),
    }
    outputs = {
        "id": "labels",
        "description": "Label map: 0 is background, each cell has a number of its own.",
        "axes": [
            {"type": "batch"},
            {"type": "channel", "channel_names": ["label"]},
            *({"type": "space", "id": side, "size": {"tensor_id": "image", "axis_id": side}} for side in "yx"),
        ],
        "data": {"type": "float32"},
        "test_tensor": source(TEST_OUTPUT),
    }
    weights = source(WEIGHTS) | {"pytorch_version": torch.__version__.partition("+")[0]}
    described: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "type": "model",
        "name": publication.name,
        "description": publication.description,
        "authors": [{"name": name} for name in publication.authors],
        "cite": [{"text": each.text, "doi": each.doi} for each in publication.cite],
        "license": publication.licence,
        "documentation": source(README),
        "covers": [source(COVER)],
        "tags": [*TAGS, *(tag for tag in publication.tags if tag not in TAGS)],
        "inputs": [inputs],
        "outputs": [outputs],
        "weights": {"torchscript": weights},
        "config": {"bioimageio": {"model_parameter_count": parameters, "task": "instance segmentation"}},
    }
    return {key: value for key, value in described.items() if value not in (None, [])}


def documentation(publication: Publication, notes: list[str]) -> str:
    """README of the package: what its author wrote, then what the file does and does not do."""
    lines = [publication.documentation.rstrip(), "", "## This file", ""]
    lines += [
        "The TorchScript file holds the normalisation, the network and the recovery of masks. It takes an image as it "
        "is stored, of any size, and returns a label map. Give it whole images: it cuts them into windows itself, and "
        "cells in two tiles would have two numbers.",
        "",
        *(f"- {note}" for note in notes),
        "",
    ]
    return "\n".join(lines)


def as_tensor(image: Image) -> NDArray[np.float32]:
    """float32 (1, C, H, W) of a (H, W) or (H, W, 3) image, its values as they are."""
    channels = image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0)
    return np.ascontiguousarray(channels[None], dtype=np.float32)


def cover(image: Image, labels: NDArray[np.int64]) -> NDArray[np.uint8]:
    """uint8 (COVER_PX, 2 COVER_PX, 3): the middle of the image, and the same with its cells coloured."""
    side = min(labels.shape)
    top, left = (labels.shape[0] - side) // 2, (labels.shape[1] - side) // 2
    square = np.s_[top : top + side, left : left + side]
    every = np.arange(COVER_PX) * side // COVER_PX  # nearest: labels cannot be averaged
    grey = normalise(image)[square][every][:, every]
    coloured = label2rgb(labels[square][every][:, every], grey, bg_label=0, alpha=0.4)
    halves = np.concatenate([np.repeat(grey[..., None], 3, axis=2), coloured], axis=1)
    return (halves.clip(0, 1) * 255).round().astype(np.uint8)


def _npy(array: NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
