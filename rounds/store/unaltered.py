"""Checks that what a step wrote is still what it wrote, before anything is made from it.

The manifest of a folder states the sha256 of each of its shards, and the record of a step that of all else that it
wrote. A file is read for this once in a process; another size or time of change asks again.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from cellsemi.configs.errors import RunError
from cellsemi.rounds.store import files

MANIFEST = "manifest.json"
RECORD = "step.json"
OUTPUT_FILES = (".json", ".parquet")  # outputs of a step that are a file; all others are folders
SHARDS = "part-*.parquet"
CONTENT = "content"  # the key of a record for `content_of` its output
RUN_FILE = "run.yaml"
ADDED_FILE = "added.json"  # beside shards of human labels that were added since the start of a run

_checked: dict[Path, tuple[tuple[int, int], str]] = {}  # the stamp of a file and its sha256, in this process


def record_path(output: Path) -> Path:
    """Where the record of a step with this output lies."""
    return output.with_name(f"{output.stem}.{RECORD}") if output.suffix in OUTPUT_FILES else output / RECORD


def round_folder(run: Path, round: int) -> Path:
    """The folder of a round below that of its run."""
    return run / f"round-{round:02d}"


def content_of(output: Path) -> str:
    """Changes with what a step wrote, but for shards and weights, whose sha256 are in the files that it covers.

    Of a folder these are its own JSON files and tables, and the manifests of sub-folders without a record.
    """
    if output.suffix in OUTPUT_FILES:
        return _sha256(output)
    own = [path for path in output.iterdir() if path.suffix in OUTPUT_FILES and path.name != RECORD]
    listed = [path for path in own if not path.match(SHARDS)]
    inner = [path for path in output.glob(f"*/{MANIFEST}") if not (path.parent / RECORD).is_file()]
    found = {path.relative_to(output).as_posix(): _sha256(path) for path in (*listed, *inner)}
    return files.sha256_json(found)


def check_output(output: Path) -> None:
    """RunError, naming the step and what to remove, when the output of a step that is done is not what it wrote."""
    path = record_path(output)
    if not path.is_file() or not output.exists():
        return
    stated = files.read_json(path).get(CONTENT)
    if stated is not None and content_of(output) != stated:
        raise RunError(f"{output}: altered since it was written. {remedy(output)}")


def check_shard(path: Path) -> None:
    """RunError, as `check_output`, when a shard is not the one that the manifest beside it states."""
    manifest = path.parent / MANIFEST
    if manifest.is_file():
        stated = stated_shards(path.parent).get(path.name)
        if stated is not None and not is_as_stated(path, stated):
            raise RunError(f"{path}: altered since it was written. {remedy(path)}")


def check_footer(path: Path) -> None:
    """RunError, as `check_shard`, when the footer of a shard is not the one that the manifest beside it states.

    The footer says where every page lies, and each page has its own checksum, which its reader compares: together they
    tell of any change in what is read, and nothing else is read for it.
    """
    manifest = path.parent / MANIFEST
    if manifest.is_file():
        stated = _footers(manifest, manifest.stat().st_mtime_ns).get(path.name)
        if stated is not None and not has_footer(path, stated):
            raise RunError(f"{path}: altered since it was written. {remedy(path)}")


def has_footer(path: Path, sha256: str) -> bool:
    """Whether the footer of a Parquet file has this hex sha256; nothing else is read."""
    with path.open("rb") as file:
        return footer_sha256(file) == sha256


def footer_sha256(file: BinaryIO) -> str:
    """Hex sha256 of the footer of a Parquet file (its thrift metadata, length and magic); "" where it has none."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 8, 0))
    end = file.read(8)
    length = int.from_bytes(end[:4], "little")
    if len(end) < 8 or end[4:] != b"PAR1" or length + 12 > size:
        return ""
    file.seek(size - 8 - length)
    return hashlib.sha256(file.read(length + 8)).hexdigest()


def is_as_stated(path: Path, sha256: str) -> bool:
    """Whether a file has this hex sha256; it is read once in a process."""
    return _sha256(path) == sha256


def remedy(path: Path) -> str:
    """Which step wrote a file of a run, and what to remove so that the next call does it again."""
    for folder in (path, *path.parents):
        record = record_path(folder)
        if record.is_file() and folder.exists():
            break
        if (folder / ADDED_FILE).is_file():
            return f"Remove {folder} and take its labels again (cellsemi review --take, or round --take-new)"
        if (folder / RUN_FILE).is_file():
            return "No step says that it wrote it; put it back from a copy, or make the run anew"
    else:
        return "Put it back from a copy, or make it anew"
    about = files.read_json(record)
    finished = round_folder(_run_of(folder), about["round"]) / MANIFEST
    gone = [folder, *([finished] if finished.is_file() and finished != folder else [])]
    return (
        f"It is of the step '{about['name']}' of round {about['round']}: remove {' and '.join(map(str, gone))} "
        "and give the same command again, which does this step anew and keeps the others"
    )


def missing(output: Path) -> RunError:
    """The error for an output of a step that is not there, with what to remove so that the next call makes it."""
    finished = [folder / MANIFEST for folder in output.parents if folder.match("round-*")]
    first = f"Remove {finished[-1]} and give" if finished and finished[-1].is_file() else "Give"
    return RunError(f"{output}: missing. {first} the same command again, which does its step anew and keeps the others")


def altered_shards(folder: Path) -> Iterator[str]:
    """What is wrong with the shards that the manifest of a folder states, one line each."""
    for name, sha256 in stated_shards(folder).items():
        if not (folder / name).is_file():
            yield f"{folder / name}: missing. {remedy(folder / name)}"
        elif not is_as_stated(folder / name, sha256):
            yield f"{folder / name}: altered since it was written. {remedy(folder / name)}"


def _run_of(folder: Path) -> Path:
    return next((parent for parent in folder.parents if (parent / RUN_FILE).is_file()), folder.parent)


def stated_shards(folder: Path) -> Mapping[str, str]:
    """The sha256 of each shard that the manifest of a folder lists, by file name."""
    manifest = folder / MANIFEST
    return _stated(manifest, manifest.stat().st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _footers(manifest: Path, _changed_ns: int) -> Mapping[str, str]:
    """The same of the footers."""
    listed: list[dict[str, Any]] = files.read_json(manifest).get("shards", [])
    return {shard["file"]: shard["footer_sha256"] for shard in listed if "footer_sha256" in shard}


@functools.lru_cache(maxsize=64)
def _stated(manifest: Path, _changed_ns: int) -> Mapping[str, str]:
    listed: list[dict[str, Any]] = files.read_json(manifest).get("shards", [])
    return {shard["file"]: shard["sha256"] for shard in listed if "sha256" in shard}


def _sha256(path: Path) -> str:
    about = path.stat()
    stamp = (about.st_size, about.st_mtime_ns)
    known = _checked.get(path)
    if known is None or known[0] != stamp:
        with path.open("rb") as file:
            known = _checked[path] = (stamp, hashlib.file_digest(file, "sha256").hexdigest())
    return known[1]
