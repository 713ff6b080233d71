"""No setting takes a value that no machine can carry out: every number has bounds, and patterns have an end."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Annotated, Any

import annotated_types
from pydantic.fields import FieldInfo

from cellsemi.configs.base import Section


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
    assert sorted(unbounded()) == []
