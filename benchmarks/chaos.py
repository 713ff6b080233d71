"""Random faults over small campaigns on a cluster of three nodes; to chaos.md.

    python benchmarks/chaos.py --faults 50 --seed 0

Workers are killed and frozen, nodes die with and without another one, a node joins that does not see the runs, the
driver gets SIGTERM and kill -9, the disk is full for a while, a second driver comes. Whenever the driver has ended, the
same command is given again. At the end of each campaign every table and every weight must equal those of a run that
nobody disturbed, and every image must be there once.

Full disks and nodes without the mount need a process that may mount file systems (root); elsewhere they are left out,
and the page says so.
"""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parent))
from chaos_cluster import FAULTS, MAIN, RUN, World, may_mount
from machine import describe
from rounds_table import table

from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.store import files, shards
from cellsemi.rounds.store.run import RunPaths

HERE = Path(__file__).parent
PAUSE_S = (1.0, 5.0)  # between what one fault cost and the next
PATIENCE_S = 240.0  # no event for longer: the run hangs
SETTINGS = [
    "models=[{kind: flow-unet, name: unet-a, width: 4}, {kind: flow-unet, name: unet-b, width: 4, seed_offset: 1}]",
    "data.classes=[cort]", "data.generated.magnifications=[1.0]", "data.generated.densities=[1.0, 1.0]",
    "data.generated.labelled=4", "data.generated.unlabelled=24", "data.generated.val=3", "data.generated.test=3",
    "data.generated.height_px=96", "data.generated.width_px=96", "data.shard_images=2",
    "training.steps=120", "training.batch=2", "training.crop_px=64", "training.precision=float32", "training.lr=0.02",
    "unlabelled_inference.scale_search=null", "inference.tta=[identity]", "inference.cell_probability=0.3",
    "filter.thresholds={cort: {accept: 0.0, reject: 0.0}}", "rounds.promotion.bootstrap=100",
    "engine.checkpoint_s=1", "engine.shard_deadline_s=12", "engine.progress_deadline_s=12",
    "engine.start_deadline_s=40", "engine.cpus_per_worker=1", "engine.input_processes=0", "engine.min_free_mb=40",
]  # fmt: skip


def arguments(address: str | None) -> list[str]:
    """Of cellsemi, on a cluster, or in-process without an address."""
    where = ["--engine", "ray", "--address", address] if address else ["--engine", "inline"]
    sets = [part for setting in SETTINGS for part in ("--set", setting)]
    return ["round", "--n", "1", "--config", "demo", "--run", RUN, *where, *sets]


def tables(paths: RunPaths) -> dict[str, str]:
    """Hash of every table and every model of a run, without what is a time."""
    patterns = ("part-*.parquet", "evaluation.parquet", "model.safetensors", "filter.json", "calibration.json")
    found = {
        str(path.relative_to(paths.root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in patterns
        for path in paths.root.rglob(pattern)
        if "superseded" not in path.parts
    }
    rows = [{**row.to_json(), "seconds": 0} for row in leaderboard.read(paths.leaderboard)]
    return {**found, "leaderboard": json.dumps(rows)}


def lost_or_twice(paths: RunPaths) -> list[str]:
    """Folders of unlabelled images that do not hold each image once."""
    wanted = [row["image_id"] for row in shards.read_columns(paths.split("unlabelled"), ["image_id"])]
    folders = [*paths.root.glob("round-*/students/*/predictions/unlabelled"), *paths.root.glob("round-*/pseudo")]
    return [
        str(folder.relative_to(paths.root))
        for folder in folders
        if [row["image_id"] for row in shards.read_columns(folder, ["image_id"])] != wanted
    ]


@dataclass(slots=True)
class Result:
    """What befell, what it cost until the run went on, and what was wrong in the end."""

    seconds: dict[str, list[float]] = field(default_factory=dict)  # by fault, until the next event of the run
    campaigns: int = 0
    tables: int = 0
    drivers: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def faults(self) -> int:
        """How many there were."""
        return sum(map(len, self.seconds.values()))


class Chaos:
    """Faults over campaigns until there were so many."""

    def __init__(self, world: World, faults: int, undisturbed: dict[str, str], say: bool = True) -> None:
        self.world, self.left, self.undisturbed, self.say = world, faults, undisturbed, say
        self.result = Result()
        names = [name for name, (_, weight) in FAULTS.items() for _ in range(weight)]
        self.order: list[str] = []
        while len(self.order) < 4 * faults:  # more than needed: some cannot be done at their moment
            world.random.shuffle(names)
            self.order += names

    def campaigns(self) -> Result:
        """All of it."""
        while self.left > 0 and not self.result.wrong:
            self.result.campaigns += 1
            self._campaign(f"campaign-{self.result.campaigns}")
        return self.result

    def _campaign(self, campaign: str) -> None:
        world = self.world
        self._drive(campaign)
        next_s, moved_s, size = time.monotonic() + self._pause(), time.monotonic(), 0
        waiting: tuple[str, float] | None = None
        while True:
            world.settle()
            code = world.driver.poll() if world.driver is not None else 0
            if code == 0:
                break
            if code is not None and not self._again(campaign, code):
                return
            if world.events() != size:
                size, moved_s = world.events(), time.monotonic()
                if waiting is not None:
                    self.result.seconds.setdefault(waiting[0], []).append(moved_s - waiting[1])
                    waiting, next_s = None, moved_s + self._pause()
            if time.monotonic() - moved_s > PATIENCE_S:
                self.result.wrong.append(f"{campaign}: no event for {PATIENCE_S:g} s")
                return
            if waiting is None and self.left > 0 and size and time.monotonic() >= next_s:
                waiting = self._befall()
                size = world.events()
            time.sleep(0.05)
        if waiting is not None:
            self.result.seconds.setdefault(waiting[0], []).append(time.monotonic() - waiting[1])
        world.settle(all_of_it=True)
        self._judge(campaign)

    def _pause(self) -> float:
        return self.world.random.uniform(*PAUSE_S)

    def _drive(self, campaign: str) -> None:
        self.result.drivers += 1
        self.world.drive(campaign)

    def _again(self, campaign: str, code: int) -> bool:
        """Whether the driver that ended may be started again."""
        world = self.world
        if code not in world.expected:
            tail = (world.folder / f"{campaign}.out").read_text(errors="replace")[-1500:]
            self.result.wrong.append(f"{campaign}: the driver ended with {code}: {tail}")
            return False
        (world.runs / "filler").unlink(missing_ok=True)
        world.expected.clear()
        self._drive(campaign)
        return True

    def _befall(self) -> tuple[str, float] | None:
        name = self.order.pop(0)
        began = time.monotonic()
        did = FAULTS[name][0](self.world)
        if not did:
            return None
        self.left -= 1
        if self.say:
            print(f"{self.result.faults + 1:3}  {name}: {did}", file=sys.stderr, flush=True)
        return name, began

    def _judge(self, campaign: str) -> None:
        paths, result = self.world.paths, self.result
        found = tables(paths)
        result.tables += len(found)
        differ = sorted(name for name in {*found, *self.undisturbed} if found.get(name) != self.undisturbed.get(name))
        result.wrong += [f"{campaign}: {name} differs from the undisturbed run" for name in differ]
        result.wrong += [f"{campaign}: {name} does not hold each image once" for name in lost_or_twice(paths)]
        result.wrong += [f"{campaign}: {line}" for line in self.world.faults_of_driver]
        self.world.faults_of_driver.clear()


def undisturbed_tables(folder: Path) -> dict[str, str]:
    """Those of a run in-process that nobody disturbs."""
    called = [sys.executable, "-c", MAIN, *arguments(None)]
    subprocess.run(called, cwd=folder, check=True, capture_output=True)
    return tables(RunPaths(folder / "runs" / RUN))


def chaos(folder: Path, faults: int, seed: int, say: bool = True) -> Result:
    """So many faults, drawn by the seed."""
    plain = folder / "plain"
    plain.mkdir(parents=True)
    expected = undisturbed_tables(plain)
    world = World(folder / "cluster", arguments, random.Random(seed), may_mount())
    with world.whole():
        return Chaos(world, faults, expected, say).campaigns()


def page(results: Sequence[tuple[int, Result]], mounts: bool) -> str:
    """The page."""
    total: Counter[str] = Counter()
    seconds: dict[str, list[float]] = {}
    for _, result in results:
        for name, each in result.seconds.items():
            total[name] += len(each)
            seconds.setdefault(name, []).extend(each)
    rows = [["fault", "times", "seconds until the run went on, median", "most"]]
    for name in FAULTS:
        if total[name]:
            ordered = sorted(seconds[name])
            rows.append([name, str(total[name]), f"{ordered[len(ordered) // 2]:.1f}", f"{ordered[-1]:.1f}"])
    ends = [f"* seed {seed}: {_end(result)}" for seed, result in results]
    left_out = [] if mounts else ["Full disks and nodes without the mount were left out: they need root."]
    parts = ["# Faults over campaigns", describe(), table(rows[0], rows[1:]), "\n".join(ends), *left_out]
    return "\n\n".join(parts) + "\n"


def _end(result: Result) -> str:
    befell = f"{result.faults} faults over {result.campaigns} campaigns, {result.drivers} drivers"
    if result.wrong:
        return f"{befell}: {'; '.join(result.wrong)}"
    return f"{befell}: all {result.tables} tables and models equal, no image lost or twice"


@click.command()
@click.option("--faults", type=click.IntRange(min=1), default=50, show_default=True)
@click.option("--seed", "seeds", type=int, multiple=True, default=(0, 1), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=HERE / "chaos.md", show_default=True)
def main(faults: int, seeds: tuple[int, ...], out: Path) -> None:
    """Faults over campaigns, for each seed."""
    results = []
    for seed in seeds:
        with tempfile.TemporaryDirectory(prefix="cellsemi-chaos-") as folder:
            results.append((seed, chaos(Path(folder), faults, seed)))
        files.write_text(out, page(results, may_mount()))
        print(page(results, may_mount()))
    sys.exit(1 if any(result.wrong for _, result in results) else 0)


if __name__ == "__main__":
    main()
