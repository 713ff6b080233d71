"""Defines the base of every part of the config: the frozen section, shared types, names that can be paths."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# What no machine carries out is refused before work: a number beyond these is a slip of the hand.
MAX_AREA_PX = 100_000_000_000
MAX_SEED = 2**63 - 1
MAX_STEPS = 100_000_000
Factor = Annotated[float, Field(le=1000)]
Side = Annotated[int, Field(le=16_384)]  # in pixels
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """A part of the config: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def checked_name(value: str, what: str) -> str:
    """Return `value` if it can be one part of a path everywhere; ValueError otherwise."""
    if not NAME_PATTERN.fullmatch(value):
        raise ValueError(f"{what} may hold letters, digits, '.', '_' and '-' (at most 64), got {value!r}")
    return value
