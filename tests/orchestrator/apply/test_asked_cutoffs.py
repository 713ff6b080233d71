"""Cells are kept from the chosen score and area on, or from what the user asks for, per class too."""

from __future__ import annotations

import numpy as np
import pytest

from cellsemi.configs.errors import UsageError
from cellsemi.orchestrator.apply.asked_cutoffs import asked_cutoffs, parse_cutoffs
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.cutoffs import Cutoffs

CLASSES = ("astro", "cort")
CHOSEN = Cutoffs((0.4, 0.4), (0, 0))


def kept(limit: Cutoffs) -> list[int]:
    """Tenths of the scores; the cells have 4, 4, 4 and 8 pixels."""
    labels = np.arange(1, 5).repeat([4, 4, 4, 8]).reshape(5, 4)
    cells = masks.from_label_map(labels, score=[0.2, 0.4, 0.6, 0.8], class_id=[0, 1, 0, 1])
    return (limit.kept(cells).score * 10).round().astype(int).tolist()


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        ((), [4, 6, 8]),
        (("0.5",), [6, 8]),
        (("0",), [2, 4, 6, 8]),
        (("cort=0.7",), [6, 8]),
        (("0.1", "cort=0.7"), [2, 6, 8]),
        (("cort=0.7", "0.1"), [2, 6, 8]),
        (("1",), []),
    ],
)
def test_scores_of_the_command_line(texts: tuple[str, ...], found: list[int]) -> None:
    assert kept(parse_cutoffs(texts, (), CHOSEN, CLASSES)) == found


@pytest.mark.parametrize(
    ("texts", "found"), [((), [4, 6, 8]), (("5",), [8]), (("cort=8",), [6, 8]), (("9", "astro=0"), [6])]
)
def test_areas_of_the_command_line(texts: tuple[str, ...], found: list[int]) -> None:
    assert kept(parse_cutoffs((), texts, CHOSEN, CLASSES)) == found


@pytest.mark.parametrize(("wanted", "found"), [(None, [4, 6, 8]), (0.7, [8]), ({"astro": 0.7}, [4, 8])])
def test_scores_of_a_program(wanted: float | dict[str, float] | None, found: list[int]) -> None:
    assert kept(asked_cutoffs(wanted, None, CHOSEN, CLASSES)) == found


def test_what_is_not_asked_for_is_what_was_chosen_for_each_class() -> None:
    chosen = Cutoffs((0.1, 0.9), (3, 5))
    assert asked_cutoffs(None, {"astro": 0}, chosen, CLASSES) == Cutoffs((0.1, 0.9), (0, 5))
    assert parse_cutoffs(("cort=0.5",), (), chosen, CLASSES) == Cutoffs((0.1, 0.5), (3, 5))
    assert parse_cutoffs((), (), chosen, CLASSES) == chosen


@pytest.mark.parametrize(("text", "words"), [("high", "high"), ("1.5", "0 to 1"), ("neuron=0.5", "neuron"), ("=", "=")])
def test_what_is_no_score_is_an_error(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_cutoffs((text,), (), CHOSEN, CLASSES)


@pytest.mark.parametrize(
    ("text", "words"), [("big", "--min-area big"), ("-1", "0 or more"), ("neuron=5", "neuron: the model knows astro")]
)
def test_what_is_no_area_is_an_error(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_cutoffs((), (text,), CHOSEN, CLASSES)


def test_a_score_that_was_chosen_keeps_the_very_cell_that_it_is_from() -> None:
    """Scores are float32, cutoffs travel through JSON as float64."""
    score = np.float32(0.1) + np.float32(0.2)
    cells = masks.from_label_map(np.ones((2, 2), int), score=score)
    assert len(Cutoffs.same(float(score), 1).kept(cells)) == 1


def test_it_is_said_in_words() -> None:
    assert Cutoffs.same(0.5, 2).sentence(CLASSES) == "cells with a score from 0.5 on"
    assert Cutoffs.same(0.5, 2, 8).sentence(CLASSES) == "cells with a score from 0.5 and 8 px on"
    assert Cutoffs((0.3, 0.7), (0, 4)).words(CLASSES) == "astro 0.3, cort 0.7 and 4 px"
    assert Cutoffs((), ()).words(()) == ""
