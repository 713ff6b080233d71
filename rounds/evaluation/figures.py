"""Lists the figures of the leaderboard: how each is computed, stored and shown. A new one is one entry of FIGURES."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa

from cellsemi.rounds.duration import duration
from cellsemi.rounds.evaluation.bootstrap import bootstrap_interval
from cellsemi.rounds.evaluation.evaluation_table import Evaluation
from cellsemi.rounds.evaluation.metrics import Floats, Summary, image_values, on_common, paired_values
from cellsemi.rounds.seeds import derive_seed

if TYPE_CHECKING:
    from cellsemi.configs.rounds import PromotionConfig

CLASS_MAP = "test_class_map"  # the one figure with a value per class
DECISION = "recommended"  # its column also says what was promoted: what teaches
CHOSEN_ON = "chosen on"  # the note of a figure of images that something was chosen on
NOTHING = "-"  # shown where there is no value


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over images, and the bootstrap interval around it."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Floats, samples: int, confidence: float, seed: int) -> Self:
        """The mean of a value per image, and its interval from so many resamples of the images."""
        return cls(float(values.mean()), *bootstrap_interval(values, samples, confidence, seed))


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What the figures of a model are computed from; `summary` and `class_map` are of its test images.

    `baseline` is the test evaluation of round 0 that `change` is against, `control` that of the control, for the one
    model that it copies; None where there is none.
    """

    val: Evaluation
    test: Evaluation
    baseline: Evaluation | None
    control: Evaluation | None
    summary: Summary | None  # None: its masks lack all test images
    class_map: Mapping[str, float | None]
    counts: Mapping[str, int]
    promoted: bool
    seconds: float
    config: PromotionConfig
    seed: int

    def interval(self, values: Floats, purpose: str) -> Interval | None:
        """The mean of the images' values; each purpose has its own seed, so that all models are resampled alike.

        None without an image.
        """
        return interval_of(values, purpose, self.config, self.seed)

    def difference(self, other: Evaluation | None) -> Interval | None:
        """Test mAP minus that of another evaluation on the images that both have; None without one."""
        return None if other is None else map_difference(self.test, other, self.config, self.seed)

    @property
    def change_images(self) -> int:
        """The images of `change`."""
        return 0 if self.baseline is None else len(on_common(self.test.scores, self.baseline.scores)[0])

    def coco(self, name: str) -> float | None:
        """A figure of COCO on test, where it was asked for."""
        found: float | None = None if self.test.coco is None else getattr(self.test.coco, name)
        return found

    def at_50(self, name: str) -> float | None:
        """A figure of the summary."""
        found: float | None = None if self.summary is None else getattr(self.summary, name)
        return found


def map_difference(ours: Evaluation, theirs: Evaluation, config: PromotionConfig, seed: int) -> Interval | None:
    """The mean of one evaluation's test mAP minus the other's, on the images that both have; None without one."""
    first, second = paired_values(*on_common(ours.scores, theirs.scores))
    return interval_of(first - second, "test", config, seed)


def interval_of(values: Floats, purpose: str, config: PromotionConfig, seed: int) -> Interval | None:
    """The mean of a value per image with its interval; each purpose has its own seed. None without an image."""
    if not len(values):
        return None
    return Interval.of(values, config.bootstrap, config.confidence, derive_seed(seed, "interval", purpose))


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: its name in the files, its Arrow type, how it is computed, and its column on the leaderboard.

    An `interval` is stored in three columns, `NAME`, `NAME_low` and `NAME_high`; `images` is then the figure that
    counts its images. Without a `header` it is in the files only; columns are shown in the order of `place`. `note` is
    what the header says beside the name. `asked`: it has a column only where a row has a value.
    """

    name: str
    kind: pa.DataType
    compute: Callable[[Evaluated], Any]
    header: str = ""
    text: Callable[[Any], str] = str
    place: float = 0
    images: str = ""
    note: str = ""
    asked: bool = False

    @property
    def interval(self) -> bool:
        """Whether it is a mean over images with an interval around it."""
        return bool(self.images)


def _decimals(value: float) -> str:
    return f"{value:.3f}"


def _signed(value: float) -> str:
    return f"{value:+.3f}"


def _class_value(value: float | None) -> str:
    return NOTHING if value is None else _decimals(value)


def _cutoffs(words: str) -> str:
    return "by class" if ", " in words else words or NOTHING


_INT, _LONG, _FLOAT, _TEXT, _BOOL = pa.int32(), pa.int64(), pa.float64(), pa.string(), pa.bool_()

# In the order of the files. Precision, recall, F1 and mean IoU: test, IoU > .5, all cells together. The counts are the
# pseudo-labels that the round's students learned from; 0 in round 0. `text` of an interval is that of its ends, too.
FIGURES: list[Figure] = [
    Figure("round", _INT, lambda e: e.test.round, "round", place=1),
    Figure("model", _TEXT, lambda e: e.test.model, "model", place=2),
    Figure("val_images", _INT, lambda e: len(e.val.scores)),
    Figure(
        "val_map",
        _FLOAT,
        lambda e: e.interval(image_values(e.val.scores), "val"),
        "val mAP",
        _decimals,
        place=3,
        images="val_images",
        note=CHOSEN_ON,
    ),
    Figure("test_images", _INT, lambda e: len(e.test.scores)),
    Figure(
        "test_map",
        _FLOAT,
        lambda e: e.interval(image_values(e.test.scores), "test"),
        "test mAP",
        _decimals,
        place=4,
        images="test_images",
    ),
    Figure("change_images", _INT, lambda e: e.change_images),
    Figure("change", _FLOAT, lambda e: e.difference(e.baseline), "change", _signed, place=5, images="change_images"),
    Figure(
        "vs_control", _FLOAT, lambda e: e.difference(e.control), "vs control", _signed, place=6, images="test_images"
    ),
    Figure("confidence", _FLOAT, lambda e: e.config.confidence),
    Figure(CLASS_MAP, pa.map_(_TEXT, _FLOAT), lambda e: dict(e.class_map), "test {}", _class_value, place=7),
    Figure("precision50", _FLOAT, lambda e: e.at_50("precision"), "precision", _decimals, place=9),
    Figure("recall50", _FLOAT, lambda e: e.at_50("recall"), "recall", _decimals, place=10),
    Figure("f1", _FLOAT, lambda e: e.at_50("f1"), "F1", _decimals, place=8),
    Figure("mean_iou", _FLOAT, lambda e: e.at_50("mean_iou"), "IoU", _decimals, place=11),
    Figure("coco_map", _FLOAT, lambda e: e.coco("map"), "COCO mAP", _decimals, place=7.5, asked=True),
    Figure("coco_map50", _FLOAT, lambda e: e.coco("map50"), "COCO mAP@.5", _decimals, place=7.6, asked=True),
    Figure("cutoffs", _TEXT, lambda e: e.val.cutoffs.words(list(e.class_map)), "kept from", _cutoffs, place=12),
    Figure("accepted", _LONG, lambda e: e.counts["accepted"], "accepted", place=13),
    Figure("ignored", _LONG, lambda e: e.counts["ignored"], "ignored", place=14),
    Figure("rejected", _LONG, lambda e: e.counts["rejected"], "rejected", place=15),
    Figure("promoted", _BOOL, lambda e: e.promoted),
    Figure(DECISION, _BOOL, lambda _: False, "decision", place=16),  # leaderboard.recommend marks the one that is
    Figure("seconds", _FLOAT, lambda e: e.seconds, "time", duration, place=17),
]


def shown_figures(rows: Sequence[Any]) -> Sequence[Figure]:
    """The figures that have a column for some rows of a leaderboard, in the order in which they are shown."""
    shown = [figure for figure in FIGURES if figure.header]
    there = [each for each in shown if not each.asked or any(getattr(row, each.name) is not None for row in rows)]
    return sorted(there, key=lambda figure: figure.place)


def schema() -> pa.Schema:
    """The Arrow schema of a leaderboard."""
    fields = []
    for figure in FIGURES:
        ends = ("", "_low", "_high") if figure.interval else ("",)
        fields += [(f"{figure.name}{end}", figure.kind) for end in ends]
    return pa.schema(fields)
