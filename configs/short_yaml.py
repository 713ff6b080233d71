"""Writes a short config file: only what differs from the defaults, each line with its reason."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from pydantic import BaseModel

from cellsemi.configs.schema import Config, without_common

WIDTH = 118  # a longer line has its reason above it


def short_yaml(
    config: Config, reasons: Mapping[str, str], header: Sequence[str] = (), footer: Sequence[str] = ()
) -> str:
    """The settings that differ from the defaults, as YAML that reads back as the same config.

    `reasons` are by dotted path; where there is none, the description of the setting stands. `header` and `footer` are
    lines of comment before and after.
    """
    lines = [*(_comment(line) for line in header)]
    for name, field in Config.model_fields.items():
        value, default = getattr(config, name), field.get_default(call_default_factory=True)
        if value == default:
            continue
        reason = reasons.get(name, "")
        lines += ["", f"{name}:" + (f"  # {_one_line(reason)}" if reason else "")]
        lines += _models(config, reasons) if name == "models" else _section(value, default, name, reasons)
    lines += ["", *(_comment(line) for line in footer)] if footer else []
    return "\n".join(lines).strip("\n") + "\n"


def comments_of(text: str) -> tuple[list[str], dict[str, str]]:
    """The lines of comment at the top of a YAML text, and the comment at the end of a key's line, by dotted path."""
    lines = text.splitlines()
    count = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    found: dict[str, str] = {}
    for path, number in _places(yaml.compose(text, Loader=yaml.SafeLoader), ""):
        _, mark, comment = lines[number].partition("  # ")
        if mark:
            found.setdefault(path, comment)
    return [line.removeprefix("# ") for line in lines[:count]], found


def _places(node: yaml.Node | None, prefix: str) -> Iterator[tuple[str, int]]:
    """The dotted path of every key that holds a plain value or a list, and the line on which it ends."""
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        path = f"{prefix}.{key.value}" if prefix else key.value
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            yield from _places(value, path)
        else:
            yield path, value.end_mark.line - (value.end_mark.column == 0)


def _section(section: BaseModel, default: BaseModel, prefix: str, reasons: Mapping[str, str]) -> Iterator[str]:
    indent = "  " * (prefix.count(".") + 1)
    for name, field in type(section).model_fields.items():
        value, usual, path = getattr(section, name), getattr(default, name), f"{prefix}.{name}"
        if value == usual:
            continue
        if isinstance(value, BaseModel) and isinstance(usual, BaseModel):
            reason = reasons.get(path, "")
            yield f"{indent}{name}:" + (f"  # {_one_line(reason)}" if reason else "")
            yield from _section(value, usual, path, reasons)
        else:
            plain = section.model_dump(mode="json", include={name})[name]
            yield from _line(indent, f"{name}: {_flow(plain)}", reasons.get(path) or _brief(field.description or ""))


def _models(config: Config, reasons: Mapping[str, str]) -> Iterator[str]:
    """One line a model: its kind, its name, what differs from the defaults of its kind or from the common sections."""
    for model, whole in zip(config.models, without_common(config.model_dump(mode="json"))["models"], strict=True):
        plain = model.model_dump(mode="json", exclude_defaults=True, exclude={"training", "inference"})
        own = {name: whole[name] for name in ("training", "inference") if whole[name] is not None}
        shown = {"kind": whole["kind"], "name": model.name, **plain, **own}
        yield from _line("  ", f"- {_flow(shown)}", reasons.get(f"models.{model.name}", ""))


def _line(indent: str, text: str, reason: str) -> Iterator[str]:
    comment = _one_line(reason)
    if not comment:
        yield indent + text
    elif len(indent + text + comment) + len("  # ") <= WIDTH:
        yield f"{indent}{text}  # {comment}"
    else:
        yield f"{indent}# {comment}"
        yield indent + text


def _flow(value: Any) -> str:
    """A plain value on one line."""
    text = yaml.safe_dump([value], default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**9).strip()
    if text.isprintable():
        return text[1:-1]
    escaped = json.dumps(value, ensure_ascii=False)  # JSON is YAML; what it leaves as it is YAML may refuse
    return "".join(letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in escaped)


def _brief(description: str) -> str:
    """The first clause of a description."""
    return re.split(r"(?<!e\.g)\. |; ", description)[0].rstrip(".")


def _comment(line: str) -> str:
    return f"# {_one_line(line)}".rstrip()


def _one_line(text: str) -> str:
    """A text as a comment can hold it."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
