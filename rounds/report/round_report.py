"""Writes the report of one round: did it help, what did it learn from, can it be trusted, what went wrong.

Every figure is one of the run's own files; nothing is computed here but sums.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cellsemi.rounds.calibration.calibration import Calibration, Curve
from cellsemi.rounds.evaluation.bootstrap import ENOUGH_IMAGES
from cellsemi.rounds.evaluation.leaderboard import Row, column_name, display_rows, markdown_line
from cellsemi.rounds.evaluation.promotion import Decision
from cellsemi.rounds.pseudo_labels.thresholds import Thresholds
from cellsemi.rounds.report.reliability_diagram import Diagram

COLUMNS = ("model", "val mAP", "test mAP", "change", "vs control", "decision")
FITTED = {
    "own": "its own predictions",
    "pooled": "those of all classes",
    "rate": "the share of all that is right",
    "identity": "nothing: the score as it is",
}
PICTURE = "reliability.png"


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """What the students, or those of one fold (`name`, else ""), learned from."""

    name: str
    human_images: int
    human_cells: int
    pseudo_images: int
    left_out: Mapping[str, int]  # unlabelled images by reason


@dataclass(frozen=True, slots=True)
class Scored:
    """The calibration of one model; `whose` is its part: teacher, teachers together, student."""

    whose: str
    model: str
    calibration: Calibration


@dataclass(frozen=True, slots=True)
class Used:
    """What the GPUs of a round did, or its workers where none had a GPU (`noun`), over all drivers.

    `rows` are (stage, (reserved, computing, starting, idle, lost)) in seconds; `incidents` counts by kind.
    """

    noun: str
    rows: Sequence[tuple[str, tuple[float, ...]]]
    incidents: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the files of a run say of a finished round.

    `verdict` is that after the round: what to use, and whether the rounds helped. `teachers_round` is None in round 0,
    which has no teachers, no `thresholds` and no pseudo-labels. `pseudo` counts cells by class, then by state and
    reason as filter.count_reasons names them, over all folds; `unlabelled` counts the images that were filtered.
    `drift` holds the alarms, None where drift was not checked. `times` are (stage, what was done, how long); `places`
    are (what, path below the run's folder). `starts` are sentences on the given weights that models started from.
    `used` is None where no engine has measured it.
    """

    run: str
    round: int
    verdict: str
    decision: Decision
    on_control: Decision | None
    rows: Sequence[Row]
    students: Sequence[str]
    why_these_students: str
    teachers_round: int | None
    teachers: Sequence[str]
    training: Sequence[TrainingSet]
    unlabelled: int
    pseudo: Mapping[str, Mapping[str, int]]
    scored: Sequence[Scored]
    thresholds: Thresholds | None
    drift: Sequence[str] | None
    problems: Sequence[str]
    times: Sequence[tuple[str, str, str]]
    places: Sequence[tuple[str, str]]
    starts: Sequence[str] = ()
    used: Used | None = None


def to_markdown(facts: Facts) -> str:
    """The report, in the order in which a person asks."""
    sections = {
        "Did it help?": _help(facts),
        "What did it learn from?": _learning(facts),
        "Can the scores be trusted?": _trust(facts),
        "What went wrong?": _wrong(facts),
        "How long did it take?": table(["stage", "done", "time"], facts.times),
        "What did the workers do?": [] if facts.used is None else _used(facts.used),
        "Where is it?": [f"- {what}: `{path}`" for what, path in facts.places],
    }
    reason = facts.decision.reason
    lines = [f"# Round {facts.round} of {facts.run}", "", f"**{facts.verdict}**", ""]
    lines.append(f"This round: {_sentence(reason)}")
    lines += [
        "",
        "All rounds with pictures and curves: report.html in the folder of the run (`cellsemi report --open`).",
    ]
    for title, body in sections.items():
        found = list(body)
        lines += ["", f"## {title}", "", *found] if found else []
    return "\n".join(lines).rstrip() + "\n"


def diagrams(facts: Facts) -> list[Diagram]:
    """What the picture shows: the teachers, or without teachers the students, where they predicted anything."""
    shown = [one for one in facts.scored if one.whose != "student"] or facts.scored
    return [
        Diagram(f"{one.model}, {name}", f"ECE {_error(curve)}, n = {curve.samples}", curve.before, curve.after)
        for one, name, curve in _curves(shown)
        if curve.before
    ]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table; none without rows."""
    lines = [markdown_line(row) for row in rows]
    return [markdown_line(header), markdown_line(["---"] * len(header)), *lines] if lines else []


# --- did it help --------------------------------------------------------------------------------------


def _help(facts: Facts) -> Iterator[str]:
    header, cells = display_rows(facts.rows)
    kept = [place for place, name in enumerate(header) if column_name(name) in COLUMNS]
    yield from table([header[place] for place in kept], ([row[place] for place in kept] for row in cells))
    level = f"{facts.rows[0].confidence:.0%} " if facts.rows else ""
    yield ""
    yield f"- Brackets: {level}bootstrap intervals over n images; none below {ENOUGH_IMAGES}."
    yield "- Validation images decide, so their mAP flatters; test images decide nothing."
    if facts.teachers_round is not None:
        yield "- change: test mAP against round 0 on the same images."
    if any(row.vs_control is not None for row in facts.rows):
        yield "- vs control: test mAP against human labels alone with as many steps in total as the last student."
    if facts.on_control is not None:
        yield f"- The control, compared with the best ensemble so far: {_sentence(facts.on_control.reason)}"
    yield ""
    yield f"The ensemble of this round: {_names(facts.students)}. Why these: {_sentence(facts.why_these_students)}"


# --- what it learned from -----------------------------------------------------------------------------


def _learning(facts: Facts) -> Iterator[str]:
    if facts.teachers_round is None:
        yield "Human labels alone: round 0 has no teachers."
    else:
        yield f"Teachers: {_names(facts.teachers)} of round {facts.teachers_round}."
    if facts.starts:
        yield ""
    yield from (f"- {_sentence(start)}" for start in facts.starts)
    yield ""
    header = ["human images", "human cells", "pseudo-labelled images", "unlabelled images left out"]
    several = len(facts.training) > 1
    rows = [[learnt.name, *_learnt(learnt)] if several else _learnt(learnt) for learnt in facts.training]
    yield from table([*(["fold"] if several else []), *header], rows)
    if facts.teachers_round is None:
        return
    yield ""
    folds = ", each fold by teachers of its own" if several else ""
    yield f"Cells that the teachers found in {facts.unlabelled} unlabelled images{folds}:"
    yield ""
    yield from table(["state", "reason", *facts.pseudo, "all"], _pseudo_rows(facts.pseudo))


def _learnt(learnt: TrainingSet) -> list[str]:
    left = ", ".join(f"{count} ({reason})" for reason, count in learnt.left_out.items()) or "none"
    return [str(learnt.human_images), str(learnt.human_cells), str(learnt.pseudo_images), left]


def _pseudo_rows(pseudo: Mapping[str, Mapping[str, int]]) -> Iterator[list[str]]:
    for key in sorted({"accepted", *(key for counts in pseudo.values() for key in counts)}):
        state, _, reason = key.partition(": ")
        yield [state, reason, *_with_sum([counts.get(key, 0) for counts in pseudo.values()])]
    yield ["all", "", *_with_sum([sum(counts.values()) for counts in pseudo.values()])]


def _with_sum(counts: Sequence[int]) -> list[str]:
    return [str(count) for count in (*counts, sum(counts))]


# --- can it be trusted --------------------------------------------------------------------------------


def _trust(facts: Facts) -> Iterator[str]:
    if not facts.scored:
        yield "No score was calibrated in this round."
    else:
        yield "- ECE: how far the confidence is from the share that is right, on average over ten bins; 0 is best."
        yield "- Before: the scores as they are. After: calibrated by curves that did not see the image."
        yield ""
        header = ["whose", "model", "class", "predictions", "right", "fitted on", "ECE before -> after"]
        yield from table(header, (_curve_row(*found) for found in _curves(facts.scored)))
    if diagrams(facts):
        yield ""
        yield f"![Reliability of each model and class]({PICTURE})"
    if facts.thresholds is not None:
        yield ""
        yield "What is accepted, what is rejected, and what is neither and so leaves the loss:"
        yield ""
        header = ["class", "accepted from", "rejected below", "smallest px", "largest px"]
        yield from (*table(header, _threshold_rows(facts.thresholds)), "")
        yield from (f"- {_sentence(line)}" for line in facts.thresholds.report())
    yield ""
    yield "What is kept of predictions, where they are evaluated and delivered; chosen on validation images:"
    yield ""
    yield from table(
        ["model", "score (and area) from which cells are kept"], ([row.model, row.cutoffs] for row in facts.rows)
    )


def _curve_row(one: Scored, name: str, curve: Curve) -> list[str]:
    return [one.whose, one.model, name, str(curve.samples), str(curve.positives), FITTED[curve.kind], _error(curve)]


def _threshold_rows(thresholds: Thresholds) -> Iterator[list[str]]:
    for name, chosen in thresholds.by_class.items():
        largest = "any" if chosen.max_area_px is None else str(chosen.max_area_px)
        yield [name, f"{chosen.accept:.3f}", f"{chosen.reject:.3f}", str(chosen.min_area_px), largest]


def _curves(scored: Sequence[Scored]) -> Iterator[tuple[Scored, str, Curve]]:
    for one in scored:
        for name, curve in one.calibration.curves.items():
            yield one, name, curve


def _error(curve: Curve) -> str:
    if curve.ece_before is None:
        return "-"
    return f"{curve.ece_before:.3f} -> " + ("-" if curve.ece_after is None else f"{curve.ece_after:.3f}")


# --- what went wrong ----------------------------------------------------------------------------------


def _wrong(facts: Facts) -> Iterator[str]:
    if facts.drift:
        yield from (f"- drift: {_sentence(alarm)}" for alarm in facts.drift)
    elif facts.drift is not None:
        yield "- no drift alarm"
    elif facts.teachers_round is not None:
        yield "- drift was not checked (`rounds.drift_alarms` is off)"
    yield from (f"- {_sentence(problem)}" for problem in facts.problems)
    if facts.drift is None and facts.teachers_round is None and not facts.problems:
        yield "- nothing that was noticed"


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


# --- what the workers did -----------------------------------------------------------------------------


def _used(used: Used) -> Iterator[str]:
    """A paragraph, and where the time went by stage."""
    reserved, *sums = (sum(values) for values in zip(*(seconds for _, seconds in used.rows), strict=True))
    parts = zip(("computing", "starting", "idle", "lost"), sums, strict=True)
    shares = ", ".join(f"{name} {value:.0f} s ({value / reserved:.0%})" for name, value in parts) if reserved else ""
    yield f"{used.noun}-seconds: {reserved:.0f} reserved" + (f"; of these {shares}." if shares else ".")
    kinds = ", ".join(f"{count} {kind}" for kind, count in used.incidents.items())
    yield f"Incidents: {kinds or 'none'}."
    yield ""
    header = ["stage", "reserved s", "computing", "starting", "idle", "lost"]
    yield from table(header, ([stage, *(f"{value:.1f}" for value in seconds)] for stage, seconds in used.rows))
    yield ""
    yield "- computing: items that were finished. starting: imports, and models that were loaded."
    yield "- lost: attempts that came to nothing; of a training at most what lies between two checkpoints."
    yield "- idle: the rest, also of processes that stand by for the next stage."
