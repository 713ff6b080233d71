"""The scheduler on a simulated cluster: nothing is lost, nothing hangs, attempts are counted right."""

from helpers.simulated_cluster import RULES, Luck, World
from hypothesis import given, settings
from hypothesis import strategies as st

from cellsemi.configs.errors import EngineError
from cellsemi.orchestrator.engine.scheduler import Scheduler
from cellsemi.orchestrator.engine.scheduling_rules import SchedulingRules, Send, Spawn


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_every_item_ends_once(data: st.DataObject) -> None:
    n, slots, wanted = (data.draw(st.integers(1, most)) for most in (40, 12, 12))
    shares = data.draw(st.tuples(*[st.floats(0, 0.2)] * 4))
    luck = Luck(*shares, poison=data.draw(st.frozensets(st.integers(0, 39), max_size=3)))
    attempts, seed, fresh = data.draw(st.tuples(st.integers(1, 4), st.integers(0, 2**32), st.booleans()))
    rules = SchedulingRules("job", attempts, 60.0, 30.0, depth=1 if fresh else 2, fresh=fresh)
    worlds = [World(Scheduler(range(n), rules, 0.0, wanted), slots, luck, seed) for _ in range(2)]
    ended = set()
    for world in worlds:
        try:
            world.play()
        except EngineError as error:  # rightly, when there are few others: three bad starts in a row
            assert luck.bad_start > 0 and "failed to start 3 times in a row" in str(error)
            ended.add(str(error))
        else:
            assert sorted([*world.scheduler.done, *(f.item for f in world.scheduler.failed)]) == list(range(n))
            world.check()
            ended.add("over")
    assert len(ended) == 1 and worlds[0].log == worlds[1].log


def test_a_thousand_workers_and_their_failures() -> None:
    luck = Luck(crash=0.01, freeze=0.002, error=0.01, bad_start=0.05, poison=frozenset([17, 4711]))
    world = World(Scheduler(range(6000), RULES, 0.0, wanted=1000), 1000, luck, seed=1)
    world.play()
    world.check()
    given_up = {failure.item for failure in world.scheduler.failed}
    assert {17, 4711} <= given_up and len(given_up) < 10
    assert len(world.scheduler.done) + len(given_up) == 6000
    sent = [command.item for command in world.log if isinstance(command, Send)]
    assert list(dict.fromkeys(sent)) == list(range(6000))  # begun in the order given


def test_undisturbed_every_item_is_sent_once_and_no_worker_is_replaced() -> None:
    world = World(Scheduler(range(500), RULES, 0.0, wanted=10), 10, Luck(), seed=3)
    world.play()
    world.check()
    assert len(world.scheduler.done) == 500 == sum(isinstance(command, Send) for command in world.log)
    assert [command for command in world.log if not isinstance(command, Send)] == [Spawn(i) for i in range(10)]
