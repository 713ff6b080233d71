"""Builds the ablation table: what each part of the method adds on the same data, budget and seeds.

All figures are of test images and of the ensemble. A difference is that of the run with the part switched
minus the base run of the same seed, image by image; the interval resamples the images, and an image takes
the differences of all seeds along, since those are not independent of each other.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path

import numpy as np

from cellsemi.configs.rounds import PromotionConfig
from cellsemi.rounds.duration import duration
from cellsemi.rounds.evaluation.figures import Interval
from cellsemi.rounds.evaluation.leaderboard import markdown_line
from cellsemi.rounds.evaluation.metrics import ImageScore, image_values, paired_values
from cellsemi.rounds.seeds import derive_seed
from cellsemi.rounds.store import files

BASE = "base"
Scores = Sequence[ImageScore]


@dataclass(frozen=True, slots=True)
class RunResult:
    """What one run came to: the test scores of its last and of its promoted ensemble, its last pseudo-labels."""

    last_round: int
    promoted_round: int
    last: Scores
    promoted: Scores
    accepted: int
    ignored: int
    rejected: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Variant:
    """The runs of one line of the table, by seed: what finished, and the error of what did not.

    `to` is the side that the part was switched to; "" for the base. `settings` and `changes` are those of
    configs.parts.Switch.
    """

    part: str
    to: str
    settings: tuple[str, ...]
    changes: tuple[str, ...]
    results: Mapping[int, RunResult]
    errors: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: means over the seeds that finished, None where none did.

    The changes are against the base, over the seeds that finished in both; None for the base itself.
    `accepted`, `ignored` and `rejected` count the pseudo-labels of the last round, `minutes` is of one run.
    """

    part: str
    to: str
    settings: tuple[str, ...]
    changes: tuple[str, ...]
    seeds: tuple[int, ...]
    last_rounds: tuple[int, ...]
    promoted_rounds: tuple[int, ...]
    last_map: float | None
    promoted_map: float | None
    last_change: Interval | None
    promoted_change: Interval | None
    last_change_by_seed: Mapping[int, float]
    promoted_change_by_seed: Mapping[int, float]
    accepted: float | None
    ignored: float | None
    rejected: float | None
    minutes: float | None
    errors: Mapping[int, str]

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


def make_rows(variants: Sequence[Variant], config: PromotionConfig) -> list[Row]:
    """The rows of the table in the order of `variants`, the first of which is the base.

    `config` gives the number of resamples and the level of the intervals. ValueError when two runs of one
    seed were not judged on the same images.
    """
    base = variants[0].results
    return [_row(variant, base if number else {}, config) for number, variant in enumerate(variants)]


def _row(variant: Variant, base: Mapping[int, RunResult], config: PromotionConfig) -> Row:
    results = variant.results

    def mean(value: Callable[[RunResult], float]) -> float | None:
        return float(np.mean([value(result) for result in results.values()])) if results else None

    def differences(scores: Callable[[RunResult], Scores]) -> dict[int, dict[str, float]]:
        both = [seed for seed in results if seed in base]
        return {seed: image_differences(scores(results[seed]), scores(base[seed])) for seed in both}

    last, promoted = differences(lambda r: r.last), differences(lambda r: r.promoted)
    return Row(
        part=variant.part,
        to=variant.to,
        settings=variant.settings,
        changes=variant.changes,
        seeds=tuple(results),
        last_rounds=tuple(result.last_round for result in results.values()),
        promoted_rounds=tuple(result.promoted_round for result in results.values()),
        last_map=mean(lambda r: float(image_values(r.last).mean())),
        promoted_map=mean(lambda r: float(image_values(r.promoted).mean())),
        last_change=pooled_interval(last, config),
        promoted_change=pooled_interval(promoted, config),
        last_change_by_seed=_means(last),
        promoted_change_by_seed=_means(promoted),
        accepted=mean(lambda r: r.accepted),
        ignored=mean(lambda r: r.ignored),
        rejected=mean(lambda r: r.rejected),
        minutes=mean(lambda r: r.seconds / 60),
        errors=variant.errors,
    )


def image_differences(ours: Scores, theirs: Scores) -> dict[str, float]:
    """ours - theirs for each image id; ValueError when the images differ."""
    first, second = paired_values(ours, theirs)
    return dict(zip((score.image_id for score in ours), (first - second).tolist(), strict=True))


def pooled_interval(differences: Mapping[int, Mapping[str, float]], config: PromotionConfig) -> Interval | None:
    """The mean over seeds of the mean over images, and its bootstrap interval over images; None without seeds.

    `differences` are by seed and image id. Each image is one draw, with its differences on all seeds (a
    cluster bootstrap, Davison and Hinkley 1997): seeds do not multiply the images. Where the seeds have
    different test images, an image counts as much as its share of its seeds' means.
    """
    if not differences:
        return None
    images = sorted({image for found in differences.values() for image in found})
    share = len(images) / len(differences)
    # Their mean is the mean over seeds; with the same images on every seed, each is an image's mean over seeds.
    values = np.array(
        [share * sum(found[image] / len(found) for found in differences.values() if image in found) for image in images]
    )
    return Interval.of(values, config.bootstrap, config.confidence, derive_seed(0, "ablation"))


def _means(differences: Mapping[int, Mapping[str, float]]) -> dict[int, float]:
    return {seed: float(np.mean(list(found.values()))) for seed, found in differences.items()}


# --- text and files -----------------------------------------------------------------------------------

LEGEND = """\
mAP: test, mean over IoU .50 to .95 and over images (Kaggle Sartorius), of the ensemble of the last round and of the
promoted one; means over the seeds. Change: against the base, the same images and seeds; brackets: {confidence:.0%}
bootstrap intervals over the images, which do not hold the chance of other seeds: see the seeds one by one. With many
parts some interval leaves out zero by chance. Pseudo-labels: of the last round; time: of one run; both means.
Test figures report; a part is chosen on validation images.
"""


def display_rows(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """(header, cells) as text for Markdown and for a terminal; `-` where there is nothing to say."""
    header = ["part", "switched", "promoted mAP", "change", "by seed"]
    header += [
        "last mAP",
        "last change",
        "last by seed",
        "accepted",
        "ignored",
        "rejected",
        "time",
        "seeds",
        "settings",
    ]
    return header, [_cells(row) for row in rows]


def _cells(row: Row) -> list[str]:
    return [
        row.part,
        row.to or "-",
        _number(row.promoted_map, ".3f"),
        _interval(row.promoted_change),
        _by_seed(row.promoted_change_by_seed),
        _number(row.last_map, ".3f"),
        _interval(row.last_change),
        _by_seed(row.last_change_by_seed),
        *(_number(value, ".0f") for value in (row.accepted, row.ignored, row.rejected)),
        "-" if row.minutes is None else duration(60 * row.minutes),
        ", ".join(map(str, row.seeds)) or "-",
        " ".join(row.settings) or "-",
    ]


def _number(value: float | None, style: str) -> str:
    return "-" if value is None else format(value, style)


def _interval(found: Interval | None) -> str:
    return "-" if found is None else f"{found.value:+.3f} ({found.low:+.3f}..{found.high:+.3f})"


def _by_seed(values: Mapping[int, float]) -> str:
    return " ".join(f"{value:+.3f}" for value in values.values()) or "-"


@dataclass(frozen=True, slots=True)
class Table:
    """The rows, the name of the base, what was left out, and the level of the intervals."""

    rows: Sequence[Row]
    title: str
    notes: Sequence[str]
    confidence: float

    @property
    def legend(self) -> str:
        """How to read it."""
        return LEGEND.format(confidence=self.confidence).strip()

    @property
    def failures(self) -> list[str]:
        """One line for each run that failed: part, seed, error."""
        return [f"{row.part}, seed {seed}: {error}" for row in self.rows for seed, error in row.errors.items()]

    def to_json(self) -> dict[str, object]:
        """Plain values, all digits."""
        rows = [row.to_json() for row in self.rows]
        return {"base": self.title, "confidence": self.confidence, "notes": list(self.notes), "rows": rows}

    def to_markdown(self) -> str:
        """The table, how to read it, what failed or was left out, and every setting that differs from the base."""
        header, cells = display_rows(self.rows)
        lines = [f"# Ablation of {self.title}", ""]
        lines += [*map(markdown_line, [header, ["---"] * len(header), *cells]), "", self.legend]
        trouble = [f"- failed: {line}" for line in self.failures] + [f"- {line}" for line in self.notes]
        lines += ["", *trouble] if trouble else []
        for row in self.rows[1:]:
            lines += ["", f"## {row.part}, switched {row.to}", "", *(f"- `{change}`" for change in row.changes)]
        return "\n".join(lines) + "\n"

    def to_csv(self) -> str:
        """One line per row, all digits, empty where there is no value; several values are parted by `; `."""
        buffer = StringIO()
        flat = [_csv_values(row) for row in self.rows]
        writer = csv.DictWriter(buffer, fieldnames=list(flat[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)
        return buffer.getvalue()

    def write(self, base: Path) -> list[Path]:
        """Write `base`.md, .csv and .json, each atomically; returns their paths."""
        markdown, table, plain = (base.with_name(f"{base.name}.{suffix}") for suffix in ("md", "csv", "json"))
        files.write_text(markdown, self.to_markdown())
        files.write_text(table, self.to_csv())
        files.write_json(plain, self.to_json())
        return [markdown, table, plain]


def _csv_values(row: Row) -> dict[str, object]:
    values: dict[str, object] = {}
    for name, value in row.to_json().items():
        if name in ("last_change", "promoted_change"):
            ends = value if isinstance(value, dict) else {"value": None, "low": None, "high": None}
            values |= {name: ends["value"], f"{name}_low": ends["low"], f"{name}_high": ends["high"]}
        elif isinstance(value, dict):
            values[name] = "; ".join(f"seed {seed}: {item}" for seed, item in value.items())
        elif isinstance(value, tuple):
            values[name] = "; ".join(map(str, value))
        else:
            values[name] = value
    return values
