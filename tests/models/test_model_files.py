"""The description of a trained folder: it comes back as it was written, and anything else is refused by its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.model_folder import CELLPOSE, UNET, facts_of, write_model

from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import ModelConfig
from cellsemi.models.model_files import MODEL_FILE, read_model_file


@pytest.mark.parametrize("model", [UNET, CELLPOSE], ids=lambda model: model.kind)
def test_a_description_comes_back_as_it_was_written(tmp_path: Path, model: ModelConfig) -> None:
    found = read_model_file(write_model(tmp_path, model))
    assert found.kind == model.kind and found.model == model
    assert {**dict(found), "weights_sha256": None} == {**dict(facts_of(model)), "weights_sha256": None}


@pytest.mark.parametrize(
    ("change", "place"),
    [({"classes": 3}, "classes"), ({"model": {"kind": "nothing"}}, "model"), ({"unknown": 1}, "unknown")],
)
def test_a_file_of_another_version_is_refused_by_its_place(
    tmp_path: Path, change: dict[str, object], place: str
) -> None:
    path = write_model(tmp_path, UNET) / MODEL_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ModelError, match=rf"{MODEL_FILE}: not a model file of this version \({place}.*train anew"):
        read_model_file(tmp_path)
