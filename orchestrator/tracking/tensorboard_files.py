"""Writes TensorBoard event files: a folder for each training, and one for the scores of each model over the rounds.

The writer and the messages are TensorBoard's own, without torch: the driver has no need of it.
"""

from __future__ import annotations

import struct
import time
from typing import Any

from cellsemi.orchestrator.tracking.protocol import Place, Point


class TensorBoard:
    """`tensorboard --logdir FOLDER` shows what is written; see Tracker."""

    def __init__(self, place: Place) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._new_writer, self._event, self._summary = EventFileWriter, event_pb2.Event, summary_pb2.Summary
        self._folder = place.folder
        self._writers: dict[str, Any] = {}

    def log(self, point: Point) -> None:
        """See Tracker."""
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in point.metrics.items()]
        values += [self._picture(name, content) for name, content in point.pictures.items()]
        if point.prefix not in self._writers:
            self._writers[point.prefix] = self._new_writer(str(self._folder / point.prefix))
        summary = self._summary(value=values)
        self._writers[point.prefix].add_event(self._event(wall_time=time.time(), step=point.at, summary=summary))

    def close(self) -> None:
        """See Tracker."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _picture(self, name: str, content: bytes) -> Any:
        width, height = struct.unpack(">II", content[16:24])  # the header of a PNG
        image = self._summary.Image(height=height, width=width, colorspace=3, encoded_image_string=content)
        return self._summary.Value(tag=name, image=image)
