"""What a run in a bucket costs beside the same run in a folder: time, requests by kind, bytes; to storage.md.

    python benchmarks/storage.py

The store is moto's S3 server on this machine: an answer takes a few milliseconds of the same cores, where a real store
takes tens of milliseconds of its own. The tables of both runs are compared.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cellsemi.rounds.store import files
from cellsemi.rounds.store.run import RunPaths

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from helpers.campaigns import PLAIN, tables
from helpers.s3_server import BUCKET, s3_server
from helpers.terminal import MAIN
from machine import describe

HERE = Path(__file__).parent
ROUNDS = 1
SETTINGS = [
    *PLAIN, "data.generated.labelled=8", "data.generated.unlabelled=16", "data.generated.val=8",
    "data.generated.test=8", "data.generated.height_px=128", "data.generated.width_px=160", "data.shard_images=4",
    "training.steps=60",
    "training.batch=2", "training.crop_px=64", "training.precision=float32", "models.0.width=8", "models.1.width=8",
    "inference.tta=[identity]", "inference.cell_probability=0.3", "engine.checkpoint_s=5", "engine.min_free_mb=0",
    "rounds.promotion.bootstrap=100", "tracking=[]",
]  # fmt: skip
KINDS = ("PUT", "HEAD", "GET", "LIST", "DELETE", "POST")


def play(root: str, folder: Path) -> float:
    """Bring a small run to its last round in a process of its own; returns the seconds."""
    sets = [part for setting in (*SETTINGS, f"run.root={root}") for part in ("--set", setting)]
    command = ["round", "--n", str(ROUNDS), "--config", "demo", "--run", "small", "--engine", "inline", *sets]
    started = time.monotonic()
    called = [sys.executable, "-c", MAIN, *command]
    done = subprocess.run(called, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return time.monotonic() - started


def main() -> None:
    """Measure and write the table."""
    with tempfile.TemporaryDirectory() as made, s3_server() as server:
        folder, bucket = Path(made), f"s3://{BUCKET}/runs"
        os.environ.update(server.environment, CELLSEMI_OBJECT_CACHE=str(folder / "copies"))
        play(str(folder / "warm"), folder)  # what is read from the disk for the first time
        here = play(str(folder / "runs"), folder)
        before = server.counts()
        there = play(bucket, folder)
        found = {kind: count - before.get(kind, 0) for kind, count in server.counts().items()}
        idle = server.counts()
        again = play(bucket, folder)
        nothing = {kind: count - idle.get(kind, 0) for kind, count in server.counts().items()}
        one, other = RunPaths(files.place(bucket) / "small"), RunPaths(folder / "runs" / "small")
        assert tables(one) == tables(other)
        objects = [path for path in one.root.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in other.root.rglob("*") if path.is_file())
    requests = [f"{kind} {found.get(kind, 0)}" for kind in KINDS if found.get(kind)]
    lines = [
        "# A run in a bucket beside the same run in a folder",
        "",
        f"`python benchmarks/storage.py`. {describe()}. {len(objects)} objects, {size / 1e6:.1f} MB in the folder.",
        "",
        "| | in a folder | in a bucket |",
        "|---|---|---|",
        f"| `cellsemi round --n {ROUNDS}`, 40 images, two models | {here:.0f} s | {there:.0f} s |",
        f"| requests | - | {_all(found)}: {', '.join(requests)} |",
        f"| bytes sent, received | - | {found['bytes in'] / 1e6:.1f} MB, {found['bytes out'] / 1e6:.1f} MB |",
        f"| the same command again, with nothing to do | - | {again:.0f} s, {_all(nothing)} requests |",
        "",
        "All tables, models and shards of both runs are equal.",
    ]
    (HERE / "storage.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def _all(found: dict[str, int]) -> int:
    return sum(found.get(kind, 0) for kind in KINDS)


if __name__ == "__main__":
    main()
