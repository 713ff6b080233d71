"""Defines the base of every part of the config: the frozen section, shared types, names that can be paths."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """A part of the config: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def checked_name(value: str, what: str) -> str:
    """Return `value` if it can be one part of a path everywhere; ValueError otherwise."""
    if not NAME_PATTERN.fullmatch(value):
        raise ValueError(f"{what} may hold letters, digits, '.', '_' and '-' (at most 64), got {value!r}")
    return value
