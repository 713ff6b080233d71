"""Measures what the rounds gain: five regimes, three seeds, beside plain threshold-and-retrain; to rounds.md.

    python benchmarks/rounds.py [--regime few ...] [--seed 0 ...] [--n 1] [--steps 300] [--jobs 2] [--ablate]

Every line is an ordinary run of `cellsemi round` named REGIME-LINE-sSEED below --out, two at once in processes
of their own. A run that exists is continued or reused, so the script can be stopped and called again;
`--table-only` writes the table of what is finished. `--images 3` cuts the unlabelled and test images, to try it out.

To choose a setting, `--development --out FOLDER`: ours and plain on draws apart from these, without reading the
test split and without a page; their leaderboards and promotion.py say how they did.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parent))
import rounds_table as report
from machine import DSB2018, describe, skip
from regimes import REGIMES, build, build_all
from rounds_plan import ABLATIONS, COMMON, OURS, PLAIN, TOTAL, Job, Plan, as_sets, slug
from rounds_runs import CONFIDENCE, SMALL_GAP, Line, Seed

from cellsemi.configs.errors import DataError
from cellsemi.rounds.store import files

HERE = Path(__file__).parent

# --- running ------------------------------------------------------------------------------------------


def prepare(plan: Plan) -> None:
    """Write the data of every run, DataError when another draw lies there."""
    data = plan.out / "data"
    for seed in plan.seeds:
        for name in plan.drawn:
            build(name, seed, data / f"{name}-s{seed}", plan.root, plan.images, development=plan.development)
        for ceiling in {REGIMES[name].ceiling for name in plan.regimes if not plan.development}:
            build_all(ceiling, seed, data / f"{ceiling}-all-s{seed}", plan.root, plan.images)


def run_all(jobs: Sequence[Job], out: Path, at_once: int) -> list[str]:
    """Carry the runs out, each with one thread and a log of its own; returns the names of those that failed."""
    logs = out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"

    def work(job: Job) -> int:
        print(f"begun: {job.name}\n", end="", flush=True)  # one write: two threads share the line
        with (logs / f"{job.name}.txt").open("a", encoding="utf-8") as log:
            environment = {**os.environ, **threads, "PATH": path}
            done = subprocess.run(job.command(out), stdout=log, stderr=log, env=environment, check=False)
        problem = f"FAILED ({done.returncode}), see {log.name}"
        print(f"{problem if done.returncode else 'done'}: {job.name}\n", end="", flush=True)
        return done.returncode

    executor = ThreadPoolExecutor(at_once)
    try:
        codes = list(executor.map(work, jobs))
    finally:
        executor.shutdown(cancel_futures=True)  # after Ctrl-C the runs that wait are not begun
    return [job.name for job, code in zip(jobs, codes, strict=True) if code]


# --- the page -----------------------------------------------------------------------------------------


def read(plan: Plan) -> dict[str, list[Seed]]:
    """What is finished of every regime that was asked for."""
    found: dict[str, list[Seed]] = {}
    for name in plan.regimes:
        ceiling = REGIMES[name].ceiling
        found[name] = [
            Seed(
                seed,
                Line.read(plan.out / f"{name}-ours-s{seed}", plan.n),
                Line.read(plan.out / f"{name}-plain-s{seed}", plan.n),
                Line.read(plan.out / f"{ceiling}-all-s{seed}", 0),
            )
            for seed in plan.seeds
        ]
    return found


def page(plan: Plan) -> str:
    """The whole of rounds.md."""
    results = read(plan)
    parts = [_head(plan), "## The targets\n\nMeans over the finished seeds; computed from the tables below.\n"]
    parts.append(report.table(["regime", "stated", "measured", "reached"], report.targets(results)))
    for name, seeds in results.items():
        parts += [f"\n## {name}\n\n{REGIMES[name].says}.\n", report.regime_table(seeds, plan.n)]
        if len(REGIMES[name].classes) > 1:
            parts += [
                "\nWithin each class, means over the finished seeds:\n",
                report.class_table(seeds, REGIMES[name].classes),
            ]
    parts += [PSEUDO, report.pseudo_table(results, plan.root, plan.n)]
    for name, offs in ABLATIONS.items():
        without = {part: _without(plan, name, part) for part in offs}
        if any(line for runs in without.values() for line in runs.values()):
            settings = {part: off.words(plan.n, REGIMES[name].classes) for part, off in offs.items()}
            parts += [ABLATION.format(name=name), report.ablation_table(settings, without, _ours(plan, name))]
    return "\n".join(parts) + "\n"


def _ours(plan: Plan, name: str) -> dict[int, Line | None]:
    return {seed: Line.read(plan.out / f"{name}-ours-s{seed}", plan.n) for seed in plan.seeds}


def _without(plan: Plan, name: str, part: str) -> dict[int, Line | None]:
    run, n = f"{name}-without-{slug(part)}", plan.n + ABLATIONS[name][part].more_rounds
    return {seed: Line.read(plan.out / f"{run}-s{seed}", n) for seed in plan.seeds}


PSEUDO = """
## Pseudo-labels against the hidden labels

Cells of the unlabelled images, one to one at IoU > .5 within the class. Precision and recall: accepted cells;
accounted for: true cells that an accepted or ignored mask covers, so that they are not taught as background.
Mean over the finished seeds, and each of them in brackets. No stage of a run sees these labels.
"""
ABLATION = """
## Parts switched off, regime {name}

Ours with one part off, or, where the name says what ours is not, that in its place: test mAP of the last round and of
the promoted one, means over the seeds named, and the difference from ours on the same seeds; per seed: promoted - ours.
+0.000 is a part that had nothing to change: with fewer than `filter.min_samples` predictions on the validation images,
as some seeds have, scores stay as they are, with calibration or without.
"""


def _head(plan: Plan) -> str:
    settings = {
        "all lines, DSB2018": as_sets(COMMON["fluorescence"][1], ()),
        "all lines, generated cells": as_sets(COMMON["classes"][1], ()),
        "ours": as_sets(OURS, ()) or ["nothing else"],
        "plain": [f"{key}={json.dumps(value)}" for key, value in PLAIN.items()],
    }
    lists = "\n".join(f"* {name}: `{'` `'.join(values)}`" for name, values in settings.items())
    tried = "" if plan.images is None else f"\n**A try-out: {plan.images} unlabelled and test images only.**\n"
    return f"""# What the rounds gain

{describe()}.
{tried}
`{plan.command()}`

DSB2018 (BBBC038), stage 1 train, with splits by image. A seed draws the labelled images and every initialisation;
unlabelled and test images are the same for all seeds. Validation images count as labels: thresholds and promotion are
chosen on them. The test split is opened once per finished model and chooses nothing. Figures are test mAP (Kaggle
Sartorius).

* **a** round 0: the labelled images alone, {plan.steps} steps.
* **b** supervised with equal steps: the same labels, trained for as many steps as the last student of (d) and its
  ancestors together (the run's `control`; its steps in brackets).
* **c** plain threshold-and-retrain, its last round: the same model, rounds and steps, every part of ours off.
* **d** ours, each round; *delivered* is what the run recommends in the end: the last round that was promoted, or the
  control where it beat that on validation images. Round 0 and the students after it have {plan.most_steps} steps
  together, that of the last round {(TOTAL - plan.n) * plan.steps} of them; so in (c).
* **e** every image that is not test with its label, val as the data set has it, {plan.most_steps} steps: as many as (b)
  has when every round is promoted, so where fewer are the ceiling was trained for longer than (b).
* **gap closed** (d delivered - b) / (e - b); in the row of the mean that of the means, not the mean of ratios; `-` when
  e - b is below {SMALL_GAP}. **d - c** and **d - b** are of the delivered (d), in brackets the paired-bootstrap
  interval ({CONFIDENCE:.0%}) over the test images. `-`: not finished.

What had been seen before: scale search, comparison at the unlabelled images' cell sizes and the choice of the cell
probability were developed with the test figures of seed 0 of every regime and of seed 1 of `uncovered` in sight: they
are optimistic. The ratio of human crops, the last phase on human labels and the number of rounds were chosen on other
draws (`--development`), with the images of the splits `labelled` and `val` that were not drawn as their test. So was
how sure a round must be (`promotion.md`), but the question was asked because .8 had refused students of `uncovered`
seed 2 and `mixed` seed 1 that were better on test by .113 and .139: of those two the delivered figure is optimistic.

Settings, on top of the presets `dsb2018` (whose `unlabelled_inference.scale_search` is ours, too) and, for generated
cells, `demo`; every model is a flow U-Net, one a round:

{lists}
"""


@click.command()
@click.option("--regime", "regimes", multiple=True, type=click.Choice(list(REGIMES)), default=tuple(REGIMES))
@click.option("--seed", "seeds", multiple=True, type=int, default=(0, 1, 2))
@click.option("--n", type=click.IntRange(1, TOTAL - 2), default=1, help="Rounds.")
@click.option("--steps", type=click.IntRange(min=1), default=300, help="Steps of a student.")
@click.option("--root", type=click.Path(path_type=Path), default=DSB2018, help="Folder of DSB2018.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs"), help="Folder of the runs.")
@click.option("--set", "settings", multiple=True, help="One more setting for every run.")
@click.option("--jobs", "at_once", type=click.IntRange(min=1), default=2, help="Runs at once.")
@click.option("--ablate", is_flag=True, help=f"Also ours with one part off each: {', '.join(ABLATIONS)}.")
@click.option("--images", type=click.IntRange(min=1), help="Only so many unlabelled and test images: a try-out.")
@click.option("--development", is_flag=True, help="Draws to choose settings on, DSB2018 only; writes no page.")
@click.option("--table", "target", type=click.Path(path_type=Path), default=HERE / "rounds.md")
@click.option("--table-only", is_flag=True, help="Only write the table of the runs that are there.")
def main(target: Path, at_once: int, table_only: bool, root: Path, out: Path, **asked: Any) -> None:
    """Run and tabulate."""
    plan = Plan(root=root.resolve(), out=out.resolve(), **asked)
    if not root.is_dir() and any(REGIMES[name].modalities for name in plan.drawn):
        skip(f"no DSB2018 at {root}; give --root, or --regime classes alone, without --ablate")
    generated = [name for name in plan.regimes if not REGIMES[name].modalities]
    if plan.development and generated:
        plan = replace(plan, regimes=tuple(name for name in plan.regimes if name not in generated))
        print(f"left out, for their cells are generated: {', '.join(generated)}; take other seeds to choose on")
    failed: list[str] = []
    if not table_only:
        try:
            prepare(plan)
        except DataError as error:
            sys.exit(str(error))
        failed = run_all(plan.jobs(), plan.out, at_once)
    if not plan.development:
        files.write_text(target, page(plan))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; their logs are in {plan.out / 'logs'}")


if __name__ == "__main__":
    main()
