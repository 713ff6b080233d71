"""The presets, one YAML file each, and the name of the local config. Reads text and checks nothing.

Imports nothing large, so that the command line can name them in its help.
"""

from __future__ import annotations

from pathlib import Path

from cellsemi.configs.errors import UsageError

LOCAL_FILE = Path("cellsemi.yaml")
DEFAULT_PRESET = "demo"
_FOLDER = "cellsemi.configs.presets"


def preset_names() -> list[str]:
    """Names of the packaged presets, sorted."""
    from importlib import resources

    return sorted(Path(f.name).stem for f in resources.files(_FOLDER).iterdir() if f.name.endswith(".yaml"))


def preset_text(name: str) -> str:
    """The YAML text of a packaged preset; UsageError when there is none of that name."""
    from importlib import resources

    if name not in preset_names():
        raise UsageError(f"no preset is called {name!r}; there are: {', '.join(preset_names())}")
    return resources.files(_FOLDER).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
