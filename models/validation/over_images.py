"""Takes a trained model through validation images; one that the model cannot do is left out, with the reason."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from cellsemi.configs.errors import CellsemiError
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
    worked, last = False, None
    for record in shards.read_folder(folder):
        assert record.image is not None and record.instances is not None
        try:
            found = use(decode_image(record.image, record.image_id, max_pixels), record.instances)
        except CellsemiError:
            raise
        except Exception as error:  # of a network or of what it calls; its kind cannot be foreseen
            log.exception("validation image %s is left out", record.image_id)
            left_out[record.image_id] = " ".join(f"{type(error).__name__}: {error}".split())
            last = error
            continue
        worked = True
        yield found
    if last is not None and not worked:
        raise last
