"""Chooses the config of a call of `cellsemi round`: that of the run which it names, or that of a file."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence

from cellsemi.configs.errors import UsageError
from cellsemi.configs.loading import LoadedConfig, config_difference, load_config
from cellsemi.configs.presets.preset_files import LOCAL_FILE
from cellsemi.orchestrator.runs.find_run import RUNS
from cellsemi.rounds.store import files
from cellsemi.rounds.store.run import RunPaths, paths_of, read_config


def choose_config(source: str | None, run: str | None, settings: Sequence[str]) -> tuple[LoadedConfig, str]:
    """The config of a call, and a sentence where ./cellsemi.yaml says otherwise, else "".

    `source` is --config. Without it a `run` (a name or a folder) that exists goes on with its own run.yaml, whatever
    ./cellsemi.yaml says; any other name is that of a new run, with the config that there is. Later `settings` win.
    """
    paths = _existing(run, settings) if source is None and run is not None else None
    if paths is None:
        named = [] if run is None else [f"run.name={json.dumps(run)}"]
        return load_config(source, [*settings, *named]), ""
    read_config(paths)  # a run.yaml that was emptied or cut has its own error
    place = [f"run.name={json.dumps(paths.name)}"]
    if paths_of(load_config(str(files.local(paths.config)), place).config) != paths:
        place.append(f"run.root={json.dumps(str(paths.root.parent))}")
    loaded = load_config(str(files.local(paths.config)), [*settings, *place])
    return LoadedConfig(loaded.config, f"the run's own, {paths.config}"), _unread(paths, place)


def _existing(run: str, settings: Sequence[str]) -> RunPaths | None:
    """The run of a name below run.root or ./runs, or of a folder; None when there is none."""
    folders = []
    with contextlib.suppress(UsageError):  # a file that is not to be read need not be right, and a folder is no name
        folders.append(paths_of(load_config(None, [*settings, f"run.name={json.dumps(run)}"]).config).root)
    if not any(setting.startswith("run.root=") for setting in settings):
        folders += [RUNS / run, files.place(run)]
    found = (RunPaths(folder.resolve()) for folder in folders)
    return next((paths for paths in found if paths.config.is_file()), None)


def _unread(paths: RunPaths, place: Sequence[str]) -> str:
    """What to know of a ./cellsemi.yaml that is there and is not read."""
    if not LOCAL_FILE.is_file():
        return ""
    takes = f"--config {LOCAL_FILE} --run {paths.name} takes it"
    try:
        changes = config_difference(read_config(paths), load_config(str(LOCAL_FILE), place).config)
    except UsageError:
        return f"./{LOCAL_FILE} is not valid and is not read"
    if not changes:
        return ""
    more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
    return f"./{LOCAL_FILE} is not read; it says otherwise ({changes[0]}{more}); {takes}"
