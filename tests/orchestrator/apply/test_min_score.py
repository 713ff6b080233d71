"""Cells are kept from the chosen score on, or from what the user asks for, per class too."""

from __future__ import annotations

import numpy as np
import pytest

from cellsemi.configs.errors import UsageError
from cellsemi.orchestrator.apply.min_score import MinScore
from cellsemi.rounds.cells import masks

CLASSES = ("astro", "cort")


def kept(limit: MinScore) -> list[int]:
    labels = np.arange(1, 5).repeat(4).reshape(4, 4)
    cells = masks.from_label_map(labels, score=[0.2, 0.4, 0.6, 0.8], class_id=[0, 1, 0, 1])
    return (limit.keep(cells).score * 10).round().astype(int).tolist()


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        ((), [4, 6, 8]),
        (("0.5",), [6, 8]),
        (("0",), [2, 4, 6, 8]),
        (("cort=0.7",), [4, 6, 8][1:]),
        (("0.1", "cort=0.7"), [2, 6, 8]),
        (("cort=0.7", "0.1"), [2, 6, 8]),
        (("1",), []),
    ],
)
def test_scores_of_the_command_line(texts: tuple[str, ...], found: list[int]) -> None:
    assert kept(MinScore.parse(texts, 0.4, CLASSES)) == found


@pytest.mark.parametrize(("wanted", "found"), [(None, [4, 6, 8]), (0.7, [8]), ({"astro": 0.7}, [4, 8])])
def test_scores_of_a_program(wanted: float | dict[str, float] | None, found: list[int]) -> None:
    assert kept(MinScore.of(wanted, 0.4, CLASSES)) == found


@pytest.mark.parametrize(("text", "words"), [("high", "high"), ("1.5", "0 to 1"), ("neuron=0.5", "neuron"), ("=", "=")])
def test_what_is_no_score_is_an_error(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        MinScore.parse((text,), 0.4, CLASSES)


def test_a_score_that_was_chosen_keeps_the_very_cell_that_it_is_from() -> None:
    """Scores are float32, thresholds travel through JSON as float64."""
    score = np.float32(0.1) + np.float32(0.2)
    cells = masks.from_label_map(np.ones((2, 2), int), score=score)
    assert len(MinScore.of(None, float(score), ("cell",)).keep(cells)) == 1


def test_it_is_said_in_words() -> None:
    assert MinScore.of(0.5, 0, CLASSES).sentence(CLASSES) == "cells with a score from 0.5 on"
    assert "cort 0.7" in MinScore.of({"cort": 0.7}, 0.3, CLASSES).sentence(CLASSES)
