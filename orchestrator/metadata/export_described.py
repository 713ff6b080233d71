"""Exports cells of a run into a folder with croissant.json and ro-crate-metadata.json."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cellsemi.configs.errors import UsageError
from cellsemi.configs.formats import entry_of
from cellsemi.orchestrator.metadata.lineage import classes_by_name, lineage_of, run_fact
from cellsemi.orchestrator.runs.export import ExportChoice
from cellsemi.rounds.datasets.export import UNSEEN, export_folder
from cellsemi.rounds.formats.base import Exported
from cellsemi.rounds.inspect.data_version import data_version
from cellsemi.rounds.report import croissant, ro_crate
from cellsemi.rounds.report.dataset_facts import Counted, DataFile, DatasetFacts, Lineage, RunFact, Stated, describe
from cellsemi.rounds.store import files
from cellsemi.rounds.store.run import read_config


def export_described(choice: ExportChoice, kind: str, out: Path, stated: Stated) -> Exported:
    """Write the cells in the format `kind` into the new folder `out`, with both files of metadata.

    The same run and the same statements give the same bytes: no time of the export is written. UsageError, naming the
    options, when something is missing that the standards require; then nothing is written.
    """
    origin = choice.origin
    if origin is None:
        raise UsageError("--metadata needs a run: image shards do not say how their labels were made")
    stated = complete(stated, read_config(origin.paths).data.licence)
    lineage, run, counted = lineage_of(origin, choice.cells), run_fact(origin), Counted()

    def write_metadata(folder: Path, done: Exported) -> None:
        shown = _Shown(kind, choice.source.classes, counted, done, tuple(_listed(folder)))
        _write(folder, _facts(stated, lineage, run, shown))
        done.files += [croissant.FILE, ro_crate.FILE]

    return export_folder(choice.source, choice.cells, kind, out, counted.watch, write_metadata)


def complete(stated: Stated, licence: str | None) -> Stated:
    """What a person said, with the licence of the run where none was named; UsageError when something is missing."""
    whole = replace(stated, licence=stated.licence or licence)
    missing = {
        "--licence": None if whole.licence else "the licence of the images and labels (or data.licence of the run)",
        "--creator": None if whole.creators else "who made the data set",
        "--url": None if whole.url else "the address where it will be found, such as a DOI that the archive reserves",
    }
    lacking = [f"  {option}: {what}" for option, what in missing.items() if what]
    if lacking:
        raise UsageError("Croissant and RO-Crate require what this run does not know:\n" + "\n".join(lacking))
    if whole.url and not whole.url.startswith(("https://", "http://")):
        raise UsageError(f"--url {whole.url}: expected an address that begins with https://")
    if whole.version and not re.fullmatch(r"\d+(\.\d+){2}", whole.version):
        raise UsageError(f"--dataset-version {whole.version}: expected MAJOR.MINOR.PATCH, such as 1.0.0 (semver.org)")
    return whole


@dataclass(frozen=True, slots=True)
class _Shown:
    """What was written: the format, the classes, the cells, and the files."""

    kind: str
    classes: tuple[str, ...]
    counted: Counted
    done: Exported
    files: tuple[DataFile, ...]


def _facts(stated: Stated, lineage: Lineage, run: RunFact, shown: _Shown) -> DatasetFacts:
    counted, done = shown.counted, shown.done
    states = counted.written(done)
    words = ", ".join(f"{count} {state}" for state, count in states.items()) or "none"
    assert stated.licence and stated.url, "checked before the export"
    return DatasetFacts(
        name=f"{run.data} - {lineage.subject}",
        description=stated.description or describe(lineage.subject, run.data, run.name, words, shown.kind),
        licence=stated.licence,
        creators=stated.creators,
        url=stated.url,
        published=stated.published or run.created[:10],
        version=stated.version,
        format=shown.kind,
        layout=f"{shown.kind} ({entry_of(shown.kind).layout})",
        classes=shown.classes,
        images=done.images,
        without_cells=counted.without_cells,
        unseen=done.losses[UNSEEN],
        cells=done.cells,
        cells_by_state=states,
        cells_by_class=classes_by_name(counted.classes, shown.classes),
        sizes=tuple(sorted(counted.sizes)),
        losses=dict(done.losses),
        lineage=lineage,
        run=run,
        files=shown.files,
    )


def _listed(folder: Path) -> Iterator[DataFile]:
    """Every file of a folder, in the order of the paths."""
    for path, sha256 in sorted(data_version(folder).hashes.items()):
        yield DataFile(path, sha256, (folder / path).stat().st_size)


def _write(folder: Path, facts: DatasetFacts) -> None:
    files.write_json(folder / croissant.FILE, croissant.to_croissant(facts))
    content = (folder / croissant.FILE).read_bytes()
    listed = DataFile(croissant.FILE, files.sha256_bytes(content), len(content))
    files.write_json(folder / ro_crate.FILE, ro_crate.to_ro_crate(facts, listed))
