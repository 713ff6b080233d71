"""Write docs/commands.md from the command line and docs/python-reference.md from the docstrings: `make docs`.

A test refuses old pages.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

import cellsemi
from cellsemi.orchestrator.cli.main import cli

HERE = Path(__file__).parent
COMMANDS_HEAD = """# Commands

Written by `make docs` from the command line itself; `cellsemi COMMAND --help` shows the same. [Settings](config.md) are
changed with `--set` or in `cellsemi.yaml`.

Progress goes to standard error, results to standard output. Exit codes: 0 done, 1 failed, 2 wrong usage,
130 interrupted, 143 terminated. Every command also has `--help`; `cellsemi --version` says the version.
"""
PYTHON_HEAD = """# Python reference

Written by `make docs` from the docstrings of what `import cellsemi` offers. [cellsemi from Python](python.md) shows
it at work. Everything else in the package may change between versions.
"""


class Plain(str):
    """An annotation that is shown as it stands in the source, without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def commands(group: click.Group, prefix: str) -> Iterator[tuple[str, click.Command]]:
    """(name, command) of all that can be called, groups opened, by name."""
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def commands_page() -> str:
    """docs/commands.md."""
    found = list(commands(cli, "cellsemi"))
    lines = [COMMANDS_HEAD.rstrip(), "", "| command | what it does |", "|---|---|"]
    lines += [f"| [`{name}`](#{name.replace(' ', '-')}) | {_cell(paragraphs(each.help)[0])} |" for name, each in found]
    for name, command in found:
        lines += ["", f"## {name}", "", f"`{usage(name, command)}`"]
        for text in paragraphs(command.help):
            lines += ["", text]
        options = [each for each in command.params if isinstance(each, click.Option) and not each.hidden]
        lines += ["", "| option | meaning |", "|---|---|"]
        lines += [f"| {_cell(written(each))} | {_cell(meaning(each))} |" for each in options]
    return "\n".join(lines) + "\n"


def usage(name: str, command: click.Command) -> str:
    """The words of a call: arguments as click names them."""
    arguments = [place(each) for each in command.params if isinstance(each, click.Argument)]
    required = [each.opts[0] for each in command.params if isinstance(each, click.Option) and each.required]
    return " ".join([name, *arguments, *(f"{each} .." for each in required), "[OPTIONS]"])


def place(argument: click.Argument) -> str:
    """An argument as a help page shows it: in brackets where it may be left out, with dots where there may be many."""
    name = (argument.metavar or argument.name or "").upper().strip("[]")
    shown = name if argument.required else f"[{name}]"
    return shown if argument.nargs == 1 else f"{shown} .."


def written(option: click.Option) -> str:
    """How an option is typed, with what follows it."""
    names = ", ".join(f"`{each}`" for each in [*option.opts, *option.secondary_opts])
    if option.is_flag or option.count:
        return names
    if isinstance(option.type, click.Choice):
        return f"{names} " + ", ".join(f"`{each}`" for each in option.type.choices)
    kind = {"integer range": "N", "float range": "X", "integer": "N", "float": "X", "text": "TEXT"}
    shown = option.metavar or kind.get(option.type.name, option.type.name.upper())
    return f"{names} `{shown}`"


def meaning(option: click.Option) -> str:
    """The help of an option, and what follows from how it is defined."""
    text = " ".join((option.help or "").split())
    if option.required:
        text += " Required."
    if option.show_default and option.default is not None:
        text += f" Default: {option.default}."
    return text


def paragraphs(text: str | None) -> list[str]:
    """The paragraphs of a docstring, each on one line."""
    return [" ".join(part.split()) for part in inspect.cleandoc(text or "").split("\n\n") if part.strip()]


def python_page() -> str:
    """docs/python-reference.md: functions first, then what they return."""
    names = sorted(cellsemi.__all__, key=lambda name: (inspect.isclass(getattr(cellsemi, name)), name.lower()))
    lines = [PYTHON_HEAD.rstrip(), "", "| name | what it is |", "|---|---|"]
    for name in names:
        first = paragraphs(getattr(cellsemi, name).__doc__)[0]
        lines.append(f"| [`{name}`](#{name.lower()}) | {_cell(first)} |")
    for name in names:
        found = getattr(cellsemi, name)
        lines += ["", f"## {name}"]
        if inspect.isclass(found):
            lines += [*_texts(found), *_fields(found), *_members(found)]
        else:
            lines += ["", "```text", signature(name, found), "```", *_texts(found)]
    return "\n".join(lines) + "\n"


def signature(name: str, function: Any) -> str:
    """The signature as the source has it; one parameter a line where it is long."""
    found = inspect.signature(function)
    shown = [each.replace(annotation=_plain(each.annotation)) for each in found.parameters.values()]
    plain = found.replace(
        parameters=[each for each in shown if each.name != "self"],
        return_annotation=_plain(found.return_annotation),
    )
    line = f"{name}{plain}"
    if len(line) <= 100:
        return line
    inner = [str(each) for each in plain.parameters.values()]
    stars = [number for number, each in enumerate(plain.parameters.values()) if each.kind is each.KEYWORD_ONLY]
    if stars:
        inner.insert(stars[0], "*")
    end = "" if plain.return_annotation is plain.empty else f" -> {plain.return_annotation}"
    return "\n".join([f"{name}(", *(f"    {each}," for each in inner), f"){end}"])


def _plain(annotation: Any) -> Any:
    return Plain(annotation) if isinstance(annotation, str) else annotation


def _texts(found: Any) -> list[str]:
    return [line for text in paragraphs(found.__doc__) for line in ("", text)]


def _fields(found: type) -> list[str]:
    """The columns of a dataclass, those of its base first."""
    if not dataclasses.is_dataclass(found):
        return []
    listed = [f"`{each.name}: {each.type}`" for each in dataclasses.fields(found) if not each.name.startswith("_")]
    return ["", "Fields: " + ", ".join(listed) + "."] if listed else []


def _members(found: type) -> list[str]:
    """Its own public properties and methods, in the order of the source; a subclass says only what it adds."""
    lines = ["", "| member | what it is |", "|---|---|"]
    for name, member in vars(found).items():
        value = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if name.startswith("_") or not (inspect.isfunction(value) or isinstance(value, property)):
            continue
        getter = value.fget if isinstance(value, property) else value
        shown = " ".join(signature(name, getter).split()).replace("( ", "(").replace(", )", ")")
        if isinstance(value, property):
            shown = shown.replace("()", "").replace(" -> ", ": ")
        if isinstance(member, classmethod):
            shown = shown.replace("(cls, ", "(").replace("(cls)", "()")
        lines.append(f"| `{_cell(shown)}` | {_cell(' '.join(paragraphs(getter.__doc__)))} |")
    return lines if len(lines) > 4 else []


def _cell(text: str) -> str:
    """A table cell: a bar would end it."""
    return text.replace("|", "\\|")


PAGES = {"commands.md": commands_page, "python-reference.md": python_page}

if __name__ == "__main__":
    for page, make in PAGES.items():
        (HERE / page).write_text(make(), encoding="utf-8")
