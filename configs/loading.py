"""Loads a Config from a YAML file, a preset name and `--set` overrides; computes its hash and differences.

`--config PATH|PRESET`, else `./cellsemi.yaml`, else the built-in `demo`; the origin is returned so that
the command line can say which. A path may be the `run.yaml` of a run: its config is read.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from cellsemi.configs.errors import ConfigError, UsageError
from cellsemi.configs.explain import explanations
from cellsemi.configs.phases import AUGMENT_PRESETS
from cellsemi.configs.presets.preset_files import DEFAULT_PRESET, LOCAL_FILE, preset_names, preset_text
from cellsemi.configs.schema import Config, without_common
from cellsemi.configs.yaml_text import read_yaml

RUN_HASH = "config_hash"  # the key that tells the run.yaml of a run from a config file


# Not part of what a run is: where it runs, and who is shown it, may change between two calls of the same run.
IDENTITY_EXCLUDES: Any = {"engine": True, "tracking": True, "run": {"root"}}


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A validated config and where it came from, in words."""

    config: Config
    origin: str


def load_config(source: str | None = None, overrides: Sequence[str] = ()) -> LoadedConfig:
    """Read `source` (a path or a preset name), apply `a.b=c` overrides, validate.

    Raises ConfigError with the dotted path of every wrong key or value, UsageError when there is no such file.
    """
    text, origin = _find(source)
    return change_config(_parse(text, origin), origin, overrides)


def change_config(data: dict[str, Any], origin: str, overrides: Sequence[str]) -> LoadedConfig:
    """Apply `a.b=c` overrides to a plain mapping, in place, and validate it; errors as those of `load_config`."""
    for override in overrides:
        _apply(data, override)
    return LoadedConfig(build_config(data, origin), origin)


def build_config(data: Mapping[str, Any], origin: str) -> Config:
    """Validate a plain mapping; errors name `origin` and dotted paths."""
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        lines = [f"  {line}" for line in explanations(error.errors())]
        raise ConfigError(f"{origin}: the config is not valid\n" + "\n".join(lines)) from None


def to_yaml(config: Config) -> str:
    """The resolved config as YAML, every default written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def config_hash(config: Config) -> str:
    """Sixteen hex digits that change when the result of the run would, and with no other setting."""
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
    data = read_yaml(text, origin)
    if data is None:
        return {}
    if isinstance(data, dict) and RUN_HASH in data:
        data = data.get("config")
        return without_common(data) if isinstance(data, dict) else {}
    if not isinstance(data, dict):
        raise ConfigError(f"{origin}: expected a mapping of sections, got a {type(data).__name__}")
    return data


def _apply(data: dict[str, Any], override: str) -> None:
    """Set one `a.b.0.c=value` in place; the value is read as YAML."""
    path, separator, raw = override.partition("=")
    if not separator or not path:
        raise UsageError(f"--set {override}: expected KEY=VALUE, for example --set training.steps=100")
    value = read_yaml(raw, f"--set {override}")
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


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flatten(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for index, item in enumerate(value):
            yield from _flatten(item, f"{prefix}.{index}")
    else:
        yield prefix, value
