"""How often a candidate without any gain is promoted when a refused round is tried again; to retries.md.

    python benchmarks/retries.py

After a refused round the teachers, and so the pseudo-labels, are the same: another round is another draw of the seed.
Here the models are drawn, not trained: the score of each on each validation image is normal noise around one mean, so
that no candidate is better than the incumbent by anything but chance. The decision is that of a run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))
from machine import describe
from rounds_table import table

from cellsemi.configs.rounds import PromotionConfig
from cellsemi.rounds.evaluation.bootstrap import paired_probability
from cellsemi.rounds.evaluation.promotion import needed_probability
from cellsemi.rounds.store import files

HERE = Path(__file__).parent
COUNTS = (3, 5, 10, 20)  # validation images
TRIES = (1, 2, 3)
ASKED = (0.6, 0.8, 0.95)  # values of rounds.promotion.min_probability
RESAMPLES = 500


def probabilities(images: int, repeats: int, seed: int) -> NDArray[np.float64]:
    """The paired-bootstrap probabilities of the tries against one incumbent, float64 (repeats, tries)."""
    generator = np.random.default_rng([seed, images])
    found = np.empty((repeats, max(TRIES)))
    for repeat in range(repeats):
        incumbent = generator.standard_normal(images)
        for position in range(max(TRIES)):
            candidate = generator.standard_normal(images)
            drawn = int(generator.integers(2**31))
            found[repeat, position] = paired_probability(candidate, incumbent, RESAMPLES, drawn)
    return found


def promoted(found: NDArray[np.float64], asked: float, tries: int, shared: bool) -> float:
    """The share of runs that promote one of their first `tries`.

    `shared`: each try needs what a run asks of it (needed_probability); else each needs `asked`, as the first does.
    """
    needed = [needed_probability(asked, at) if shared else asked for at in range(1, tries + 1)]
    return float((found[:, :tries] >= needed).any(axis=1).mean())


def lines(repeats: int, seed: int) -> list[list[str]]:
    """The rows of the table: each number of images and asked probability, without and with the rule."""
    rows = []
    for images in COUNTS:
        found = probabilities(images, repeats, seed)
        for asked in ASKED:
            shares = [promoted(found, asked, tries, shared) for shared in (False, True) for tries in TRIES]
            mark = " (default)" if asked == PromotionConfig().min_probability else ""
            rows.append([str(images), f"{asked:g}{mark}", *(f"{share:.0%}" for share in shares)])
    return rows


HEADER = ["val images", "asked", *(f"{kind}, {n}" for kind in ("same", "shared") for n in TRIES)]


def page(rows: Sequence[Sequence[str]], command: str) -> str:
    """The whole of retries.md."""
    return f"""# Trying a refused round again

{describe()}.

`{command}`

The share of runs that promote a candidate without any gain within so many tries against one incumbent. The scores of
incumbent and candidates are independent normal noise around one mean, on so many validation images; the probability is
the paired bootstrap of a run ({RESAMPLES} resamples). No guard of a class is applied, which would refuse some more.

* **same**: each try needs `rounds.promotion.min_probability`, as if it were the first.
* **shared**: the rule of a run: the t-th try since the last promotion needs 1 - (1 - p) / t. By default a run stops
  after the first refusal (`rounds.stop_after: 1`), so that further tries are made only where a person asks for them.

{table(HEADER, rows)}
"""


@click.command()
@click.option("--repeats", type=click.IntRange(min=1), default=4000, help="Simulated runs for each number of images.")
@click.option("--seed", type=int, default=0)
@click.option("--table", "target", type=click.Path(path_type=Path), default=HERE / "retries.md")
def main(repeats: int, seed: int, target: Path) -> None:
    """Draw, decide, tabulate."""
    command = f"python benchmarks/retries.py --repeats {repeats} --seed {seed}"
    files.write_text(target, page(lines(repeats, seed), command))


if __name__ == "__main__":
    main()
