"""Reads single settings of a config by their path, so that a step can record exactly what it depends on.

A path is dotted (`filter.f_beta`, or a whole section: `fusion`), or names a model:

    models[]                        which models take part in which rounds
    models[NAME]                    what NAME is: family, size, augmentation, seed offset
    models[NAME].training           its training settings, its own or the common ones
    models[NAME].inference          its inference settings, likewise
    models[NAME].unlabelled_inference
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from pydantic import JsonValue

from cellsemi.configs.models import ModelBase
from cellsemi.configs.schema import Config

MODELS = "models[]"
_OF_A_MODEL = re.compile(r"models\[(?P<name>.+)\](?:\.(?P<section>training|inference|unlabelled_inference))?")
_NOT_WHAT_IT_IS = {"training", "inference", "first_round", "last_round"}  # of a model: read by paths of their own


def read_settings(config: Config, paths: Iterable[str]) -> dict[str, JsonValue]:
    """The value of each path, as plain JSON values."""
    return {path: read_setting(config, path) for path in paths}


def read_setting(config: Config, path: str) -> JsonValue:
    """The value of one path; None when the config has no model of that name. KeyError for an unknown setting."""
    if path == MODELS:
        return [[model.kind, model.name, model.first_round, model.last_round] for model in config.models]
    if match := _OF_A_MODEL.fullmatch(path):
        model = next((each for each in config.models if each.name == match["name"]), None)
        return None if model is None else _of_a_model(config, model, match["section"])
    first, *rest = path.split(".")
    value: JsonValue = config.model_dump(mode="json", include={first})[first]
    for key in rest:
        assert isinstance(value, dict)
        value = value[key]
    return value


def _of_a_model(config: Config, model: ModelBase, section: str | None) -> JsonValue:
    if section is None:
        dump: dict[str, JsonValue] = model.model_dump(mode="json", exclude=_NOT_WHAT_IT_IS)
        return dump
    read = {
        "training": config.training_of,
        "inference": config.inference_of,
        "unlabelled_inference": config.unlabelled_inference_of,
    }
    content: dict[str, JsonValue] = read[section](model).model_dump(mode="json")
    return content


def changed_settings(before: Mapping[str, JsonValue], now: Mapping[str, JsonValue]) -> list[str]:
    """`path: old -> new` for every single setting that differs, sections taken apart.

    >>> changed_settings({"fusion": {"iou": 0.5, "min_votes": 1}}, {"fusion": {"iou": 0.6, "min_votes": 1}})
    ['fusion.iou: 0.5 -> 0.6']
    """
    found = []
    for path in dict.fromkeys([*before, *now]):
        found += _differences(path, before.get(path), now.get(path))
    return found


def _differences(path: str, before: JsonValue, now: JsonValue) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            line
            for key in dict.fromkeys([*before, *now])
            for line in _differences(f"{path}.{key}", before.get(key), now.get(key))
        ]
    return [] if before == now else [f"{path}: {_shown(before)} -> {_shown(now)}"]


def _shown(value: JsonValue) -> str:
    return "absent" if value is None else str(value)
