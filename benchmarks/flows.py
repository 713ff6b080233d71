"""What flow targets can represent, and what they cost: geodesic beside Cellpose's diffusion; to flows.md.

    python benchmarks/flows.py [--root FOLDER]

Ground truth -> targets -> masks recovered from them -> IoU with the same truth, on generated cells and, where it
is there, on DSB2018. No network is involved: this is the ceiling of any network trained on the target.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cellsemi.configs.loading import load_config
from cellsemi.orchestrator.flow_check import FlowResult, check_config

sys.path.insert(0, str(Path(__file__).parent))
from machine import DSB2018, describe

HERE = Path(__file__).parent
HEADER = (
    "data",
    "class",
    "target",
    "images",
    "cells",
    "masks",
    "IoU > .5",
    "IoU > .75",
    "IoU > .9",
    "mean IoU",
    "s/image",
)


@click.command()
@click.option("--root", type=click.Path(path_type=Path), default=DSB2018)
def main(root: Path) -> None:
    """Measure and write the table."""
    rows = [_row("generated", found) for found in check_config(load_config("demo").config)]
    if root.is_dir():
        config = load_config("dsb2018", [f"data.root={root}"]).config
        rows += [_row("DSB2018", found) for found in check_config(config)]
    else:
        print(f"DSB2018 skipped: nothing at {root}; give --root")
    lines = ["| " + " | ".join(cells) + " |" for cells in [HEADER, ["---"] * len(HEADER), *rows]]
    text = f"""# Flow targets: truth -> targets -> masks

{describe()}. Labelled and validation images; seconds are for the targets alone. Written by `benchmarks/flows.py`.

{chr(10).join(lines)}
"""
    (HERE / "flows.md").write_text(text)
    print(text)


def _row(data: str, found: FlowResult) -> list[str]:
    shares = [f"{found.share(count):.3f}" for count in (found.at_50, found.at_75, found.at_90)]
    counts = [str(found.images), str(found.cells), str(found.found)]
    seconds = f"{found.seconds / max(found.images, 1):.4f}"
    return [data, found.class_name, found.target, *counts, *shares, f"{found.mean_iou:.3f}", seconds]


if __name__ == "__main__":
    main()
