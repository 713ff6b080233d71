"""Measures what workers reserve and what becomes of it: computing, starting, lost, and the rest, idle.

An engine samples the workers that it holds; the scheduler knows what each is busy with. Both only ever add up, so
that whoever takes the difference since the last time now and then loses nothing, whatever happens to the process later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Seconds:
    """Seconds of workers, or of GPUs.

    reserved    held for us, whether used or not
    starting    of a worker that starts the job: imports, the loading of a model
    computing   spent on items that were finished, or are in progress
    lost        spent on attempts that came to nothing
    """

    reserved: float = 0.0
    starting: float = 0.0
    computing: float = 0.0
    lost: float = 0.0

    @property
    def idle(self) -> float:
        """What is left of the reserved ones."""
        return max(0.0, self.reserved - self.starting - self.computing - self.lost)

    def plus(self, other: Seconds, factor: float = 1.0) -> Seconds:
        """The sum with so many times another.

        >>> Seconds(4.0, computing=1.0).plus(Seconds(2.0, computing=2.0), -0.5)
        Seconds(reserved=3.0, starting=0.0, computing=0.0, lost=0.0)
        """
        return Seconds(
            self.reserved + factor * other.reserved,
            self.starting + factor * other.starting,
            self.computing + factor * other.computing,
            self.lost + factor * other.lost,
        )

    def rounded(self) -> Seconds:
        """In whole milliseconds."""
        return Seconds(*(round(each, 3) for each in (self.reserved, self.starting, self.computing, self.lost)))


class Spent:
    """Adds up what the workers of a scheduler were busy with, but for what is in progress.

    `saved_every_s`: an item that is lost costs at most this, since it goes on from a checkpoint; None: all of it.
    """

    def __init__(self, saved_every_s: float | None) -> None:
        self._saved_every_s = saved_every_s
        self.total = Seconds()

    def started(self, seconds: float) -> None:
        """A worker has started the job."""
        self.total = self.total.plus(Seconds(starting=seconds))

    def computed(self, seconds: float) -> None:
        """A worker has finished an item."""
        self.total = self.total.plus(Seconds(computing=seconds))

    def lost(self, seconds: float, *, saved: bool) -> None:
        """An attempt came to nothing, but for what was `saved` of it."""
        most = self._saved_every_s if saved else None
        kept = 0.0 if most is None else max(0.0, seconds - most)
        self.total = self.total.plus(Seconds(computing=kept, lost=seconds - kept))


@dataclass(frozen=True, slots=True)
class NodeLoad:
    """The workers that a node holds for us, and the GPUs that they reserve."""

    workers: int
    gpus: float = 0.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used since the last time, and where the workers are now, by the name of the node.

    `nodes` None: as before. `cluster_gpus` are all GPUs of the cluster, whoever holds them; None: they are not counted.
    """

    workers: Seconds = Seconds()
    gpus: Seconds = Seconds()
    nodes: Mapping[str, NodeLoad] | None = None
    cluster_gpus: float | None = None

    def rounded(self, nodes: Mapping[str, NodeLoad] | None) -> Usage | None:
        """In whole milliseconds, with these nodes; None where nothing is left to say."""
        workers, gpus = self.workers.rounded(), self.gpus.rounded()
        if nodes is None and workers == gpus == Seconds():
            return None
        return Usage(workers, gpus, nodes, self.cluster_gpus)


@dataclass(frozen=True, slots=True)
class Held:
    """A worker process that is held: on which node, with how many GPUs."""

    node: str
    gpus: float


class Busy(Protocol):
    """What a scheduler says of its workers: seconds by what they were busy with, since it began."""

    def spent(self, now_s: float) -> Seconds:
        """Of all its workers together; `reserved` is 0: a scheduler does not see who stands by."""
        ...


class Meter:
    """Adds up the usage of an engine; its caller passes the time in, in seconds that never go back."""

    def __init__(self) -> None:
        self._workers = self._gpus = Seconds()  # of the schedulers that are over, and all that was reserved
        self._taken = (Seconds(), Seconds())
        self._held: tuple[Held, ...] = ()
        self._sampled_s: float | None = None
        self._busy: tuple[Busy, float] | None = None  # the scheduler at work, and the GPUs of each of its workers

    def begin(self, busy: Busy, gpus: float) -> None:
        """A scheduler begins, each of whose workers holds so many GPUs."""
        self._busy = (busy, gpus)

    def end(self, now_s: float) -> None:
        """The scheduler is over, or given up."""
        self._workers, self._gpus = self._totals(now_s)
        self._busy = None

    def sample(self, held: Iterable[Held], now_s: float) -> None:
        """These workers are held from now on; those of the last time were until now."""
        self._reserve(now_s)
        self._held = tuple(held)

    def take(self, now_s: float, cluster_gpus: float | None = None) -> Usage:
        """The usage since the last `take`."""
        self._reserve(now_s)
        totals, before = self._totals(now_s), self._taken
        self._taken = totals
        workers, gpus = (now.plus(then, -1.0) for now, then in zip(totals, before, strict=True))
        return Usage(workers, gpus, self._nodes(), cluster_gpus)

    def _reserve(self, now_s: float) -> None:
        passed_s = 0.0 if self._sampled_s is None else now_s - self._sampled_s
        self._sampled_s = now_s
        self._workers = self._workers.plus(Seconds(passed_s), len(self._held))
        self._gpus = self._gpus.plus(Seconds(passed_s), sum(held.gpus for held in self._held))

    def _totals(self, now_s: float) -> tuple[Seconds, Seconds]:
        if self._busy is None:
            return self._workers, self._gpus
        scheduler, gpus = self._busy
        spent = scheduler.spent(now_s)
        return self._workers.plus(spent), self._gpus.plus(spent, gpus)

    def _nodes(self) -> dict[str, NodeLoad]:
        found: dict[str, NodeLoad] = {}
        for held in self._held:
            before = found.get(held.node, NodeLoad(0))
            found[held.node] = NodeLoad(before.workers + 1, before.gpus + held.gpus)
        return dict(sorted(found.items()))
