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
