"""Defines `cellsemi model`: hands on what a run made."""

from __future__ import annotations

from pathlib import Path

import click

from cellsemi.orchestrator.cli.options import answer, debug_option, json_option


@click.group()
def model() -> None:
    """Hand on what a run made."""
