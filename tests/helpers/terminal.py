"""What the tests of the command line share: calling it in this process, and in one of its own."""

import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner, Result

from cellsemi.orchestrator.cli.main import Session, cli


def invoke(*args: str) -> Result:
    return CliRunner().invoke(cli, args, obj=Session())


MAIN = "from cellsemi.orchestrator.cli.main import main; main()"


def python(code: str, *args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *args], cwd=cwd, capture_output=True, text=True, check=False, timeout=900
    )


def cellsemi(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return python(MAIN, *args, cwd=cwd)
