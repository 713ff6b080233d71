"""States what to use of a run, and whether the rounds helped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cellsemi.rounds.evaluation.bootstrap import enough, too_few
from cellsemi.rounds.evaluation.figures import Interval
from cellsemi.rounds.evaluation.leaderboard import Row
from cellsemi.rounds.evaluation.promotion import Decision
from cellsemi.rounds.store.run import ENSEMBLE, is_control

NOTHING_PREDICTS = "no model predicts new images yet: the teachers of round 0 are masks of another tool"


@dataclass(frozen=True, slots=True)
class AgainstControl:
    """Test mAP of the first model of the round that teaches now, minus that of a control of the last round.

    Where several controls were trained, `control` is the one that was best on validation images.
    Where the last round was refused, the control had as many steps as the refused student: more than this model.
    `difference` is None where they have no test image in common: masks of another tool may lack them.
    """

    round: int
    model: str
    control_round: int
    control: str
    difference: Interval | None


def verdict(
    rows: Sequence[Row],
    decisions: Mapping[int, Decision],
    compared: AgainstControl | None,
    delivered: tuple[int, str] | None,
    run: str,
) -> str:
    """What to use of a run called `run`; then whether the rounds helped on test, and more than longer training would.

    It speaks of the last promoted ensemble, and of its first model beside the control (`compared`), which says nothing
    where another round teaches by now. `decisions` are by round; a last round that was refused is named with its
    reason. `delivered` is the (round, model) to use, None where none predicts new images. Of fewer than ENOUGH_IMAGES
    test images nothing is concluded.
    """
    ensembles = {row.round: row for row in rows if row.model == ENSEMBLE}
    if not ensembles:
        return "Nothing has been evaluated yet."
    last = ensembles[max(ensembles)]
    standing = max((row for row in ensembles.values() if row.promoted or row.round == 0), key=lambda row: row.round)
    use = _use(delivered, run, standing.round)
    if last.round == 0:
        who = "the teachers" if delivered is None else "the supervised models"
        score = "on no test image"
        if last.test_map is not None:
            score = f"{last.test_map.value:.3f} ({_ends(last.test_map, last, '.3f')}) mAP on test"
        return f"{use} No round has been run yet: {who} of round 0 score {score}."
    shown = standing if standing.round else last
    control = compared if compared is not None and compared.round == standing.round else None
    masks = delivered is not None and delivered[0] > standing.round and delivered[1] == ENSEMBLE
    headline = "No student beats the masks that taught it" if masks else _headline(standing, shown, control)
    sentence = f"{headline}: {_facts(shown)}; {_control_facts(control, shown)}"
    if last.round in decisions and not decisions[last.round].promoted:
        sentence += f"; round {last.round} was {decisions[last.round].reason}"
    return f"{use} {sentence}."


def _use(delivered: tuple[int, str] | None, run: str, standing: int) -> str:
    if delivered is None:
        return f"{NOTHING_PREDICTS[0].upper()}{NOTHING_PREDICTS[1:]}."
    round, model = delivered
    why = ": on validation images longer training on the human labels won" if is_control(model) else ""
    if model == ENSEMBLE and round > standing:
        why = ": on validation images the masks of its teachers are not beaten, but they predict no new image"
    return f"Use the {model} of round {round} (cellsemi predict IMAGES --run {run} --out DIR){why}."


def _headline(standing: Row, shown: Row, control: AgainstControl | None) -> str:
    if standing.round == 0:
        return "The rounds did not help, none was promoted"
    if not enough(shown.test_images):
        images = "test image is" if shown.test_images == 1 else "test images are"
        return f"{shown.test_images} {images} too few to tell whether the rounds helped"
    direction = _direction(shown.change)
    if direction < 0:
        return "The rounds did harm, although validation promoted them"
    if direction == 0:
        return "The rounds did not help measurably"
    if control is None or control.difference is None:
        return "The rounds helped, but nothing here tells it from longer training"
    return {
        1: "The rounds helped",
        0: "The rounds helped, but not measurably more than longer training on the human labels",
        -1: "The rounds helped less than longer training on the human labels alone",
    }[_direction(control.difference)]


def _facts(row: Row) -> str:
    if row.test_map is None or row.change is None:
        return "the teachers have masks of no test image to compare with"
    before = row.test_map.value - row.change.value
    return (
        f"test mAP {before:.3f} in round 0, {row.test_map.value:.3f} in round {row.round}, "
        f"a change of {_signed(row.change, row)}"
    )


def _control_facts(found: AgainstControl | None, row: Row) -> str:
    """`row` is one on the same test images."""
    if found is None or found.difference is None:
        return "there is no supervised control of equal steps to compare with"
    longer = "" if found.round == found.control_round else f" as the student of round {found.control_round} had"
    return (
        f"against a supervised control of as many steps{longer}, {found.model} of round {found.round} differs by "
        f"{_signed(found.difference, row)}"
    )


def _direction(change: Interval | None) -> int:
    """1 or -1 when the whole interval is on one side of zero, else 0."""
    if change is None:
        return 0
    return int(change.low > 0) - int(change.high < 0)


def _signed(interval: Interval, row: Row) -> str:
    return f"{interval.value:+.3f} ({_ends(interval, row, '+.3f')})"


def _ends(interval: Interval, row: Row, style: str) -> str:
    """The interval of a test figure, with its images; or why there is none."""
    if not enough(row.test_images):
        return too_few(row.test_images)
    ends = f"{interval.low:{style}} to {interval.high:{style}}"
    return f"{row.confidence * 100:g} % interval {ends}, n = {row.test_images}"
