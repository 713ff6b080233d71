"""Imports a data set as image shards: reads it once, checks it, and writes the input of any number of runs.

OUT/{labelled,unlabelled,val,test}/part-00000.parquet ..   the images, as rounds/ingest writes them
OUT/quarantine.parquet                                      what could not be used, and why
OUT/import.json                                             written last: an import without it is not finished
"""

from __future__ import annotations

from pathlib import Path

from cellsemi.configs.errors import DataError, UsageError
from cellsemi.configs.loading import config_hash
from cellsemi.configs.schema import Config
from cellsemi.rounds.datasets.ingest import ingest
from cellsemi.rounds.datasets.ingest_report import IngestReport, OnImage
from cellsemi.rounds.formats.shards import IMPORT_FILE, ImportRecord
from cellsemi.rounds.store import files
from cellsemi.rounds.store.manifest import COMMITS
from cellsemi.rounds.store.run import QUARANTINE_FILE, SPLITS, versions
from cellsemi.rounds.store.schemas import SCHEMA_VERSION


def import_data(config: Config, out: Path, on_image: OnImage, force: bool = False) -> IngestReport:
    """Import the data set of a config into `out`; the same data and settings give the same shards.

    A folder of an import that was cut short is started anew. UsageError when `out` holds anything else, or a
    finished import and not `force`; DataError as `ingest` raises it, or when no image can be used.
    """
    _prepare(out, force)
    report = ingest(config, out, config_hash(config), on_image, needed=())
    if not sum(report.images.values()):
        raise DataError(f"{config.data.root}: no image that can be used; see {out / QUARANTINE_FILE}")
    record = ImportRecord(
        classes=config.data.classes,
        source=config.data.source,
        settings=config.data.model_dump(mode="json"),
        report=without_times(report),
        shards={split: [shard.model_dump() for shard in written] for split, written in report.shards.items()},
        versions=versions(),
        schema_version=SCHEMA_VERSION,
    )
    files.write_json(out / IMPORT_FILE, record.model_dump(mode="json"))
    return report


def without_times(report: IngestReport) -> dict[str, object]:
    """The report of an import without the shards and the time it took: equal for equal data."""
    return {name: value for name, value in report.to_json().items() if name not in ("shards", "seconds")}


def _prepare(out: Path, force: bool) -> None:
    """Take the finish mark away, once it is sure that the folder holds an import and nothing else."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: not a folder; --out names a new one")
    foreign = sorted(path.name for path in out.iterdir() if not _is_ours(path)) if out.is_dir() else []
    if foreign:
        raise UsageError(f"{out}: holds {', '.join(foreign[:3])}, which no import wrote; --out names a new folder")
    if (out / IMPORT_FILE).exists() and not force:
        raise UsageError(f"{out}: holds a finished import; --force makes it anew, --out DIR makes another")
    (out / IMPORT_FILE).unlink(missing_ok=True)


def _is_ours(path: Path) -> bool:
    """Whether an import writes a file or a folder of this name, or left it behind when it was killed."""
    if path.is_dir():
        return path.name == COMMITS or (path.name in SPLITS and all(_is_part(inside.name) for inside in path.iterdir()))
    return path.name in (IMPORT_FILE, QUARANTINE_FILE) or path.name.endswith(".tmp")


def _is_part(name: str) -> bool:
    return (name.startswith("part-") and name.endswith(".parquet")) or (
        name.startswith(".part-") and name.endswith(".tmp")
    )
