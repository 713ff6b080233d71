"""Describes filter.json: the calibration and the thresholds that a round's pseudo-labels were filtered with."""

from __future__ import annotations

from cellsemi.rounds.pseudo_labels.quality import Quality
from cellsemi.rounds.pseudo_labels.thresholds import Thresholds
from cellsemi.rounds.store.on_disk import OnDisk


class FilterFile(OnDisk):
    """The content of `round-NN/filter.json`.

    `calibration`, `regressor` and `notes` are those of `Quality.to_json`, `thresholds` those of
    `Thresholds.to_json`; `report` says in sentences where they come from.
    """

    calibration: dict[str, object]
    regressor: dict[str, object] | None
    notes: tuple[str, ...]
    thresholds: dict[str, object]
    report: tuple[str, ...]

    @classmethod
    def of(cls, quality: Quality, thresholds: Thresholds) -> FilterFile:
        """The file of what was fitted and chosen."""
        return cls(
            **quality.to_json(),
            thresholds=thresholds.to_json(),
            report=(*quality.report(), *thresholds.report()),
        )
