"""Writes the sections of the page that are words, tables and plots, from what was gathered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cellsemi.rounds.calibration.calibration import Curve
from cellsemi.rounds.duration import duration
from cellsemi.rounds.evaluation.leaderboard import LEGEND, Row, display_rows
from cellsemi.rounds.page import plots
from cellsemi.rounds.page.blocks import Block, Code, Items, Plot, Plots, Table, Text
from cellsemi.rounds.page.cells import Agreement, Sizes
from cellsemi.rounds.page.confidence import PrecisionRecall
from cellsemi.rounds.page.curves import Curves
from cellsemi.rounds.page.scores import ALL, Score
from cellsemi.rounds.pseudo_labels.filter import count_states
from cellsemi.rounds.pseudo_labels.thresholds import Thresholds
from cellsemi.rounds.report.round_report import Facts, Scored, Used

SHOWN_ROUNDS = 6  # of students whose curves are drawn: the last ones; all are in the table
SHOWN_CURVES = 24  # reliability and precision-recall plots
NONE = "-"

Kinds = Mapping[str, float]  # seconds by kind of work


def use(facts: Facts, commands: Sequence[tuple[str, str]]) -> Iterator[Block]:
    """What to use, whether the rounds helped, what to do next, and what went wrong in the last round."""
    yield Text(facts.verdict, "lead")
    yield Text(f"Round {facts.round}: {_sentence(facts.decision.reason)}")
    if facts.on_control is not None:
        yield Text(f"Against longer training on the human labels alone: {_sentence(facts.on_control.reason)}")
    width = max(len(command) for command, _ in commands)
    yield Code("\n".join(f"{command.ljust(width)}   # {purpose}" for command, purpose in commands))
    problems = [_sentence(f"drift: {alarm}") for alarm in facts.drift or ()] + [_sentence(p) for p in facts.problems]
    yield Text(
        "To look at in the last round:" if problems else "Nothing went wrong that was noticed in the last round."
    )
    if problems:
        yield Items(problems)


def leaderboard(rows: Sequence[Row]) -> Iterator[Block]:
    """The leaderboard; what the run recommends is marked."""
    header, cells = display_rows(rows)
    marked = next((place for place, row in enumerate(rows) if row.recommended), None)
    named = [[f"{row[2]} of round {row[1]}", row[0], *row[3:]] for row in cells]
    yield Table(
        "Models by round; the recommended one is marked", ["model", header[0], *header[3:]], named, marked=marked
    )
    yield Text(" ".join(LEGEND.split()))


def score_by_round(found: Sequence[Score], classes: Sequence[str]) -> Iterator[Block]:
    """Plots of the scores with intervals, and the numbers."""
    splits = [split for split in ("test", "val") if any(each.split == split for each in found)]
    names = [ALL, *(classes if len(classes) > 1 else ())]
    drawn = (plots.score_plot(found, split, name) for name in names for split in splits)
    shown = [plot for plot in drawn if plot is not None]
    yield Text(
        "Bars are bootstrap intervals over the images; there is none where fewer than eight images hold the class. "
        "Validation images chose thresholds and rounds, so their score flatters; test images decided nothing."
    )
    if "test" not in splits:
        yield Text("There are no scores on test images: the run has none.", "missing")
    if "val" not in splits:
        yield Text("There are no scores on validation images: the run has none.", "missing")
    yield Plots(shown)
    rows = [
        [f"{each.model} of round {each.round}", each.split, each.name or "all classes", str(each.images), each.text()]
        for each in found
    ]
    yield Table("The numbers of these plots", ["model", "split", "class", "images", "mAP"], rows, folded=True)


def learned(facts: Sequence[Facts], by_round: Mapping[int, Mapping[str, int]]) -> Iterator[Block]:
    """What the students learned from: labels, pseudo-labels by state and reason, images left out."""
    sets = [
        [
            f"round {each.round}{', ' + part.name if part.name else ''}",
            *(f"{count:,}" for count in (part.human_images, part.human_cells, part.pseudo_images)),
            ", ".join(f"{count} {reason}" for reason, count in part.left_out.items()) or "none",
        ]
        for each in facts
        for part in each.training
    ]
    header = ["round", "human images", "human cells", "pseudo-labelled images", "unlabelled images left out"]
    yield Table("What each round's students learned from", header, sets)
    if not by_round:
        yield Text("No round has pseudo-labels yet: round 0 learns from human labels alone.")
        return
    if (plot := plots.reasons_plot(by_round)) is not None:
        yield Plots([plot])
    keys = sorted({key for counts in by_round.values() for key in counts})
    rows = [[key, *(f"{counts.get(key, 0):,}" for counts in by_round.values())] for key in keys]
    rows.append(["all", *(f"{sum(counts.values()):,}" for counts in by_round.values())])
    yield Table("Cells by state and reason", ["state: reason", *(f"round {number}" for number in by_round)], rows)
    last = next((each for each in reversed(facts) if each.pseudo), None)
    if last is not None and len(last.pseudo) > 1:
        states = {name: count_states(counts) for name, counts in last.pseudo.items()}
        rows = [[name, *(f"{count:,}" for count in found.values())] for name, found in states.items()]
        yield Table(f"By class in round {last.round}", ["class", "accepted", "ignored", "rejected"], rows)


# --- can the scores be trusted ------------------------------------------------------------------------


def trust(
    scored: Sequence[Scored], thresholds: Thresholds | None, found: Sequence[PrecisionRecall], round: int
) -> Iterator[Block]:
    """Reliability, precision and recall with the thresholds that were chosen, and the errors of all calibrations."""
    shown = [one for one in scored if one.whose == "teachers together"] or scored
    curves = [(one, name, curve) for one in shown for name, curve in one.calibration.curves.items()]
    if not curves:
        yield Text(f"No score was calibrated in round {round}.", "missing")
        return
    yield Text(
        f"Round {round}. A calibrated confidence of .8 means that eight of ten such cells are right. Calibrated values "
        "come from curves that did not see the image."
    )
    drawn = (
        plots.reliability_plot(_whose(one, name), f"{one.whose} {one.model} {name}", curve)
        for one, name, curve in curves
    )
    yield Plots([plot for plot in drawn if plot is not None][:SHOWN_CURVES])
    if found:
        yield Text(
            "Precision and recall of the teachers' cells on validation images, as the threshold on their quality "
            "falls. The marks are the thresholds that were chosen; areas and votes, which the filter goes by too, are "
            "left out. The curves that give the quality were fitted on these images."
        )
        drawn = (plots.precision_recall_plot(each) for each in found)
        yield Plots([plot for plot in drawn if plot is not None][:SHOWN_CURVES])
    if thresholds is not None:
        rows = [
            [name, f"{each.accept:.3f}", f"{each.reject:.3f}", str(each.min_area_px), str(each.max_area_px or "any")]
            for name, each in thresholds.by_class.items()
        ]
        header = ["class", "accepted from", "rejected below", "smallest px", "largest px"]
        yield Table("Thresholds of the filter", header, rows)
        yield Items([_sentence(line) for line in thresholds.report()])
    rows = [
        [f"{one.whose}: {one.model}", name, f"{curve.samples:,}", f"{curve.positives:,}", *_errors(curve)]
        for one in scored
        for name, curve in one.calibration.curves.items()
    ]
    header = ["whose", "class", "predictions", "right", "error before", "error after"]
    yield Table("Expected calibration error of all calibrations of the round", header, rows, folded=True)


def _whose(one: Scored, name: str) -> str:
    return (
        f"{name}, {one.whose}" if one.model in one.whose or one.whose == "teachers together" else f"{name}, {one.model}"
    )


def _errors(curve: Curve) -> list[str]:
    return [NONE if error is None else f"{error:.3f}" for error in (curve.ece_before, curve.ece_after)]


# --- cells --------------------------------------------------------------------------------------------


def cell_sizes(found: Sequence[Sizes], round: int | None) -> Iterator[Block]:
    """Sizes of human, accepted and rejected cells, with the limits."""
    if round is None:
        yield Text("There are no pseudo-labels yet; these are the cells that people drew.")
    else:
        yield Text(
            f"Human cells of the training and validation images, and the pseudo-labels of round {round}. Dotted lines: "
            "the limits of the filter."
        )
    yield Plots([plot for plot in map(plots.size_plot, found) if plot is not None])
    rows = [
        [each.name, state, f"{len(areas):,}", *_quantiles(areas)]
        for each in found
        for state, areas in each.areas.items()
        if len(areas)
    ]
    header = ["class", "state", "cells", "5 % below", "half below", "95 % below"]
    yield Table("Areas in px", header, rows, folded=True)
    if round is not None:
        yield Items([f"{each.name}: {plots.limits_of(each).lower()}." for each in found])


def _quantiles(areas: NDArray[np.int64]) -> list[str]:
    return [f"{value:.0f}" for value in np.quantile(areas, (0.05, 0.5, 0.95))]


def agreement_and_drift(
    agreements: Sequence[Agreement], drift: Mapping[int, Mapping[str, object]], checked: bool
) -> Iterator[Block]:
    """How far the teachers agree, by round and state, and how the pseudo-labels compare with the human labels."""
    if not agreements:
        yield Text("No round has pseudo-labels yet.")
        return
    rows = [
        [
            f"round {each.round}, {each.state}",
            f"{each.cells:,}",
            f"{each.several:,}",
            NONE if each.mean is None else f"{each.mean:.3f}",
            ", ".join(f"{count:,} by {votes}" for votes, count in each.votes.items()) or NONE,
        ]
        for each in agreements
    ]
    yield Text("Agreement is the mean IoU of the masks that several teachers, or views, drew of one cell.")
    header = ["cells", "count", "found by several", "mean agreement", "found by how many teachers"]
    yield Table("Agreement of the teachers", header, rows)
    if not drift:
        why = "it is switched off (rounds.drift_alarms)" if not checked else "no round was compared"
        yield Text(f"Drift was not checked: {why}.", "missing")
        return
    yield Plots(list(_drift_plots(drift)))
    alarms = [
        f"Round {number}: {_sentence(str(alarm))}" for number, each in drift.items() for alarm in _list(each["alarms"])
    ]
    yield Items(alarms) if alarms else Text("No drift alarm in any round.")


def _drift_plots(drift: Mapping[int, Mapping[str, object]]) -> Iterator[Plot]:
    figures = {
        "Cells per image": ("cells_per_image", "cells per image"),
        "Share of the cells that is accepted": ("accepted_share", "share"),
    }
    for title, (key, unit) in figures.items():
        values = {number: _number(each["now"], key) for number, each in drift.items()}
        human = _number(next(iter(drift.values()))["human"], key)
        if (plot := plots.drift_plot(title, values, human, unit)) is not None:
            yield plot


def _number(found: object, key: str) -> float | None:
    value = found.get(key) if isinstance(found, dict) else None
    return float(value) if isinstance(value, int | float) else None


def _list(found: object) -> list[object]:
    return found if isinstance(found, list) else []


# --- training, time -----------------------------------------------------------------------------------


def training(found: Sequence[Curves]) -> Iterator[Block]:
    """The curves of all students, round by round, and a table of where they end."""
    if not found:
        yield Text("No student was trained.", "missing")
        return
    rounds = sorted({each.round for each in found})
    yield Text(
        "Thin lines: the loss of each step, smoothed. Marks: the loss on fixed crops of the validation images, of the "
        "weights that would be saved then. Crops that train are augmented and those of the validation images are not, "
        "so compare a line with itself: where it rises, the student learns its training images by heart."
    )
    if not any(each.validation for each in found):
        yield Text("No validation loss was recorded: the run has no annotated validation image.", "missing")
    if len(rounds) > SHOWN_ROUNDS:
        yield Text(f"The last {SHOWN_ROUNDS} of {len(rounds)} rounds are drawn; all are in the table.")
    for number in rounds[-SHOWN_ROUNDS:]:
        students = [each for each in found if each.round == number]
        names = ", ".join(each.model for each in students)
        yield Plots(plots.curve_plots(students, f"round {number}"), f"Round {number}: {names}")
    rows = [_ends(each) for each in found]
    header = ["student", "steps", "loss", "validation loss", "lowest", "time", "memory MB", "GPU memory MB"]
    yield Table("Where the curves end", header, rows)


def _ends(each: Curves) -> list[str]:
    def last(name: str, digits: int = 3) -> str:
        line = getattr(each, name)
        return NONE if line is None else f"{line.values[-1]:.{digits}f}"

    validation = each.validation
    lowest = NONE
    if validation is not None:
        place = int(validation.values.argmin())
        lowest = f"{validation.values[place]:.3f} at step {validation.steps[place]:.0f}"
    return [
        f"{each.model} of round {each.round}",
        NONE if each.loss is None else f"{each.loss.steps[-1]:.0f}",
        last("loss"),
        last("validation"),
        lowest,
        NONE if each.seconds is None else duration(float(each.seconds.values[-1])),
        NONE if each.memory_mb is None else f"{each.memory_mb.values.max():.0f}",
        last("device_memory_mb", 0),
    ]


def time_spent(
    by_round: Mapping[int, Kinds], steps: Sequence[Sequence[str]], used: Mapping[int, Used]
) -> Iterator[Block]:
    """Seconds by round and kind of work, what the GPUs or workers did, and every step: (step, round, done, time)."""
    if (plot := plots.time_plot(by_round)) is not None:
        yield Plots([plot])
    total = sum(seconds for kinds in by_round.values() for seconds in kinds.values())
    yield Text(f"All steps together: {duration(total)}. Steps that ran beside each other count each.")
    yield from _worked(used)
    yield Table("Every step", ["step", "round", "done", "time"], steps, folded=True)


def _worked(used: Mapping[int, Used]) -> Iterator[Block]:
    """What was reserved of GPUs, or of workers where there was none, and what it was used for, by round."""
    if not used:
        yield Text("What GPUs and workers did was not measured.", "missing")
        return
    rows = []
    for number, each in used.items():
        sums = [sum(values) for values in zip(*(seconds for _, seconds in each.rows), strict=True)]
        incidents = ", ".join(f"{count} {kind}" for kind, count in each.incidents.items()) or "none"
        rows.append([f"round {number}, {each.noun}-seconds", *(f"{value:,.0f}" for value in sums), incidents])
    header = ["what", "reserved", "computing", "starting", "idle", "lost", "incidents"]
    yield Table("What was reserved, and what it was used for", header, rows)
    yield Text(
        "Computing: items that were finished. Starting: imports, and models that were loaded. Lost: attempts that came "
        "to nothing. Idle: the rest, also of processes that stand by for the next stage."
    )


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."
