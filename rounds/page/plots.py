"""Draws the plots of the page: each takes what was gathered and gives an SVG, with what it shows in words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cellsemi.rounds.calibration.calibration import Curve
from cellsemi.rounds.calibration.reliability import Bins
from cellsemi.rounds.duration import duration
from cellsemi.rounds.page import svg
from cellsemi.rounds.page.blocks import Plot
from cellsemi.rounds.page.cells import HUMAN, Sizes
from cellsemi.rounds.page.confidence import PrecisionRecall
from cellsemi.rounds.page.curves import Curves
from cellsemi.rounds.page.scores import ALL, Score
from cellsemi.rounds.page.svg import DASHES, INK, LINES, MARKERS, PAPER, SOFT, STATE
from cellsemi.rounds.pseudo_labels.filter import count_states

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE_BINS = 24
LEFT_OUT_RATIO = 4.0  # a training loss above so many times the median of the second half is cut off


class _Drawing:
    """A plot while it is drawn: its axes, and its SVG once it is done."""

    def __init__(self, height: float) -> None:
        self.figure, self.axes = svg.axes(height)

    def done(self, name: str, title: str, alt: str) -> Plot:
        """The plot; `alt` says what it shows."""
        return Plot(title, svg.to_svg(self.figure, name), alt)


@contextlib.contextmanager
def _drawing(height: float = svg.HEIGHT) -> Iterator[_Drawing]:
    import matplotlib

    with matplotlib.rc_context(svg.style()):  # type: ignore[arg-type]
        yield _Drawing(height)


# --- scores -------------------------------------------------------------------------------------------


def score_plot(found: Sequence[Score], split: str, name: str) -> Plot | None:
    """The mAP of each model by round with its interval, of all classes (ALL) or of one; None without a score."""
    shown = [each for each in found if (each.split, each.name) == (split, name)]
    if not shown:
        return None
    models = list(dict.fromkeys(each.model for each in shown))
    rounds = sorted({each.round for each in shown})
    with _drawing() as plot:
        for place, model in enumerate(models):
            _score_line(plot.axes, [each for each in shown if each.model == model], place, len(models))
        plot.axes.set(xticks=rounds, xlabel="round", ylabel="mAP", xlim=(rounds[0] - 0.5, rounds[-1] + 0.5))
        _legend(plot.axes, len(models))
        title = f"{split} mAP" + (f": {name}" if name != ALL else ", all classes")
        words = "; ".join(f"{each.model} in round {each.round}: {each.text()}" for each in shown)
        return plot.done(f"score-{split}-{_slug(name)}", title, f"{title} by round. {words}.")


def _score_line(axes: Axes, found: Sequence[Score], place: int, models: int) -> None:
    offset = (place - (models - 1) / 2) * min(0.12, 0.6 / models)
    at, colour = np.array([each.round for each in found]) + offset, LINES[place % len(LINES)]
    values = np.array([each.value for each in found])
    axes.plot(
        at, values, color=colour, linestyle=DASHES[place % len(DASHES)], marker=MARKERS[place % len(MARKERS)],
        label=found[0].model,
    )  # fmt: skip
    for x, each in zip(at, found, strict=True):
        if each.low is not None and each.high is not None:
            axes.plot([x, x], [each.low, each.high], color=colour, linewidth=1.2)


# --- what was learned from ----------------------------------------------------------------------------


def reasons_plot(by_round: Mapping[int, Mapping[str, int]]) -> Plot | None:
    """Accepted, ignored and rejected cells of each round, as shares of all; None without a round."""
    totals = {number: count_states(counts) for number, counts in by_round.items()}
    totals = {number: states for number, states in totals.items() if sum(states.values())}
    if not totals:
        return None
    with _drawing(1.1 + 0.45 * len(totals)) as plot:
        for row, states in enumerate(totals.values()):
            left, all_cells = 0.0, sum(states.values())
            for state, count in states.items():
                share = count / all_cells
                plot.axes.barh(row, share, left=left, color=STATE[state], edgecolor=PAPER, height=0.7)
                if share > 0.12:
                    plot.axes.text(left + share / 2, row, f"{count}", ha="center", va="center", color=PAPER)
                left += share
        handles = [plot.axes.barh(0, 0, color=colour).patches[0] for colour in STATE.values()]
        plot.axes.set(yticks=range(len(totals)), yticklabels=[f"round {n}" for n in totals], xlim=(0, 1))
        plot.axes.set(xlabel="share of the cells that the teachers found")
        plot.axes.grid(axis="y", visible=False)
        plot.axes.invert_yaxis()
        plot.figure.legend(handles, list(STATE), loc="outside upper left", ncols=3)
        words = "; ".join(
            f"round {number}: {', '.join(f'{count} {state}' for state, count in states.items())}"
            for number, states in totals.items()
        )
        return plot.done("reasons", "What became of the teachers' cells", f"Cells by round. {words}.")


# --- confidence ---------------------------------------------------------------------------------------


def reliability_plot(title: str, name: str, curve: Curve) -> Plot | None:
    """The share that is right over the confidence, before and after calibration; None without a prediction."""
    if not curve.before:
        return None
    with _drawing() as plot:
        plot.axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1, label="perfect")
        for bins, place, label in ((curve.before, 1, "scores as they are"), (curve.after, 0, "calibrated")):
            _reliability_line(plot.axes, bins, place, label)
        plot.axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence", ylabel="share that is right (IoU > .5)")
        _legend(plot.axes, 3)
        errors = ", ".join(
            f"{when} calibration {error:.3f}"
            for when, error in (("before", curve.ece_before), ("after", curve.ece_after))
            if error is not None
        )
        words = (
            f"{curve.samples} predictions, {curve.positives} right; expected calibration error: {errors or 'unknown'}"
        )
        return plot.done(f"reliability-{_slug(name)}", title, f"Reliability, {title}: {words}.")


def _reliability_line(axes: Axes, bins: Bins, place: int, label: str) -> None:
    if bins:
        x, y = [each.confidence for each in bins], [each.hit_rate for each in bins]
        axes.plot(x, y, color=LINES[place], linestyle=DASHES[place], marker=MARKERS[place], label=label)


def precision_recall_plot(found: PrecisionRecall) -> Plot | None:
    """Precision over recall, with the thresholds that were chosen; None without a prediction or a true cell."""
    if not len(found.quality) or not found.truths:
        return None
    with _drawing() as plot:
        plot.axes.plot(found.recall, found.precision, color=LINES[0], drawstyle="steps-post")
        words = []
        for which, chosen, place in (("accepted from", found.accept, 2), ("rejected below", found.reject, 1)):
            if chosen.precision is None or chosen.recall is None:
                words.append(f"{which} {chosen.threshold:.2f}, which keeps nothing")
                continue
            label = f"{which} {chosen.threshold:.2f}"
            plot.axes.plot(
                chosen.recall, chosen.precision, MARKERS[place], color=LINES[place], markersize=9, label=label
            )
            words.append(f"{label}: precision {chosen.precision:.2f}, recall {chosen.recall:.2f}")
        plot.axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
        if plot.axes.get_legend_handles_labels()[0]:
            plot.axes.legend(loc="lower left")
        title = f"Precision and recall: {found.name}"
        alt = f"{title}, {found.predictions} predictions, {found.truths} true cells; {'; '.join(words)}."
        return plot.done(f"pr-{_slug(found.name)}", title, alt)


# --- sizes --------------------------------------------------------------------------------------------


def size_plot(found: Sizes) -> Plot | None:
    """The sizes of human, accepted and rejected cells of a class, with the limits; None without a cell."""
    shown = [state for state in (HUMAN, "accepted", "rejected") if len(found.areas[state])]
    if not shown:
        return None
    every = np.concatenate([found.areas[state] for state in shown])
    edges = np.geomspace(max(1, every.min()), every.max() + 1, SIZE_BINS + 1)
    colours = {HUMAN: LINES[0], "accepted": STATE["accepted"], "rejected": STATE["rejected"]}
    with _drawing() as plot:
        for place, state in enumerate(shown):
            areas = found.areas[state]
            counts, _ = np.histogram(areas, edges)
            plot.axes.stairs(
                counts / len(areas), edges, color=colours[state], linewidth=2, linestyle=DASHES[place],
                label=f"{state}, n = {len(areas)}",
            )  # fmt: skip
        for limit in (found.low, found.high):
            if limit is not None:
                plot.axes.axvline(limit, color=INK, linewidth=1.2, linestyle=(0, (1, 2)))
        plot.axes.set(xscale="log", xlabel="area in px", ylabel="share of the cells")
        plot.axes.xaxis.set_major_formatter("{x:.0f}")
        plot.axes.xaxis.set_minor_formatter("")
        _legend(plot.axes, len(shown))
        medians = ", ".join(f"{state}: median {np.median(found.areas[state]):.0f} px" for state in shown)
        title = f"Cell sizes: {found.name}"
        return plot.done(f"sizes-{_slug(found.name)}", title, f"{title}. {medians}. {limits_of(found)}.")


def limits_of(found: Sizes) -> str:
    """The limits on the area in words."""
    if found.low is None and found.high is None:
        return "No limit on the area"
    ends = [f"from {found.low}" if found.low is not None else "", f"to {found.high}" if found.high is not None else ""]
    return f"Accepted areas: {' '.join(end for end in ends if end)} px"


# --- training -----------------------------------------------------------------------------------------

CURVES = {
    "loss": ("Training and validation loss", "loss"),
    "lr": ("Learning rate", "learning rate"),
    "grad_norm": ("Gradient norm", "gradient norm"),
    "seconds": ("Time", "seconds"),
    "memory_mb": ("Memory of the training process", "MB"),
    "device_memory_mb": ("Memory on the GPU, the most so far", "MB"),
}


def curve_plots(found: Sequence[Curves], name: str) -> list[Plot]:
    """One plot for each thing that the students recorded over their steps, a line for each student."""
    plots = (_curve_plot(found, which, *CURVES[which], name) for which in CURVES)
    return [plot for plot in plots if plot is not None]


def _curve_plot(found: Sequence[Curves], which: str, title: str, unit: str, name: str) -> Plot | None:
    shown = [(place, each) for place, each in enumerate(found) if getattr(each, which) is not None]
    if not shown:
        return None
    words = []
    with _drawing() as plot:
        for place, each in shown:
            line, colour = getattr(each, which), LINES[place % len(LINES)]
            validated = each.validation if which == "loss" else None
            plot.axes.plot(
                line.steps, line.values, color=colour, label=each.model,
                linestyle=DASHES[place % len(DASHES)], linewidth=1.0 if which in ("loss", "grad_norm") else 1.8,
            )  # fmt: skip
            words.append(f"{each.model}: {line.values[-1]:.3g} at step {line.steps[-1]:.0f}")
            if validated is not None:
                marker = MARKERS[place % len(MARKERS)]
                plot.axes.plot(validated.steps, validated.values, marker=marker, color=colour, linewidth=1.8)
                words[-1] += f", on validation images {validated.values[-1]:.3g}"
        plot.axes.set(xlabel="steps", ylabel=unit)
        plot.axes.set_ylim(0, _top(shown, which))
        _legend(plot.axes, len(shown))
        return plot.done(f"{which}-{_slug(name)}", title, f"{title} over the steps. {'; '.join(words)}.")


def _top(shown: Sequence[tuple[int, Curves]], which: str) -> float:
    """The upper end of the axis; a loss that falls from far above begins outside of the picture."""
    lines = [getattr(each, which).values for _, each in shown]
    lines += [each.validation.values for _, each in shown if which == "loss" and each.validation is not None]
    highest = max(float(np.nanmax(values)) for values in lines) * 1.1
    if which in ("loss", "grad_norm"):
        usual = max(float(np.nanmedian(values[len(values) // 2 :])) for values in lines)
        highest = min(highest, usual * LEFT_OUT_RATIO)
    return highest or 1.0


# --- time ---------------------------------------------------------------------------------------------


def time_plot(by_round: Mapping[int, Mapping[str, float]]) -> Plot | None:
    """Seconds of each kind of work, by round; None without any."""
    kinds = list(dict.fromkeys(kind for seconds in by_round.values() for kind in seconds))
    if not kinds:
        return None
    with _drawing(1.3 + 0.5 * len(by_round)) as plot:
        for place, kind in enumerate(kinds):
            left = [sum(each.get(k, 0.0) for k in kinds[:place]) for each in by_round.values()]
            values = [each.get(kind, 0.0) for each in by_round.values()]
            plot.axes.barh(
                range(len(by_round)), values, left=left, color=LINES[place % len(LINES)], edgecolor=PAPER, height=0.7,
                label=kind, hatch="//" if place >= len(LINES) else None,
            )  # fmt: skip
        plot.axes.set(yticks=range(len(by_round)), yticklabels=[f"round {n}" for n in by_round], xlabel="seconds")
        plot.axes.grid(axis="y", visible=False)
        plot.axes.invert_yaxis()
        plot.figure.legend(loc="outside upper left", ncols=3)
        words = "; ".join(
            f"round {number}: {', '.join(f'{kind} {duration(value)}' for kind, value in seconds.items())}"
            for number, seconds in by_round.items()
        )
        return plot.done("time", "By round and kind of work", f"Time by round and kind of work. {words}.")


def drift_plot(title: str, values: Mapping[int, float | None], human: float | None, unit: str) -> Plot | None:
    """A figure of the pseudo-labels by round, beside that of the human labels; None without a round."""
    known = {number: value for number, value in values.items() if value is not None}
    if not known:
        return None
    with _drawing() as plot:
        plot.axes.plot(list(known), list(known.values()), color=LINES[0], marker="o", label="accepted pseudo-labels")
        if human is not None:
            plot.axes.axhline(human, color=LINES[1], linestyle="--", label="human labels")
        plot.axes.set(xlabel="round", ylabel=unit, xticks=list(known), xlim=(min(known) - 0.5, max(known) + 0.5))
        plot.axes.set_ylim(0, 1.25 * max([*known.values(), human or 0.0]) or 1)
        _legend(plot.axes, 2)
        words = "; ".join(f"round {number}: {value:.3g}" for number, value in known.items())
        beside = "" if human is None else f" Human labels: {human:.3g}."
        return plot.done(f"drift-{_slug(title)}", title, f"{title} by round. {words}.{beside}")


# --- parts --------------------------------------------------------------------------------------------


def _legend(axes: Axes, entries: int) -> None:
    """The legend above the plot: it hides nothing."""
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2 if entries > 1 else 1, borderaxespad=0.2)


def _slug(text: str) -> str:
    """Text as a part of an id."""
    return "".join(letter if letter.isascii() and letter.isalnum() else f"_{ord(letter):x}" for letter in text) or "all"
