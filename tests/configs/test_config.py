"""The config: presets, refusals that name the place and the remedy, round trips, identity."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cellsemi.configs.describe import documented_yaml, field_table
from cellsemi.configs.errors import ConfigError, UsageError
from cellsemi.configs.loading import build_config, config_difference, config_hash, load_config, to_yaml
from cellsemi.configs.phases import AUGMENT_PRESETS
from cellsemi.configs.presets.preset_files import preset_names, preset_text
from cellsemi.configs.schema import Config

# A preset for a data set of the user's own needs to be told where it lies.
NEEDS_ROOT = {name for name in preset_names() if yaml.safe_load(preset_text(name))["data"]["source"] != "generated"}


def load_preset(name: str) -> Config:
    settings = ["data.root=somewhere"] if name in NEEDS_ROOT else []
    return load_config(name, settings).config


def refusal(data: dict[str, object]) -> list[str]:
    """The lines of the error, without the first."""
    with pytest.raises(ConfigError) as caught:
        build_config(data, "here")
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("here: ")
    return [line.strip() for line in lines]


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_states_its_origin(name: str) -> None:
    settings = ["data.root=somewhere"] if name in NEEDS_ROOT else []
    loaded = load_config(name, settings)
    assert loaded.origin == f"preset '{name}'"
    assert loaded.config.run.name == name


def test_a_preset_without_its_data_says_what_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"--set data\.root=FOLDER"):
        load_config("dsb2018")


@pytest.mark.parametrize("name", preset_names())
def test_what_init_writes_is_the_same_config(name: str) -> None:
    config = load_preset(name)
    assert build_config(yaml.safe_load(documented_yaml(config)), "init") == config
    assert build_config(yaml.safe_load(to_yaml(config)), "resolved") == config


def test_init_documents_every_field_of_every_section() -> None:
    text = documented_yaml(load_preset("demo"))
    for dotted, _, _, description in field_table():
        assert description, f"{dotted} has no description"
        if not dotted.startswith(("models.N", "filter.thresholds.CLASS", "inference.grid.", "training.phases.N")):
            assert f"# {description}" in text, dotted


def test_fixed_limits_survive_the_documented_file() -> None:
    limits = {"cell": {"accept": 0.7, "reject": 0.2, "min_area_px": 9, "max_area_px": None}}
    config = build_config({"filter": {"thresholds": limits}}, "here")
    again = build_config(yaml.safe_load(documented_yaml(config)), "init")
    assert again.filter.thresholds == config.filter.thresholds != "auto"


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"training": {"stepps": 3}}, "training.stepps: unknown key; did you mean 'training.steps'?"),
        ({"trainin": {}}, "trainin: unknown key; did you mean 'training'?"),
        (
            {"data": {"generated": {"labeled": 3}}},
            "data.generated.labeled: unknown key; did you mean 'data.generated.labelled'?",
        ),
        (
            {"models": [{"name": "a", "widht": 8}]},
            "models.0.widht: unknown key; did you mean 'models.0.width'?",
        ),
        (
            {"filter": {"thresholds": {"cell": {"accept": 0.2, "reject": 0.1, "min_area": 3}}}},
            "filter.thresholds.cell.min_area: unknown key; did you mean 'filter.thresholds.cell.min_area_px'?",
        ),
        ({"training": {"steps": 0}}, "training.steps: Input should be greater than or equal to 1 or 'auto' (got 0)"),
        (
            {"filter": {"thresholds": {"cell": {"accept": 2, "reject": 0.1}}}},
            "filter.thresholds.cell.accept: Input should be less than or equal to 1 (got 2)",
        ),
        (
            {"filter": {"thresholds": "automatic"}},
            "filter.thresholds: Input should be a section of keys or 'auto' (got 'automatic')",
        ),
        (
            {"filter": {"thresholds": {"cell": {"accept": 0.2, "reject": 0.5}}}},
            "filter.thresholds.cell: reject (0.5) must not be larger than accept (0.2)",
        ),
        ({"models": [{}]}, "models.0.name: Field required"),
        (
            {"models": [{"name": "a", "depth": 5}], "training": {"crop_px": 112}},
            "training.crop_px is 112, but a takes multiples of 32 (depth)",
        ),
        (
            {"inference": {"tta": ["flip"]}},
            "inference.tta.0: Input should be 'identity', 'flip_x', 'flip_y', 'rot90', 'rot180' or 'rot270' "
            "(got 'flip')",
        ),
    ],
)
def test_one_mistake_is_one_line_with_its_dotted_path(data: dict[str, object], line: str) -> None:
    assert refusal(data) == [line]


def test_an_unknown_key_far_from_any_other_lists_the_valid_ones() -> None:
    (line,) = refusal({"run": {"zzzz": 1}})
    assert line == "run.zzzz: unknown key; valid here: name, root, seed"


def test_every_mistake_is_told_at_once() -> None:
    lines = refusal({"training": {"steps": 0, "lr": -1}, "run": {"name": "../up"}})
    assert {line.split(":")[0] for line in lines} == {"training.steps", "training.lr", "run.name"}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"models": [{"name": "a"}, {"name": "a"}]}, "distinct names"),
        ({"models": [{"name": "control"}]}, "distinct names"),
        ({"models": [{"name": "a.fold-0"}]}, "must not end as the models of a fold do"),
        ({"fusion": {"min_votes": 3}}, "fusion.min_votes is 3 but there are 2 models"),
        ({"data": {"classes": ["a", "a"]}}, "class names must be distinct"),
        ({"filter": {"thresholds": {"x": {"accept": 0.5, "reject": 0.1}}}}, "must name every class"),
    ],
)
def test_parts_that_do_not_fit_are_refused(data: dict[str, object], words: str) -> None:
    assert words in " ".join(refusal(data))


@pytest.mark.parametrize("name", ["a/b", "..", "", "a b", "x" * 65, "-a"])
def test_names_that_are_no_path_part_are_refused(name: str) -> None:
    assert refusal({"run": {"name": name}})[0].startswith("run.name:")


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("training.steps=7", ("training", "steps"), 7),
        ("training.lr=1e-3", ("training", "lr"), 1e-3),
        ("data.classes=[a]", ("data", "classes"), ("a",)),
        ("engine.address=", ("engine", "address"), None),
        ("run.name=with=sign", None, None),
        ("rounds.promotion.bootstrap=100", ("rounds", "promotion", "bootstrap"), 100),
        ("data.where.modality=fluorescence", ("data", "where"), {"modality": "fluorescence"}),
    ],
)
def test_set_reads_the_value_as_yaml(setting: str, path: tuple[str, ...] | None, value: object) -> None:
    if path is None:
        with pytest.raises(ConfigError, match=r"run\.name"):
            load_config("demo", [setting])
        return
    found: object = load_config("demo", ["data.class_column=kind", setting]).config
    for key in path:
        found = getattr(found, key)
    assert found == value


def test_set_steps_into_the_default_models() -> None:
    config = load_config("label-maps", ["data.root=.", "models.1.width=8"]).config
    assert [model.width for model in config.models] == [Config().models[0].width, 8]


def test_set_changes_a_named_augmentation_and_keeps_the_rest_of_it() -> None:
    model = load_config("demo", ["models.0.augment=strong", "models.0.augment.blur=0.5"]).config.models[0]
    assert model.augment == AUGMENT_PRESETS["strong"].model_copy(update={"blur": 0.5})
    with pytest.raises(UsageError, match=r"models\.0\.augment is the value 'mild', not a section"):
        load_config("demo", ["models.0.augment=mild", "models.0.augment.blur=0.5"])


def test_later_settings_win() -> None:
    assert load_config("demo", ["run.seed=1", "run.seed=2"]).config.run.seed == 2


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("training", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("training.steps=[", "not valid YAML"),
        ("models.7.width=8", "not an index below 3"),
        ("run.name.first=x", r"run\.name is the value 'demo', not a section; give all of run\.name"),
        ("training.step=3", "did you mean 'training.steps'"),
    ],
)
def test_wrong_settings_are_refused(setting: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load_config("demo", [setting])


def test_the_hash_is_of_the_result_and_not_of_the_place() -> None:
    def of(*settings: str) -> str:
        return config_hash(load_config("demo", settings).config)

    same = of()
    assert of("engine.kind=inline", "engine.workers=3", "run.root=elsewhere") == same
    assert len({same, of("run.seed=1"), of("training.steps=5"), of("data.generated.val=3")}) == 4


def test_the_difference_names_old_and_new() -> None:
    old, new = (load_config("demo", [f"training.steps={n}", f"engine.workers={n}"]).config for n in (5, 6))
    assert config_difference(old, new) == ["training.steps: 5 -> 6"]
    assert config_difference(old, old) == []


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 10**6), st.floats(1e-6, 1.0), st.sampled_from(["a", "b.c", "x-1"]))
def test_any_config_survives_its_yaml(steps: int, lr: float, name: str) -> None:
    config = build_config({"training": {"steps": steps, "lr": lr}, "run": {"name": name}}, "here")
    again = build_config(yaml.safe_load(documented_yaml(config)), "init")
    assert again == config and config_hash(again) == config_hash(config)


def test_a_config_is_frozen() -> None:
    config = load_preset("demo")
    with pytest.raises(ValidationError, match="frozen"):
        config.training.steps = 3  # type: ignore[misc]


def test_the_local_file_comes_before_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "preset 'demo'" in load_config().origin
    (tmp_path / "cellsemi.yaml").write_text("run: {name: mine}\n", encoding="utf-8")
    loaded = load_config()
    assert (loaded.origin, loaded.config.run.name) == ("./cellsemi.yaml", "mine")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"run: [", "not valid YAML"),
        (b"- a\n", "expected a mapping"),
        (b"run: \xff", "not a UTF-8 text file"),
    ],
)
def test_files_that_are_no_config_are_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=words) as caught:
        load_config(str(path))
    assert str(path) in str(caught.value)


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'demo'"):
        load_config("dmo")
    with pytest.raises(UsageError, match=r"there are: .*demo, .*dsb2018"):
        preset_text("nothing")
