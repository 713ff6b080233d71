"""The model card: its figures are those of the run's own tables, its header is what Hugging Face reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from helpers.campaigns import bring, config_at

from cellsemi.configs.errors import RunError
from cellsemi.models.model_files import StartWeights
from cellsemi.orchestrator.runs import model_card
from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.evaluation.ensemble import delivered, read_ensemble
from cellsemi.rounds.report.model_card import CardFacts, to_markdown
from cellsemi.rounds.store.manifest import DataManifest, read_fit
from cellsemi.rounds.store.run import CONTROL, RunPaths

pytestmark = pytest.mark.usefixtures("fake_models")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("card")


@pytest.fixture
def paths(folder: Path) -> RunPaths:
    """One run for all tests: the first makes it, the others find it done."""
    return bring(config_at(folder, "filter.min_samples=1", "data.licence=CC-BY-4.0"), 1)[0]


@pytest.fixture
def facts(paths: RunPaths) -> CardFacts:
    return model_card.collect(paths, read_ensemble(paths, 1), "Cells (test)")


def header(text: str) -> dict[str, Any]:
    """The YAML between the two lines of dashes at the start."""
    empty, content, _ = text.split("---\n", 2)
    assert empty == ""
    found: dict[str, Any] = yaml.safe_load(content)
    return found


def section(text: str, title: str) -> str:
    return text.split(f"\n## {title}")[1].split("\n## ", maxsplit=1)[0]


def test_the_figures_are_those_of_the_leaderboard(paths: RunPaths) -> None:
    text = model_card.model_card(paths, read_ensemble(paths, 1), "Cells (test)")
    row = next(row for row in leaderboard.read(paths.leaderboard) if (row.round, row.model) == (1, "ensemble"))
    good = section(text, "How good it is")
    for interval, count in ((row.val_map, "3"), (row.test_map, "3")):
        assert f"| {count} | {interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f}) |" in good
    assert "95 % interval" in good and f"| {row.f1:.3f} |" in good
    learned = section(text, "What it learned from")
    assert f"| 1 | {row.accepted} | {row.ignored} | {row.rejected} |" in learned
    cells = DataManifest.read(paths.data / "manifest.json").report["cells"]
    assert isinstance(cells, dict) and f"| labelled | 3 | {cells['labelled']} |" in learned
    table = pd.read_parquet(paths.evaluation(1))
    cutoffs = table[(table.model == "ensemble") & (table.split == "val")].cutoffs.iloc[0]
    chosen = section(text, "What was chosen")
    assert f"Kept are cells with a score from {cutoffs[0]['min_score']:.3g}" in chosen
    for name in ("unet-a", "unet-b"):
        fit = read_fit(paths.model(1, name))
        assert fit.cell_probability is not None
        assert f"| {name} | flow-unet | 1 | {fit.steps} | {fit.cell_probability.chosen:g} |" in chosen
    assert section(text, "Where it comes from").count("| round 0 |") == 1


def test_the_header_states_licence_library_and_figures(paths: RunPaths) -> None:
    text = model_card.model_card(paths, delivered(paths), "Cells: a test")
    found = header(text)
    assert found["license"] == "cc-by-4.0" and found["library_name"] == "cellsemi"
    assert found["pipeline_tag"] == "image-segmentation" and "microscopy" in found["tags"]
    (index,) = found["model-index"]
    assert index["name"] == "Cells: a test" and [r["dataset"]["split"] for r in index["results"]] == [
        "validation",
        "test",
    ]
    names = [result["metrics"][0]["name"] for result in index["results"]]
    assert ["chosen on these images" in name for name in names] == [True, False]
    assert "| validation (chosen on) |" in text and "| test |" in text


def test_hugging_face_reads_the_header(paths: RunPaths) -> None:
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard(model_card.model_card(paths, delivered(paths), "Cells: a test"))
    assert card.data.license == "cc-by-4.0" and card.data.model_name == "Cells: a test"
    assert {result.metric_type for result in card.data.eval_results} == {"mAP", "f1", "precision", "recall"}


def test_the_same_run_gives_the_same_text_and_one_title(paths: RunPaths) -> None:
    first, second = (model_card.model_card(paths, delivered(paths), "Cells") for _ in range(2))
    assert first == second
    assert [line for line in first.splitlines() if line.startswith("# ")] == ["# Cells"]
    assert 'cellsemi.load_model("FOLDER")' in first and "\n\n\n" not in first


def test_a_control_learned_from_no_pseudo_labels(paths: RunPaths) -> None:
    text = model_card.model_card(paths, read_ensemble(paths, 1, CONTROL), "Control")
    assert "Pseudo-labels" not in text and "It is one model (flow-unet)" in text and "Fusion" not in text
    assert "not used by this model" in text


@pytest.mark.parametrize(
    ("licence", "source", "fields", "words"),
    [
        (None, "coco", {"license": "unknown"}, "not stated"),
        (None, "generated", {"license": "unknown"}, "generated by cellsemi"),
        ("CC0-1.0", "coco", {"license": "cc0-1.0"}, "CC0-1.0"),
        ("Our own terms", "coco", {"license": "other", "license_name": "our-own-terms"}, "Our own terms"),
    ],
)
def test_the_licence_of_the_data(
    facts: CardFacts, licence: str | None, source: str, fields: dict[str, str], words: str
) -> None:
    text = to_markdown(replace(facts, data=replace(facts.data, licence=licence, source=source, name="Our data")))
    found = header(text)
    assert {key: value for key, value in found.items() if key.startswith("license")} == fields
    assert words in section(text, "Licences")
    assert found.get("datasets") == (None if source == "generated" else ["our-data"])


def test_weights_that_a_model_started_from_are_named_with_their_licence(facts: CardFacts) -> None:
    start = StartWeights(weights="/somewhere/cpsam.pth", sha256="ab" * 32)
    member = replace(
        facts.members[0],
        started_from=model_card.weights_of(start),
        weights_licence=model_card.licence_of("cellpose-sam", start),
    )
    text = to_markdown(replace(facts, members=(member, facts.members[1])))
    assert header(text)["license"] == "other"
    licences = section(text, "Licences")
    assert "CC BY-NC" in licences and "cpsam.pth (sha256 abab" in licences and "/somewhere" not in text
    assert "unet-b: trained from scratch" in licences


def test_a_class_without_labels_is_a_limit(facts: CardFacts) -> None:
    text = to_markdown(replace(facts, data=replace(facts.data, class_cells={"shsy5y": 3, "cort": 1})))
    assert "of the class astro" in section(text, "Limits")


def test_a_model_without_figures_is_an_error(paths: RunPaths) -> None:
    with pytest.raises(RunError, match="no row of nobody"):
        model_card.collect(paths, replace(read_ensemble(paths, 1), name="nobody"), "x")
