"""Explains what is wrong with a config: the dotted path of each error, and the nearest valid name."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from cellsemi.configs.models import MODEL_KINDS
from cellsemi.configs.schema import Config

ALTERNATIVES = (
    "constrained-",
    "dict[",
    "literal[",
    "function-",
    "int",
    "tuple[",
)  # pydantic's names for them in a path


def explanations(details: Sequence[ErrorDetails]) -> Iterator[str]:
    """One line for each wrong place: the error of its parent only repeats it."""
    by_path: dict[tuple[str | int, ...], list[ErrorDetails]] = {}
    for detail in details:
        by_path.setdefault(_path(detail), []).append(detail)
    for path, found in by_path.items():
        if not any(len(other) > len(path) and other[: len(path)] == path for other in by_path):
            yield _explain(path, found)


def _path(detail: ErrorDetails) -> tuple[str | int, ...]:
    """Where the error is, without pydantic's names for the alternatives of a union."""
    return tuple(part for part in detail["loc"] if part not in MODEL_KINDS and not str(part).startswith(ALTERNATIVES))


def _explain(path: Sequence[str | int], details: Sequence[ErrorDetails]) -> str:
    dotted = ".".join(str(part) for part in path)
    if details[0]["type"] == "extra_forbidden":
        known = valid_keys(details[0]["loc"][:-1])
        near = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
        prefix = ".".join(str(p) for p in path[:-1])
        nearest = f"{prefix}.{near[0]}" if prefix and near else "".join(near)
        hint = f"did you mean {nearest!r}?" if near else f"valid here: {', '.join(known)}"
        return f"{dotted}: unknown key; {hint}"
    message = " or ".join(_message(detail) for detail in details).replace(" or Input should be ", " or ")
    given = details[0].get("input")
    shown = f" (got {given!r})" if isinstance(given, str | int | float | bool) and repr(given) not in message else ""
    return f"{dotted}: {message}{shown}" if dotted else message


def _message(detail: ErrorDetails) -> str:
    if detail["type"] in ("dict_type", "model_type"):
        return "Input should be a section of keys"
    return detail["msg"].removeprefix("Value error, ")


def valid_keys(path: Sequence[str | int]) -> list[str]:
    """The keys that the config knows below a path, for example ('data', 'generated').

    Below an entry of `models` the path may hold its kind: ('models', 0, 'flow-unet').
    """
    known: dict[str, type[BaseModel]] = {"": Config}
    for part in path:
        if isinstance(part, int):
            continue
        if part in known:
            known = {"": known[part]}
            continue
        fields = next(iter(known.values())).model_fields if known else {}
        known = sections_in(fields[part].annotation) if part in fields else known
    return list(next(iter(known.values())).model_fields) if known else []


def sections_in(annotation: Any) -> dict[str, type[BaseModel]]:
    """The config sections inside an annotation such as tuple[Section, ...] or dict[str, Section] | Literal.

    Those of a union are named by their `kind`, a single one by the empty string.
    """
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        kind = annotation.model_fields.get("kind")
        return {kind.default if kind else "": annotation}
    found: dict[str, type[BaseModel]] = {}
    if typing.get_origin(annotation) is not None or isinstance(annotation, types.UnionType):
        for argument in typing.get_args(annotation):
            found |= sections_in(argument)
    return found
