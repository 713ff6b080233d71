"""Decides who teaches the next round. The decision sees validation images only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellsemi.rounds.evaluation.bootstrap import EQUAL_MEANS, paired_probability
from cellsemi.rounds.evaluation.metrics import ImageScore, class_differences, on_common, paired_values
from cellsemi.rounds.evaluation.size_shift import weighted

if TYPE_CHECKING:
    from cellsemi.configs.rounds import PromotionConfig


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a round's students teach the next, or a control is recommended (`promoted`), and why.

    `probability` is None for round 0, which has no incumbent.
    """

    promoted: bool
    probability: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class Sized:
    """The scores of the candidate and of the incumbent on the validation images, enlarged so many times."""

    enlargement: float
    share: float  # of the unlabelled images whose cells have that size
    candidate: Sequence[ImageScore]
    incumbent: Sequence[ImageScore]


def needed_probability(min_probability: float, tries: int) -> float:
    """The probability that the last of so many tries needs, at least `min_probability`.

    So many tries at this probability are promoted by chance no more often than one at `min_probability` (Bonferroni).
    The tries before it needed less, so that the chance of any promotion still grows with the tries, but more slowly:
    benchmarks/retries.md.

    >>> round(needed_probability(0.6, 1), 3), round(needed_probability(0.6, 2), 3), round(needed_probability(0.6, 4), 3)
    (0.6, 0.8, 0.9)
    """
    return 1 - (1 - min_probability) / tries


def decide(
    candidate: Sequence[ImageScore],
    incumbent: Sequence[ImageScore] | None,
    classes: Sequence[str],
    config: PromotionConfig,
    seed: int,
    sized: Sequence[Sized] = (),
    *,
    word: str = "promoted",
    tries: int = 1,
) -> Decision:
    """Compare the ensemble of a round with the incumbent (None: there is none) on the validation images.

    Promoted when the paired-bootstrap probability of a larger mAP is at least `needed_probability`, and no
    class falls by more than `class_margin`, measured on the images whose truth holds it. With `sized` the mAP is
    that of the images at these sizes, weighted by their shares; the classes are those of the images as they are.
    `word` is what a winner is called: a control is recommended, since it teaches nobody. `tries` counts the candidates
    that were compared with this incumbent, this one included. Images that the masks of an incumbent lack are left out,
    and the reason says so.
    """
    if incumbent is None:
        return Decision(True, None, "promoted: the first round has no incumbent")
    every = len(candidate)
    candidate, incumbent = on_common(candidate, incumbent)
    new, old = paired_values(candidate, incumbent)
    at = ""
    if sized:
        shares = [each.share for each in sized]
        each_pair = [paired_values(*on_common(each.candidate, each.incumbent)) for each in sized]
        new, old = (weighted([pair[i] for pair in each_pair], shares) for i in (0, 1))
        sizes = ", ".join(f"{each.share:.0%} x{each.enlargement:g}" for each in sized)
        at = f" at the unlabelled images' cell sizes ({sizes})"
    probability = paired_probability(new, old, config.bootstrap, seed)
    needed = needed_probability(config.min_probability, tries)
    share = f"better in {probability:.1%} of {config.bootstrap} resamples, {needed:.1%} needed"
    share += f" at try {tries}, {config.min_probability:.1%} at the first" if tries > 1 else ""
    problems = [] if probability >= needed else ["not clearly better"]
    for class_id, name in enumerate(classes):
        differences = class_differences(candidate, incumbent, class_id)
        fall = -float(differences.mean()) if len(differences) else 0.0
        if fall > config.class_margin + EQUAL_MEANS:
            problems.append(f"class {name} fell by {fall:.3f}, at most {config.class_margin:.3f} is allowed")
    at += f" on the {len(candidate)} of {every} images that both have" if len(candidate) < every else ""
    scores = f"validation mAP{at} {old.mean():.3f} -> {new.mean():.3f}, {share}"
    if problems:
        return Decision(False, probability, f"not {word}: {'; '.join(problems)} ({scores})")
    return Decision(True, probability, f"{word}: {scores}")
