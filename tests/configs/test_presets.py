"""Every preset runs as it stands on data of its layout: read in, one round, results out in another format."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.layouts import LAYOUTS, SIZES, SYSTEMS, pictures

from cellsemi.configs.loading import load_config
from cellsemi.configs.presets.preset_files import preset_names
from cellsemi.models.registry import FAMILIES
from cellsemi.orchestrator.campaign import run_campaign
from cellsemi.orchestrator.engine.inline import InlineEngine
from cellsemi.orchestrator.events import SilentWatcher
from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.manifest import DataManifest
from cellsemi.rounds.store.run import open_run
from cellsemi.rounds.store.unaltered import MANIFEST

TINY = ["engine.min_free_mb=0", "rounds.promotion.bootstrap=100", "data.max_quarantined=0"]
UNLABELLED = ["data.labelled_limit=6", "data.limit_rest=unlabelled"]  # for layouts that have no images without labels


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "flow-unet", "helpers.fake_family")
    monkeypatch.setattr("os.fsync", lambda handle: None)


def test_every_preset_has_a_layout() -> None:
    """Those of the source systems run with their own models in test_source_presets."""
    assert set(LAYOUTS) | set(SYSTEMS) == {name for name in preset_names() if name != "demo"}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_preset_runs_a_round_on_its_layout(name: str, tmp_path: Path) -> None:
    LAYOUTS[name](tmp_path / "data")
    pool = UNLABELLED if name in ("livecell", "class-tifs") else []
    settings = [f"data.root={tmp_path / 'data'}", f"run.root={tmp_path / 'runs'}", *TINY, *pool]
    config = load_config(name, settings).config
    paths = open_run(config)
    run_campaign(config, 1, InlineEngine(config.engine), paths, SilentWatcher())
    rows = leaderboard.read(paths.leaderboard)
    assert {row.round for row in rows} == {0, 1} and {row.model for row in rows} >= {"unet-a", "ensemble", "control"}
    counted = DataManifest.read(paths.data / MANIFEST).report
    assert counted["quarantined"] == [] and counted["labelled_not_drawn"] == (rows_left_out(counted) if pool else 0)
    annotated = [split for split in ("labelled", "val", "test") if counted["images"][split]]
    assert len(annotated) == 3 and counted["images"]["unlabelled"] >= SIZES.unlabelled - 1
    used = {record.cell_type for record in shards.read_folder(paths.split("unlabelled"))}
    assert used == ({"shsy5y", "astro", "cort"} if name == "sartorius" else {None})


def rows_left_out(counted: dict[str, dict[str, int]]) -> int:
    return counted["images"]["unlabelled"]


def test_every_cell_of_a_layout_is_read(tmp_path: Path) -> None:
    cells = sum(len(picture.cells) for picture in pictures("labelled", "val", "test"))
    for name in ("sartorius", "livecell", "class-tifs"):
        LAYOUTS[name](tmp_path / name)
        settings = [f"data.root={tmp_path / name}", f"run.root={tmp_path / 'runs'}", *TINY]
        config = load_config(name, [*settings, "data.clean.drop_duplicates=false"]).config
        paths = open_run(config)
        run_campaign(config, 0, InlineEngine(config.engine), paths, SilentWatcher())
        counted = DataManifest.read(paths.data / MANIFEST).report
        assert sum(counted["cells"].values()) == cells, name
