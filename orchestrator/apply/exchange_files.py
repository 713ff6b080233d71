"""Writes the members of a model as other programs open them, where their families can: TorchScript, BioImage.IO."""

from __future__ import annotations

from pathlib import Path

from cellsemi.configs.schema import OF_A_FOLD
from cellsemi.models.model_files import read_model_file
from cellsemi.models.registry import family
from cellsemi.orchestrator.apply.recipe import TrainedModel
from cellsemi.orchestrator.runs.export_model import export_model

FOLDER = "other_programs"


def write_exchange_files(model: TrainedModel, out: Path, authors: tuple[str, ...], licence: str | None) -> list[str]:
    """Write `out`/other_programs/MEMBER.SUFFIX for each member and each format of its family.

    The model of one fold has no figures of its own, so that it is not written in formats that state them. Returns what
    a person must know about these files, each sentence once. The members are those of a run.
    """
    notes: dict[str, None] = {}
    for member in model.recipe.members:
        folder = model.folder(member.name)
        for name, export in family(read_model_file(folder).kind).exports.items():
            if export.publishes and OF_A_FOLD.search(member.name):
                notes[f"No {name}: it states figures, and the model of one fold has none of its own."] = None
                continue
            place = out / FOLDER / f"{member.name}{export.suffix}"
            place.parent.mkdir(parents=True, exist_ok=True)
            stated = {"authors": authors, "licence": licence} if export.publishes else {}
            _, *stated_limits = export_model(folder, place, name, **stated)  # type: ignore[arg-type]
            notes |= dict.fromkeys(stated_limits)
    return list(notes)
