"""Describes filter.json: the calibration and the thresholds that a round's pseudo-labels were filtered with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cellsemi.rounds.pseudo_labels.quality import Quality
from cellsemi.rounds.pseudo_labels.thresholds import Thresholds
from cellsemi.rounds.store.on_disk import OnDisk


class FilterFile(OnDisk):
    """The content of `round-NN/filter.json`.

    `calibration`, `regressor` and `notes` are those of `Quality.to_json`, `thresholds` those of
    `Thresholds.to_json`. `wrong_background` is the share of the pixels of validation cells that would be taught as
    background, by class; images of the classes in `not_taught`, where it is above the limit, train nobody.
    `label_score` is the F1 of the accepted masks on validation images. `report` says all this in sentences.
    """

    calibration: dict[str, object]
    regressor: dict[str, object] | None
    notes: tuple[str, ...]
    thresholds: dict[str, object]
    wrong_background: dict[str, float]
    not_taught: tuple[str, ...]
    label_score: float
    report: tuple[str, ...]

    @classmethod
    def of(
        cls,
        quality: Quality,
        thresholds: Thresholds,
        wrong_background: Mapping[str, float],
        limit: float,
        label_score: float,
    ) -> FilterFile:
        """The file of what was fitted, chosen and measured; `limit` is that on the wrong background."""
        above = tuple(name for name, share in wrong_background.items() if share > limit)
        return cls(
            **quality.to_json(),
            thresholds=thresholds.to_json(),
            wrong_background=dict(wrong_background),
            not_taught=above,
            label_score=label_score,
            report=(
                *quality.report(),
                *thresholds.report(),
                f"accepted masks on validation images: F1 {label_score:.2f} at IoU > .5",
                *_background_report(wrong_background, above, limit),
            ),
        )


def _background_report(wrong: Mapping[str, float], above: Sequence[str], limit: float) -> list[str]:
    if not wrong:
        return []
    shares = ", ".join(f"{name} {share:.1%}" for name, share in wrong.items())
    sentences = [
        "pixels of validation cells that would be taught as background, if their images were unlabelled: "
        f"{shares} (at most {limit:.0%} is allowed)"
    ]
    if above:
        sentences.append(f"images of {', '.join(above)} train nobody in this round: too much of their cells is missed")
    return sentences
