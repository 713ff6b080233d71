"""A run remembers that it has worked on GPUs."""

from pathlib import Path

from cellsemi.orchestrator.engine.cluster_state import had_gpus, note_gpus


def test_a_run_remembers_and_another_folder_is_left_alone(tmp_path: Path) -> None:
    note_gpus(tmp_path)
    assert not had_gpus(tmp_path) and list(tmp_path.iterdir()) == []  # `predict --out` is no run
    (tmp_path / "run.yaml").write_text("config: {}")
    assert not had_gpus(tmp_path)
    for _ in range(2):
        note_gpus(tmp_path)
        assert had_gpus(tmp_path)
