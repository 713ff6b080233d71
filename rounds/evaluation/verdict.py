"""States in one sentence whether the rounds helped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cellsemi.rounds.evaluation.figures import Interval
from cellsemi.rounds.evaluation.leaderboard import Row
from cellsemi.rounds.evaluation.promotion import Decision
from cellsemi.rounds.store.run import CONTROL, ENSEMBLE


def verdict(rows: Sequence[Row], decisions: Mapping[int, Decision], delivered: tuple[int, str]) -> str:
    """One sentence: did the rounds help on the test images, and more than longer training would have?

    It speaks of the last promoted ensemble. `decisions` are by round; a last round that was refused is
    named with its reason. `delivered` is the (round, model) to use: it is named when it is the control.
    """
    ensembles = {row.round: row for row in rows if row.model == ENSEMBLE}
    if not ensembles:
        return "Nothing has been evaluated yet."
    last = ensembles[max(ensembles)]
    if last.round == 0:
        score = f"{last.test_map.value:.3f} ({_ends(last.test_map, last, '.3f')})"
        return f"No round has been run yet: the supervised models of round 0 score {score} mAP on test."
    standing = max((row for row in ensembles.values() if row.promoted or row.round == 0), key=lambda row: row.round)
    shown = standing if standing.round else last
    control = next((row for row in reversed(rows) if row.vs_control is not None), None)
    sentence = f"{_headline(standing, shown, control)}: {_facts(shown)}; {_control_facts(control)}"
    if last.round in decisions and not decisions[last.round].promoted:
        sentence += f"; round {last.round} was {decisions[last.round].reason}"
    if delivered[1] == CONTROL:
        sentence += f"; on validation images longer training won: use the control of round {delivered[0]}"
    return sentence + "."


def _headline(standing: Row, shown: Row, control: Row | None) -> str:
    if standing.round == 0:
        return "The rounds did not help, none was promoted"
    direction = _direction(shown.change)
    if direction < 0:
        return "The rounds did harm, although validation promoted them"
    if direction == 0:
        return "The rounds did not help measurably"
    if control is None:
        return "The rounds helped, but nothing here tells it from longer training"
    return {
        1: "The rounds helped",
        0: "The rounds helped, but not measurably more than longer training on the human labels",
        -1: "The rounds helped less than longer training on the human labels alone",
    }[_direction(control.vs_control)]


def _facts(row: Row) -> str:
    assert row.change is not None, "rounds after 0 are compared with round 0"
    before = row.test_map.value - row.change.value
    return (
        f"test mAP {before:.3f} in round 0, {row.test_map.value:.3f} in round {row.round}, "
        f"a change of {_signed(row.change, row)} on {row.test_images} images"
    )


def _control_facts(row: Row | None) -> str:
    if row is None or row.vs_control is None:
        return "there is no supervised control of equal steps to compare with"
    return (
        f"against a supervised control of as many steps, {row.model} of round {row.round} differs by "
        f"{_signed(row.vs_control, row)}"
    )


def _direction(change: Interval | None) -> int:
    """1 or -1 when the whole interval is on one side of zero, else 0."""
    if change is None:
        return 0
    return int(change.low > 0) - int(change.high < 0)


def _signed(interval: Interval, row: Row) -> str:
    return f"{interval.value:+.3f} ({_ends(interval, row, '+.3f')})"


def _ends(interval: Interval, row: Row, style: str) -> str:
    return f"{row.confidence * 100:g} % interval {interval.low:{style}} to {interval.high:{style}}"
