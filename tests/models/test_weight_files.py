"""Weights that a person has: names, sums, what is refused, and that nothing stands in for a missing file."""

from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cellsemi.configs.errors import ModelError, UsageError
from cellsemi.models import weight_files

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.count": torch.tensor(3)}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(weight_files.HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def saved(path: Path, content: object = STATE) -> Path:
    torch.save(content, path)
    return path


def sum_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_path_is_found_with_and_without_a_stated_sum(home: Path) -> None:
    path = saved(home / "w.pth")
    assert weight_files.verify(str(path), None).path == path
    assert weight_files.verify("w.pth", sum_of(path)).path == path
    found = weight_files.verify("w.pth")
    assert (found.sha256, found.bytes, found.compared) == (sum_of(path), path.stat().st_size, False)
    assert weight_files.verify("w.pth", sum_of(path)).compared


def test_another_sum_is_refused_with_both_sums_and_the_path(home: Path) -> None:
    path = saved(home / "w.pth")
    with pytest.raises(ModelError) as caught:
        weight_files.verify(str(path), "0" * 64)
    assert all(word in str(caught.value) for word in (str(path), sum_of(path), "0" * 64, "stated"))


@pytest.mark.parametrize("name", ["cpsam", "nowhere/w.pth", "~nobody-has-this-name/w.pth", "."])
def test_what_is_missing_is_refused_and_names_what_there_is(home: Path, name: str) -> None:
    weight_files.add(saved(home / "w.pth"), "mine")
    with pytest.raises(ModelError, match=r"nothing is downloaded.*there are: mine"):
        weight_files.verify(name, None)


def test_a_name_stands_for_its_file_and_not_for_a_changed_one(home: Path) -> None:
    path = saved(home / "w.pth")
    entry = weight_files.add(Path("w.pth"), "mine", sha256=sum_of(path).upper(), licence="CC0")
    assert weight_files.verify("mine", None).path == path
    assert (
        weight_files.registered() == {"mine": entry} and entry.licence == "CC0" and entry.bytes == path.stat().st_size
    )
    assert set(json.loads(weight_files.registry_path().read_text())["mine"]) == {
        "path", "sha256", "bytes", "added", "licence",
    }  # fmt: skip
    registered = sum_of(path)
    saved(path, {"b": torch.zeros(1)})
    with pytest.raises(ModelError, match=f"{sum_of(path)}, the registered one is {registered}"):
        weight_files.verify("mine", None)
    with pytest.raises(ModelError, match="registered"):  # the config's own sum does not excuse it
        weight_files.verify("mine", sum_of(path))


def test_a_name_is_not_taken_over_by_chance(home: Path) -> None:
    first, second = saved(home / "a.pth"), saved(home / "b.pth", {"b": torch.zeros(1)})
    weight_files.add(first, "mine", licence="CC0")
    weight_files.add(first, "mine")  # the same content again is no conflict
    with pytest.raises(UsageError, match="--force"):
        weight_files.add(second, "mine")
    assert weight_files.verify("mine", None).path == first
    assert weight_files.add(second, "mine", replaces=True).licence == "CC0"
    assert weight_files.verify("mine", None).path == second


def test_a_registered_name_goes_before_a_file_of_that_name(home: Path) -> None:
    first, _ = saved(home / "a.pth"), saved(home / "mine", {"b": torch.zeros(1)})
    weight_files.add(first, "mine")
    assert weight_files.verify("mine", None).path == first


def test_bad_names_and_sums_register_nothing(home: Path) -> None:
    path = saved(home / "w.pth")
    with pytest.raises(UsageError, match="may hold letters"):
        weight_files.add(path, "a/b")
    with pytest.raises(ModelError, match="stated"):
        weight_files.add(path, "mine", sha256="0" * 64)
    with pytest.raises(ModelError, match="no such file"):
        weight_files.add(home / "none.pth", "mine")
    assert weight_files.registered() == {} and not weight_files.registry_path().exists()


def test_a_damaged_registry_is_said(home: Path) -> None:
    weight_files.add(saved(home / "w.pth"), "mine")
    weight_files.registry_path().write_text('{"mine": {"path": "x"}}')
    with pytest.raises(ModelError, match="not a registry"):
        weight_files.registered()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"model": s, "epoch": 3},
        lambda s: {"state_dict": s},
        lambda s: {"model_state_dict": s, "optimizer": {"lr": 1}},
    ],
)
def test_tensors_are_read_from_what_people_save(home: Path, wrap: object) -> None:
    parallel = {f"module.{name}": value for name, value in STATE.items()}
    for state in (STATE, parallel):
        read = weight_files.load_state(saved(home / "w.pth", wrap(state)))  # type: ignore[operator]
        assert set(read) == set(STATE) and all(torch.equal(read[name], STATE[name]) for name in STATE)


def test_safetensors_are_read(home: Path) -> None:
    save_file(STATE, home / "w.safetensors")
    read = weight_files.load_state(home / "w.safetensors")
    assert all(torch.equal(read[name], STATE[name]) for name in STATE)


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this must not run",)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("w.pth", b""),
        ("w.pth", b"not a file of weights"),
        ("w.pth", b"PK\x03\x04 not an archive"),
        ("w.pkl", pickle.dumps({"a": 1})),
        ("w.pth", pickle.dumps(Harmful())),
        ("w.safetensors", b"12"),
    ],
)
def test_other_files_are_refused_without_running_them(
    home: Path, name: str, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / name).write_bytes(content)
    with pytest.raises(ModelError, match=name):
        weight_files.load_state(home / name)
    assert capsys.readouterr().out == ""


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        weight_files.load_state(path)
    return str(caught.value)


def test_a_refusal_says_what_the_file_asks_for_and_never_to_switch_the_safety_off(home: Path) -> None:
    import argparse
    import warnings

    net = torch.nn.Linear(1, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is going
        torch.jit.script(net).save(str(home / "script.pth"))
    (home / "text.pth").write_text("hello")
    (home / "pickle.pth").write_bytes(pickle.dumps(Harmful(), 4))
    saved(home / "args.pth", {"model": STATE, "args": argparse.Namespace(a=1)})
    saved(home / "net.pth", net)
    found = {path.stem: refused(path) for path in sorted(home.glob("*.pth"))}
    assert "it asks for argparse.Namespace" in found["args"] and "torch.nn.modules.linear.Linear" in found["net"]
    assert "a program for TorchScript" in found["script"] and "not written by torch.save" in found["text"]
    for message in found.values():
        assert "no weights file" in message and "torch.save(net.state_dict(), FILE)" in message
        assert not any(word in message for word in ("weights_only", "trust", "add_safe_globals", "Re-running"))


@pytest.mark.parametrize("content", [{}, [1], {"a": 1}, {"a": STATE}, torch.zeros(3)])
def test_a_file_without_plain_tensors_is_refused(home: Path, content: object) -> None:
    with pytest.raises(ModelError, match="tensors"):
        weight_files.load_state(saved(home / "w.pth", content))


def test_looking_up_names_needs_no_torch() -> None:
    code = "import sys; import cellsemi.models.weight_files; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
