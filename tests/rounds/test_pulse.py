"""A listener hears that work goes on."""

from pathlib import Path

import numpy as np

from cellsemi.rounds import pulse
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.image_record import record_of


def test_reading_images_is_heard_within_the_block_alone(tmp_path: Path) -> None:
    image = np.zeros((4, 4), np.uint8)
    shards.write_shard(tmp_path / shards.part_name(0), [record_of(image, str(i), str(i), "val") for i in range(6)], "")
    heard: list[int] = []
    pulse.beat()
    with pulse.heard_by(lambda: heard.append(1)):
        assert len(list(shards.read_folder(tmp_path))) == 6 == len(heard)
        with pulse.heard_by(lambda: heard.append(2)):
            pulse.beat()
        pulse.beat()
    pulse.beat()
    assert heard == [1] * 6 + [2, 1]
