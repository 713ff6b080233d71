"""Takes a trained model through validation images; one that the model cannot do is left out, with the reason."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from cellsemi.configs.errors import Caught, CellsemiError, in_one_line
from cellsemi.models.base import Image
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.image_codec import decode_image

log = logging.getLogger(__name__)

T = TypeVar("T")


def over_images(
    folder: Path, max_pixels: int, use: Callable[[Image, Instances], T], left_out: dict[str, str]
) -> Iterator[T]:
    """`use(image, human cells)` of each image of a folder of shards.

    An image for which it raises an error is left out, and `left_out` gets its id and the reason: it must not cost a
    training. When that would be every image, the last error is raised: then the images are not the cause.
    """
    worked = False
    last: Exception | None = None
    for record in shards.read_folder(folder):
        assert record.image is not None and record.instances is not None
        with Caught() as caught:
            found = use(decode_image(record.image, record.image_id, max_pixels), record.instances)
        if caught.error is not None:
            last = caught.error
            if isinstance(last, CellsemiError):
                raise last
            log.error("validation image %s is left out", record.image_id, exc_info=last)
            left_out[record.image_id] = in_one_line(last)
            continue
        worked = True
        yield found
    if last is not None and not worked:
        raise last
