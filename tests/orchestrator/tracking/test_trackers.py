"""The real trackers write what they are told to this machine, send nothing, and listen to nothing beyond it.

Those that are not installed are skipped: `pip install 'cellsemi[wandb,mlflow,trackio]'`.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from cellsemi.orchestrator.tracking.follow import PACKAGES

# A process that tells a tracker some points and prints which sockets it, and its children, had to do with.
TELLING = """
import io, ipaddress, json, sys
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

touched = []


def hook(event, args):
    if event in ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        touched.append([event, args[1] if event.startswith(("socket.c", "socket.b", "socket.s")) else args[0]])


sys.addaudithook(hook)
from cellsemi.orchestrator.tracking.follow import opened
from cellsemi.orchestrator.tracking.protocol import Place, Point

name, folder = sys.argv[1:]
place = Place("demo", "cells", Path(folder), "0123456789ab", {"training.lr": 0.1, "data.classes": ["a"]})
picture = io.BytesIO()
Image.fromarray(np.full((8, 9, 3), 77, np.uint8)).save(picture, "PNG")
tracker = opened(name, place)
for step in (10, 20, 30):
    tracker.log(Point(1, "unet-a", step, {"loss": 1 / step}))
tracker.log(Point(1, "unet-a", None, {"val_map": 0.5}, {"reliability": picture.getvalue()}))
children = psutil.Process().children(recursive=True)
for process in (psutil.Process(), *children):
    for each in process.net_connections("inet"):
        ends = (("listens", each.laddr), ("connects", each.raddr))
        touched += [[f"{process.name()} {what}", list(place)] for what, place in ends if place]
tracker.close()
print("TOUCHED", json.dumps(touched))
"""
HOSTILE = {  # an environment that would send, if it were asked
    "WANDB_MODE": "online",
    "WANDB_API_KEY": "0" * 40,
    "MLFLOW_TRACKING_URI": "http://192.0.2.1:5000",
    "TRACKIO_SERVER_URL": "http://192.0.2.1:7860/?write_token=x",
    "TRACKIO_SPACE_ID": "someone/cells",
}


def told(name: str, folder: Path) -> list[tuple[str, Any]]:
    """What a fresh process that tells the tracker had to do with sockets."""
    if find_spec(PACKAGES[name]) is None:  # type: ignore[index]
        pytest.skip(f"{name} is not installed: pip install 'cellsemi[{name}]'")
    done = subprocess.run(
        [sys.executable, "-c", TELLING, name, str(folder)],
        env={**os.environ, **HOSTILE},
        cwd=folder.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(each) for each in json.loads(done.stdout.rpartition("TOUCHED ")[2].splitlines()[0])]


def beyond(touched: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Those that are neither of this machine nor files."""
    own = ("127.", "::1", "localhost", "0.0.0.0:0")
    return [
        (event, place)
        for event, place in touched
        if not (isinstance(place, str) and place.startswith(("/", *own)))
        and not (isinstance(place, list) and str(place[0]).startswith(own))
    ]


def test_what_goes_beyond_would_be_found() -> None:
    found = [("socket.connect", ["192.0.2.1", 80]), ("socket.getaddrinfo", "api.wandb.ai"), ("x l", ["0.0.0.0", 6006])]
    assert beyond([*found, ("socket.bind", ["::1", 0, 0, 0]), ("socket.connect", "/tmp/socket")]) == found


def test_tensorboard_files_hold_it(tmp_path: Path) -> None:
    assert beyond(told("tensorboard", tmp_path / "t")) == []
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curve = EventAccumulator(str(tmp_path / "t" / "round-01" / "unet-a")).Reload()
    assert [(e.step, e.value) for e in curve.Scalars("loss")] == [
        (step, pytest.approx(1 / step)) for step in (10, 20, 30)
    ]
    scores = EventAccumulator(str(tmp_path / "t" / "scores" / "unet-a")).Reload()
    assert [(e.step, e.value) for e in scores.Scalars("val_map")] == [(1, 0.5)]
    (image,) = scores.Images("reliability")
    assert (image.width, image.height) == (9, 8) and image.encoded_image_string.startswith(b"\x89PNG")


def test_mlflow_keeps_it_in_a_folder(tmp_path: Path) -> None:
    assert beyond(told("mlflow", tmp_path / "m")) == []
    assert beyond(told("mlflow", tmp_path / "m")) == []  # the next call goes on with the same run
    (run,) = (path.parent for path in (tmp_path / "m").glob("*/*/meta.yaml"))
    lines = (run / "metrics" / "round-01" / "unet-a" / "loss").read_text().splitlines()
    assert [line.split()[1:] for line in lines][:3] == [[str(1 / step), str(step)] for step in (10, 20, 30)]
    assert (run / "params" / "training.lr").read_text() == "0.1"
    (picture,) = (run / "artifacts").rglob("*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_wandb_keeps_it_offline(tmp_path: Path) -> None:
    assert beyond(told("wandb", tmp_path / "w")) == []
    (run,) = (tmp_path / "w" / "wandb").glob("offline-run-*")
    content = (run / "run-0123456789ab.wandb").read_bytes()
    for word in (b"round-01/unet-a/loss", b"scores/unet-a/val_map", b"training.lr"):
        assert word in content
    assert len(list((run / "files" / "media").rglob("*.png"))) == 1


def test_trackio_keeps_it_in_a_file(tmp_path: Path) -> None:
    assert beyond(told("trackio", tmp_path / "k")) == []
    with sqlite3.connect(tmp_path / "k" / "cells.db") as file:
        rows = [json.loads(row[0]) for row in file.execute("select metrics from metrics order by id")]
    losses = [row["round-01/unet-a/loss"] for row in rows if "round-01/unet-a/loss" in row]
    assert losses == pytest.approx([1 / step for step in (10, 20, 30)])
    assert any(row.get("scores/unet-a/val_map") == 0.5 for row in rows)
