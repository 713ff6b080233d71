"""Marks stages as done: commits of shards, and the manifest that is written last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cellsemi.configs.errors import RunError
from cellsemi.rounds.store import files
from cellsemi.rounds.store.shards import part_name, shard_paths

MANIFEST = "manifest.json"


COMMITS = "_commits"


def is_done(folder: Path, fingerprint: str) -> bool:
    """Whether the stage of this folder is finished with these inputs.

    RunError when it was finished with other inputs: something upstream was altered by hand.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return False
    found = files.read_json(path)["fingerprint"]
    if found != fingerprint:
        raise RunError(
            f"{path}: made from other inputs than the run has now (fingerprint {found[:12]}, now {fingerprint[:12]}). "
            f"Remove {folder} and what came after it, and run the same command again"
        )
    return True


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished stage."""
    content: dict[str, Any] = files.read_json(folder / MANIFEST)
    return content


def finish_stage(folder: Path, fingerprint: str, seconds: float, **content: Any) -> None:
    """Write the manifest: from now on the stage is done."""
    files.write_json(folder / MANIFEST, {"fingerprint": fingerprint, "seconds": round(seconds, 2), **content})


def outputs_fingerprint(folder: Path) -> str:
    """What a finished stage hands on: the hashes of its outputs, from its manifest, without times."""
    manifest = read_manifest(folder)
    return files.sha256_json({key: value for key, value in manifest.items() if key != "seconds"})


def write_commit(folder: Path, item: int, fingerprint: str, record: dict[str, Any]) -> dict[str, Any]:
    """Mark shard `item` of a stage as written; the shard file itself must be there already."""
    content = {"item": item, "fingerprint": fingerprint, **record}
    files.write_json(folder / COMMITS / f"{item:06d}.json", content)
    return content


def read_commits(folder: Path, fingerprint: str) -> dict[int, dict[str, Any]]:
    """Commits of this stage with these inputs, by item; those of other inputs do not count."""
    found = {}
    for path in sorted((folder / COMMITS).glob("*.json")):
        record = files.read_json(path)
        if record["fingerprint"] == fingerprint:
            found[int(record["item"])] = record
    return found


def shard_items(folder: Path) -> list[int]:
    """Indices of the shards of a folder, checked to be 0..K-1."""
    paths = shard_paths(folder)
    if [path.name for path in paths] != [part_name(i) for i in range(len(paths))]:
        raise RunError(f"{folder}: shards are missing or foreign: {[path.name for path in paths]}")
    return list(range(len(paths)))
