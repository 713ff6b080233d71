"""The tables of rounds.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from regimes import REGIMES, hidden_truth
from rounds_runs import LETTERS, SMALL_GAP, Line, Means, Seed, Value, finished, gap_closed, less, mean

from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.matching import hits
from cellsemi.rounds.evaluation.bootstrap import EQUAL_MEANS
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.run import RunPaths, is_control

NONE = "-"


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def plain(value: Value) -> str:
    return NONE if value is None else f"{value:.3f}"


def signed(value: Value) -> str:
    return NONE if value is None else f"{value:+.3f}"


def percent(value: Value) -> str:
    return NONE if value is None else f"{value:+.0%}"


def regime_table(seeds: Sequence[Seed], n: int) -> str:
    """One row per seed and their mean."""
    rounds = range(1, n + 1)
    header = ["seed", "a", "b (steps)", "c", *(f"d r{r}" for r in rounds), "d delivered", "e", "gap closed"]
    lines = [_seed_line(seed, n) for seed in seeds]
    done = finished(seeds)
    means = Means.of(done)
    over = [mean(seed.ours.map_of(r) if seed.ours else None for seed in done) for r in rounds]
    figures = [*map(plain, (means.a, means.b, means.c, *over, means.d, means.e))]
    figures += [percent(gap_closed(means.b, means.d, means.e)), *map(signed, (means.d_c, means.d_b))]
    lines.append(["mean" if len(done) == len(seeds) else f"mean of {len(done)}", *figures])
    return table([*header, "d - c", "d - b"], lines)


def _seed_line(seed: Seed, n: int) -> list[str]:
    rounds = [plain(seed.ours.map_of(r) if seed.ours else None) for r in range(1, n + 1)]
    steps = f" ({seed.b_steps})" if seed.b_steps else ""
    delivered = seed.ours.delivered if seed.ours else None
    promoted = ""
    if delivered is not None:
        promoted = " (control)" if is_control(delivered.model) else f" (round {delivered.round})"
    interval = seed.over_b()
    ends = f" ({interval[0]:+.3f} to {interval[1]:+.3f})" if interval else ""
    a, b, c, d, e = (seed.value(letter) for letter in LETTERS)
    lines = [plain(a), plain(b) + steps, plain(c), *rounds, plain(d) + promoted, plain(e)]
    return [str(seed.seed), *lines, percent(gap_closed(b, d, e)), signed(less(d, c)), signed(less(d, b)) + ends]


def class_table(seeds: Sequence[Seed], classes: Sequence[str]) -> str:
    """Test mAP within each class, means over the finished seeds, and the mean of the classes, also by seed."""
    done = finished(seeds)
    lines = [_class_line(name, {letter: _within(done, letter, [name]) for letter in LETTERS}) for name in classes]
    lines += [_class_line(f"all, seed {seed.seed}", {x: _within([seed], x, classes) for x in LETTERS}) for seed in done]
    lines.append(_class_line("all", {letter: _within(done, letter, classes) for letter in LETTERS}))
    return table(["class", "a", "b", "c", "d delivered", "e", "gap closed", "d - c", "d - b"], lines)


def _within(seeds: Sequence[Seed], letter: str, classes: Sequence[str]) -> Value:
    """The mean over seeds and classes of the test mAP within a class."""
    rows = [seed.row(letter) for seed in seeds]
    return mean(row.test_class_map[name] if row else None for row in rows for name in classes)


def _class_line(name: str, value: Mapping[str, Value]) -> list[str]:
    a, b, c, d, e = (value[letter] for letter in LETTERS)
    return [name, *map(plain, (a, b, c, d, e)), percent(gap_closed(b, d, e)), signed(less(d, c)), signed(less(d, b))]


# --- the targets --------------------------------------------------------------------------------------

Target = tuple[str, str, str, str]  # regime, what was stated, what was measured, whether it is reached


def targets(results: Mapping[str, Sequence[Seed]]) -> list[Target]:
    """What the work set out to reach in these regimes, and whether it did; open while seeds are missing."""
    found: list[Target] = []
    done = {name: finished(seeds) for name, seeds in results.items()}
    means = {name: Means.of(seeds) for name, seeds in done.items()}

    def add(name: str, stated: str, measured: str, reached: str) -> None:
        count, asked = len(done[name]), len(results[name])
        if count < asked:
            measured, reached = f"{measured} on {count} of {asked} seeds", "open" if count else "not measured"
        found.append((name, stated, measured, reached))

    for name, share, words in (("uncovered", 1 / 2, "half"), ("mixed", 1 / 2, "half"), ("few", 1 / 3, "a third")):
        if name in means:
            add(name, f"{words} of the gap from (b) to (e) closed", *_gap_verdict(means[name], share))
    if "enough" in means:
        value = means["enough"].d_b
        reached = _said(value, lambda v: v >= -EQUAL_MEANS)
        add("enough", "(d) at least equal to (b)", f"d - b {signed(value)}", reached)
    for name in ("uncovered", "mixed", "few", "classes"):
        if name in means:
            value = means[name].d_c
            add(name, "(d) above (c)", f"d - c {signed(value)}", _said(value, lambda v: v > EQUAL_MEANS))
            if len(REGIMES[name].classes) > 1:
                value = less(*(_within(done[name], letter, REGIMES[name].classes) for letter in "dc"))
                stated = "the same within each class, mean of the classes"
                add(name, stated, f"d - c {signed(value)}", _said(value, lambda v: v > EQUAL_MEANS))
    return [*found, _guard(results)] if results else found


def _gap_verdict(means: Means, share: float) -> tuple[str, str]:
    gap = less(means.e, means.b)
    if gap is not None and gap < SMALL_GAP:
        return f"e - b {signed(gap)}: no gap to close", "undefined"
    closed = gap_closed(means.b, means.d, means.e)
    return percent(closed), _said(closed, lambda v: v >= share)


def _said(value: Value, reached: Callable[[float], bool]) -> str:
    if value is None:
        return "not measured"
    return "yes" if reached(value) else "**no**"


def _guard(results: Mapping[str, Sequence[Seed]]) -> Target:
    """No promoted or delivered model below its own round 0, in any seed of any regime."""
    changes = [(f"{name} seed {seed.seed}", seed.change) for name, seeds in results.items() for seed in seeds]
    known = [(what, change) for what, change in changes if change is not None]
    below = [f"{what} {signed(change)}" for what, change in known if change < -EQUAL_MEANS]
    measured = f"{len(below)} of {len(known)} runs below" + (f": {', '.join(below)}" if below else "")
    missing = len(changes) - len(known)
    reached = f"open ({missing} runs missing)" if missing else "yes"
    stated = "no promoted or delivered model below its own round 0 on test"
    return "all", stated, measured, "**no**" if below else reached


# --- pseudo-labels against the hidden labels ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Counts:
    """Unlabelled images' cells. `right`: accepted ones that are a true cell at IoU > .5; `seen`: with the ignored."""

    truth: int = 0
    accepted: int = 0
    ignored: int = 0
    right: int = 0
    seen: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    @property
    def precision(self) -> Value:
        return self.right / self.accepted if self.accepted else None

    @property
    def recall(self) -> Value:
        return self.right / self.truth if self.truth else None

    @property
    def accounted(self) -> Value:
        return self.seen / self.truth if self.truth else None


def count(filtered: Instances, truth: Instances) -> Counts:
    """The filtered cells of one image against its true ones: one to one, within the class, IoU > .5."""
    accepted, kept = filtered.in_state("accepted"), filtered.in_state("accepted", "ignored")
    return Counts(
        truth=len(truth),
        accepted=len(accepted),
        ignored=len(kept) - len(accepted),
        right=int(hits(accepted, truth).sum()),
        seen=int(hits(kept, truth).sum()),
    )


def pseudo_counts(paths: RunPaths, round: int, truth: Mapping[str, Instances]) -> Counts:
    """All pseudo-labels of a round; an unlabelled image without predictions misses all of its cells."""
    total = Counts()
    for record in shards.read_folder(paths.pseudo(round)):
        cells = record.instances or Instances.empty(record.height, record.width)
        total += count(cells, truth[record.image_id])
    return total


def pseudo_table(results: Mapping[str, Sequence[Seed]], root: Path, n: int) -> str:
    """Per regime, line and round: means over the seeds, and those of each seed."""
    lines = []
    for name, seeds in results.items():
        truth = hidden_truth(name, root)
        for title, pick in (("d, ours", "ours"), ("c, plain", "plain")):
            for round in range(1, n + 1):
                runs = [getattr(seed, pick) for seed in seeds]
                runs = [line for line in runs if line is not None and round in line.ensemble]
                if runs:
                    found = [pseudo_counts(line.paths, round, truth) for line in runs]
                    lines.append([name, title, str(round), *_pseudo_cells(found)])
    header = ["regime", "line", "round", "accepted", "ignored", "precision", "recall", "accounted for"]
    return table(header, lines)


def _pseudo_cells(found: Sequence[Counts]) -> list[str]:
    def each(name: str) -> str:
        values = [getattr(counts, name) for counts in found]
        return f"{plain(mean(values))} ({' '.join(map(plain, values))})"

    numbers = [" ".join(str(getattr(counts, name)) for counts in found) for name in ("accepted", "ignored")]
    return [*numbers, each("precision"), each("recall"), each("accounted")]


# --- parts switched off -------------------------------------------------------------------------------


def ablation_table(
    parts: Mapping[str, str], runs: Mapping[str, Mapping[int, Line | None]], ours: Mapping[int, Line | None]
) -> str:
    """Ours with one part off each, over the seeds that both have. `parts`: name -> settings as text."""
    header = ["part", "settings", "seeds", "last round", "promoted", "last - ours", "promoted - ours", "per seed"]
    whole = [line for line in ours.values() if line]
    lines = [["(none: ours)", "", _seeds(ours), *_two(whole), NONE, NONE, NONE]]
    for name, settings in parts.items():
        both = {seed: (line, ours[seed]) for seed, line in runs[name].items() if line and ours.get(seed)}
        pairs = [(line, base) for line, base in both.values() if line and base]
        change_last = [less(line.map_of(line.last), base.map_of(base.last)) for line, base in pairs]
        change = [less(line.map_of(line.promoted), base.map_of(base.promoted)) for line, base in pairs]
        cells = [signed(mean(change_last)), signed(mean(change)), " ".join(map(signed, change)) or NONE]
        lines.append([name, f"`{settings}`", _seeds(dict(both)), *_two([line for line, _ in pairs]), *cells])
    return table(header, lines)


def _seeds(runs: Mapping[int, object]) -> str:
    return " ".join(str(seed) for seed, line in runs.items() if line) or NONE


def _two(lines: Sequence[Line]) -> list[str]:
    """Mean test mAP of the last round and of the promoted one."""
    return [plain(mean(x.map_of(x.last) for x in lines)), plain(mean(x.map_of(x.promoted) for x in lines))]
