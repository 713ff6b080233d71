"""The precision of training: chosen once for a run, written into its run.yaml, shown, and the same for every fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from helpers.campaigns import bring, config_at
from helpers.fake_family import FakeFamily

from cellsemi.models.base import FitTask
from cellsemi.orchestrator.runs.plan import accept_changes, adopt_steps
from cellsemi.orchestrator.stages import choose_precision
from cellsemi.orchestrator.stages.choose_precision import PrecisionJob
from cellsemi.rounds.store.run import AgreedPrecision, open_run, read_precision, write_precision

pytestmark = pytest.mark.usefixtures("fake_models")


@pytest.fixture
def trained_in(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The precisions of the fits, in the order in which they were made."""
    found: list[str] = []
    fit = FakeFamily.fit

    def watched(self: FakeFamily, task: FitTask, progress: object) -> object:
        found.append(task.training.precision)
        return fit(self, task, progress)  # type: ignore[arg-type]

    monkeypatch.setattr(FakeFamily, "fit", watched)
    return found


def test_it_is_chosen_once_written_into_run_yaml_and_shown(
    tmp_path: Path, trained_in: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose_precision, "native_bfloat16", lambda device: "avx512_bf16")
    monkeypatch.setattr(choose_precision, "choose_precision", lambda wanted, device: "bfloat16")
    paths, notes = bring(config_at(tmp_path), 0)
    content = yaml.safe_load(paths.config.read_text("utf-8"))
    assert content["precision"]["training"] == "bfloat16" and "avx512_bf16" in content["precision"]["because"]
    assert [note for note in notes.notes if "bfloat16" in note and "avx512_bf16" in note]
    monkeypatch.setattr(choose_precision, "_choose", lambda device: 1 / 0)  # another machine would say otherwise
    changed = config_at(tmp_path, "filter.f_beta=2.0")
    accept_changes(changed, paths)
    _, notes = bring(changed, 1)
    assert [note for note in notes.notes if "bfloat16" in note]
    assert len(trained_in) == 5 and set(trained_in) == {"bfloat16"}  # two, two and the control


def test_a_stated_precision_asks_nothing(tmp_path: Path, trained_in: list[str]) -> None:
    paths, notes = bring(config_at(tmp_path, "training.precision=float32"), 0)
    assert read_precision(paths) is None and not [note for note in notes.notes if "precision" in note]
    assert trained_in == ["float32", "float32"]


def test_a_run_that_takes_steps_over_takes_their_precision(tmp_path: Path) -> None:
    base, _ = bring(config_at(tmp_path), 0)
    write_precision(base, AgreedPrecision(training="bfloat16", because="as told"))
    other = config_at(tmp_path, "run.name=other", "filter.f_beta=2.0")
    adopt_steps(base, open_run(other), other)
    assert read_precision(open_run(other)) == read_precision(base)


def test_a_worker_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    run = PrecisionJob.run
    monkeypatch.setattr(PrecisionJob, "run", lambda self, item: asked.append(item) or run(self, item))
    paths, _ = bring(config_at(tmp_path), 0)
    agreed = read_precision(paths)
    assert asked == [0] and agreed is not None
    assert agreed.training == ("bfloat16" if "has no" not in agreed.because else "float32")
