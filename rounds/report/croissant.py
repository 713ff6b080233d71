"""Writes the Croissant of an exported data set: its files, its columns, and how its labels were made.

Croissant 1.1 (https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html) with the vocabulary for responsible AI
1.0 (https://docs.mlcommons.org/croissant/docs/croissant-rai-spec.html). All properties that the specification requires
are there: name, description, license, url, creator, datePublished.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from cellsemi.rounds.report.dataset_facts import DatasetFacts, citation
from cellsemi.rounds.report.record_sets import record_sets

FILE = "croissant.json"
CONFORMS_TO = ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]

_CROISSANT = (
    "annotation", "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "excludes", "extract", "field",
    "fileObject", "fileProperty", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5",
    "parentField", "path", "readLines", "recordSet", "references", "regex", "repeated", "replace", "samplingRate",
    "sdVersion", "separator", "source", "subField", "transform", "unArchive", "value",
)  # fmt: skip
# The context of the specification's appendix, with the terms that the package mlcroissant adds to it.
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{term: f"cr:{term}" for term in _CROISSANT},
}


def to_croissant(facts: DatasetFacts) -> dict[str, Any]:
    """The content of croissant.json."""
    listed = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": facts.name,
        "description": facts.description,
        "license": facts.licence_url or facts.licence,
        "creator": [{"@type": "sc:Person", "name": name} for name in facts.creators],
        "url": facts.url,
        "datePublished": facts.published,
        "version": facts.version,
        "citeAs": citation(facts),
        "keywords": ["cell segmentation", "instance segmentation", "microscopy", *facts.classes],
        "distribution": [*_files(facts), *_file_sets(facts)],
        "recordSet": record_sets(facts.format, quote(facts.files[0].path), "human" not in facts.cells_by_state)
        if facts.files
        else [],
        **_responsible(facts),
    }
    return {key: value for key, value in listed.items() if value not in (None, [])}


def _files(facts: DatasetFacts) -> list[dict[str, Any]]:
    return [
        {
            "@type": "cr:FileObject",
            "@id": quote(file.path),
            "name": file.path,
            "contentUrl": file.path,
            "contentSize": f"{file.size_bytes} B",
            "encodingFormat": file.media_type,
            "sha256": file.sha256,
        }
        for file in facts.files
    ]


def _file_sets(facts: DatasetFacts) -> list[dict[str, Any]]:
    """A set for each kind of file of a folder of several files; one file needs none."""
    if len(facts.files) < 2:
        return []
    kinds = {file.suffix: file.media_type for file in facts.files}
    return [
        {
            "@type": "cr:FileSet",
            "@id": f"all{suffix or '-others'}",
            "name": f"all{suffix or '-others'}",
            "description": f"All files of the data set that end in {suffix}." if suffix else "All other files.",
            "encodingFormat": media_type,
            "includes": f"*{suffix}",
        }
        for suffix, media_type in sorted(kinds.items())
    ]


def _responsible(facts: DatasetFacts) -> dict[str, Any]:
    """What the run knows of the vocabulary for responsible AI; who the annotators are, it does not."""
    lineage = facts.lineage
    analysis = [f"Cells by state: {facts.states_in_words}.", lineage.confidence]
    found: dict[str, Any] = {
        "rai:dataAnnotationProtocol": [text for text in (lineage.method, lineage.criteria) if text],
        "rai:dataAnnotationAnalysis": [text for text in analysis if text],
        "rai:dataLimitations": facts.limits,
    }
    if lineage.by_machine:
        found["rai:annotationsPerItem"] = "0 human labels for each cell: no person drew these cells."
        found["rai:machineAnnotationTools"] = [
            f"cellsemi {facts.run.cellsemi}",
            *(
                f"{model.name} ({model.kind}{f', sha256 {model.sha256}' if model.sha256 else ''})"
                for model in lineage.models
            ),
        ]
    return found
