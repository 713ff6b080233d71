"""The rules of the scheduler, as the settings and the job state them."""

from dataclasses import dataclass

from cellsemi.configs.schema import EngineConfig
from cellsemi.orchestrator.engine.protocol import Record
from cellsemi.orchestrator.engine.scheduling_rules import map_rules, task_rules


@dataclass(frozen=True)
class Plain:
    """A job that shows nothing of its progress."""

    name: str = "plain"
    uses_device: bool = True

    def start(self) -> "Plain":
        return self

    def run(self, item: int) -> Record:
        return {}


@dataclass(frozen=True)
class Shown(Plain):
    def progress(self, item: int) -> object:
        return item


def test_rules_come_from_the_config() -> None:
    config = EngineConfig(max_attempts=5, shard_deadline_s=7, start_deadline_s=8, progress_deadline_s=9)
    mapped, trained = map_rules(config, Shown()), task_rules(config, Shown(), fresh=True)
    assert (mapped.deadline_s, mapped.first_sign_s, mapped.max_attempts) == (7, None, 5)
    assert (mapped.depth, mapped.fresh, mapped.start_deadline_s) == (2, False, 8)
    assert (trained.deadline_s, trained.first_sign_s, trained.max_attempts) == (9, 8, 5)
    assert (trained.depth, trained.fresh, trained.start_deadline_s) == (1, True, 8)
    assert task_rules(config, Plain(), fresh=False).deadline_s is None
