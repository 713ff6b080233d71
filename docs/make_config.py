"""Write docs/config.md from the settings, and the table of docs/models.md: `make docs`. A test refuses old pages."""

from __future__ import annotations

from pathlib import Path

from cellsemi.configs.describe import field_table
from cellsemi.configs.presets.figures import table
from cellsemi.configs.presets.preset_files import preset_names

PAGE, MODELS = Path(__file__).with_name("config.md"), Path(__file__).with_name("models.md")
FIRST, LAST = "<!-- figures -->", "<!-- end of figures -->"
HEAD = """# Settings

Written by `make docs` from the descriptions in `configs/schema.py`; change them there.

A config is a YAML file. What it leaves out has the default below; what it holds and this page does not is
refused, with the nearest valid key. `cellsemi init` writes a file with every setting and its explanation,
and `--set training.steps=100` changes one for one call. Without `--config` the file `cellsemi.yaml` of the
current folder is used, and without that the preset `demo`. Presets: {presets}.

All settings but `engine`, `tracking` and `run.root` are part of what a run is: a run goes on only with those that it
was started with, and says which differ.

`N` stands for a position in a list (`models.0.name`), `CLASS` for a class name. Units stand in the names:
`_px` pixels, `_s` seconds, `_mb` megabytes.
"""


def page() -> str:
    """The whole page: a table for each section of the config."""
    lines = [HEAD.format(presets=", ".join(f"`{name}`" for name in preset_names())).rstrip()]
    for path, kind, default, description in field_table():
        if "." not in path:
            lines += ["", f"## {path}", "", description, ""]
            lines += ["| setting | type | default | meaning |", "|---|---|---|---|"]
        if kind != "section":
            shown = f"`{default}`" if default else ""
            lines.append(f"| `{path}` | {_cell(kind)} | {_cell(shown)} | {_cell(description)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """A table cell: a bar would end it."""
    return text.replace("|", "\\|")


def models_page() -> str:
    """docs/models.md with the figures of the reports beside those of the presets."""
    before, rest = MODELS.read_text(encoding="utf-8").split(FIRST)
    return before + "\n".join([FIRST, "", *table(), "", LAST]) + rest.split(LAST)[1]


if __name__ == "__main__":
    MODELS.write_text(models_page(), encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
