"""Rounds on DSB2018 with few labels, by the command a user would type; the table goes to dsb2018.md.

    python benchmarks/dsb2018.py --limit 4 --limit 16 --seed 0 --seed 1 --seed 2 [--root FOLDER] [--out runs]

A run that exists is continued or reused, so the script can be stopped and called again. Extra settings
(`--set a.b=c`) go to every run and into the head of the table.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import click
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent))
from machine import DSB2018, describe, skip

HERE = Path(__file__).parent


@click.command()
@click.option("--limit", "limits", multiple=True, default=("4", "16"), help="Labelled images; `all` for every one.")
@click.option("--seed", "seeds", multiple=True, type=int, default=(0, 1, 2))
@click.option("--n", default=3, help="Rounds.")
@click.option("--root", type=click.Path(path_type=Path), default=DSB2018)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs"), help="Folder of the runs.")
@click.option("--set", "settings", multiple=True)
@click.option("--table-only", is_flag=True, help="Only write the table of the runs that are there.")
def main(
    limits: tuple[str, ...],
    seeds: tuple[int, ...],
    n: int,
    root: Path,
    out: Path,
    settings: tuple[str, ...],
    table_only: bool,
) -> None:
    """Run and tabulate."""
    if not root.is_dir() and not table_only:
        skip(f"no DSB2018 at {root}; give --root")
    commands = {}
    for limit, seed in itertools.product(limits, seeds):
        name = f"dsb2018-{limit}-s{seed}"
        command = _command(name, limit, seed, n, root, out, settings)
        commands[name] = command
        if not table_only:
            print("$", " ".join(command), flush=True)
            subprocess.run(command, check=True)
    frames = [_summary(out / name, name) for name in commands if (out / name / "leaderboard.parquet").is_file()]
    if frames:
        (HERE / "dsb2018.md").write_text(_table(frames, n, settings))


def _command(name: str, limit: str, seed: int, n: int, root: Path, out: Path, settings: tuple[str, ...]) -> list[str]:
    pairs = [
        f"data.root={root}",
        f"data.labelled_limit={'null' if limit == 'all' else limit}",
        f"run.seed={seed}",
        f"run.root={out}",
        *settings,
    ]
    sets = [part for pair in pairs for part in ("--set", pair)]
    return ["cellsemi", "round", "--n", str(n), "--config", "dsb2018", "--run", name, *sets]


def _summary(folder: Path, name: str) -> dict[str, object]:
    """One line of the table from a run's leaderboard: test figures, each model beside its own round 0."""
    rows = pd.read_parquet(folder / "leaderboard.parquet").set_index(["model", "round"])
    rounds = sorted(rows.loc["ensemble"].index)
    ensemble = rows.loc["ensemble"].test_map
    promoted = max(r for r in rounds if r == 0 or rows.loc["ensemble", r].promoted)
    first = rows.index[0][0]
    control = rows.loc["control", rounds[-1]].test_map if ("control", rounds[-1]) in rows.index else float("nan")
    last = rows.loc["ensemble", rounds[-1]]
    return {
        "run": name,
        **{f"ensemble r{r}": f"{ensemble[r]:.3f}" for r in rounds},
        "promoted": f"round {promoted}",
        "promoted - round 0": f"{ensemble[promoted] - ensemble[0]:+.3f}",
        f"{first} r0": f"{rows.loc[first, 0].test_map:.3f}",
        f"{first} last": f"{rows.loc[first, rounds[-1]].test_map:.3f}",
        "control, equal steps": f"{control:.3f}",
        "accepted / ignored / rejected, last": f"{last.accepted} / {last.ignored} / {last.rejected}",
        "minutes": f"{rows.loc['ensemble'].seconds.sum() / 60:.0f}",
    }


def _table(summaries: list[dict[str, object]], n: int, settings: tuple[str, ...]) -> str:
    frame = pd.DataFrame(summaries)
    lines = ["| " + " | ".join(frame.columns) + " |", "|" + "---|" * len(frame.columns)]
    lines += ["| " + " | ".join(str(value) for value in row) + " |" for row in frame.itertuples(index=False)]
    extra = "".join(f" --set {setting}" for setting in settings)
    return f"""# DSB2018: {n} rounds on real fluorescence images

{describe()}.

Command of a line `dsb2018-LIMIT-sSEED`: `cellsemi round --n {n} --config dsb2018 --set data.root=FOLDER
--set data.labelled_limit=LIMIT --set run.seed=SEED{extra}`. The seed draws the labelled images and every
initialisation. 55 validation images choose thresholds, limits and promotion, so they count as labels too; 110 test
images only report. Figures are test mAP (Kaggle Sartorius), `ensemble` is the fused students of a round, which
teach the next one if they are promoted; `control` is the first model trained on the human labels alone for as many
steps as the last student and its ancestors together. Minutes are those of all rounds on a machine that other
programs used as well. Written by `benchmarks/dsb2018.py`.

{chr(10).join(lines)}
"""


if __name__ == "__main__":
    main()
