"""Adding a model family takes two files: its folder's `family.py`, and its config class in `configs/models.py`."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("configs", "rounds", "models", "orchestrator")

# pytest stands for a framework that cellsemi does not require: it is installed wherever this test runs.
FAMILY_FILE = '''"""Describes `toy-threshold`, which trains in no time: a cell is what is darker than the background."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cellsemi.configs.models import ToyThresholdConfig
from cellsemi.configs.training import InferenceConfig
from cellsemi.models.base import Family, FitResult, FitTask, Image, ModelVariant, Progress, config_of
from cellsemi.models.model_files import FitFigures, ModelFacts, read_model_file, write_model_file
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances


class ToyPredictor:
    """See models.base.Predictor."""

    def __init__(self, factor: float) -> None:
        self.warnings: Counter[str] = Counter()
        self._factor = factor

    def predict(self, images: Sequence[Image], scale: float = 1.0) -> list[Instances]:
        """Connected pixels that are darker than the median by more than `factor` standard deviations."""
        from scipy import ndimage

        found = []
        for image in images:
            smooth = ndimage.gaussian_filter(np.asarray(image, np.float32), 1.5)
            labels, n = ndimage.label(np.median(smooth) - smooth > self._factor * smooth.std())
            found.append(masks.from_label_map(labels, score=np.full(n, 0.9)))
        return found


def _fit(task: FitTask, progress: Progress) -> FitResult:
    figures = FitFigures(steps=task.steps, seed=task.seed, loss=0.0, parameters=1)
    facts = ModelFacts(
        model=task.model,
        classes=task.classes,
        one_class_per_image=task.one_class_per_image,
        fingerprint=task.fingerprint,
        training=figures,
    )
    write_model_file(Path(task.out_dir), b"no weights", facts)
    progress(task.steps, task.steps)
    return FitResult(parameters=1, steps=task.steps, loss=0.0, seconds=0.0, resumed_at=0)


def _load(folder: Path, inference: InferenceConfig, device: str) -> ToyPredictor:
    return ToyPredictor(config_of(read_model_file(folder).model, ToyThresholdConfig).factor)


FAMILY = Family(
    config=ToyThresholdConfig,
    variants=(ModelVariant("toy-threshold", 1),),
    start="scratch",
    packages=("pytest",),
    install={"pytest": "pip install the-toy-framework"},
    code_licence="none",
    weights_licence="none",
    fit=_fit,
    load=_load,
)
'''
CONFIG_CLASS = '''class ToyThresholdConfig(ModelBase):
    """`toy-threshold`: a threshold on the distance to the background."""

    kind: Literal["toy-threshold"] = Field("toy-threshold", description="The model family.")
    factor: float = Field(1.0, gt=0, description="The threshold in standard deviations.")


ModelConfig = '''


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages with the toy family added to it."""
    tree = tmp_path_factory.mktemp("tree")
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, tree / "cellsemi" / package, ignore=ignored)
    folder = tree / "cellsemi" / "models" / "toy_threshold"
    folder.mkdir()
    (folder / "family.py").write_text(FAMILY_FILE, encoding="utf-8")
    path = tree / "cellsemi" / "configs" / "models.py"
    text = path.read_text(encoding="utf-8")
    assert text.count("ModelConfig = ") == 1 and text.count("| PythonConfig,") == 1
    text = text.replace("ModelConfig = ", CONFIG_CLASS)
    text = text.replace("| PythonConfig,", "| PythonConfig | ToyThresholdConfig,")
    path.write_text(text, encoding="utf-8")
    return tree


def run(tree: Path, code: str, *args: str) -> str:
    """What a fresh process prints that imports cellsemi from the tree, in an empty folder; it must succeed."""
    folder = tree / "work"
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *args], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def cellsemi(tree: Path, *args: str) -> str:
    return run(tree, "from cellsemi.orchestrator.cli.main import main; main()", *args)


def test_two_files_differ(tree: Path) -> None:
    def all_files(root: Path) -> set[Path]:
        found = (path.relative_to(root) for package in PACKAGES for path in (root / package).rglob("*"))
        return {path for path in found if (root / path).is_file() and "__pycache__" not in path.parts}

    here, there = all_files(ROOT), all_files(tree / "cellsemi")
    assert here <= there
    changed = {path for path in here if not filecmp.cmp(ROOT / path, tree / "cellsemi" / path, shallow=False)}
    assert changed == {Path("configs/models.py")}
    assert there - here == {Path("models/toy_threshold/family.py")}


def test_the_family_is_listed_everywhere(tree: Path) -> None:
    rows = {row["name"]: row for row in json.loads(cellsemi(tree, "models", "--json"))}
    assert rows["toy-threshold"]["missing"] == {} and rows["toy-threshold"]["packages"] == ["pytest"]
    packages = {package["name"]: package for package in json.loads(cellsemi(tree, "doctor", "--json"))["packages"]}
    assert packages["pytest"]["version"] and not packages["pytest"]["required"]
    settings = run(tree, "from cellsemi.configs.describe import field_table; print(*[row[0] for row in field_table()])")
    assert "(toy-threshold).factor" in settings  # of which docs/config.md is made


def test_a_round_is_run_with_it(tree: Path) -> None:
    sizes = ("labelled=2", "unlabelled=2", "val=3", "test=6", "height_px=96", "width_px=96")
    settings = [f"data.generated.{size}" for size in sizes]
    settings += ["models=[{kind: toy-threshold, name: toy, factor: 0.6}]", "engine.min_free_mb=0"]
    flags = [word for setting in settings for word in ("--set", setting)]
    cellsemi(tree, "round", "--n", "0", "--run", "toy", "--engine", "inline", *flags)
    folder = tree / "work" / "runs" / "toy" / "round-00" / "students" / "toy"
    about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    assert about["model"]["kind"] == "toy-threshold" and about["model"]["factor"] == 0.6
    rows = {row["model"]: row for row in json.loads(cellsemi(tree, "leaderboard", "toy", "--json"))["rows"]}
    assert rows["toy"]["test_map"] > 0
