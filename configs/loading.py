"""From a YAML file, a preset name and `--set` overrides to a validated Config, its hash and its difference.

`--config PATH|PRESET`, else `./cellsemi.yaml`, else the built-in `demo`; the origin is returned so that
the command line can say which.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from cellsemi.configs.errors import ConfigError, UsageError
from cellsemi.configs.models import AUGMENT_PRESETS
from cellsemi.configs.schema import Config

LOCAL_FILE = Path("cellsemi.yaml")
ALTERNATIVES = ("dict[", "literal[", "function-", "int", "tuple[")  # pydantic's names for them in a path
DEFAULT_PRESET = "demo"
# Not part of what a run is: where it runs may change between two calls of the same run.
IDENTITY_EXCLUDES: Any = {"engine": True, "run": {"root"}}


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A validated config and where it came from, in words."""

    config: Config
    origin: str


def preset_names() -> list[str]:
    """Names of the packaged presets, sorted."""
    folder = resources.files("cellsemi.configs.presets")
    return sorted(Path(f.name).stem for f in folder.iterdir() if f.name.endswith(".yaml"))


def preset_text(name: str) -> str:
    """The YAML text of a packaged preset; UsageError when there is none of that name."""
    if name not in preset_names():
        raise UsageError(f"no preset is called {name!r}; there are: {', '.join(preset_names())}")
    return resources.files("cellsemi.configs.presets").joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def load_config(source: str | None = None, overrides: Sequence[str] = ()) -> LoadedConfig:
    """Read `source` (a path or a preset name), apply `a.b=c` overrides, validate.

    Raises ConfigError with the dotted path of every wrong key or value, UsageError when there is no such file.
    """
    text, origin = _find(source)
    data = _parse(text, origin)
    for override in overrides:
        _apply(data, override)
    return LoadedConfig(build_config(data, origin), origin)


def build_config(data: Mapping[str, Any], origin: str) -> Config:
    """Validate a plain mapping; errors name `origin` and dotted paths."""
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        lines = [f"  {line}" for line in _explanations(error.errors())]
        raise ConfigError(f"{origin}: the config is not valid\n" + "\n".join(lines)) from None


def to_yaml(config: Config) -> str:
    """The resolved config as YAML, every default written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def config_hash(config: Config) -> str:
    """Sixteen hex digits that change when the result of the run would; `engine` and `run.root` do not count."""
    identity = config.model_dump(mode="json", exclude=IDENTITY_EXCLUDES)
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def config_difference(old: Config, new: Config) -> list[str]:
    """`a.b: old -> new` for every setting of the run's identity that differs."""
    before = dict(_flatten(old.model_dump(mode="json", exclude=IDENTITY_EXCLUDES)))
    after = dict(_flatten(new.model_dump(mode="json", exclude=IDENTITY_EXCLUDES)))
    keys = [*before, *(key for key in after if key not in before)]
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in keys
        if before.get(key, "absent") != after.get(key, "absent")
    ]


def documented_yaml(config: Config) -> str:
    """The config as YAML with each field's description as a comment: what `cellsemi init` writes."""
    return "\n".join(_documented(config, 0)) + "\n"


def field_table() -> list[tuple[str, str, str, str]]:
    """(dotted path, type, default, description) of every setting, in order: the source of docs/config.md."""
    return list(_walk_fields(Config.model_fields, ""))


# --- finding and parsing ---------------------------------------------------------------------------


def _find(source: str | None) -> tuple[str, str]:
    if source is None:
        if LOCAL_FILE.is_file():
            return LOCAL_FILE.read_text(encoding="utf-8"), f"./{LOCAL_FILE}"
        return preset_text(DEFAULT_PRESET), f"the built-in preset '{DEFAULT_PRESET}' (no --config, no ./{LOCAL_FILE})"
    path = Path(source)
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8"), str(path)
        except UnicodeDecodeError as error:
            raise UsageError(f"{path}: not a UTF-8 text file ({error.reason} at byte {error.start})") from None
    if source in preset_names():
        return preset_text(source), f"preset '{source}'"
    near = difflib.get_close_matches(source, preset_names(), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UsageError(f"--config {source}: no such file and no such preset ({', '.join(preset_names())}){hint}")


def _parse(text: str, origin: str) -> dict[str, Any]:
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: not valid YAML: {' '.join(str(error).split())}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{origin}: expected a mapping of sections, got a {type(data).__name__}")
    return data


def _apply(data: dict[str, Any], override: str) -> None:
    """Set one `a.b.0.c=value` in place; the value is read as YAML."""
    path, separator, raw = override.partition("=")
    if not separator or not path:
        raise UsageError(f"--set {override}: expected KEY=VALUE, for example --set training.steps=100")
    try:
        value = yaml.safe_load(raw) if raw else None
    except yaml.YAMLError:
        raise UsageError(f"--set {override}: the value is not valid YAML") from None
    node: Any = data
    keys = path.split(".")
    for position, key in enumerate(keys):
        last = position == len(keys) - 1
        if isinstance(node, list):
            if not key.isdigit() or int(key) >= len(node):
                raise ConfigError(f"--set {override}: {key!r} is not an index below {len(node)}")
            index: Any = int(key)
        elif isinstance(node, dict):
            index = key
            if not last and not isinstance(node.get(key), dict | list):
                node[key] = _section_of(node.get(key), keys[: position + 1], override)
        else:
            raise ConfigError(f"--set {override}: {'.'.join(keys[:position])} is a value, not a section")
        if last:
            node[index] = value
        else:
            node = node[index]


def _section_of(value: Any, keys: Sequence[str], override: str) -> dict[str, Any] | list[Any]:
    """What an override steps into where the file holds no section: the default list, a named preset, or an empty one.

    ConfigError when the file holds a plain value there, which the override would throw away.
    """
    if isinstance(value, str) and keys[-1] == "augment" and value in AUGMENT_PRESETS:
        return AUGMENT_PRESETS[value].model_dump(mode="json")
    if value is not None:
        where = ".".join(keys)
        raise ConfigError(f"--set {override}: {where} is the value {value!r}, not a section; give all of {where}")
    return [model.model_dump(mode="json") for model in Config().models] if keys == ["models"] else {}


# --- explaining -------------------------------------------------------------------------------------


def _explanations(details: Sequence[ErrorDetails]) -> Iterator[str]:
    """One line for each wrong place: what its parent says about it only repeats it."""
    by_path: dict[tuple[str | int, ...], list[ErrorDetails]] = {}
    for detail in details:
        by_path.setdefault(_path(detail), []).append(detail)
    for path, found in by_path.items():
        if not any(len(other) > len(path) and other[: len(path)] == path for other in by_path):
            yield _explain(path, found)


def _path(detail: ErrorDetails) -> tuple[str | int, ...]:
    """Where the error is, without pydantic's names for the alternatives of a union."""
    return tuple(part for part in detail["loc"] if part not in KINDS and not str(part).startswith(ALTERNATIVES))


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
        known = _sections(fields[part].annotation) if part in fields else known
    return list(next(iter(known.values())).model_fields) if known else []


def _sections(annotation: Any) -> dict[str, type[BaseModel]]:
    """The config sections inside an annotation such as tuple[Section, ...] or dict[str, Section] | Literal.

    Those of a union are named by their `kind`, a single one by the empty string.
    """
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        kind = annotation.model_fields.get("kind")
        return {kind.default if kind else "": annotation}
    found: dict[str, type[BaseModel]] = {}
    if typing.get_origin(annotation) is not None or isinstance(annotation, types.UnionType):
        for argument in typing.get_args(annotation):
            found |= _sections(argument)
    return found


KINDS = tuple(_sections(Config.model_fields["models"].annotation))  # of the models


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flatten(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for index, item in enumerate(value):
            yield from _flatten(item, f"{prefix}.{index}")
    else:
        yield prefix, value


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
Described = tuple[str, str, str, str]


def _walk_fields(fields: Fields, prefix: str) -> Iterator[Described]:
    for name, field in fields.items():
        dotted = f"{prefix}.{name}" if prefix else name
        sections = _sections(field.annotation)
        alone = bool(sections) and isinstance(field.annotation, type)
        default = "required" if field.is_required() else _short(field.get_default(call_default_factory=True))
        shown = "section" if alone else _type_name(field.annotation)
        yield dotted, shown, "" if alone else default, field.description or ""
        if prefix and name in Config.model_fields:
            continue  # a model's own `training` or `inference`: the common section again
        if len(sections) > 1:
            yield from _walk_alternatives({kind: section.model_fields for kind, section in sections.items()}, dotted)
        for section in sections.values() if len(sections) == 1 else ():
            inner = dotted + (".CLASS" if "dict[" in str(field.annotation) else "")
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
    sections = _sections(annotation)
    if len(sections) > 1:
        return f"list of {', '.join(sections)}"
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return re.sub(r"cellsemi\.configs\.\w+\.", "", text.replace("typing.", "")).replace("NoneType", "None")
