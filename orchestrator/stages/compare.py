"""Two rivals on the validation images: the ensembles of two rounds, or one of them and the control."""

from __future__ import annotations

from dataclasses import dataclass

from cellsemi.orchestrator.stages import measure_sizes
from cellsemi.orchestrator.stages.context import Context
from cellsemi.rounds.evaluation.evaluation_table import Evaluation
from cellsemi.rounds.evaluation.promotion import Decision, Sized, decide
from cellsemi.rounds.seeds import derive_seed
from cellsemi.rounds.store.prediction_splits import Calibrations


@dataclass(frozen=True, slots=True)
class Contender:
    """The ensemble or the control of a round: its `members` with the `worth` of their scores, and how it did on val."""

    round: int
    name: str  # ENSEMBLE or CONTROL
    members: tuple[str, ...]
    worth: Calibrations
    val: Evaluation


def compare(context: Context, round: int, candidate: Contender, best: Contender | None) -> Decision:
    """Whether the candidate beats the best so far (None: there is none), at the sizes of the pool."""
    config = context.config
    sized: list[Sized] = []
    if best is not None:
        for size, share in measure_sizes.shares(context).items():
            new, old = (
                measure_sizes.scores_at(
                    context, round, each.round, each.name, each.members, each.worth, size, each.val.threshold
                )
                for each in (candidate, best)
            )
            sized.append(Sized(size, share, new, old))
    seed = derive_seed(config.run.seed, "promotion", round)
    rival = None if best is None else best.val.scores
    return decide(candidate.val.scores, rival, config.data.classes, config.rounds.promotion, seed, sized)
