"""Defines `cellsemi model`: hands on what a run made."""

from __future__ import annotations

import click


@click.group()
def model() -> None:
    """Hand on what a run made."""
