"""Names who learns from which human labels and who is evaluated on which: one hold-out, or K folds."""

from __future__ import annotations

from dataclasses import dataclass

from cellsemi.configs.schema import Config

HUMAN_SPLIT = "labelled"
PSEUDO_SPLIT = "unlabelled"
FOLDS = "folds"  # the folder, beside the splits, that holds one for each fold


@dataclass(frozen=True, slots=True)
class Fold:
    """One division of the human labels: its models learn from the splits `train` and are evaluated on `val`.

    `suffix` ends the names of its models and folders; it is empty for the only one.
    """

    suffix: str
    train: tuple[str, ...]
    val: str

    def member(self, model: str) -> str:
        """The name of a model, or of an ensemble, in this fold."""
        return f"{model}{self.suffix}"

    @property
    def human(self) -> tuple[str, ...]:
        """All splits of human labels but test."""
        return (*self.train, self.val)


def folds_of(config: Config) -> tuple[Fold, ...]:
    """The folds of a run: K, or the one hold-out of the data's own val."""
    if config.rounds.folds is None:
        return (Fold("", (HUMAN_SPLIT,), "val"),)
    names = [f"fold-{number}" for number in range(config.rounds.folds)]
    splits = {name: f"{FOLDS}/{name}" for name in names}
    return tuple(
        Fold(f".{name}", tuple(splits[other] for other in names if other != name), splits[name]) for name in names
    )
