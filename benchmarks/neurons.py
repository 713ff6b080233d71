"""Measures what the rounds gain where the human labels are used up; the table goes to neurons.md.

    python benchmarks/neurons.py [--data usiigaci ...] [--seed 0 ...] [--n 1] [--out runs] [--set KEY=VALUE ...]

A line is one run of the product, `cellsemi round --n N`: round 0 is trained until twice as many steps no longer help,
the rounds and the control follow. *oracle* is a run on the same data with the true labels of the pool, for as many
steps as the control: oracle - control is the headroom, what a perfect labeller could gain. A run that exists is
continued or reused, so the script can be stopped and called again; `--table-only` writes what is finished. What came
out is kept in neurons.json, beside what earlier calls found, and the table is made from all of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from machine import DSB2018, describe, skip
from neurons_data import SETS, build, hidden_truth
from rounds_runs import Line

from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instance_map import draw_instance_map
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.matching import overlap
from cellsemi.rounds.cells.overlap import HALF
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.manifest import read_fit
from cellsemi.rounds.store.run import CONTROL

HERE = Path(__file__).parent
KEPT = HERE / "neurons.json"
HEADROOM = 0.03  # from which on a share of it is worth stating
# What makes a line affordable on two cores: one small network, small crops, at most so many steps.
COMMON: Mapping[str, object] = {
    "models": [{"kind": "flow-unet", "name": "unet", "width": 16}],
    "training.steps": "auto",
    "training.crop_px": 96,
    "training.batch": 8,
    "training.first_steps": 500,
    "training.max_steps": 2000,
    "training.precision": "bfloat16",
    "inference.precision": "bfloat16",
    "filter.ignore_dilation_px": 2,
}


@dataclass(frozen=True, slots=True)
class Labels:
    """How good the pseudo-labels of a round are, against the hidden labels at IoU > .5."""

    precision: float
    recall: float
    merged: float  # share of the accepted masks that hold most of two true cells or more
    wrong_background: float  # share of the pixels of true cells that are taught as background

    @classmethod
    def of(cls, folder: Path, truth: Mapping[str, Instances], dilation_px: int) -> Labels | None:
        """Those of a folder of filtered shards; None when no image of it has hidden labels."""
        counts: Counter[str] = Counter()
        for record in shards.read_folder(folder):
            if record.instances is None or record.image_id not in truth:
                continue
            human, accepted = truth[record.image_id], record.instances.in_state("accepted")
            found = overlap(accepted, human)
            held = np.bincount(found.rows[2 * found.shared > human.area[found.columns]], minlength=len(accepted))
            right = int(found.above(HALF).sum())
            inside = masks.to_label_map(human) > 0
            taught = draw_instance_map(record.instances, dilation_px)
            counts["right"] += right
            counts["accepted"] += len(accepted)
            counts["true"] += len(human)
            counts["merged"] += int((held > 1).sum())
            counts["pixels"] += int(inside.sum())
            counts["wrong"] += int((inside & (taught == 0)).sum())
        if not counts["true"]:
            return None
        accepted_cells = max(counts["accepted"], 1)
        return cls(
            counts["right"] / accepted_cells,
            counts["right"] / counts["true"],
            counts["merged"] / accepted_cells,
            counts["wrong"] / max(counts["pixels"], 1),
        )


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished run of a set and seed came to; `neurons.json` keeps one object for each, from every call."""

    data: str
    seed: int
    n: int
    settings: Mapping[str, object]  # what differs from COMMON
    made: str  # date of the run
    rounds: Mapping[str, float]  # test mAP of the ensemble of each round that was run
    control: float
    steps: int  # of the control
    delivered: float
    what: str  # is delivered
    oracle: float | None
    labels: Mapping[str, Mapping[str, float]]  # by round: precision, recall, merged, wrong_background
    curve: Sequence[tuple[int, float]]  # validation mAP of round 0 by steps

    @property
    def key(self) -> tuple[str, int, int, str]:
        """What tells it from others."""
        return self.data, self.seed, self.n, json.dumps(self.settings, sort_keys=True)

    @property
    def last(self) -> float:
        """Test mAP of the last student."""
        return self.rounds[max(self.rounds, key=int)]


def result_of(name: str, seed: int, n: int, out: Path, shared: Path, settings: Mapping[str, object]) -> Result | None:
    """What is finished of a set and seed; None when its run is not."""
    folder = out / run_name(name, seed)
    line = Line.read(folder, n)
    if line is None or line.control is None:
        return None
    oracle = Line.read(out / run_name(name, seed, oracle=True), 0)
    truth, dilation = hidden_truth(name, shared), line.config.filter.ignore_dilation_px
    found = {
        str(round): asdict(labels)
        for round in range(1, line.last + 1)
        if (labels := Labels.of(line.paths.pseudo(round, ""), truth, dilation)) is not None
    }
    searched = read_fit(line.paths.model(0, line.config.models[0].name)).found_steps
    made = datetime.fromtimestamp(line.paths.leaderboard.with_suffix(".parquet").stat().st_mtime, UTC)
    return Result(
        data=name,
        seed=seed,
        n=n,
        settings=settings,
        made=made.date().isoformat(),
        rounds={str(number): row.test_map.value for number, row in line.ensemble.items()},
        control=line.control.test_map.value,
        steps=read_fit(line.paths.model(line.control.round, CONTROL)).steps,
        delivered=line.delivered.test_map.value,
        what="control" if line.delivered.model == CONTROL else f"round {line.promoted}",
        oracle=oracle.ensemble[0].test_map.value if oracle else None,
        labels=found,
        curve=searched.curve if searched else [],
    )


def merged(kept: Sequence[Result], new: Sequence[Result]) -> list[Result]:
    """The results of earlier calls with those of this one in their place."""
    found = {each.key: each for each in (*kept, *new)}
    return sorted(found.values(), key=lambda each: (list(SETS).index(each.data), each.n, each.key))


def run_name(name: str, seed: int, *, oracle: bool = False) -> str:
    """The folder of a run."""
    return f"neurons-{name}-s{seed}{'-oracle' if oracle else ''}"


# --- runs ---------------------------------------------------------------------------------------------


def command(name: str, seed: int, out: Path, n: int, settings: Mapping[str, object], data: Path) -> list[str]:
    """The call of a run; `data` is its folder, and the run is called as this is."""
    values = {
        **SETS[name].settings,
        **COMMON,
        "data.root": str(data),
        "run.root": str(out),
        "run.seed": seed,
        **settings,
    }
    sets = [part for key, value in values.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    options = ["--config", SETS[name].preset, "--run", data.name, "--engine", "inline"]
    return ["cellsemi", "round", "--n", str(n), *options, *sets]


def run(name: str, seed: int, n: int, out: Path, shared: Path, settings: Mapping[str, object]) -> None:
    """The run of a set and seed, and its oracle, which needs the control's steps."""
    data, every = (out / "data" / run_name(name, seed, oracle=oracle) for oracle in (False, True))
    build(name, seed, data, shared)
    _call(command(name, seed, out, n, settings, data), out / f"{data.name}.log")
    found = Line.read(out / data.name, n)
    assert found is not None and found.control is not None, f"{data.name} did not finish"
    steps = read_fit(found.paths.model(found.control.round, CONTROL)).steps
    build(name, seed, every, shared, all_labels=True)
    own = {**settings, "training.steps": steps, "rounds.control": False}
    _call(command(name, seed, out, 0, own, every), out / f"{every.name}.log")


def _call(line: list[str], log: Path) -> None:
    print("$", " ".join(line), flush=True)
    with log.open("a", encoding="utf-8") as file:
        subprocess.run(line, check=True, stdout=file, stderr=subprocess.STDOUT)


# --- the page -----------------------------------------------------------------------------------------


def section(results: Sequence[Result]) -> str:
    """The tables of the results of one set, one number of rounds and the same settings."""
    first = results[0]
    rounds = range(1, first.n + 1)
    head = [
        "seed",
        "teacher",
        *(f"round {r}" for r in rounds),
        "control (steps)",
        "delivered",
        "oracle",
        "headroom won",
    ]
    rows = [_row(each, rounds) for each in results]
    rows.append(_mean_row(results, rounds))
    labels = [
        [str(each.seed), round, *(f"{value:.3f}" for value in found.values()), _curve(each) if round == "1" else ""]
        for each in results
        for round, found in each.labels.items()
    ]
    label_head = ["seed", "round", "precision", "recall", "merged", "wrong background", "val mAP of round 0 by steps"]
    own = "".join(f" --set {key}={json.dumps(value)}" for key, value in first.settings.items())
    title = f"{first.data}, {first.n} round{'s' if first.n > 1 else ''}{own}"
    dates = sorted({each.made for each in results})
    made = f"Run on {', '.join(dates)}."
    return f"## {title}\n\n{SETS[first.data].says}. {made}\n\n{_table(head, rows)}\n\n{_table(label_head, labels)}\n"


def _curve(result: Result) -> str:
    return ", ".join(f"{steps}: {score:.3f}" for steps, score in result.curve)


def _row(result: Result, rounds: Sequence[int]) -> list[str]:
    return [
        str(result.seed),
        _figure(result.rounds["0"]),
        *(_figure(result.rounds.get(str(round))) for round in rounds),
        f"{result.control:.3f} ({result.steps})",
        f"{result.delivered:.3f} ({result.what})",
        _figure(result.oracle),
        _won(result.last, result.control, result.oracle),
    ]


def _mean_row(results: Sequence[Result], rounds: Sequence[int]) -> list[str]:
    last = _mean([each.last for each in results])
    control, oracle = _mean([each.control for each in results]), _mean([each.oracle for each in results])
    return [
        "mean",
        _figure(_mean([each.rounds["0"] for each in results])),
        *(_figure(_mean([each.rounds.get(str(round)) for each in results])) for round in rounds),
        _figure(control),
        _figure(_mean([each.delivered for each in results])),
        _figure(oracle),
        _won(last, control, oracle),
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _won(student: float | None, control: float | None, oracle: float | None) -> str:
    """The share of the headroom that the last student won; its size where it is too small for a share."""
    if student is None or control is None or oracle is None:
        return "-"
    if oracle - control < HEADROOM:
        return f"{student - control:+.3f} of {oracle - control:+.3f}"
    return f"{(student - control) / (oracle - control):.0%} of {oracle - control:+.3f}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def page(results: Sequence[Result]) -> str:
    """The whole page."""
    common = "\n".join(f"* `{key}: {json.dumps(value)}`" for key, value in COMMON.items())
    groups: dict[tuple[str, int, str], list[Result]] = {}
    for each in results:
        groups.setdefault((each.data, each.n, each.key[-1]), []).append(each)
    sections = "\n".join(section(found) for found in groups.values())
    return f"""# What the rounds gain where longer training no longer helps

{describe()}.

`python benchmarks/neurons.py`, called with one set and seed after another; `neurons.json` keeps what came out.

Figures are test mAP (Kaggle Sartorius), one network a round. *teacher*: round 0, trained until twice as many steps no
longer raised the validation mAP by .01 (the second table has the curve). *control*: the same network on the human
labels alone, for as many steps as the last student and its ancestors together. *delivered*: what the run recommends,
decided on validation images. *oracle*: as many steps as the control with the true labels of the pool. *headroom won*:
(last student - control) / (oracle - control), or the two differences where the headroom is below {HEADROOM}.
Pseudo-labels are compared with hidden labels at IoU > .5; *merged* masks hold most of two true cells or more.

All sets are for development: the method was chosen with such figures in sight, those of other seeds among them.

{common}

{sections}"""


@click.command()
@click.option("--data", "names", multiple=True, type=click.Choice(list(SETS)), default=tuple(SETS))
@click.option("--seed", "seeds", multiple=True, type=int, default=(0, 1, 2, 3, 4))
@click.option("--n", type=click.IntRange(min=1), default=1, help="Rounds.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs"), help="Folder of data and runs.")
@click.option("--shared", type=click.Path(path_type=Path), default=DSB2018.parent, help="Folder with the data sets.")
@click.option("--set", "settings", multiple=True, help="One more setting for every run.")
@click.option("--jobs", type=click.IntRange(min=1), default=2, help="Runs at once.")
@click.option("--table", "target", type=click.Path(path_type=Path), default=HERE / "neurons.md")
@click.option("--table-only", is_flag=True, help="Only write the table of the runs that are there.")
def main(
    names: tuple[str, ...],
    seeds: tuple[int, ...],
    n: int,
    out: Path,
    shared: Path,
    settings: tuple[str, ...],
    jobs: int,
    target: Path,
    table_only: bool,
) -> None:
    """Run and tabulate."""
    there = [name for name in names if (shared / SETS[name].folder).is_dir() or not SETS[name].folder]
    if not there:
        skip(f"{shared} holds none of the data sets")
    own = {key: json.loads(value) for key, _, value in (setting.partition("=") for setting in settings)}
    out = out.resolve()
    if not table_only:
        (out / "data").mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(lambda pair: run(*pair, n, out, shared, own), [(d, s) for s in seeds for d in there]))
    found = [result_of(name, seed, n, out, shared, own) for name in there for seed in seeds]
    kept = [Result(**each) for each in json.loads(KEPT.read_text(encoding="utf-8"))] if KEPT.is_file() else []
    if results := merged(kept, [each for each in found if each is not None]):
        KEPT.write_text("[\n" + ",\n".join(json.dumps(asdict(each)) for each in results) + "\n]\n", encoding="utf-8")
        target.write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
