"""Descriptors 1 and 2 go to the log while ours goes to the terminal; afterwards all is as before."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, subprocess, sys
from pathlib import Path
from cellsemi.orchestrator.terminal.quiet import quiet_output
print("before")
try:
    with quiet_output(Path(sys.argv[1])) as stream:
        print("printed"); print("warned", file=sys.stderr)
        os.write(1, b"from C, out\\n"); os.write(2, b"from C, err\\n")
        subprocess.run(["sh", "-c", "echo from a child; echo its error >&2"], check=True)
        stream.write("progress \\u2713\\n")
        if len(sys.argv) > 2:
            raise ValueError("inside")
except ValueError:
    pass
print("after"); print("after all", file=sys.stderr)
"""


@pytest.mark.parametrize("fail", [[], ["fail"]], ids=["well", "error"])
def test_only_ours_reaches_the_terminal(tmp_path: Path, fail: list[str]) -> None:
    log = tmp_path / "runs" / "demo" / "run.log"
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", SCRIPT, str(log), *fail],
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    assert done.stdout.splitlines() == ["before", "after"]
    assert done.stderr.splitlines() == ["progress ✓", "after all"]
    words = ["from C, err", "from C, out", "from a child", "its error", "printed", "warned"]
    assert sorted(log.read_text().splitlines()) == words


def test_the_log_grows(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", SCRIPT, str(log)], capture_output=True, check=True)
    assert log.read_text().count("printed") == 2


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_closed_pipe_ends_nothing(closed: str, tmp_path: Path) -> None:
    """As `cellsemi round | head -1` does."""
    code = """
import sys, click
from pathlib import Path
from cellsemi.orchestrator.terminal.quiet import outlast_readers, quiet_output
outlast_readers()
sys.stdin.readline()  # the reader has gone
with quiet_output(Path(sys.argv[1])) as stream:
    for number in range(9):
        print("a line", file=stream)
click.echo("done"); click.echo("done", err=True)
sys.exit(7)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "log"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        gone, open_end = (process.stdout, process.stderr) if closed == "stdout" else (process.stderr, process.stdout)
        assert gone is not None and open_end is not None and process.stdin is not None
        gone.close()
        process.stdin.write("\n")
        process.stdin.close()
        assert "done" in open_end.read() and process.wait(timeout=60) == 7
