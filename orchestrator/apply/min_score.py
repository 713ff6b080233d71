"""Selects predicted cells by their score: from the chosen threshold on, or what the user asks for, per class too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cellsemi.configs.errors import UsageError
from cellsemi.rounds.cells.instances import Instances


@dataclass(frozen=True, slots=True)
class MinScore:
    """The least score of a cell that is kept, for each class id."""

    by_class: tuple[float, ...]

    @classmethod
    def of(cls, wanted: float | Mapping[str, float] | None, chosen: float, classes: Sequence[str]) -> MinScore:
        """`wanted` for all classes or by class name; `chosen` for what it does not name.

        UsageError for a class that the model does not know, and for a score outside 0 to 1.
        """
        named = wanted if isinstance(wanted, Mapping) else {}
        unknown = sorted(set(named) - set(classes))
        if unknown:
            raise UsageError(f"a minimum score for {', '.join(unknown)}: the model knows {', '.join(classes)}")
        rest = chosen if wanted is None or isinstance(wanted, Mapping) else float(wanted)
        values = tuple(float(named.get(name, rest)) for name in classes)
        if not all(0 <= value <= 1 for value in values):
            raise UsageError(f"a minimum score of {wanted}: expected 0 to 1")
        return cls(values)

    @classmethod
    def parse(cls, texts: Sequence[str], chosen: float, classes: Sequence[str]) -> MinScore:
        """From the command line: `0.5`, `astro=0.7`, several of them; UsageError when one is neither."""
        named: dict[str, float] = {}
        rest = chosen
        for text in texts:
            name, separator, number = text.rpartition("=")
            try:
                value = float(number)
            except ValueError:
                raise UsageError(f"--min-score {text}: expected a score or CLASS=SCORE, such as 0.5") from None
            if separator:
                named[name] = value
            else:
                rest = value
        return cls.of({**dict.fromkeys(classes, rest), **named}, chosen, classes)

    def keep(self, cells: Instances) -> Instances:
        """The cells that are kept, in their order."""
        return cells.select(cells.score >= np.asarray(self.by_class, np.float32)[cells.class_id])

    def sentence(self, classes: Sequence[str]) -> str:
        """In words: `cells with a score from 0.312 on`."""
        if len(set(self.by_class)) <= 1:
            return f"cells with a score from {self.by_class[0]:.3g} on"
        each = ", ".join(f"{name} {value:.3g}" for name, value in zip(classes, self.by_class, strict=True))
        return f"cells with at least the score of their class: {each}"
