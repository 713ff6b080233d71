"""Writes the RO-Crate of an exported data set: its files, and the run that made it as an action.

RO-Crate 1.1 (https://www.researchobject.org/ro-crate/specification/1.1/). The action is as in the profile Process Run
Crate 0.5 (https://www.researchobject.org/workflow-run-crate/profiles/process_run_crate/): instrument, object, result.
The annotations have the fields of MIFA (mifa.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from cellsemi.rounds.report import croissant
from cellsemi.rounds.report.dataset_facts import DataFile, DatasetFacts, ModelFact, citation
from cellsemi.rounds.report.mifa import REFERENCE, mifa

FILE = "ro-crate-metadata.json"
PROFILE = "https://w3id.org/ro/crate/1.1"
PROCESS_RUN = "https://w3id.org/ro/wfrun/process/0.5"
_ROOT, _ACTION, _ANNOTATIONS, _DATA, _SOFTWARE, _LICENCE = (
    "./",
    "#run",
    "#annotations",
    "#data",
    "#cellsemi",
    "#licence",
)

Entity = dict[str, Any]


def to_ro_crate(facts: DatasetFacts, croissant_file: DataFile) -> dict[str, Any]:
    """The content of ro-crate-metadata.json; `croissant_file` is the croissant.json of the data set."""
    fields = mifa(facts)
    terms = {name: f"{REFERENCE}#{name}" for name in fields}
    graph: list[Entity] = [
        {
            "@id": FILE,
            "@type": "CreativeWork",
            "conformsTo": {"@id": PROFILE},
            "about": {"@id": _ROOT},
        },
        _root(facts),
        *(_file(file) for file in facts.files),
        {
            **_file(croissant_file),
            "name": "Croissant",
            "description": "Croissant 1.1 of the same files.",
            "conformsTo": [{"@id": address} for address in croissant.CONFORMS_TO],
        },
        *_annotations(facts, fields),
        *_action(facts),
        *_data(facts),
        *_people(facts),
        {"@id": PROCESS_RUN, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"},
    ]
    sha256 = {"sha256": "https://schema.org/sha256"}
    return {"@context": [f"{PROFILE}/context", {**sha256, **terms}], "@graph": [_known(each) for each in graph]}


def _root(facts: DatasetFacts) -> Entity:
    return {
        "@id": _ROOT,
        "@type": "Dataset",
        "conformsTo": {"@id": PROCESS_RUN},
        "name": facts.name,
        "description": facts.description,
        "license": {"@id": facts.licence_url or _LICENCE},
        "datePublished": facts.published,
        "version": facts.version,
        "url": facts.url,
        "author": [{"@id": _person(name)} for name in facts.creators],
        "creditText": citation(facts),
        "keywords": ", ".join(["cell segmentation", "instance segmentation", "microscopy", *facts.classes]),
        "hasPart": [{"@id": quote(path)} for path in (*(file.path for file in facts.files), croissant.FILE)],
        "about": {"@id": _ANNOTATIONS},
        "mentions": {"@id": _ACTION},
    }


def _file(file: DataFile) -> Entity:
    return {
        "@id": quote(file.path),
        "@type": "File",
        "name": file.path,
        "contentSize": str(file.size_bytes),
        "encodingFormat": file.media_type,
        "sha256": file.sha256,
    }


def _annotations(facts: DatasetFacts, fields: Mapping[str, str]) -> Iterator[Entity]:
    """The annotations as a whole, with the fields of MIFA and the number of cells of each state and class."""
    counts = {f"cells in the state {state}": count for state, count in facts.cells_by_state.items()}
    counts |= {f"cells of the class {name}": count for name, count in facts.cells_by_class.items()}
    counts = {"images": facts.images, "cells": facts.cells, **counts}
    values = list(_values("count", counts))
    yield {
        "@id": _ANNOTATIONS,
        "@type": "CreativeWork",
        "name": facts.lineage.subject,
        "description": " ".join([f"Format: {facts.layout}.", *facts.limits]),
        "author": [{"@id": _person(name)} for name in facts.creators],
        "license": {"@id": facts.licence_url or _LICENCE},
        **fields,
        "additionalProperty": [{"@id": value["@id"]} for value in values],
    }
    yield from values


def _action(facts: DatasetFacts) -> Iterator[Entity]:
    """The run, with what it worked with."""
    run = facts.run
    models = {f"#model-{number}": model for number, model in enumerate(facts.lineage.models, start=1)}
    yield {
        "@id": _ACTION,
        "@type": "CreateAction",
        "name": f"cellsemi run {run.name}",
        "description": facts.lineage.method,
        "startTime": run.created,
        "instrument": [{"@id": name} for name in (_SOFTWARE, *models)],
        "object": [{"@id": _DATA}],
        "result": [{"@id": quote(file.path)} for file in facts.files],
    }
    yield {
        "@id": _SOFTWARE,
        "@type": "SoftwareApplication",
        "name": "cellsemi",
        "description": "Semi-supervised pseudo-labelling rounds for cell instance segmentation.",
        "version": run.cellsemi,
        "license": {"@id": "https://spdx.org/licenses/Apache-2.0"},
    }
    for name, model in models.items():
        yield from _model(name, model)
    yield {"@id": "https://spdx.org/licenses/Apache-2.0", "@type": "CreativeWork", "name": "Apache-2.0"}


def _model(name: str, model: ModelFact) -> Iterator[Entity]:
    start = f"started from {model.started_from}" if model.started_from else "trained from scratch"
    licence = f"; licence of these weights: {model.weights_licence}" if model.weights_licence else ""
    yield {
        "@id": name,
        "@type": "SoftwareApplication",
        "name": model.name,
        "description": f"A model of the family {model.kind}" + (f", {start}{licence}." if model.sha256 else "."),
        "softwareRequirements": {"@id": _SOFTWARE},
        "sha256": model.sha256,
        "version": model.sha256,
    }


def _data(facts: DatasetFacts) -> Iterator[Entity]:
    """The images and labels that the run was given, with the hashes of what of them was read."""
    run = facts.run
    stated = {
        "fingerprint of the data": run.data_fingerprint,
        "sha256 of the list of all files (cellsemi data version)": run.data_version,
        "hash of the settings of the run": run.config_hash,
        **{f"sha256 of {path} of the run": sha256 for path, sha256 in sorted(run.shards.items())},
    }
    values = list(_values("input", {name: value for name, value in stated.items() if value is not None}))
    yield {
        "@id": _DATA,
        "@type": "CreativeWork",
        "name": run.data,
        "description": f"The data set that the run was given, read as `{run.data_source}`.",
        "additionalProperty": [{"@id": value["@id"]} for value in values],
    }
    yield from values


def _people(facts: DatasetFacts) -> Iterator[Entity]:
    for name in facts.creators:
        yield {"@id": _person(name), "@type": "Person", "name": name}
    yield {
        "@id": facts.licence_url or _LICENCE,
        "@type": "CreativeWork",
        "name": facts.licence,
        "description": "The licence of the images and labels, as it was stated.",
    }


def _person(name: str) -> str:
    return f"#person-{quote(name, safe='')}"


def _values(kind: str, values: Mapping[str, object]) -> Iterator[Entity]:
    for number, (name, value) in enumerate(values.items(), start=1):
        yield {"@id": f"#{kind}-{number}", "@type": "PropertyValue", "name": name, "value": value}


def _known(entity: Entity) -> Entity:
    """What is known of an entity; a list of one is written as its value, as RO-Crate recommends."""
    known = {key: value for key, value in entity.items() if value not in (None, [])}
    return {key: value[0] if isinstance(value, list) and len(value) == 1 else value for key, value in known.items()}
