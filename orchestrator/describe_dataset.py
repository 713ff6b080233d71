"""Finds the config that reads a path of the command line, and describes its data set."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cellsemi.configs.data import DROP, EVERY_OTHER, IGNORE, DataConfig
from cellsemi.configs.errors import ImageError, UsageError
from cellsemi.configs.loading import change_config, load_config
from cellsemi.configs.schema import Config
from cellsemi.rounds.datasets.open import list_data
from cellsemi.rounds.formats.base import Item
from cellsemi.rounds.formats.shared.detection import Detected
from cellsemi.rounds.inspect.advice import Hint, hints
from cellsemi.rounds.inspect.detect import detect
from cellsemi.rounds.inspect.statistics import ONLY_CLASS, Inspection, discover_classes, inspect, kinds
from cellsemi.rounds.inspect.suggest import Suggested, suggest
from cellsemi.rounds.report.contact_sheet import Panel, contact_sheet, windows
from cellsemi.rounds.store import files

SAMPLE = 200  # images that `cellsemi init` reads for its figures, spread over the data set

Count = Callable[[str, int, int], None]  # what, done, of


@dataclass(frozen=True, slots=True)
class DataSource:
    """A config, how its data section came about, and whether it names the classes."""

    config: Config
    detected: Detected
    classes_stated: bool


@dataclass(frozen=True, slots=True)
class Look:
    """What `cellsemi data inspect` found: `suggested` is the config that follows from it."""

    detected: Detected
    found: Inspection
    hints: tuple[Hint, ...]
    suggested: Suggested
    picture: Path | None

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        detected = {
            "source": self.detected.source,
            "tool": self.detected.tool,
            "why": self.detected.why,
            "others": list(self.detected.others),
        }
        data = self.suggested.config.data.model_dump(mode="json", exclude_defaults=True)
        section = {"source": self.detected.source, **data, "classes": list(self.suggested.config.data.classes)}
        picture = None if self.picture is None else str(self.picture)
        return {
            **detected,
            "data": section,
            "config": self.suggested.text,
            **self.found.to_json(),
            "hints": [hint.text for hint in self.hints],
            "picture": picture,
        }


def describe(path: Path | None, source: str | None, settings: Sequence[str]) -> DataSource:
    """The config for `path`: its data section is recognised, unless `source` or `settings` say data.source.

    Without a path the config names the data set. UsageError or ConfigError when they do not fit together.
    """
    if path is None:
        return _as_stated(load_config(source, settings).config)
    root = f"data.root={json.dumps(str(path))}"
    stated = any(setting.startswith("data.source=") for setting in settings)
    if (source is not None and load_config(source, [root]).config.data.source != "generated") or stated:
        if not path.is_dir():
            raise UsageError(f"{path}: not a folder; with a data.source that is stated, PATH is data.root")
        return _as_stated(_changed(source, [root, *settings]))
    detected = detect(path)
    section = json.dumps({"source": detected.source, **detected.settings})
    config = _changed(source, [f"data={section}", *settings])
    return DataSource(config, _with_settings(detected, config.data), _states_classes(config.data))


def _changed(source: str | None, settings: Sequence[str]) -> Config:
    """A config file or preset, or else the defaults, with some settings changed."""
    return (load_config(source, settings) if source else change_config({}, "the defaults", settings)).config


def with_classes(source: DataSource, count: Count) -> Config:
    """The config with the class names of the data set, where it does not name any itself."""
    if source.classes_stated:
        return source.config
    data, seed = source.config.data, source.config.run.seed
    found = discover_classes(data, seed, lambda done, of: count("look for class names", done, of))
    names = [name for name in found if name not in data.class_map] or [ONLY_CLASS]
    section = data.model_dump(mode="json", exclude_unset=True) | {"classes": names}
    return source.config.model_copy(update={"data": DataConfig.model_validate(section)})


def look(source: DataSource, limit: int | None, picture: Path | None, count: Count) -> Look:
    """Inspect a data set, and draw a few of its images into `picture`."""
    data = source.config.data
    opened = list_data(data, source.config.run.seed, must_draw=False)
    found, chosen = inspect(opened, data, limit, lambda done, of: count("read images", done, of))
    by_id = {item.image_id: item for item in opened.items}
    panels = list(_panels([by_id[image_id] for image_id in chosen]))
    if picture is not None and panels:
        files.write_bytes(picture, contact_sheet(panels))
    found_hints = hints(found, data, source.config.rounds.folds)
    unmapped = tuple(name for name in found.classes if name not in data.class_map) or (ONLY_CLASS,)
    classes = data.classes if source.classes_stated else unmapped
    suggested = suggest(source.config, source.detected, found, found_hints, classes)
    return Look(source.detected, found, tuple(found_hints), suggested, picture if panels else None)


def look_briefly(source: DataSource, count: Count) -> Look:
    """The same without a picture, with figures of at most SAMPLE images; the class names are those of all images."""
    return look(replace(source, config=with_classes(source, count), classes_stated=True), SAMPLE, None, count)


def _as_stated(config: Config) -> DataSource:
    detected = Detected(config.data.source, {}, "as the config says")
    return DataSource(config, _with_settings(detected, config.data), _states_classes(config.data))


def _with_settings(detected: Detected, data: DataConfig) -> Detected:
    """The same with all settings of a section, changed by --set as they may be."""
    settings = data.model_dump(mode="json", exclude_defaults=True, exclude={"source", "classes"})
    return replace(detected, source=data.source, settings=settings)


def _states_classes(data: DataConfig) -> bool:
    """Whether a section names the classes; a map that only ignores or drops names leaves the others to be found."""
    named = set(data.class_map.values()) - {IGNORE, DROP}
    return "classes" in data.model_fields_set or bool(named) or EVERY_OTHER in data.class_map


def _panels(items: Sequence[Item]) -> Iterator[Panel]:
    """The images of the sheet, read again: parts of them that show each kind of cell that none before shows."""
    shown: set[str] = set()
    for item in items:
        try:
            loaded = item.load()
        except ImageError:
            continue  # it has changed since it was counted
        cells = loaded.record.instances
        assert cells is not None and item.split is not None, "images with cells were chosen"
        classes = loaded.classes or (item.cell_type or ONLY_CLASS,)
        of_cell = kinds(cells, classes)
        record = loaded.record.with_(image_id=item.image_id)
        for window in windows(cells, of_cell, set(of_cell) - shown):
            yield Panel(record, cells, classes, item.split, window)
        shown |= set(of_cell)
