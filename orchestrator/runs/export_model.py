"""Writes a trained model as other programs open it, with the settings and the facts of its run."""

from __future__ import annotations

import re
from pathlib import Path

from cellsemi.configs.errors import UsageError
from cellsemi.configs.schema import OF_A_FOLD
from cellsemi.configs.training import InferenceConfig
from cellsemi.models.base import Citation, ExportTask, Publication
from cellsemi.models.model_files import read_model_file
from cellsemi.models.registry import family
from cellsemi.models.validation.choose_probabilities import resolved
from cellsemi.orchestrator.runs.model_card import collect
from cellsemi.rounds.evaluation.ensemble import Ensemble, read_ensemble
from cellsemi.rounds.report.model_card import body
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.image_codec import decode_image
from cellsemi.rounds.store.manifest import read_fit
from cellsemi.rounds.store.run import RunPaths, read_config
from cellsemi.rounds.store.unaltered import MANIFEST

FLOWS = Citation(
    "Stringer, Wang, Michaelos, Pachitariu: Cellpose: a generalist algorithm for cellular segmentation. Nature Methods "
    "18, 100-106 (2021)",
    "10.1038/s41592-020-01018-x",
)


def export_model(
    folder: Path, out: Path, format: str | None = None, *, authors: tuple[str, ...] = (), licence: str | None = None
) -> list[str]:
    """Write the model of a trained folder as a file of others; returns what a person must know, first what opens it.

    `format` is one of its family's; None: the only one. UsageError, naming those that there are, for any other, and
    for a format that states the facts of a run when the folder lies in none. `authors` and `licence` are what such a
    format states (publication_of); UsageError when the format states none.
    """
    kind = read_model_file(folder).kind
    exports = family(kind).exports
    names = ", ".join(exports)
    if not exports:
        raise UsageError(f"{folder}: a {kind}; its model.safetensors opens with safetensors.torch.load_file as it is")
    if format is None and len(exports) > 1:
        raise UsageError(f"{folder}: a {kind}, which is written in several formats; --format names one of: {names}")
    format = format or next(iter(exports))
    if format not in exports:
        raise UsageError(f"{folder}: a {kind}; there is no format {format!r} of it, there are: {names}")
    paths = run_of(folder)
    publication = None
    if exports[format].publishes:
        if paths is None:
            raise UsageError(f"{folder}: not in a run's folder, whose data and figures {format} states; name RUN/MODEL")
        publication = publication_of(paths, model_of(paths, folder), authors, licence)
    elif authors or licence:
        raise UsageError(f"{format} states neither authors nor a licence: leave out --author and --licence")
    return exports[format].write(ExportTask(folder, out, inference_of(folder, paths), publication))


def run_of(folder: Path) -> RunPaths | None:
    """The run that a trained folder lies in, or None."""
    parents = folder.resolve().parents
    paths = RunPaths(parents[2]) if len(parents) > 2 else None
    return paths if paths is not None and paths.config.is_file() else None


def model_of(paths: RunPaths, folder: Path) -> Ensemble:
    """The model of a trained folder of a run, alone; RunError when its round is not finished, UsageError for a fold."""
    folder = folder.resolve()
    if OF_A_FOLD.search(folder.name):
        raise UsageError(f"{folder}: the model of one fold, which has no figures of its own to publish")
    return read_ensemble(paths, _round_of(folder), folder.name)


def _round_of(folder: Path) -> int:
    """The round of a trained folder of a run."""
    return int(folder.resolve().parents[1].name.removeprefix("round-"))


def inference_of(folder: Path, paths: RunPaths | None) -> InferenceConfig:
    """The settings with which the model of a folder predicts: those of its run, and what was chosen for it."""
    inference = InferenceConfig()
    if paths is not None:
        config = read_config(paths)
        inference = config.inference_of(config.model_called(read_model_file(folder).model.name, _round_of(folder)))
    return resolved(read_fit(folder), inference) if (folder / MANIFEST).is_file() else inference


def publication_of(
    paths: RunPaths, model: Ensemble, authors: tuple[str, ...] = (), licence: str | None = None
) -> Publication:
    """What a published file states of a model of a run. Its sample is the first test image.

    `licence` is that of the images and labels, an SPDX identifier; None: `data.licence` of the run.
    """
    config = read_config(paths)
    name = re.sub(r"[^A-Za-z0-9_+\- ()]", "-", f"cellsemi {paths.name} {model.name}")
    record = next(iter(shards.read_folder(paths.split("test"))))
    assert record.image is not None, "the run keeps its images"
    return Publication(
        name=name,
        description=f"Finds {', '.join(model.classes)} in microscope images: a label map with a number for each cell.",
        authors=authors,
        licence=licence or config.data.licence,
        documentation=body(collect(paths, model, name, licence), {}),
        sample=decode_image(record.image, record.image_id, config.data.max_pixels),
        cite=(FLOWS,),
    )
