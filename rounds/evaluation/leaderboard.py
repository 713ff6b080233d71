"""The leaderboard: how good each model of each round is, as rows, files and text.

Validation decides everything (thresholds, promotion, rank); test is only reported. Every figure has an
interval over images, and every change is paired: the same images, before and after. Who teaches next, and
whether the rounds were worth it, is said in `promotion`.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Self

from cellsemi.configs.errors import RunError
from cellsemi.configs.rounds import PromotionConfig
from cellsemi.rounds.evaluation.bootstrap import bootstrap_interval
from cellsemi.rounds.evaluation.evaluation_table import Evaluation
from cellsemi.rounds.evaluation.metrics import Floats, image_values, paired_values, summarise
from cellsemi.rounds.seeds import derive_seed
from cellsemi.rounds.store import files, shards
from cellsemi.rounds.store.run import CONTROL
from cellsemi.rounds.store.schemas import LEADERBOARD


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over images, and the bootstrap interval around it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Row:
    """One model of one round. Precision, recall, F1 and mean IoU: test, IoU > .5, all cells together.

    `change` is test mAP against round 0 of the same name, on the same images; of `control` against round 0
    of the model that it copies: same family, same labels, fewer steps. `vs_control` is that model's test
    mAP of this round minus the control's, which had as many steps in total. None where there is nothing to
    compare with. `accepted`, `ignored` and `rejected` count the pseudo-labels that the round learned from.
    """

    round: int
    model: str
    val_images: int
    val_map: Interval
    test_images: int
    test_map: Interval
    change: Interval | None
    vs_control: Interval | None
    confidence: float
    test_class_map: Mapping[str, float | None]
    precision50: float
    recall50: float
    f1: float
    mean_iou: float
    val_threshold: float
    accepted: int
    ignored: int
    rejected: int
    promoted: bool
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Flat plain values, named as in the LEADERBOARD table; classes as pairs, since JSON sorts keys."""
        values = asdict(self)
        flat: dict[str, Any] = {}
        for name, value in values.items():
            if name in INTERVALS:
                ends = value or {"value": None, "low": None, "high": None}
                flat |= {name: ends["value"], f"{name}_low": ends["low"], f"{name}_high": ends["high"]}
            else:
                flat[name] = value
        return flat | {"test_class_map": list(self.test_class_map.items())}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`; RunError when a value is missing or foreign."""
        rest = dict(values)
        try:
            for name in INTERVALS:
                value, low, high = rest[name], rest.pop(f"{name}_low"), rest.pop(f"{name}_high")
                rest[name] = None if value is None else Interval(value, low, high)
            return cls(**{**rest, "test_class_map": dict(rest["test_class_map"])})
        except (KeyError, TypeError) as error:
            raise RunError(f"a row of the leaderboard is damaged ({error}); remove its round's manifest") from None


INTERVALS = ("val_map", "test_map", "change", "vs_control")


def make_row(
    val: Evaluation,
    test: Evaluation,
    *,
    baseline: Evaluation | None,
    control: Evaluation | None,
    classes: Sequence[str],
    counts: Mapping[str, int],
    promoted: bool,
    seconds: float,
    config: PromotionConfig,
    seed: int,
) -> Row:
    """The row of a model from its evaluations. `counts` are those of screen.count_states.

    `baseline`: the test evaluation of round 0 that `change` is against (baseline_name says whose; None in
    round 0). `control`: that of the control, for the one model of its round that it copies. ValueError
    when they are not of the same images.
    """
    summary = summarise(test.scores, classes)

    def interval(values: Floats, purpose: str) -> Interval:
        # Its own seed for each figure, the same for all models: they are resampled alike.
        drawn = derive_seed(seed, "interval", purpose)
        return Interval(
            float(values.mean()),
            *bootstrap_interval(values, config.bootstrap, config.confidence, drawn),
        )

    def difference(other: Evaluation | None) -> Interval | None:
        if other is None:
            return None
        ours, theirs = paired_values(test.scores, other.scores)
        return interval(ours - theirs, "test")

    return Row(
        round=test.round,
        model=test.model,
        val_images=len(val.scores),
        val_map=interval(image_values(val.scores), "val"),
        test_images=len(test.scores),
        test_map=interval(image_values(test.scores), "test"),
        change=difference(baseline),
        vs_control=difference(control),
        confidence=config.confidence,
        test_class_map=dict(summary.class_map),
        precision50=summary.precision,
        recall50=summary.recall,
        f1=summary.f1,
        mean_iou=summary.mean_iou,
        val_threshold=val.threshold,
        accepted=counts["accepted"],
        ignored=counts["ignored"],
        rejected=counts["rejected"],
        promoted=promoted,
        seconds=seconds,
    )


def baseline_name(model: str, first_model: str) -> str:
    """Whose round 0 a model is compared with: its own; the control copies the first model of the config."""
    return first_model if model == CONTROL else model


# --- text and files -----------------------------------------------------------------------------------


def display_rows(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """(header, cells) as text for Markdown and for a terminal, in the order of `rows`.

    `rank` is by validation mAP: test figures rank nothing. `-` stands where there is nothing to say.
    """
    classes = list(rows[0].test_class_map) if rows else []
    several = len(classes) > 1
    header = ["rank", "round", "model", "val mAP", "test mAP", "change", "vs control"]
    header += [f"test {name}" for name in classes] if several else []
    header += ["F1", "precision", "recall", "IoU", "threshold"]
    header += ["accepted", "ignored", "rejected", "promoted", "min"]
    shown = classes if several else []
    return header, [_cells(row, _rank(row, rows), shown) for row in rows]


def _rank(row: Row, rows: Sequence[Row]) -> int:
    return 1 + sum(other.val_map.value > row.val_map.value for other in rows)


def _cells(row: Row, rank: int, classes: Sequence[str]) -> list[str]:
    cells = [str(rank), str(row.round), row.model]
    cells += [f"{m.value:.3f} ({m.low:.3f}..{m.high:.3f})" for m in (row.val_map, row.test_map)]
    cells += [
        "-" if m is None else f"{m.value:+.3f} ({m.low:+.3f}..{m.high:+.3f})" for m in (row.change, row.vs_control)
    ]
    for name in classes:
        value = row.test_class_map.get(name)
        cells.append("-" if value is None else f"{value:.3f}")
    cells += [f"{v:.3f}" for v in (row.f1, row.precision50, row.recall50, row.mean_iou, row.val_threshold)]
    cells += [str(row.accepted), str(row.ignored), str(row.rejected)]
    return [*cells, "yes" if row.promoted else "no", f"{row.seconds / 60:.1f}"]


LEGEND = """\
mAP: mean over IoU .50 to .95 and over images (Kaggle Sartorius). Brackets: bootstrap intervals over images;
they do not hold the chance of another training seed. change: test mAP against round 0 on the same images; of
the control, against round 0 of the model that it copies. vs control: against a supervised model with as many
steps in total. Rank, threshold and promotion come from validation images; test decides nothing. F1,
precision, recall and IoU: test, IoU > .5, all cells together.
"""


def to_markdown(rows: Sequence[Row], sentence: str) -> str:
    """The verdict, the table, and how to read it."""
    header, cells = display_rows(rows)
    lines = ["# Leaderboard", "", sentence, ""]
    lines += [markdown_line(header), markdown_line(["---"] * len(header)), *map(markdown_line, cells), ""]
    return "\n".join([*lines, LEGEND])


def markdown_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def to_csv(rows: Sequence[Row]) -> str:
    """One line per row, all digits; a column `test_map.CLASS` per class; empty where there is no value."""
    buffer = StringIO()
    flat = [_csv_values(row) for row in rows]
    writer = csv.DictWriter(buffer, fieldnames=list(flat[0]) if flat else LEADERBOARD.names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return buffer.getvalue()


def _csv_values(row: Row) -> dict[str, Any]:
    values = row.to_json()
    per_class = values.pop("test_class_map")
    return values | {f"test_map.{name}": value for name, value in per_class}


def write(base: Path, rows: Sequence[Row], sentence: str, config_hash: str) -> None:
    """Write `base`.parquet, .csv and .md, each atomically."""
    flat = [row.to_json() for row in rows]
    shards.write_rows(base.with_suffix(".parquet"), flat, LEADERBOARD, config_hash)
    files.write_text(base.with_suffix(".csv"), to_csv(rows))
    files.write_text(base.with_suffix(".md"), to_markdown(rows, sentence))


def read(base: Path) -> list[Row]:
    """The rows of `base`.parquet; RunError when there is none yet."""
    path = base.with_suffix(".parquet")
    if not path.is_file():
        raise RunError(f"{path}: no leaderboard yet; it is written when the first round is judged")
    return [Row.from_json(values) for values in shards.read_rows(path)]
