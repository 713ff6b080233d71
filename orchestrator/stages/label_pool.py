"""Labels the unlabelled images: the teachers predict them, their predictions are fused and filtered, in one pass."""

from __future__ import annotations

from cellsemi.orchestrator.stages.filter_pseudo_labels import filtering, note_votes
from cellsemi.orchestrator.stages.fuse import fusion_of
from cellsemi.orchestrator.stages.predict import note_warnings, prediction
from cellsemi.orchestrator.steps.context import Context
from cellsemi.orchestrator.steps.one_pass import one_pass
from cellsemi.rounds.evaluation.ensemble import Ensemble
from cellsemi.rounds.store.folds import folds_of
from cellsemi.rounds.store.predictions import UNLABELLED, PredictionSet


def label_pool(context: Context, round: int, teachers: Ensemble) -> None:
    """The pseudo-labels of a round, in every fold; `filter.json` and the teachers' calibration are there already."""
    note_votes(context, round, teachers)
    for fold in folds_of(context.config):
        sets = [PredictionSet(teachers.round, name, fold, UNLABELLED) for name in teachers.members]
        predictions = [
            (prediction(context, round, each), context.paths.model(each.round, each.member)) for each in sets
        ]
        then = [fusion_of(context, round, teachers, (fold,), UNLABELLED), filtering(context, round, teachers, fold)]
        one_pass(context, f"{fold.member('label')} unlabelled with {', '.join(teachers.members)}", predictions, then)
        for each in sets:
            note_warnings(context, each)
