"""Defines what of a run is shown to trackers of experiments, and whether anything of it leaves the machine."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from cellsemi.configs.base import Section

TrackerName = Literal["tensorboard", "trackio", "wandb", "mlflow"]


class TrackingConfig(Section):
    """Who is shown the curves, scores and pictures of a run. A list stands for `to`: `tracking: [tensorboard, wandb]`.

    Not part of the run's identity: change it freely between calls.
    """

    to: tuple[TrackerName, ...] = Field(
        ("tensorboard",),
        description="Trackers: `tensorboard` writes files below `tracking/` of the run; `trackio`, `wandb` and "
        "`mlflow` are extras (`pip install 'cellsemi[wandb]'`) and write there, too.",
    )
    online: bool = Field(
        False,
        description="true: W&B sends to its server, Trackio and MLflow to `address`, with the settings of the run. "
        "false: nothing leaves the machine, whatever the environment says.",
    )
    address: str | None = Field(
        None, description="With `online`: MLflow's tracking server, Trackio's server or Space, W&B's own server."
    )
    project: str = Field(
        "cellsemi", min_length=1, max_length=64, description="The project that the run is filed under."
    )

    @model_validator(mode="before")
    @classmethod
    def _a_list_names_trackers(cls, data: Any) -> Any:
        return {"to": data} if isinstance(data, list | tuple) else data

    @model_validator(mode="after")
    def _an_address_is_sent_to(self) -> TrackingConfig:
        if self.address is not None and not self.online:
            raise ValueError("tracking.address is not used without tracking.online: true")
        return self
