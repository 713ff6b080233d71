"""Two kinds of teachers on DSB2018, flow U-Net and Mask R-CNN: every model's rows go to mixed.md.

    python benchmarks/mixed.py [--limit 16] [--seed 0] [--n 3] [--root FOLDER] [--out runs]

A run that exists is continued or reused. About half an hour on two cores.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from cellsemi.rounds.store.run import RunPaths, read_precision

sys.path.insert(0, str(Path(__file__).parent))
from machine import DSB2018, describe, skip

HERE = Path(__file__).parent


@click.command()
@click.option("--limit", default=16, help="Labelled images.")
@click.option("--seed", default=0)
@click.option("--n", default=3, help="Rounds.")
@click.option("--root", type=click.Path(path_type=Path), default=DSB2018)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs"), help="Folder of the runs.")
def main(limit: int, seed: int, n: int, root: Path, out: Path) -> None:
    """Run and tabulate."""
    if not root.is_dir():
        skip(f"no DSB2018 at {root}; give --root")
    name = f"mixed-{limit}-s{seed}"
    pairs = [f"data.root={root}", f"data.labelled_limit={limit}", f"run.seed={seed}", f"run.root={out}"]
    sets = [part for pair in pairs for part in ("--set", pair)]
    command = ["cellsemi", "round", "--n", str(n), "--config", "dsb2018-mixed", "--run", name, *sets]
    print("$", " ".join(command), flush=True)
    subprocess.run(command, check=True)
    (HERE / "mixed.md").write_text(page(RunPaths(out / name), limit, seed, n))


def page(paths: RunPaths, limit: int, seed: int, n: int) -> str:
    """The run's own leaderboard, below what it was made with."""
    agreed = read_precision(paths)
    return f"""# DSB2018: a flow U-Net and a Mask R-CNN as one ensemble

{describe()}; training in {"the stated precision" if agreed is None else agreed.training}.

`cellsemi round --n {n} --config dsb2018-mixed --set data.root=FOLDER --set data.labelled_limit={limit}
--set run.seed={seed}`: `unet` is `flow-unet`, `maskrcnn` is torchvision's Mask R-CNN with ResNet-18, both from scratch,
300 steps a round; `ensemble` is the two fused, which teaches. The control is the first model. Written by
`benchmarks/mixed.py`.

{paths.leaderboard.with_suffix(".md").read_text()}"""


if __name__ == "__main__":
    main()
