"""Reads YAML that a person wrote: a key that stands twice in a section is an error, not a silent choice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from cellsemi.configs.errors import ConfigError


def read_yaml(text: str, origin: str) -> Any:
    """The plain values of a YAML text; None for an empty one.

    ConfigError when it is not valid YAML, or when a key stands twice in one section: the message names `origin`, the
    dotted path of the key and both lines.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        twice = [f"  {line}" for line in _keys_that_stand_twice(node, "", set())]
        if twice:
            raise ConfigError(f"{origin}: a key must stand once in a section\n" + "\n".join(twice))
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: not valid YAML: {' '.join(str(error).split())}") from None
    finally:
        loader.dispose()


def _keys_that_stand_twice(node: yaml.Node, prefix: str, seen: set[int]) -> Iterator[str]:
    """A line for each such key. `seen` are the nodes that were visited: an alias leads to a node again."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _keys_that_stand_twice(item, _below(prefix, str(index)), seen)
    elif isinstance(node, yaml.MappingNode):
        first: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            path, line = _below(prefix, name), key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, name) in first:
                    yield f"{path}: in line {first[key.tag, name]} and again in line {line}; keep one of them"
                first.setdefault((key.tag, name), line)
            yield from _keys_that_stand_twice(value, path, seen)


def _below(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
