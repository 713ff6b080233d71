"""The parts that can be switched: that each has two sides, and which way it is switched in a config."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers.campaigns import PLAIN

from cellsemi.configs.ablation_parts import PARTS, Part, find_parts, switch, with_settings
from cellsemi.configs.errors import ConfigError, UsageError
from cellsemi.configs.loading import config_difference, load_config
from cellsemi.configs.schema import Config


def demo(*settings: str) -> Config:
    return load_config("demo", [*PLAIN, *settings]).config


def base_of(part: Part) -> Config:
    """A config in which the part is not moot."""
    detectors = "models=[{kind: torchvision-maskrcnn, name: a}, {kind: flow-unet, name: b}]"
    heads = [detectors] if part.name == "extra-heads" else []
    return demo("unlabelled_inference.scale_search=[0.5, 1.0]", *heads)


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_both_sides_of_a_part_are_valid_and_differ(part: Part) -> None:
    base = base_of(part)
    on, off = with_settings(base, part.on, part.name), with_settings(base, part.off, part.name)
    assert set(part.on) == set(part.off)
    differing = {line.partition(":")[0] for line in config_difference(on, off)}
    assert differing
    for path in part.on:  # no setting of a part is idle
        way = path.replace("[]", ".0")
        assert any(name == way or name.startswith(f"{way}.") for name in differing), path


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_a_part_is_switched_back_by_switching_it_again(part: Part) -> None:
    base = base_of(part)
    made = switch(with_settings(base, part.on, part.name), part)
    assert made.to == "off" and made.config == with_settings(base, part.off, part.name)
    back = switch(made.config, part)
    assert back.to == "on" and back.config == with_settings(base, part.on, part.name)


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_a_part_says_where_it_comes_from_in_one_line(part: Part) -> None:
    assert part.sentence.endswith(".") and "\n" not in part.sentence and part.source
    assert "; off: " in part.sentence


@pytest.mark.parametrize(
    ("name", "settings", "to"),
    [
        ("ema", [], "off"),
        ("ema", ["training.ema=0.5"], "off"),  # neither side: what is not off is on
        ("ema", ["training.ema=0"], "on"),
        ("promotion", ["rounds.promotion.min_probability=0.9"], "off"),
        ("promotion", ["rounds.promotion.min_probability=0", "rounds.promotion.class_margin=1"], "on"),
        ("stopping", [], "on"),
        ("stopping", ["rounds.stop_after=5"], "off"),
        ("areas", [], "off"),
        ("ignore-band", ["filter.reject_below=auto"], "off"),
        ("fusion", ["fusion.method=weighted"], "off"),
        ("augment", [], "on"),  # the demo's own augmentation is nearer to the default than to `strong`
        ("copy-paste", [], "on"),
        ("copy-paste", [f"models.{i}.augment.copy_paste.probability=0.2" for i in (0, 1)], "off"),
        ("copy-paste", ["models.1.augment.copy_paste.probability=0.2"], "on"),  # nearer to none than to both
    ],
)
def test_a_part_is_switched_the_other_way(name: str, settings: list[str], to: str) -> None:
    assert switch(demo(*settings), PARTS[name]).to == to


def test_a_switch_says_what_it_changes() -> None:
    made = switch(demo(), PARTS["ema"])
    assert made.settings == ("training.ema=0.0",) and made.changes == ("training.ema: 0.99 -> 0.0",)
    assert switch(demo(), PARTS["stopping"]).settings == ("rounds.stop_after=1",)
    strong = switch(demo(), PARTS["augment"])
    assert strong.settings == ("models[].augment=strong",)
    assert "models.1.augment.elastic: 0.3 -> 0.2" in strong.changes
    back = switch(demo("models.0.augment=strong", "models.1.augment=strong"), PARTS["augment"])
    assert back.settings == ("models[].augment=default",)


def test_a_setting_reaches_every_model_and_its_own_training() -> None:
    base = demo("models.1.training={ema: 0.9, steps: 7}", "training.human_last=0")
    config = switch(base, PARTS["ema"]).config
    own = config.models[1].training
    assert config.training.ema == 0 and own is not None and own.ema == 0 and own.steps == 7
    pasted = switch(base, PARTS["copy-paste"]).config
    assert [model.augment.copy_paste.probability for model in pasted.models] == [0.5, 0.5]
    assert [model.augment.elastic for model in pasted.models] == [0.0, 0.3]


LIMITS = "{accept: 0.5, reject: 0.1}"
FIXED = f"filter.thresholds={{shsy5y: {LIMITS}, astro: {LIMITS}, cort: {LIMITS}}}"


@pytest.mark.parametrize(
    ("name", "setting", "words"),
    [
        ("ignore-band", FIXED, "fixed by filter.thresholds"),
        ("areas", FIXED, "fixed by filter.thresholds"),
        ("fusion", "models=[{name: only}]", "only one model"),
        ("ensemble", "models=[{name: only}]", "only one model"),
        ("extra-heads", "run.seed=1", "no model may have such heads"),
    ],
)
def test_a_part_that_can_change_nothing_is_refused(name: str, setting: str, words: str) -> None:
    with pytest.raises(UsageError, match=f"part '{name}' changes nothing here: .*{words}"):
        switch(demo(setting), PARTS[name])


def test_a_part_that_does_not_fit_the_config_is_named() -> None:
    with pytest.raises(ConfigError, match=r"part 'human-last'(.|\n)*training\.human_last: Input should be less than 1"):
        switch(demo(), replace(PARTS["human-last"], on={"training.human_last": 1.0}))


def test_parts_are_found_by_name_once_and_a_wrong_name_gets_the_nearest() -> None:
    assert [part.name for part in find_parts(["ema", "fusion", "ema"])] == ["ema", "fusion"]
    with pytest.raises(UsageError, match="no part is called 'copypaste'; did you mean 'copy-paste'"):
        find_parts(["ema", "copypaste"])
    with pytest.raises(UsageError, match="called 'zzz'; There are: scale-search, "):
        find_parts(["zzz"])
