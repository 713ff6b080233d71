"""Suggests the config of a data set: what was recognised, what its figures recommend, and the reason of each line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cellsemi.configs.data import IGNORE, DataConfig
from cellsemi.configs.formats import entry_of
from cellsemi.configs.loading import build_config
from cellsemi.configs.schema import Config
from cellsemi.configs.short_yaml import short_yaml
from cellsemi.rounds.formats.shared.detection import Detected
from cellsemi.rounds.inspect.advice import Hint
from cellsemi.rounds.inspect.statistics import Inspection
from cellsemi.rounds.store.run import SPLITS, run_name

PLACES = {
    "root": "where the data set lies",
    "manifest": "the CSV with the columns id and split",
    "annotations": "the files that list the cells",
    "images": "where the images lie",
    "masks": "where the masks lie",
    "image_suffix": "the end of an image's name",
    "mask_suffix": "the end of a mask's name",
    "class_map": "names in the data, and what they are here",
    "class_column": "this column states the class of an image",
}


@dataclass(frozen=True, slots=True)
class Suggested:
    """A config, the reason of each setting by dotted path, and lines of comment before and after."""

    config: Config
    reasons: dict[str, str]
    header: tuple[str, ...]
    footer: tuple[str, ...]

    @property
    def text(self) -> str:
        """The short config file."""
        return short_yaml(self.config, self.reasons, self.header, self.footer)


def suggest(
    config: Config, detected: Detected, found: Inspection, hints: Sequence[Hint], classes: Sequence[str]
) -> Suggested:
    """What inspection adds to a config: class names, the name of the run, and what the hints recommend.

    `config` has the data section that was recognised or stated. A setting that it states itself is kept, whatever a
    hint recommends. ConfigError when a class of the data set has a name that the config does not accept.
    """
    plain = config.model_dump(mode="json")
    reasons = _reasons_of_data(config.data, detected, found)
    plain["data"]["classes"] = [name for name in classes if name != IGNORE]
    if IGNORE in classes:
        plain["data"]["class_map"] = {**plain["data"]["class_map"], IGNORE: IGNORE}
    if config.data.root is not None and not _states(config, "run.name"):
        plain["run"]["name"] = run_name(config.data.root)
        reasons["run.name"] = "after the folder of the data; --run NAME starts another run"
    for hint in hints:
        if hint.setting and not _states(config, hint.setting):
            *path, name = hint.setting.split(".")
            section = plain
            for part in path:
                section = section[part]
            section[name] = hint.value
            reasons[hint.setting] = hint.reason
    suggested = build_config(plain, str(config.data.root))
    footer = [f"- {hint.text}" for hint in hints if not hint.setting]
    return Suggested(
        suggested, reasons, tuple(_header(detected, found)), tuple(["To consider:", *footer] if footer else [])
    )


def _header(detected: Detected, found: Inspection) -> Iterator[str]:
    counts = ", ".join(f"{found.listed[split]} {split}" for split in SPLITS)
    yield f"{detected.source}: {counts} images" + (f"; figures of {found.seen} of them" if found.sampled else "")
    yield "All that is not here has its default: docs/config.md, or cellsemi init --full."


def _reasons_of_data(data: DataConfig, detected: Detected, found: Inspection) -> dict[str, str]:
    """The reason of each setting of the data section."""
    reasons = {f"data.{name}": why for name, why in PLACES.items()}
    reasons["data.source"] = detected.why if detected.why else entry_of(data.source).layout
    reasons["data.classes"] = ", ".join(
        f"{figures.cells} cells of {name} in {figures.images} images" for name, figures in found.by_class.items()
    )
    group = data.group_column
    reasons["data.group_column"] = f"images of one {group} look alike: they stay on one side of a split"
    return reasons


def _states(config: Config, path: str) -> bool:
    """Whether a file or --set gave the setting, and not its default."""
    section = config
    *parts, name = path.split(".")
    for part in parts:
        if part not in section.model_fields_set:
            return False
        section = getattr(section, part)
    return name in section.model_fields_set
