"""Writes the pictures that the browser shows into a folder that is removed when the app ends."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from cellsemi.rounds.drawing import RGB
from cellsemi.rounds.store import files

QUALITY = 92
KEEP_S = 120.0  # a browser has long fetched its picture by then


@dataclass(frozen=True, slots=True)
class Pictures:
    """The folder for pictures and downloads."""

    folder: Path

    def write(self, picture: RGB) -> str:
        """The path of a JPEG of uint8 (h, w, 3), its colours as sharp as its grey; old ones are removed."""
        import cv2

        place = self.folder / "pictures"
        place.mkdir(exist_ok=True)
        for old in place.glob("*.jpg"):
            if time.time() - old.stat().st_mtime > KEEP_S:
                old.unlink(missing_ok=True)
        sharp = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        done, content = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY, *sharp])
        assert done, "any uint8 picture can be a JPEG"
        path = place / f"{uuid.uuid4().hex}.jpg"
        files.write_bytes(path, content.tobytes(), durable=False)
        return str(path)

    def keep(self, name: str, content: bytes) -> str:
        """The path of a file that stays until the app ends."""
        path = self.folder / uuid.uuid4().hex[:12] / name
        files.write_bytes(path, content, durable=False)
        return str(path)
