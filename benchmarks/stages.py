"""Where each second of the demo goes: three rounds on local Ray, by kind of stage; the table goes to stages.md.

    python benchmarks/stages.py [--run NAME=FOLDER ...]

Without `--run` the demo is run once, in a folder that is removed. With it, runs that are there are tabulated beside one
another, such as one of an earlier version.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from datetime import datetime
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parent))
from machine import describe

HERE = Path(__file__).parent
KINDS = {  # the first words of a stage's name -> its row
    "read images": "read images, generate them",
    "build the training set": "build training sets",
    "train": "train",
    "label unlabelled": "label unlabelled images: predict, fuse, filter",
    "predict": "predict val and test",
    "fuse": "fuse",
    "calibrate": "calibrate, choose thresholds",
    "filter": "filter",
}
OTHERS = "compare sizes, check drift, evaluate, finish"
BETWEEN = "between stages, start, end"


def seconds_of(run: Path) -> Counter[str]:
    """Seconds by kind of stage, from the events of a run that one call made."""
    found: Counter[str] = Counter()
    events = [json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    for event in events:
        if event["event"] == "finish":
            name = event["stage"]
            found[next((row for words, row in KINDS.items() if name.startswith(words)), OTHERS)] += event["seconds"]
    first, last = (datetime.fromisoformat(events[i]["time"]) for i in (0, -1))
    found[BETWEEN] = (last - first).total_seconds() - sum(found.values())
    return found


def table(columns: dict[str, Counter[str]]) -> str:
    """The runs beside one another, as Markdown."""
    rows = [row for row in (*KINDS.values(), OTHERS, BETWEEN) if any(each[row] for each in columns.values())]
    lines = [["seconds", *columns], ["---"] * (1 + len(columns))]
    lines += [[row, *(f"{each[row]:.1f}" for each in columns.values())] for row in rows]
    lines.append(["all", *(f"{sum(each.values()):.1f}" for each in columns.values())])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def run_demo(folder: Path) -> Path:
    """A run of the demo in `folder`."""
    called = [sys.executable, "-c", "from cellsemi.orchestrator.cli.main import main; main()"]
    subprocess.run([*called, "round", "--n", "3", "--run", "demo"], cwd=folder, check=True, stderr=subprocess.DEVNULL)
    return folder / "runs" / "demo"


@click.command()
@click.option("--run", "runs", multiple=True, help="NAME=FOLDER of a finished run.")
@click.option("--table", "target", type=click.Path(path_type=Path), default=HERE / "stages.md")
def main(runs: tuple[str, ...], target: Path) -> None:
    """Run and tabulate."""
    with tempfile.TemporaryDirectory() as folder:
        given = {name: Path(place) for name, _, place in (each.partition("=") for each in runs)}
        columns = {name: seconds_of(run) for name, run in (given or {"now": run_demo(Path(folder))}).items()}
    page = f"""# Where each second of the demo goes

{describe()}. `cellsemi round --n 3` on local Ray. Written by `benchmarks/stages.py`.

{table(columns)}
"""
    target.write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
