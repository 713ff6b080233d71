"""Measures what the rounds gain in the demo, beside the control of equal steps; the table goes to demo.md.

    python benchmarks/demo.py [--regime uncovered --regime covered] [--seed 0 ...] [--out runs]

A line is the command of the demo, `cellsemi round --n 3`, with a seed: it draws the cells, the labels and every
initialisation. `uncovered` is the preset as it stands; in `covered` the unlabelled and the test images have the
magnification and the density of the labelled ones. A run that exists is continued or reused, so the script can be
stopped and called again; `--table-only` writes the table of what is finished.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parent))
from machine import describe
from rounds_runs import Line, mean

from cellsemi.rounds.evaluation.figures import Interval
from cellsemi.rounds.evaluation.history import read_verdict
from cellsemi.rounds.evaluation.leaderboard import Row
from cellsemi.rounds.store.manifest import read_fit
from cellsemi.rounds.store.run import is_control

HERE = Path(__file__).parent
N = 3
REGIMES: Mapping[str, Sequence[str]] = {
    "uncovered": (),
    "covered": ("data.generated.magnifications=[1.0]", "data.generated.densities=[1.0, 1.0]"),
}
SAYS = {
    "uncovered": "The demo as it stands: labelled images have one magnification and density, the unlabelled, the "
    "validation and the test images several.",
    "covered": "The same, but all images have one magnification and density: the labels cover what the unlabelled "
    "images hold.",
}


@dataclass(frozen=True, slots=True)
class Seed:
    """A finished run: the leaderboard row that is compared with the control, and the control itself."""

    seed: int
    line: Line
    student: Row
    control: Row

    @classmethod
    def read(cls, seed: int, folder: Path) -> Seed | None:
        """The run in a folder; None when it is not finished."""
        line = Line.read(folder, N)
        if line is None or line.control is None:
            return None
        student = next(row for row in line.rows if row.vs_control is not None and row.round == line.control.round)
        return cls(seed, line, student, line.control)

    @property
    def gain(self) -> Interval:
        """Test mAP of the first student of the last round less that of the control, paired over the images."""
        found = self.student.vs_control
        assert isinstance(found, Interval)
        return found

    def cells(self) -> list[str]:
        """One line of the table."""
        line = self.line
        rounds = [line.map_of(round) for round in range(N + 1)]
        steps = read_fit(line.paths.model(self.control.round, self.control.model)).steps
        delivered = "control" if is_control(line.delivered.model) else f"round {line.promoted}"
        return [
            str(self.seed),
            *("-" if value is None else f"{value:.3f}" for value in rounds),
            f"{self.control.test_map.value:.3f} ({steps})",
            f"{self.gain.value:+.3f} ({self.gain.low:+.3f} to {self.gain.high:+.3f})",
            f"{line.delivered.test_map.value:.3f} ({delivered})",
            _headline(read_verdict(line.paths)),
            f"{sum(row.seconds for row in line.ensemble.values()) / 60:.1f}",
        ]


def _headline(verdict: str) -> str:
    """The first sentence of a verdict that begins with the rounds: `The rounds helped`."""
    return verdict[max(0, verdict.find("The rounds ")) :].partition(":")[0]


HEAD = ["seed", *(f"round {n}" for n in range(N + 1)), "control (steps)", f"round {N} - control", "delivered"]
HEAD += ["verdict", "min"]


def section(regime: str, seeds: Sequence[Seed]) -> str:
    """The table of a regime, its mean, and the share of seeds in which the rounds beat the control."""
    rows = [seed.cells() for seed in seeds]
    values = [[seed.line.map_of(n) for seed in seeds] for n in range(N + 1)]
    values.append([seed.control.test_map.value for seed in seeds])
    means = ["-" if (found := mean(column)) is None else f"{found:.3f}" for column in values]
    gain = sum(seed.gain.value for seed in seeds) / len(seeds)
    delivered = sum(seed.line.delivered.test_map.value for seed in seeds) / len(seeds)
    rows.append(["mean", *means, f"{gain:+.3f}", f"{delivered:.3f}", "", ""])
    better = sum(seed.gain.value > 0 for seed in seeds)
    clear = sum(seed.gain.low > 0 for seed in seeds)
    worse = sum(seed.gain.high < 0 for seed in seeds)
    table = "\n".join("| " + " | ".join(row) + " |" for row in [HEAD, ["---"] * len(HEAD), *rows])
    return f"""## {regime}

{SAYS[regime]}

Round {N} beat the control of equal steps in {better} of {len(seeds)} seeds; the whole interval lies above zero in
{clear} of {len(seeds)}, and below zero in {worse}.

{table}
"""


def page(found: Mapping[str, Sequence[Seed]], settings: Sequence[str]) -> str:
    """The whole page."""
    extra = "".join(f" --set {setting}" for setting in settings)
    covered = " ".join(f"--set '{setting}'" for setting in REGIMES["covered"])
    sections = "\n".join(section(regime, seeds) for regime, seeds in found.items() if seeds)
    return f"""# The demo: what its rounds gain

{describe()}.

Command of a line: `cellsemi round --n {N} --engine inline --config demo --set run.seed=SEED{extra}`; in `covered` with
`{covered}`. A seed draws the cells, the labels and every initialisation. Written by `benchmarks/demo.py`.

Figures are test mAP (Kaggle Sartorius). *round 0*: the two models that learned from human labels alone, as an ensemble;
*round 1* to *round {N}*: the student of that round. *control*: the network of the student on human labels only, for as
many steps (in brackets) as the last student and all its ancestors had together. *round {N} - control* is `vs control`
of the leaderboard, in brackets the paired-bootstrap interval (95 %) over the test images. *delivered*: what the run
recommends in the end, decided on validation images: the last round that was promoted, or the control. *verdict*: what
the run says of its rounds. *min*: minutes of all rounds in one process, on a machine that other programs used too.

{sections}"""


def command(regime: str, seed: int, out: Path, settings: Sequence[str]) -> list[str]:
    """The run of a regime and seed."""
    pairs = [f"run.seed={seed}", f"run.root={out}", *settings, *REGIMES[regime]]
    sets = [part for pair in pairs for part in ("--set", pair)]
    options = ["--config", "demo", "--run", run_name(regime, seed), "--engine", "inline"]
    return ["cellsemi", "round", "--n", str(N), *options, *sets]


def run_name(regime: str, seed: int) -> str:
    """The run of a regime and seed, as its folder is called."""
    return f"demo-{regime}-s{seed}"


@click.command()
@click.option("--regime", "regimes", multiple=True, type=click.Choice(list(REGIMES)), default=tuple(REGIMES))
@click.option("--seed", "seeds", multiple=True, type=int, default=(0, 1, 2, 3, 4))
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs"), help="Folder of the runs.")
@click.option("--set", "settings", multiple=True, help="One more setting for every run.")
@click.option("--table", "target", type=click.Path(path_type=Path), default=HERE / "demo.md")
@click.option("--table-only", is_flag=True, help="Only write the table of the runs that are there.")
def main(
    regimes: tuple[str, ...],
    seeds: tuple[int, ...],
    out: Path,
    settings: tuple[str, ...],
    target: Path,
    table_only: bool,
) -> None:
    """Run and tabulate."""
    if not table_only:
        for regime in regimes:
            for seed in seeds:
                line = command(regime, seed, out, settings)
                print("$", " ".join(line), flush=True)
                subprocess.run(line, check=True)
    read = {name: [Seed.read(seed, out / run_name(name, seed)) for seed in seeds] for name in regimes}
    found = {name: [seed for seed in of_regime if seed] for name, of_regime in read.items()}
    if any(found.values()):
        target.write_text(page(found, settings), encoding="utf-8")


if __name__ == "__main__":
    main()
