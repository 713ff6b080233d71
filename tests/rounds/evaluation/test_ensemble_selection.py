"""Greedy selection against its definition, and when the rounds end."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellsemi.configs.rounds import RoundsConfig
from cellsemi.configs.schema import Config
from cellsemi.rounds.evaluation.ensemble_selection import everyone, greedy, stop_reason

NAMES = ("a", "b", "c", "d")
SUBSETS = [subset for size in range(1, 5) for subset in combinations(NAMES, size)]


def by_definition(scores: Mapping[tuple[str, ...], float], at_least: int) -> set[str]:
    """Written out from sets: take the best, then whoever raises the score most, else stop."""
    members: set[str] = set()
    best = -1.0
    while len(members) < len(NAMES):
        options = {n: scores[tuple(sorted(members | {n}))] for n in NAMES if n not in members}
        top = max(options.values())
        if len(members) >= at_least and top <= best:
            break
        members.add(min(n for n, score in options.items() if score == top))
        best = top
    return members


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 6), min_size=len(SUBSETS), max_size=len(SUBSETS)), st.integers(1, 5))
def test_members_are_those_of_the_definition(points: list[int], at_least: int) -> None:
    scores = {subset: point / 6 for subset, point in zip(SUBSETS, points, strict=True)}
    chosen = greedy(NAMES, lambda members: scores[tuple(sorted(members))], at_least)
    assert set(chosen.members) == by_definition(scores, at_least)
    assert len(set(chosen.members)) == len(chosen.members)


def test_the_best_comes_first_and_one_that_raises_nothing_is_left_out() -> None:
    scores = {"b": 0.5, "a": 0.4, "c": 0.45, "ba": 0.55, "bc": 0.52, "bac": 0.54}
    asked = []

    def score_of(members: tuple[str, ...]) -> float:
        asked.append(members)
        return scores["".join(members)]

    chosen = greedy(("a", "b", "c"), score_of)
    assert chosen.members == ("b", "a")
    assert "b (0.500), then a (0.550); with c, the best of the others, it is 0.540" in chosen.why
    assert len(asked) == len(set(asked)) == 6


def test_equal_students_are_taken_in_their_order_and_a_tie_adds_nobody() -> None:
    assert greedy(("x", "y"), lambda members: 0.25).members == ("x",)


def test_members_that_the_votes_need_are_taken_although_they_lower_the_score() -> None:
    chosen = greedy(("x", "y"), lambda members: 1 / len(members), at_least=2)
    assert chosen.members == ("x", "y") and "as 2 are needed" in chosen.why


def test_a_student_that_scores_nothing_is_still_an_ensemble() -> None:
    assert greedy(("x", "y"), lambda members: 0.0).members == ("x",)


def test_nobody_to_choose_from_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one student"):
        greedy((), lambda members: 0.0)


def test_everyone_keeps_the_order() -> None:
    assert everyone(["b", "a"]).members == ("b", "a")


@pytest.mark.parametrize(
    ("promoted", "stop_after", "stops"),
    [
        ("1", 1, False),
        ("10", 1, True),
        ("10", 2, False),
        ("100", 2, True),
        ("1010", 2, False),
        ("10100", 2, True),
        ("1000", 3, True),
        ("10000", None, False),
        ("", 2, False),
    ],
)
def test_rounds_end_after_enough_refusals_in_a_row(promoted: str, stop_after: int | None, stops: bool) -> None:
    reason = stop_reason([each == "1" for each in promoted], Config(rounds=RoundsConfig(stop_after=stop_after)))
    assert (reason is not None) == stops
    assert reason is None or "rounds.stop_after" in reason


def test_after_a_refusal_a_round_of_other_models_is_run() -> None:
    """A larger student from round 2 on: round 2 is no repetition of round 1, round 3 one of round 2."""
    models = [{"name": "small", "last_round": 1}, {"name": "large", "first_round": 2, "width": 48}]
    config = Config.model_validate({"models": models})
    assert config.rounds.stop_after == 1
    assert stop_reason([True, False], config) is None
    assert "the next one would differ in nothing but its seed" in str(stop_reason([True, False, False], config))
    assert stop_reason([True, False, True], config) is None
