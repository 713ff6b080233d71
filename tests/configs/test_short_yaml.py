"""The short config file: the same config, only what differs, each line with its reason."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cellsemi.configs.loading import build_config, load_config
from cellsemi.configs.presets.preset_files import preset_names, preset_text
from cellsemi.configs.schema import Config
from cellsemi.configs.short_yaml import comments_of, short_yaml


def preset(name: str) -> Config:
    return load_config(name, [] if name == "demo" else ["data.root=somewhere"]).config


def leaves(value: object, prefix: str = "") -> dict[str, object]:
    if isinstance(value, dict) and value:
        return {path: leaf for key, item in value.items() for path, leaf in leaves(item, f"{prefix}.{key}").items()}
    return {prefix: value}


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_the_same_config_in_fewer_lines(name: str) -> None:
    config = preset(name)
    text = short_yaml(config, {})
    assert build_config(yaml.safe_load(text), "short") == config
    stated, usual = leaves(yaml.safe_load(text)), leaves(Config().model_dump(mode="json"))
    same = [path for path, value in stated.items() if not path.startswith(".models") and usual.get(path, ...) == value]
    assert same == []


def test_nothing_differs_in_the_defaults() -> None:
    assert short_yaml(Config(), {}) == "\n"
    assert short_yaml(Config(), {}, ["a", ""], ["b  c"]) == "# a\n#\n\n# b c\n"


def test_each_line_has_the_reason_that_is_given_or_what_the_setting_is() -> None:
    config = load_config("demo", ["training.steps=7", "rounds.promotion.class_margin=0.2"]).config
    text = short_yaml(config, {"training.steps": "to be\n quick", "rounds.promotion": "few images"})
    lines = text.splitlines()
    assert "  steps: 7  # to be quick" in lines
    assert "  promotion:  # few images" in lines
    assert "    class_margin: 0.2  # No class may fall by more than this much validation mAP" in lines
    long = short_yaml(config, {"training.steps": "x" * 110}).splitlines()
    assert long[long.index("  steps: 7") - 1] == f"  # {'x' * 110}"


@given(st.text(), st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_any_reason_and_any_folder_can_be_written(reason: str, folder: str) -> None:
    config = load_config("demo").config
    data = config.data.model_copy(update={"root": folder, "where": {folder: folder}})
    config = config.model_copy(update={"data": data})
    text = short_yaml(config, {"data.root": reason})
    assert build_config(yaml.safe_load(text), "short").data == data


def test_the_settings_of_one_model_are_those_that_differ_from_the_common_ones() -> None:
    models = "[{name: a, training: {lr: 0.1}}, {name: b, training: {}}]"
    config = load_config("demo", [f"models={models}", "training.steps=9"]).config
    text = short_yaml(config, {"models.a": "quick"})
    assert "  - {kind: flow-unet, name: a, training: {lr: 0.1}}  # quick" in text.splitlines()
    assert build_config(yaml.safe_load(text), "short") == config


def test_the_comments_of_a_preset_are_its_reasons() -> None:
    text = (
        "# top\n# second\nrun:\n  name: x  # why x\ndata:\n  images: {a: b}  # where\n  classes: [a,\n    b]  # two\n"
    )
    found = {"run.name": "why x", "data.images": "where", "data.classes": "two"}
    assert comments_of(text) == (["top", "second"], found)
    reasons = comments_of(preset_text("demo"))[1]
    assert reasons["training.batch"] == "small, as are the networks, so that two cores are done in minutes"
    assert reasons["rounds.stop_after"] == "all rounds are to be seen" and "training.human_fraction" in reasons
