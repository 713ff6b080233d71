"""The arithmetic of the ablation table, on scores whose means and differences are known."""

from __future__ import annotations

import csv
import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from cellsemi.configs.ablation_parts import PARTS
from cellsemi.configs.rounds import PromotionConfig
from cellsemi.orchestrator.cli.ablate import print_table
from cellsemi.rounds.evaluation.ablation_table import (
    RunResult,
    Table,
    Variant,
    display_rows,
    make_rows,
    pooled_interval,
)
from cellsemi.rounds.evaluation.metrics import ImageScore, Tally

CONFIG = PromotionConfig(bootstrap=4000)


def scores(tenths: list[int], first: int = 0) -> tuple[ImageScore, ...]:
    """Images with one cell each, right at so many of the ten thresholds."""
    tallies = [Tally(1, 1, tuple(int(i < passed) for i in range(10)), 0.5) for passed in tenths]
    return tuple(ImageScore(f"i{k}", tally, {0: tally}) for k, tally in enumerate(tallies, start=first))


def result(last: list[int], promoted: list[int] | None = None, first: int = 0, **more: float) -> RunResult:
    counts = {"accepted": 10, "ignored": 4, "rejected": 2, "seconds": 120.0, **more}
    return RunResult(
        last_round=2,
        promoted_round=2 if promoted is None else 1,
        last=scores(last, first),
        promoted=scores(last if promoted is None else promoted, first),
        **counts,  # type: ignore[arg-type]
    )


def variant(part: str, results: dict[int, RunResult], errors: dict[int, str] | None = None) -> Variant:
    to, settings, changes = ("", (), ()) if part == "base" else ("off", ("a.b=0",), ("a.b: 1 -> 0", "a.c: 1 -> 0"))
    return Variant(part, to, settings, changes, results, errors or {})


def table(*variants: Variant) -> Table:
    return Table(make_rows(variants, CONFIG), "demo", ["left out: x"], CONFIG.confidence)


BASE = variant("base", {0: result([5, 5, 5, 5], [4, 4, 4, 4]), 1: result([6, 6, 6, 6])})
EMA = variant("ema", {0: result([5, 7, 5, 7], accepted=20, seconds=240.0), 1: result([6, 8, 7, 7])})


def test_a_row_holds_means_over_the_seeds_and_differences_from_the_base() -> None:
    base, ema = table(BASE, EMA).rows
    assert (base.part, base.last_change, base.last_change_by_seed) == ("base", None, {})
    assert (base.last_map, base.promoted_map) == pytest.approx((0.55, 0.5))
    assert (base.seeds, base.last_rounds, base.promoted_rounds) == ((0, 1), (2, 2), (1, 2))
    assert (ema.last_map, ema.promoted_map) == pytest.approx((0.65, 0.65))
    assert ema.last_change_by_seed == pytest.approx({0: 0.1, 1: 0.1})
    assert ema.promoted_change_by_seed == pytest.approx({0: 0.2, 1: 0.1})
    assert ema.last_change is not None and ema.promoted_change is not None
    assert (ema.last_change.value, ema.promoted_change.value) == pytest.approx((0.1, 0.15))
    assert (ema.accepted, ema.ignored, ema.rejected, ema.minutes) == (15, 4, 2, 3)


def test_an_image_takes_its_differences_on_all_seeds_along() -> None:
    # Seed by seed .0 .2 .0 .2 and .0 .2 .1 .1: by image .0 .2 .05 .15, of which four are drawn with replacement.
    found = table(BASE, EMA).rows[1].last_change
    assert found is not None
    each = np.array([0.0, 0.2, 0.05, 0.15])
    means = np.array([each[list(draw)].mean() for draw in np.ndindex(4, 4, 4, 4)])  # every possible draw
    exact = np.quantile(means, [0.025, 0.975], method="nearest")
    assert (found.low, found.high) == pytest.approx(tuple(exact), abs=0.0130)


def test_seeds_do_not_multiply_the_images() -> None:
    differences = {f"i{k}": value for k, value in enumerate(np.random.default_rng(0).normal(0, 0.1, 40).tolist())}
    one, many = pooled_interval({0: differences}, CONFIG), pooled_interval(dict.fromkeys(range(9), differences), CONFIG)
    assert one is not None and many is not None
    assert (one.value, one.low, one.high) == pytest.approx((many.value, many.low, many.high))


def test_seeds_with_other_test_images_weigh_the_same() -> None:
    found = pooled_interval({0: {"a": 0.1, "b": 0.3}, 1: {"b": 0.5, "c": 0.5, "d": 0.5, "e": 0.9}}, CONFIG)
    assert found is not None and found.value == pytest.approx((0.2 + 0.6) / 2)
    assert found.low < 0.4 < found.high
    assert pooled_interval({}, CONFIG) is None


def test_runs_of_one_seed_must_be_judged_on_the_same_images() -> None:
    with pytest.raises(ValueError, match="the same images"):
        table(BASE, variant("ema", {0: result([5, 5, 5, 5], first=1)}))


def test_only_seeds_that_finished_in_both_are_compared() -> None:
    base = variant("base", {0: result([5, 5])}, {1: "no space"})
    ema = variant("ema", {1: result([9, 9])}, {0: "loss is nan"})
    made = table(
        base, ema, variant("fusion", {0: result([5, 6]), 1: result([9, 9])}), variant("x", {}, {0: "a", 1: "b"})
    )
    _, second, third, none = made.rows
    assert second.last_map == pytest.approx(0.9) and second.last_change is None
    assert third.last_change_by_seed == pytest.approx({0: 0.05}) and third.last_map == pytest.approx(0.725)
    assert (none.last_map, none.minutes, none.seeds) == (None, None, ())
    assert made.failures[:3] == ["base, seed 1: no space", "ema, seed 0: loss is nan", "x, seed 0: a"]
    markdown = made.to_markdown()
    assert "- failed: ema, seed 0: loss is nan" in markdown and "- left out: x" in markdown
    assert len(list(csv.DictReader(StringIO(made.to_csv())))) == 4


def test_text_says_what_the_rows_say() -> None:
    made = table(BASE, EMA)
    header, (base, ema) = display_rows(made.rows)
    shown = dict(zip(header, ema, strict=True))
    assert shown["part"] == "ema" and shown["switched"] == "off" and shown["settings"] == "a.b=0"
    assert shown["promoted mAP"] == "0.650" and shown["change"].startswith("+0.150 (")
    assert shown["by seed"] == "+0.200 +0.100" and shown["seeds"] == "0, 1"
    assert (shown["accepted"], shown["time"]) == ("15", "3 min 00 s")
    assert dict(zip(header, base, strict=True))["change"] == "-"
    markdown = made.to_markdown()
    assert "| " + " | ".join(ema) + " |" in markdown and "## ema, switched off\n\n- `a.b: 1 -> 0`\n" in markdown
    assert "95% bootstrap" in " ".join(markdown.split())


@pytest.mark.parametrize("width", [80, 60])
def test_a_narrow_terminal_shows_what_a_part_is_worth(width: int) -> None:
    made = table(BASE, variant(max(PARTS, key=len), dict(EMA.results)))
    stream = StringIO()
    print_table(made, [Path("out/demo-ablation.md")], Console(file=stream, width=width))
    lines = stream.getvalue().splitlines()
    (head,) = (line for line in lines if "promoted mAP" in line)
    assert {"part", "promoted mAP", "last mAP", "change"} <= {name.strip() for name in head.split("  ")}
    row = next(line for line in lines if line.split()[:1] == [made.rows[1].part])
    change = made.rows[1].promoted_change
    assert change is not None
    interval = f" ({change.low:+.3f}, {change.high:+.3f})".replace("0.", ".")
    assert row.count(".650") == 2 and "+.150" in row
    assert (interval in row) is ("last change" in head) is (width == 80)
    assert all(len(line) <= width for line in lines)
    assert "Not shown at this width: " in " ".join(lines)


def test_the_files_hold_all_digits(tmp_path: Path) -> None:
    made = table(BASE, EMA)
    markdown, sheet, plain = made.write(tmp_path / "demo.v2-ablation")
    assert [path.name for path in (markdown, sheet, plain)] == [f"demo.v2-ablation.{s}" for s in ("md", "csv", "json")]
    ema = made.rows[1]
    assert ema.last_change is not None
    row = list(csv.DictReader(StringIO(sheet.read_text())))[1]
    assert float(row["last_change_low"]) == ema.last_change.low and row["changes"] == "a.b: 1 -> 0; a.c: 1 -> 0"
    pairs = dict(item.removeprefix("seed ").split(": ") for item in row["promoted_change_by_seed"].split("; "))
    assert {int(seed): float(value) for seed, value in pairs.items()} == ema.promoted_change_by_seed
    stored = json.loads(plain.read_text())
    assert stored["rows"][1]["last_change"]["high"] == ema.last_change.high and stored["notes"] == ["left out: x"]
    before = plain.read_bytes()
    made.write(tmp_path / "demo.v2-ablation")
    assert plain.read_bytes() == before
