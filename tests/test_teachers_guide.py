"""The recipes of docs/teachers.md, whole: the tool's script, the config, a round. Tools have stand-ins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.guides import ROOT, blocks, furnish
from helpers.terminal import invoke
from helpers.tools_of_others import stand_in

from cellsemi.configs.models import MODEL_KINDS
from cellsemi.configs.schema import Config
from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.run import RunPaths

GUIDE = "docs/teachers.md"
SCRIPTS = {"stardist": "StarDist2D.from_pretrained", "sam3": "Sam3Model", "instanseg": "class InstanSegTeacher"}


def models_of(name: str) -> list[dict[str, Any]]:
    """The entries of the recipe whose teacher has this name."""
    found = [yaml.safe_load(block.text)["models"] for block in blocks(GUIDE, "yaml")]
    (models,) = [each for each in found if each[0]["name"] == name]
    return models


@pytest.fixture
def furnished(here: Path, fake_models: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    furnish(here)
    stand_in(monkeypatch)
    assert invoke("init", "my_images").exit_code == 0
    return here


@pytest.mark.parametrize("name", list(SCRIPTS))
def test_a_recipe_is_complete(name: str, furnished: Path) -> None:
    """A teacher of the recipe labels the pool, and a student learns from it."""
    (script,) = [block.text for block in blocks(GUIDE, "python") if SCRIPTS[name] in block.text]
    classes = yaml.safe_load(Path("cellsemi.yaml").read_text())["data"].get("classes", ["cell"])
    if name == "instanseg":
        Path("instanseg_teacher.py").write_text(script)
    else:
        exec(compile(script, GUIDE, "exec"), {})  # noqa: S102 - our own guide
    models = json.dumps(models_of(name)).replace('"CLASS"', json.dumps(classes[0]))
    limits = json.dumps({each: {"accept": 0.0, "reject": 0.0} for each in classes})
    sets = [f"models={models}", f"filter.thresholds={limits}", "engine.min_free_mb=0", "training.steps=3"]
    flags = [word for setting in sets for word in ("--set", setting)]
    done = invoke("round", "--n", "1", "--engine", "inline", "--run", name, *flags)
    assert done.exit_code == 0, f"{done.output}\n{done.exception}"
    paths = RunPaths(furnished / "runs" / name)
    rows = {(row.round, row.model): row for row in leaderboard.read(paths.leaderboard)}
    assert (0, name) in rows and (1, "student") in rows and rows[1, "student"].accepted > 0
    taught = list(shards.read_folder(paths.predictions(0, name, "unlabelled")))
    assert taught and all(record.instances is not None and len(record.instances) for record in taught)
    scores = {score for record in taught for score in record.instances.score.tolist()}  # type: ignore[union-attr]
    assert (scores == {1.0}) == (name == "instanseg"), "StarDist and SAM 3 state scores"


def test_every_config_of_the_guide_is_one() -> None:
    for block in blocks(GUIDE, "yaml"):
        content = yaml.safe_load(block.text.replace("CLASS", "cell"))
        config = Config.model_validate({**content, "data": {"classes": ["cell"]}})
        assert {model.kind for model in config.models} <= set(MODEL_KINDS) and config.students_of(1)
    assert "teachers.md" in (ROOT / "README.md").read_text()
