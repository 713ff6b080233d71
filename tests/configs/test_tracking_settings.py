"""The settings of trackers: a list is enough, and what would send without being asked is refused."""

from __future__ import annotations

import pytest

from cellsemi.configs.errors import ConfigError
from cellsemi.configs.loading import config_difference, config_hash, load_config


def test_a_list_names_the_trackers_and_nothing_is_sent() -> None:
    tracking = load_config("demo", ["tracking=[tensorboard, wandb]"]).config.tracking
    assert tracking.to == ("tensorboard", "wandb") and not tracking.online and tracking.address is None
    assert load_config("demo").config.tracking.to == ("tensorboard",)
    assert load_config("demo", ["tracking.online=true"]).config.tracking.to == ("tensorboard",)
    assert load_config("demo", ["tracking=[]"]).config.tracking.to == ()


def test_an_address_without_online_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"tracking.online: true"):
        load_config("demo", ["tracking.address=http://tracker"])
    with pytest.raises(ConfigError, match="tracking"):
        load_config("demo", ["tracking=[neptune]"])


def test_trackers_are_no_part_of_what_a_run_is() -> None:
    one, other = (load_config("demo", [f"tracking={names}"]).config for names in ("[]", "[mlflow]"))
    assert config_hash(one) == config_hash(other) and config_difference(one, other) == []
