"""No setting takes a value that no machine can carry out: every number has bounds, and patterns have an end."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Annotated, Any

import annotated_types
import pytest
from pydantic.fields import FieldInfo

from cellsemi.configs.base import Section
from cellsemi.configs.errors import ConfigError
from cellsemi.configs.loading import load_config
from cellsemi.configs.schema import Config


def sections() -> list[type[Section]]:
    """Every part of the config."""
    found = [Section]
    for section in found:
        found += [each for each in section.__subclasses__() if each not in found and "cellsemi" in each.__module__]
    return found[1:]


def without_upper_bound(annotation: Any, metadata: tuple[Any, ...]) -> bool:
    """Whether a value of this type may be a number of any size."""
    if typing.get_origin(annotation) is Annotated:
        inner, *more = typing.get_args(annotation)
        return without_upper_bound(inner, (*metadata, *more))
    bounds = [each for entry in metadata for each in (entry.metadata if isinstance(entry, FieldInfo) else [entry])]
    if annotation in (int, float):
        return not any(isinstance(each, annotated_types.Le | annotated_types.Lt) for each in bounds)
    kept = () if typing.get_origin(annotation) in (tuple, list, dict) else metadata
    return any(without_upper_bound(each, kept) for each in typing.get_args(annotation) if each is not Ellipsis)


def unbounded() -> Iterator[str]:
    for section in sections():
        for name, field in section.model_fields.items():
            if name in section.__annotations__ and without_upper_bound(field.annotation, tuple(field.metadata)):
                yield f"{section.__module__.rpartition('.')[2]}.{section.__name__}.{name}"


def test_every_number_has_an_upper_bound() -> None:
    assert Config in sections() and len(sections()) > 20
    assert sorted(unbounded()) == []


@pytest.mark.parametrize(
    "setting",
    [
        "training.batch=1000000000",
        "rounds.promotion.bootstrap=1000000000",
        "engine.workers=100000",
        "rounds.folds=100000",
        "data.generated.unlabelled=1000000000",
        "training.lr=.inf",
        "training.lr=.nan",
        "inference.scales=[1e9]",
        "inference.tile_px=[1000000, 1000000]",
        "models.0.augment.elastic_sigma_px=100000",
    ],
)
def test_absurd_values_are_refused_with_their_path(setting: str) -> None:
    with pytest.raises(ConfigError, match=setting.partition("=")[0].rpartition(".")[2]):
        load_config("demo", [setting])


def test_the_largest_values_in_use_are_allowed() -> None:
    used = ["training.batch=64", "training.steps=200000", "engine.workers=1000", "rounds.promotion.bootstrap=10000"]
    assert isinstance(load_config("demo", used).config, Config)
