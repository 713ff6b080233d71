"""Says whether so many images are enough for an interval, and which images decide."""

from __future__ import annotations

# Fewer images make no interval: on small samples the percentile bootstrap is too narrow (Hesterberg 2015, "What
# teachers should know about the bootstrap").
ENOUGH_IMAGES = 8
USUAL_FOLDS = 5  # what is suggested; fewer where there are not as many images or groups


def enough(images: int) -> bool:
    """Whether an interval over so many images is shown."""
    return images >= ENOUGH_IMAGES


def too_few(images: int) -> str:
    """What stands in the place of an interval.

    >>> too_few(3)
    'n = 3: too few'
    """
    return f"n = {images}: too few"


def who_decides(labelled: int, val: int, folds: int | None, groups: int | None = None) -> str:
    """Which images decide thresholds and promotion; where they are few, what `rounds.folds` would do.

    `labelled` and `val` count images, `groups` what may not be divided (None: unknown, or nothing).

    >>> who_decides(28, 12, None)
    '12 validation images decide thresholds and promotion'
    >>> who_decides(28, 12, 5)
    'all 40 labelled images decide thresholds and promotion, in 5 folds (rounds.folds)'
    """
    everything = labelled + val
    if folds is not None:
        return f"all {everything} labelled images decide thresholds and promotion, in {folds} folds (rounds.folds)"
    decide = "validation image decides" if val == 1 else "validation images decide"
    if enough(val):
        return f"{val} {decide} thresholds and promotion"
    sentence = f"only {val} {decide} thresholds and promotion, too few to tell a gain from chance"
    most = min(USUAL_FOLDS, everything, groups or everything)
    if most < 2:
        return sentence
    return (
        f"{sentence}; rounds.folds: {most} would let all {everything} labelled images decide, "
        f"at {most} times the training"
    )
