"""Validates what the JSON files of a run hold: small frozen models, checked whenever one is read."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from cellsemi.configs.errors import RunError
from cellsemi.rounds.store import files
from cellsemi.rounds.store.unaltered import MANIFEST, check_output, missing


class OnDisk(BaseModel):
    """What a JSON file of a run holds: frozen, validated when read, an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def read(cls, path: Path) -> Self:
        """The content of a file; RunError when it is missing, altered, or not of this kind."""
        check_output(path.parent if path.name == MANIFEST else path)
        if not path.is_file():
            raise missing(path)
        try:
            return cls.model_validate(files.read_json(path))
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(map(str, problem["loc"]))
            raise RunError(f"{path}: damaged or of another version ({place}: {problem['msg']})") from None

    def write(self, path: Path) -> None:
        """Write the file atomically; what has its default value is left out."""
        files.write_json(path, self.model_dump(mode="json", exclude_defaults=True))
