"""A key that stands twice is refused with its path and both lines; everything else is read as PyYAML reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cellsemi.configs.errors import ConfigError
from cellsemi.configs.loading import load_config
from cellsemi.configs.presets.preset_files import preset_names, preset_text
from cellsemi.configs.yaml_text import read_yaml


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a: 1\nb: 2\na: 3\n", ["a: in line 1 and again in line 3; keep one of them"]),
        ("run:\n  name: x\n  seed: 1\n  name: y\n", ["run.name: in line 2 and again in line 4; keep one of them"]),
        ("models:\n  - {name: a}\n  - {name: b,\n     name: c}\n", ["models.1.name: in line 3 and again in line 4"]),
        ("data: {where: {a: 1, a: 2}}", ["data.where.a: in line 1 and again in line 1"]),
        ("a: 1\na: 1\na: 1\n", ["a: in line 1 and again in line 2", "a: in line 1 and again in line 3"]),
        ("training: {steps: 1}\ndata: {}\ntraining: {lr: 1}\n", ["training: in line 1 and again in line 3"]),
    ],
)
def test_a_key_that_stands_twice_is_refused_with_both_lines(text: str, lines: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read_yaml(text, "mine.yaml")
    first, *found = str(caught.value).splitlines()
    assert first == "mine.yaml: a key must stand once in a section"
    assert [line.strip().startswith(each) for line, each in zip(found, lines, strict=True)] == [True] * len(lines)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing",
        "a: {x: 1}\nb: {x: 1}\n",
        "1: a\n'1': b\n",  # a number and a text are two keys
        "base: &base {x: 1}\nown:\n  <<: *base\n  x: 2\n",  # a merged key is a default
        "a: &loop [*loop]\n",
        *(preset_text(name) for name in preset_names()),
    ],
)
def test_all_else_is_read_as_it_is(text: str) -> None:
    if "loop" in text:
        assert list(read_yaml(text, "x")) == ["a"]
    else:
        assert read_yaml(text, "x") == yaml.safe_load(text)


def test_a_config_file_and_a_value_of_set_are_read_so(here: Path) -> None:
    (here / "cellsemi.yaml").write_text("training:\n  steps: 100\n  steps: 200\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"(?s)\./cellsemi\.yaml.*training\.steps: in line 2 and again in line 3"):
        load_config()
    with pytest.raises(ConfigError, match=r"(?s)--set data\.where=.*\n  a: in line 1"):
        load_config("demo", ["data.where={a: x, a: y}"])
