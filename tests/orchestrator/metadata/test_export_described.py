"""`cellsemi data export --metadata`: what the two files state, checked by the packages that read them."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import mlcroissant
import pytest
from helpers.applied import small_run
from helpers.run_folders import finish_folder, vouch_for
from helpers.terminal import invoke
from rocrate.rocrate import ROCrate

from cellsemi.configs.errors import UsageError
from cellsemi.rounds.datasets.export import UNSEEN
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.run import RunPaths

PERSON = ("--creator", "A. Person", "--url", "https://doi.org/10.1/x")
STATED = (*PERSON, "--creator", "B. Person", "--licence", "CC0-1.0", "--dataset-version", "1.0.0")
OWN = {"croissant.json", "ro-crate-metadata.json"}


@pytest.fixture
def finished(here: Path, fake_models: None) -> RunPaths:
    return small_run(here, 1)


def exported(kind: str, out: str, *args: str) -> Path:
    done = invoke("data", "export", "demo", "--format", kind, "--out", out, "--metadata", *args)
    assert done.exit_code == 0, done.output + str(done.exception)
    return Path(out)


def croissant_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "croissant.json").read_text())
    return found


def crate_of(folder: Path) -> dict[str, dict[str, Any]]:
    """The entities of the RO-Crate by their ids."""
    graph = json.loads((folder / "ro-crate-metadata.json").read_text())["@graph"]
    found = {entity["@id"]: entity for entity in graph}
    assert len(found) == len(graph), "an id stands twice"
    return found


def counts(crate: dict[str, dict[str, Any]]) -> dict[str, int]:
    return {each["name"]: each["value"] for name, each in crate.items() if name.startswith("#count-")}


def references(value: object) -> list[str]:
    """The ids that a value of an entity refers to."""
    if isinstance(value, list):
        return [name for each in value for name in references(each)]
    return [value["@id"]] if isinstance(value, dict) else []


# --- what the packages say ------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated:DeprecationWarning")  # of rdflib, by its own parser
@pytest.mark.parametrize(
    ("kind", "args"),
    [
        ("coco", ("--pseudo",)),
        ("coco", ("--split", "labelled")),
        ("measurements", ()),
        ("kaggle", ()),
        ("label-maps", ("--split", "labelled")),
    ],
)
def test_the_packages_of_both_standards_read_it(finished: RunPaths, kind: str, args: tuple[str, ...]) -> None:
    folder = exported(kind, "out", *STATED, *args)
    read = mlcroissant.Dataset(str(folder / "croissant.json"))
    assert (read.metadata.ctx.issues.errors, read.metadata.ctx.issues.warnings) == (set(), set())
    assert "http://mlcommons.org/croissant/1.1" in (read.metadata.conforms_to or [])
    rows: list[dict[str, Any]] = [row for each in read.metadata.record_sets for row in read.records(each.uuid)]
    if kind == "coco":
        cells = json.loads((folder / "coco.json").read_text())["annotations"]
        assert [row["cells/area"] for row in rows] == [cell["area"] for cell in cells] and rows
        assert ("cells/score" in rows[0]) == ("score" in cells[0])
        assert [row["cells/segmentation.counts"].decode() for row in rows] == [
            cell["segmentation"]["counts"] for cell in cells
        ]
    elif kind != "label-maps":
        name = "cells/image_id" if kind == "measurements" else "cells/id"
        with next(folder.glob("*.csv")).open() as file:
            assert [row[name].decode() for row in rows] == [row[0] for row in csv.reader(file)][1:]
    crate = ROCrate(str(folder))
    assert {unquote(each.id) for each in crate.data_entities} == {path.name for path in folder.iterdir()} - {
        "ro-crate-metadata.json"
    }
    root = crate.root_dataset
    assert root["license"].id == "https://spdx.org/licenses/CC0-1.0"
    assert [each["name"] for each in root["author"]] == ["A. Person", "B. Person"]
    assert all(root.get(name) for name in ("name", "description", "datePublished"))


@pytest.mark.parametrize("kind", ["coco", "label-maps", "geojson"])
def test_every_file_is_listed_with_its_hash_and_size(finished: RunPaths, kind: str) -> None:
    folder = exported(kind, "out", *STATED)
    there = {path.name: path.read_bytes() for path in folder.iterdir()}
    listed = {each["contentUrl"]: each for each in croissant_of(folder)["distribution"] if "contentUrl" in each}
    assert listed.keys() == there.keys() - OWN
    crate = crate_of(folder)
    files = {unquote(name): each for name, each in crate.items() if each["@type"] == "File"}
    assert files.keys() == there.keys() - {"ro-crate-metadata.json"}
    for name, content in there.items():
        sha256 = hashlib.sha256(content).hexdigest()
        if name in listed:
            assert (listed[name]["sha256"], listed[name]["contentSize"]) == (sha256, f"{len(content)} B")
        if name in files:
            assert (files[name]["sha256"], files[name]["contentSize"]) == (sha256, str(len(content)))
    assert {unquote(name) for name in references(crate["./"]["hasPart"])} == files.keys()


def test_every_reference_of_the_crate_leads_to_an_entity(finished: RunPaths) -> None:
    """RO-Crate 1.1: the graph is flat, and what is referred to is described in it."""
    crate = crate_of(exported("coco", "out", *STATED, "--pseudo"))
    outside = {"https://w3id.org/ro/crate/1.1", *references(crate["croissant.json"]["conformsTo"])}
    for name, entity in crate.items():
        for key, value in entity.items():
            for target in references(value):
                assert target in crate or target in outside, (name, key, target)
            nested = value if isinstance(value, list) else [value]
            assert all(not isinstance(each, dict) or each.keys() == {"@id"} for each in nested), (name, key)


# --- the truth of the lineage ---------------------------------------------------------------------------


def test_pseudo_labels_are_told_from_human_labels_and_counted_as_in_their_shards(finished: RunPaths) -> None:
    folder = exported("coco", "out", *STATED, "--pseudo")
    crate, croissant = crate_of(folder), croissant_of(folder)
    states: Counter[str] = Counter()
    for record in shards.read_folder(finished.pseudo(1)):
        states.update(record.instances.state if record.instances is not None else ())
    shown = counts(crate)
    assert states["accepted"] and states["ignored"] and states["rejected"]
    assert {name: count for name, count in shown.items() if "state" in name} == {
        f"cells in the state {state}": states[state] for state in ("accepted", "ignored")
    }
    assert shown["cells"] == states["accepted"] + states["ignored"]
    assert f"Not in these files: {states['rejected']} rejected cells, left out." in croissant["rai:dataLimitations"]
    weights = [hashlib.sha256((finished.model(0, name) / "model.safetensors").read_bytes()).hexdigest()
               for name in ("unet-a", "unet-b")]  # fmt: skip
    tools = croissant["rai:machineAnnotationTools"]
    assert [f"sha256 {sha256}" in tool for sha256, tool in zip(weights, tools[1:], strict=True)] == [True, True]
    assert [crate[f"#model-{i}"]["sha256"] for i in (1, 2)] == weights
    assert references(crate["#run"]["instrument"]) == ["#cellsemi", "#model-1", "#model-2"]
    assert croissant["rai:annotationsPerItem"].startswith("0 human labels")
    assert "teachers unet-a of round 0, unet-b of round 0" in crate["#annotations"]["annotation_method"]
    assert "F1" in crate["#annotations"]["annotation_confidence_level"]


def test_predictions_name_their_models_and_what_was_read(finished: RunPaths) -> None:
    crate = crate_of(exported("measurements", "out", *STATED, "--min-score", "0"))
    made = crate["#annotations"]
    assert made["annotation_type"] == "derived_annotations" and "test images" in made["annotation_overview"]
    assert set(counts(crate)) >= {"cells in the state predicted"} and "human" not in str(counts(crate))
    inputs = {each["name"]: each["value"] for name, each in crate.items() if name.startswith("#input-")}
    for path in (*finished.split("test").glob("part-*"), *finished.root.glob("data/test/part-*")):
        name = f"sha256 of {path.relative_to(finished.root).as_posix()} of the run"
        assert inputs[name] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert crate["#run"]["startTime"][:10] == crate["./"]["datePublished"]


def test_labels_that_the_run_was_given_are_no_machine_s(finished: RunPaths) -> None:
    folder = exported("coco", "out", *STATED, "--split", "labelled", "--published", "2026-01-31")
    crate, croissant = crate_of(folder), croissant_of(folder)
    drawn = sum(len(each.instances) for each in shards.read_folder(finished.split("labelled")) if each.instances)
    assert counts(crate)["cells in the state human"] == drawn == counts(crate)["cells"]
    assert "rai:machineAnnotationTools" not in croissant and "rai:annotationsPerItem" not in croissant
    assert "no person drew them" in crate["#annotations"]["annotation_method"], "the images of the demo are generated"
    assert "annotation_confidence_level" not in crate["#annotations"], "nobody measured it"
    assert references(crate["#run"]["instrument"]) == ["#cellsemi"]
    assert croissant["datePublished"] == "2026-01-31" and "2026" in croissant["citeAs"]


def test_images_that_no_model_predicted_are_not_called_annotated(finished: RunPaths) -> None:
    folder = finished.predictions(0, "ensemble", "test")
    seen = list(shards.read_folder(folder))
    lost = [seen[0].with_(instances=None), *seen[1:]]
    for path in folder.glob("part-*"):
        path.unlink()
    finish_folder(folder, shards=shards.write_folder(folder, lost, 9, "h"))
    vouch_for(folder)
    made = crate_of(exported("coco", "out", *STATED))["#annotations"]
    assert "2 of 3 images in these files were annotated (66.67 %)" in made["annotation_coverage"]
    assert f"1 {UNSEEN}" in made["description"]


# --- what is stated, and what is missing ----------------------------------------------------------------


def test_the_same_export_is_the_same_bytes(finished: RunPaths) -> None:
    first, again = (exported("label-maps", out, *STATED) for out in ("a", "b"))
    assert {path.name: path.read_bytes() for path in first.iterdir()} == {
        path.name: path.read_bytes() for path in again.iterdir()
    }


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--metadata",), ("--licence", "data.licence", "--creator", "--url")),
        (("--metadata", *PERSON), ("--licence",)),
        (("--metadata", *STATED, "--url", "x"), ("https://",)),
        (("--metadata", *STATED, "--dataset-version", "1"), ("MAJOR.MINOR.PATCH",)),
        (PERSON, ("--metadata",)),
    ],
)
def test_what_is_missing_or_wrong_is_said_and_nothing_is_written(
    finished: RunPaths, args: tuple[str, ...], words: tuple[str, ...]
) -> None:
    done = invoke("data", "export", "demo", "--format", "coco", "--out", "out", *args)
    assert isinstance(done.exception, UsageError) and not Path("out").exists()
    assert all(word in str(done.exception) for word in words)


def test_the_licence_of_the_run_is_taken_and_a_stated_one_goes_first(here: Path, fake_models: None) -> None:
    small_run(here, 0, "data.licence=CC-BY-4.0")
    assert croissant_of(exported("coco", "a", *PERSON))["license"] == "https://spdx.org/licenses/CC-BY-4.0"
    crate = crate_of(exported("coco", "b", *PERSON, "--licence", "ask the owner"))
    assert crate["./"]["license"] == {"@id": "#licence"} and crate["#licence"]["name"] == "ask the owner"


def test_a_folder_with_something_in_it_and_loose_shards_are_refused(finished: RunPaths) -> None:
    args = ("--format", "coco", "--metadata", *STATED)
    done = invoke("data", "export", "demo", *args, "--out", "runs", "--force")
    assert isinstance(done.exception, UsageError) and "not an empty folder" in str(done.exception)
    done = invoke("data", "export", str(finished.split("test")), *args, "--out", "out")
    assert isinstance(done.exception, UsageError) and "needs a run" in str(done.exception)
    assert not Path("out").exists()
