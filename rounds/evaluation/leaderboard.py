"""Builds the leaderboard: how good each model of each round is, as rows, files and text.

Validation decides everything (thresholds, promotion, rank); test is only reported. Every figure has an
interval over images, and every change is paired: the same images, before and after. `figures` lists the columns.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cellsemi.configs.errors import RunError
from cellsemi.rounds.evaluation.bootstrap import ENOUGH_IMAGES, enough, too_few
from cellsemi.rounds.evaluation.evaluation_table import Evaluation
from cellsemi.rounds.evaluation.figures import (
    CLASS_MAP,
    DECISION,
    FIGURES,
    NOTHING,
    Evaluated,
    Figure,
    Interval,
    schema,
    shown_figures,
)
from cellsemi.rounds.evaluation.metrics import summarise
from cellsemi.rounds.store import files, shards
from cellsemi.rounds.store.run import RunPaths, is_control

if TYPE_CHECKING:
    import pandas as pd

    from cellsemi.configs.rounds import PromotionConfig


class Row:
    """One model of one round: a value for each of FIGURES, as an attribute of that name.

    `change` is test mAP against round 0 of the same name, on the same images; of `control` against round 0
    of the model that it copies: same family, same labels, fewer steps. `vs_control` is the test
    mAP of the first model of a round minus that of the control, for the round that trained the control and for the one
    that teaches in the end; the control had as many steps in total as the first model of its round. None where there is
    nothing to compare with; `val_map` and `test_map` where the masks of a teacher lack all such images.
    """

    if TYPE_CHECKING:  # what the code reads; FIGURES has all of them
        round: int
        model: str
        val_map: Interval | None
        test_images: int
        test_map: Interval | None
        change: Interval | None
        vs_control: Interval | None
        confidence: float
        test_class_map: Mapping[str, float | None]
        cutoffs: str
        accepted: int
        ignored: int
        rejected: int
        promoted: bool
        recommended: bool
        seconds: float

    def __init__(self, **values: object) -> None:
        """TypeError when a figure is missing or foreign."""
        expected = {figure.name for figure in FIGURES}
        if values.keys() != expected:
            raise TypeError(f"a row has the figures {sorted(expected)}, got {sorted(values)}")
        self._values = values

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_values"][name]
        except KeyError:
            raise AttributeError(f"the leaderboard has no figure called {name!r}") from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Row) and self._values == other._values

    def __hash__(self) -> int:
        return hash((self.round, self.model))

    def __repr__(self) -> str:
        return f"Row({', '.join(f'{name}={value!r}' for name, value in self._values.items())})"

    def with_(self, **changes: object) -> Self:
        """The same row with other values."""
        return type(self)(**{**self._values, **changes})

    def to_json(self) -> dict[str, object]:
        """Flat plain values, named as in the files; classes as pairs, since JSON sorts keys."""
        flat: dict[str, object] = {}
        for figure in FIGURES:
            value = self._values[figure.name]
            if figure.interval:
                found = value if isinstance(value, Interval) else None
                ends = (None, None, None) if found is None else (found.value, found.low, found.high)
                flat |= dict(zip((figure.name, f"{figure.name}_low", f"{figure.name}_high"), ends, strict=True))
            else:
                flat[figure.name] = value
        return flat | {CLASS_MAP: list(self.test_class_map.items())}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`; RunError when a value is missing or foreign."""
        rest = dict(values)
        try:
            for name in (figure.name for figure in FIGURES if figure.interval):
                value, low, high = rest[name], rest.pop(f"{name}_low"), rest.pop(f"{name}_high")
                rest[name] = None if value is None else Interval(value, low, high)
            return cls(**{**rest, CLASS_MAP: dict(rest[CLASS_MAP])})
        except (KeyError, TypeError) as error:
            raise RunError(f"a row of the leaderboard is damaged ({error}); remove its round's manifest") from None


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
    """The row of a model from its evaluations. `counts` are those of filter.count_states. `promoted`: it teaches, alone
    or as a part of its ensemble. Which row is recommended is known when there are all: `recommend` marks it.

    `baseline`: the test evaluation of round 0 that `change` is against (baseline_name says whose; None in
    round 0). `control`: that of the control, for the one model of its round that it copies. ValueError
    when they are not of the same images.
    """
    summary = summarise(test.scores, classes) if test.scores else None
    class_map = dict.fromkeys(classes) if summary is None else summary.class_map
    found = Evaluated(val, test, baseline, control, summary, class_map, counts, promoted, seconds, config, seed)
    return Row(**{figure.name: figure.compute(found) for figure in FIGURES})


def baseline_name(model: str, first_model: str) -> str:
    """Whose round 0 a model is compared with: its own; the control copies the first model of the config."""
    return first_model if is_control(model) else model


# --- text and files -----------------------------------------------------------------------------------


def recommend(rows: Sequence[Row], delivered: tuple[int, str] | None) -> list[Row]:
    """The rows with the one marked that the run recommends now: that of a (round, model), or none."""
    return [row.with_(recommended=(row.round, row.model) == delivered) for row in rows]


def display_rows(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """(header, cells) as text for Markdown and for a terminal, in the order of `rows`.

    `rank` is by validation mAP: test figures rank nothing. `-` stands where there is nothing to say. What stands in
    brackets in a header, after its `column_name`, is the number of images and what else to know of the column.
    """
    classes = list(rows[0].test_class_map) if rows else []
    shown = classes if len(classes) > 1 else []
    header = ["rank"]
    for figure in shown_figures(rows):
        header += (
            [figure.header.format(name) for name in shown] if figure.name == CLASS_MAP else [_header(figure, rows)]
        )
    return header, [_cells(row, rows, shown) for row in rows]


def column_name(header: str) -> str:
    """The name of a column without what its header says beside it."""
    return header.partition(" (")[0]


def _header(figure: Figure, rows: Sequence[Row]) -> str:
    count = _common_count(figure, rows)
    beside = [*([figure.note] if figure.note else []), *([f"n = {count}"] if count and enough(count) else [])]
    return f"{figure.header} ({', '.join(beside)})" if beside else figure.header


def _common_count(figure: Figure, rows: Sequence[Row]) -> int | None:
    """The images of an interval where all rows have as many; None where they differ, or it is no interval."""
    if not figure.interval:
        return None
    counts = {getattr(row, figure.images) for row in rows if getattr(row, figure.name) is not None}
    return counts.pop() if len(counts) == 1 else None


def _rank(row: Row, rows: Sequence[Row]) -> str:
    if row.val_map is None:
        return NOTHING
    own = row.val_map.value
    return str(1 + sum(other.val_map is not None and other.val_map.value > own for other in rows))


def _cells(row: Row, rows: Sequence[Row], classes: Sequence[str]) -> list[str]:
    cells = [_rank(row, rows)]
    for figure in shown_figures(rows):
        value = getattr(row, figure.name)
        if figure.name == CLASS_MAP:
            cells += [figure.text(value.get(name)) for name in classes]
        elif figure.name == DECISION:
            cells.append("promoted" if row.promoted else "recommended" if row.recommended else NOTHING)
        elif figure.interval:
            cells.append(NOTHING if value is None else _interval(figure, row, _common_count(figure, rows) is None))
        else:
            cells.append(NOTHING if value is None else figure.text(value))
    return cells


def _interval(figure: Figure, row: Row, say_count: bool) -> str:
    """A mean and its interval, or why there is none; with its number of images where the header does not say it."""
    found, images = getattr(row, figure.name), getattr(row, figure.images)
    if not enough(images):
        return f"{figure.text(found.value)} ({too_few(images)})"
    ends = f"{figure.text(found.low)}..{figure.text(found.high)}"
    return f"{figure.text(found.value)} ({ends}{f'; n = {images}' if say_count else ''})"


LEGEND = f"""\
mAP: mean over IoU .50 to .95 and over images (Kaggle Sartorius). Brackets: bootstrap intervals over n images, none
below n = {ENOUGH_IMAGES}; they do not hold the chance of another training seed. val mAP is of the images that
thresholds, promotion and rank were chosen on, so it flatters; test decides nothing. change: test mAP against round 0
on the same images; of the control, against round 0 of the model that it copies. vs control: against a supervised model
with as many steps in total as the last student. decision: promoted models teach the next round; a control that won is
recommended and teaches nobody. F1, precision, recall and IoU: test, IoU > .5, all cells together. COCO mAP: test, as
COCO computes it, of all predictions (rounds.coco). kept from: the least score (and area) of a cell that counts, chosen
on val; where it differs by class, the report has it. time: of training, of the ensemble that of the whole round.
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
    writer = csv.DictWriter(buffer, fieldnames=list(flat[0]) if flat else schema().names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return buffer.getvalue()


def _csv_values(row: Row) -> dict[str, object]:
    values = {name: value for name, value in row.to_json().items() if name != CLASS_MAP}
    return values | {f"test_map.{name}": value for name, value in row.test_class_map.items()}


def write(base: Path, rows: Sequence[Row], sentence: str, config_hash: str) -> None:
    """Write `base`.parquet, .csv and .md, each atomically."""
    flat = [row.to_json() for row in rows]
    shards.write_rows(base.with_suffix(".parquet"), flat, schema(), config_hash)
    files.write_text(base.with_suffix(".csv"), to_csv(rows))
    files.write_text(base.with_suffix(".md"), to_markdown(rows, sentence))


def frame(base: Path) -> pd.DataFrame:
    """The rows of `base`.parquet as a pandas table, one line per model and round; RunError when there is none yet."""
    import pandas as pd

    return pd.read_csv(StringIO(to_csv(read(base))))


def read(base: Path) -> list[Row]:
    """The rows of `base`.parquet; RunError when there is none yet, or it was removed."""
    path = base.with_suffix(".parquet")
    if not path.is_file() and (finished := len(RunPaths(base.parent).finished_rounds())):
        raise RunError(
            f"{path}: missing, though round {finished - 1} is finished; `cellsemi round --n {finished - 1} --run "
            f"{base.parent.name}` writes it again from the rounds, and trains nothing"
        )
    if not path.is_file():
        raise RunError(f"{path}: no leaderboard yet; it is written when the first round is finished")
    return [Row.from_json(values) for values in shards.read_rows(path)]
