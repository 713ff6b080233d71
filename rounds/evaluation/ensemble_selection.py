"""Selects the students of a round's ensemble, and decides when the rounds end.

Both decisions use validation images; test images are not seen here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cellsemi.configs.schema import Config
from cellsemi.rounds.evaluation.bootstrap import EQUAL_MEANS


@dataclass(frozen=True, slots=True)
class Selected:
    """The members of an ensemble in the order in which they were taken, and why these."""

    members: tuple[str, ...]
    why: str


def everyone(names: Sequence[str], left_out: Sequence[str] = ()) -> Selected:
    """All students, in their order, but those that find nothing."""
    but = f" but {', '.join(left_out)}, with a precision or recall of nil on validation images" if left_out else ""
    return Selected(tuple(names), f"all students{but} (rounds.ensemble is all)")


def greedy(names: Sequence[str], score_of: Callable[[tuple[str, ...]], float], at_least: int = 1) -> Selected:
    """Forward selection without replacement (Caruana, Niculescu-Mizil, Crew and Ksikes 2004, "Ensemble
    selection from libraries of models").

    The best alone comes first; then, each time, the one with which `score_of` the members is largest, as long
    as that raises it, or while there are fewer than `at_least`. Of equal ones the first in `names` is taken. For
    N names `score_of` is called at most N (N + 1) / 2 times. What is chosen on these images looks better on them
    than it is. ValueError without names.
    """
    if not names:
        raise ValueError("expected at least one student to choose from, got none")
    members: tuple[str, ...] = ()
    best, refused = 0.0, ""
    taken: list[str] = []
    while len(members) < len(names):
        score, name = _next(names, members, score_of)
        needed = len(members) < max(1, at_least)
        if not needed and score <= best + EQUAL_MEANS:
            refused = f"; with {name}, the best of the others, it is {score:.3f}"
            break
        forced = f", as {at_least} are needed" if members and score <= best + EQUAL_MEANS else ""
        taken.append(f"{name} ({score:.3f}{forced})")
        members, best = (*members, name), score
    return Selected(members, f"chosen greedily by validation mAP: {', then '.join(taken)}{refused}")


def _next(
    names: Sequence[str], members: tuple[str, ...], score_of: Callable[[tuple[str, ...]], float]
) -> tuple[float, str]:
    """The largest score with one more member, and that member; the first of those within a tie."""
    found: tuple[float, str] | None = None
    for name in names:
        if name in members:
            continue
        score = score_of((*members, name))
        if found is None or score > found[0] + EQUAL_MEANS:
            found = (score, name)
    assert found is not None, "there is a name that is no member"
    return found


def stop_reason(promoted: Sequence[bool], config: Config) -> str | None:
    """Why no further round is run after rounds 0, 1 ... of which these were promoted; None: go on.

    They end when the last `rounds.stop_after` were not promoted (patience, as in the early stopping of Prechelt 1998);
    with None never. After a refusal the teachers, and so the pseudo-labels, are the same: the next round would be
    another try of the last one, with another seed, unless other models take part in it. Then it is run.
    """
    stop_after, next_round = config.rounds.stop_after, len(promoted)
    if stop_after is None or next_round < stop_after or any(promoted[-stop_after:]):
        return None
    if next_round and config.models_of(next_round) != config.models_of(next_round - 1):
        return None
    rounds = "the last round was" if stop_after == 1 else f"the last {stop_after} rounds were"
    return f"{rounds} not promoted (rounds.stop_after), and the next one would differ in nothing but its seed"
