"""Families of the user's own: from a module that the run keeps a copy of, or from a package that offers one by name."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from helpers.campaigns import Notes, bring, config_at
from helpers.teacher_masks import truth
from helpers.terminal import cellsemi

from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import PythonConfig
from cellsemi.models import own_family
from cellsemi.models.base import check_packages
from cellsemi.models.model_files import CODE
from cellsemi.models.registry import load_predictor
from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.image_codec import decode_image
from cellsemi.rounds.store.run import RunPaths

# A family that knows what is brighter or darker than the background, and writes down whom it was asked about.
MODULE = """
from collections import Counter
from pathlib import Path

import numpy as np
from cellsemi.configs.models import PythonConfig
from cellsemi.models.base import Family, FitResult, config_of, no_fit
from cellsemi.models.model_files import FitFigures, ModelFacts, read_model_file, read_weights, write_model_file
from cellsemi.rounds.cells import masks
from scipy import ndimage

SHIFT = 0.8


class Own:
    def __init__(self, settings, limit):
        self.warnings, self._settings, self._limit = Counter(), settings, limit

    def predict(self, images, scale=1.0, image_ids=()):
        assert len(images) == len(image_ids)
        if "asked" in self._settings:
            with Path(self._settings["asked"]).open("a") as file:
                file.write("".join(image_id + "\\n" for image_id in image_ids))
        found = []
        for image in images:
            smooth = ndimage.gaussian_filter(np.asarray(image, np.float32), 1.5)
            labels, _ = ndimage.label(np.abs(smooth - np.median(smooth)) > self._limit * smooth.std())
            found.append(masks.from_label_map(labels, score=0.7))
        return found


def load(folder, inference, device):
    settings = config_of(read_model_file(folder).model, PythonConfig).settings
    learnt = read_weights(folder)
    return Own(settings, float(learnt) if learnt else SHIFT)


def fit(task, progress):
    progress(task.steps, task.steps)
    figures = FitFigures(steps=task.steps, seed=task.seed, loss=0.0, parameters=1)
    facts = ModelFacts(model=task.model, classes=task.classes, one_class_per_image=False,
                       fingerprint=task.fingerprint, training=figures)
    write_model_file(Path(task.out_dir), b"0.9", facts)
    return FitResult(parameters=1, steps=task.steps, loss=0.0, seconds=0.0, resumed_at=0)


def family(fit):
    return Family(config=PythonConfig, variants=(), start="either", packages=("numpy",), code_licence="",
                  weights_licence="", fit=fit, load=load)


TEACHER, STUDENT, WRONG = family(no_fit), family(fit), 3
"""
ONE = ["data.classes=[cell]", "filter.thresholds={cell: {accept: 0, reject: 0}}"]


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """The folder of the module, which is on nobody's import path."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "own_teacher.py").write_text(MODULE)
    return folder


def models(folder: Path, asked: Path, teacher: str = "TEACHER", student: str = "STUDENT") -> str:
    settings = f"settings: {{asked: '{asked}'}}"
    common = f"kind: python, folder: '{folder}'"
    return (
        f"models=[{{{common}, name: own, family: 'own_teacher:{teacher}', train: false, {settings}}}, "
        f"{{{common}, name: student, family: 'own_teacher:{student}', first_round: 1}}]"
    )


@pytest.mark.usefixtures("fake_models")
def test_a_module_of_ones_own_teaches_and_learns(tmp_path: Path, module: Path) -> None:
    asked = tmp_path / "asked.txt"
    config = config_at(tmp_path, *ONE, models(module, asked), "data.labelled_limit=0")
    paths, _ = bring(config, 1)
    rows = [(row.round, row.model) for row in leaderboard.read(paths.leaderboard)]
    assert rows == [(0, "own"), (0, "ensemble"), (1, "student"), (1, "ensemble")]
    ids = {r.image_id for r in truth(config).values() if r.split != "labelled"}
    assert set(asked.read_text().split()) == ids, "predict was told which images"
    # The model stands alone: the module is beside its weights, and may change or vanish where it came from.
    (module / "own_teacher.py").write_text(MODULE.replace("SHIFT = 0.8", "SHIFT = 99.0"))
    image = next(iter(shards.read_folder(paths.split("test"))))
    predictor = load_predictor(paths.model(1, "student"), config.inference, "cpu")
    assert image.image is not None and (paths.model(1, "student") / CODE / "own_teacher.py").is_file()
    pixels = decode_image(image.image, "x", 10**6)
    assert type(predictor).__module__ == "own_teacher" and predictor.predict([pixels], 1.0, ["x"])  # type: ignore[call-arg]
    # The run goes on with the code that it began with, and says that there is another.
    watcher = Notes()
    bring(config, 2, watcher)
    assert (
        "own: own_teacher:TEACHER has changed; the run goes on with its own copy in code/own, a new run takes"
        in str(watcher.notes)
    )
    assert "SHIFT = 0.8" in (paths.code("own") / "own_teacher.py").read_text()


@pytest.mark.ray
def test_the_module_reaches_the_workers_of_ray(tmp_path: Path, module: Path) -> None:
    """They are processes of their own, whose import path does not hold the folder."""
    asked = tmp_path / "asked.txt"
    sizes = ("labelled=2", "unlabelled=2", "val=2", "test=2", "height_px=64", "width_px=80")
    sets = [*(f"data.generated.{size}" for size in sizes), *ONE, models(module, asked), "engine.min_free_mb=0"]
    flags = [word for setting in sets for word in ("--set", setting)]
    done = cellsemi("round", "--n", "1", "--run", "own", "--engine", "ray", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {(row.round, row.model) for row in leaderboard.read(RunPaths(tmp_path / "runs" / "own").leaderboard)}
    assert {(0, "own"), (1, "student")} <= rows and len(set(asked.read_text().split())) == 6


def test_a_package_offers_a_family_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package, as pip leaves one: a module, and its entry points."""
    site = tmp_path / "site"
    about = site / "own_package-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "own_package.py").write_text(MODULE)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: own-package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[cellsemi.models]\nown-cells = own_package:TEACHER\n")
    monkeypatch.syspath_prepend(str(site))
    model = PythonConfig(name="own", family="own-cells", train=False)
    assert own_family.own_family(model, None) is sys.modules["own_package"].TEACHER
    monkeypatch.delitem(sys.modules, "own_package")
    with pytest.raises(ModelError, match=r"'other' \(entry points of cellsemi.models: .*own-cells"):
        own_family.own_family(PythonConfig(name="own", family="other"), None)


def test_modules_that_do_not_fit_are_refused_with_the_remedy(tmp_path: Path, module: Path) -> None:
    def problem(family: str, folder: Path | None = module) -> str:
        model = PythonConfig(name="own", family=family, folder=None if folder is None else str(folder))
        with pytest.raises(ModelError) as error:
            code = None if folder is None else tmp_path / "code"
            if code is not None:
                own_family.copy_module(model, code)
            own_family.own_family(model, code)
        return str(error.value)

    assert "holds neither absent.py nor a package absent" in problem("absent:FAMILY")
    assert "the module own_teacher holds no NONE" in problem("own_teacher:NONE")
    assert "own_teacher:WRONG is int, expected a cellsemi.models.base.Family" in problem("own_teacher:WRONG")
    assert "it is not installed here; `folder` names" in problem("own_teacher_that_is_absent:FAMILY", None)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "broken_teacher.py").write_text("import a_module_that_is_absent\n")
    (tmp_path / "code").rename(tmp_path / "before")
    assert "No module named 'a_module_that_is_absent'" in problem("broken_teacher:FAMILY", broken)
    with pytest.raises(ModelError, match="'own' needs the package 'absent': pip install absent"):
        check_packages(_lacking("absent"), "own")


def _lacking(package: str):  # type: ignore[no-untyped-def]
    from dataclasses import replace

    from cellsemi.models.python.family import FAMILY

    return replace(FAMILY, packages=(package,))


@pytest.mark.usefixtures("fake_models")
def test_a_family_that_cannot_be_trained_says_how_it_teaches(tmp_path: Path, module: Path) -> None:
    text = models(module, tmp_path / "asked.txt", student="TEACHER")
    with pytest.raises(Exception, match="student: a python that cannot be trained; it teaches with `train: false`"):
        bring(config_at(tmp_path, *ONE, text), 1)


def test_a_package_in_a_folder_is_copied_whole(tmp_path: Path) -> None:
    package = tmp_path / "mine" / "own_many"
    (package / "__pycache__").mkdir(parents=True)
    (package / "__init__.py").write_text("from own_many.part import FAMILY\n")
    (package / "part.py").write_text(MODULE + "\nFAMILY = TEACHER\n")
    (package / "weights.json").write_text(json.dumps({"a": 1}))
    model = PythonConfig(name="own", family="own_many:FAMILY", folder=str(tmp_path / "mine"), train=False)
    assert own_family.copy_module(model, tmp_path / "code") and own_family.copy_module(model, tmp_path / "code")
    assert sorted(path.name for path in (tmp_path / "code" / "own_many").iterdir()) == [
        "__init__.py", "part.py", "weights.json"]  # fmt: skip
    found = own_family.own_family(model, tmp_path / "code")
    assert found.kind == "python" and sys.modules["own_many.part"].__file__ == str(
        tmp_path / "code" / "own_many" / "part.py"
    )
    (package / "part.py").write_text(MODULE + "\nFAMILY = STUDENT\n")
    assert not own_family.copy_module(model, tmp_path / "code")
