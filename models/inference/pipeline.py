"""Predicts a stream of images: while the network sees some, threads decode the next and recover the cells of the last.

Groups of `images_at_once` images go through the network together, in the order of the stream, so that the result is the
same with any number of threads. Decoding, recovery, scoring and encoding are compiled code that lets other threads
of Python run for most of their time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

from cellsemi.models.base import Begun, Image, Predictor, staged
from cellsemi.rounds.cells.instances import Instances

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Source(Generic[T]):
    """An image that is still encoded: what it stands for, its id, and what decodes it, in any thread."""

    item: T
    image_id: str
    decode: Callable[[], Image]


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """The cells of an image; `broken`: a part of the network's output was not finite (models.base.NOT_FINITE)."""

    item: T
    cells: Instances
    broken: bool


def predict_stream(
    predictor: Predictor, sources: Iterable[Source[T]], scale: float = 1.0, threads: int = 0
) -> Iterator[Found[T]]:
    """The cells of each image, in order, as models.base.Predictor.predict finds them.

    With 0 `threads` everything is done here, one group of images after another. With more, at most two groups are
    decoded ahead, and as many images as two groups and the threads wait for their recovery.
    """
    ready = staged(predictor)
    groups = _groups(iter(sources), ready.images_at_once)
    if not threads:
        for group in groups:
            begun = ready.begin([ready.prepare(each.decode()) for each in group], _ids(group), scale)
            for each, one in zip(group, begun, strict=True):
                yield _found(each, one)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="labelling") as pool:
        ahead: deque[tuple[list[Source[T]], list[Future[Any]]]] = deque()
        behind: deque[Future[Found[T]]] = deque()
        try:
            while True:
                for group in islice(groups, 2 - len(ahead)):
                    ahead.append((group, [pool.submit(lambda s: ready.prepare(s.decode()), each) for each in group]))
                if not ahead:
                    break
                group, prepared = ahead.popleft()
                begun = ready.begin([each.result() for each in prepared], _ids(group), scale)
                behind.extend(pool.submit(_found, each, one) for each, one in zip(group, begun, strict=True))
                while len(behind) > 2 * ready.images_at_once + threads or (behind and behind[0].done()):
                    yield behind.popleft().result()
            while behind:
                yield behind.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _groups(sources: Iterator[Source[T]], size: int) -> Iterator[list[Source[T]]]:
    while group := list(islice(sources, size)):
        yield group


def _ids(group: Sequence[Source[Any]]) -> list[str]:
    return [each.image_id for each in group]


def _found(source: Source[T], begun: Begun) -> Found[T]:
    return Found(source.item, begun.recover().encode(), begun.broken)
