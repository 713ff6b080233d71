"""Selects predicted cells by score and area: from the chosen cutoffs on, or what the user asks for, per class too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cellsemi.configs.errors import UsageError
from cellsemi.rounds.cells.cutoffs import Cutoffs

Asked = float | Mapping[str, float] | None  # for all classes, by class name, or what was chosen


def asked_cutoffs(min_score: Asked, min_area_px: Asked, chosen: Cutoffs, classes: Sequence[str]) -> Cutoffs:
    """What the caller of a function asks for; `chosen` for what it does not name.

    UsageError for a class that the model does not know, a score outside 0 to 1, and an area below 0.
    """
    scores = _by_class("score", min_score, chosen.min_score, classes)
    areas = _by_class("area", min_area_px, chosen.min_area_px, classes)
    if not all(0 <= value <= 1 for value in scores):
        raise UsageError(f"a minimum score of {min_score}: expected 0 to 1")
    if not all(value >= 0 for value in areas):
        raise UsageError(f"a minimum area of {min_area_px}: expected pixels, 0 or more")
    return Cutoffs(scores, tuple(int(value) for value in areas))


def parse_cutoffs(scores: Sequence[str], areas: Sequence[str], chosen: Cutoffs, classes: Sequence[str]) -> Cutoffs:
    """What the command line asks for: `0.5`, `astro=0.7`, several of them; UsageError when one is neither."""
    return asked_cutoffs(
        _parsed("--min-score", "SCORE, such as 0.5", scores, classes),
        _parsed("--min-area", "PIXELS, such as 80", areas, classes),
        chosen,
        classes,
    )


def _by_class(what: str, asked: Asked, chosen: Sequence[float], classes: Sequence[str]) -> tuple[float, ...]:
    if asked is None:
        return tuple(chosen)
    if not isinstance(asked, Mapping):
        return (float(asked),) * len(classes)
    unknown = sorted(set(asked) - set(classes))
    if unknown:
        raise UsageError(f"a minimum {what} for {', '.join(unknown)}: the model knows {', '.join(classes)}")
    return tuple(float(asked.get(name, value)) for name, value in zip(classes, chosen, strict=True))


def _parsed(option: str, expected: str, texts: Sequence[str], classes: Sequence[str]) -> Asked:
    """By class name, what is said for one class before what is said for all; None when nothing is said."""
    named: dict[str, float] = {}
    rest: dict[str, float] = {}
    for text in texts:
        name, separator, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            raise UsageError(f"{option} {text}: expected [CLASS=]{expected}") from None
        if separator:
            named[name] = value
        else:
            rest = dict.fromkeys(classes, value)
    return {**rest, **named} if texts else None
