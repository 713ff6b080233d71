"""Describes the settings: a commented YAML file, and one table row a setting."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cellsemi.configs.explain import sections_in
from cellsemi.configs.schema import Config


def documented_yaml(config: Config) -> str:
    """The config as YAML with each field's description as a comment: what `cellsemi init` writes."""
    return "\n".join(_documented(config, 0)) + "\n"


def field_table() -> list[tuple[str, str, str, str]]:
    """(dotted path, type, default, description) of every setting, in order: the source of docs/config.md."""
    return list(_walk_fields(Config.model_fields, ""))


def _documented(section: BaseModel, depth: int) -> Iterator[str]:
    indent = "  " * depth
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if depth == 0:
            yield ""
        if field.description:
            yield f"{indent}# {field.description}"
        yield from _documented_value(name, value, indent, depth)


def _documented_value(name: str, value: Any, indent: str, depth: int) -> Iterable[str]:
    if isinstance(value, BaseModel):
        return [f"{indent}{name}:", *_documented(value, depth + 1)]
    if isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        lines = [f"{indent}{name}:"]
        for item in value:
            body = [line for line in _documented(item, depth + 2) if line.strip()]
            lines += [f"{indent}  -", *body]
        return lines
    plain = value
    if isinstance(value, dict):
        plain = {k: v.model_dump(mode="json") if isinstance(v, BaseModel) else v for k, v in value.items()}
    elif isinstance(value, tuple):
        plain = list(value)
    return [f"{indent}{name}: {json.dumps(plain, ensure_ascii=False)}"]


Fields = Mapping[str, FieldInfo]
PHASE = "phases.N"  # ends the path of a phase of a training


Described = tuple[str, str, str, str]


def _walk_fields(fields: Fields, prefix: str) -> Iterator[Described]:
    for name, field in fields.items():
        dotted = f"{prefix}.{name}" if prefix else name
        sections = sections_in(field.annotation)
        alone = bool(sections) and isinstance(field.annotation, type)
        default = "required" if field.is_required() else _short(field.get_default(call_default_factory=True))
        shown = "section" if alone else _type_name(field.annotation)
        yield dotted, shown, "" if alone else default, field.description or ""
        if prefix and (name in Config.model_fields or prefix.endswith(PHASE)):
            continue  # a model's own `training` or `inference`, a phase's `augment`: described elsewhere
        if len(sections) > 1:
            yield from _walk_alternatives({kind: section.model_fields for kind, section in sections.items()}, dotted)
        for section in sections.values() if len(sections) == 1 else ():
            annotation = str(field.annotation)
            inner = dotted + (".CLASS" if "dict[" in annotation else ".N" if "tuple[" in annotation else "")
            yield from _walk_fields(section.model_fields, inner)


def _walk_alternatives(kinds: Mapping[str, Fields], dotted: str) -> Iterator[Described]:
    """What all kinds share, once, then what each has beside it."""
    first = next(iter(kinds.values()))
    shared = {name for name in first if name != "kind" and all(name in fields for fields in kinds.values())}
    yield from _walk_fields({name: field for name, field in first.items() if name in shared}, f"{dotted}.N")
    for kind, fields in kinds.items():
        own = {name: field for name, field in fields.items() if name not in shared}
        yield from _walk_fields(own, f"{dotted}.N ({kind})")


def _short(value: Any) -> str:
    text = json.dumps(value, default=lambda item: item.model_dump(mode="json", exclude_defaults=True))
    return text if len(text) <= 60 else text[:57] + "..."


def _type_name(annotation: Any) -> str:
    sections = sections_in(annotation)
    if len(sections) > 1:
        return f"list of {', '.join(sections)}"
    if get_origin(annotation) is Annotated:  # the bounds are in the description where they matter
        return _type_name(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join(_type_name(each) for each in get_args(annotation))
    if get_origin(annotation) is tuple:
        return f"tuple[{', '.join('...' if each is ... else _type_name(each) for each in get_args(annotation))}]"
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return re.sub(r"cellsemi\.configs\.\w+\.", "", text.replace("typing.", "")).replace("NoneType", "None")
