"""What is installed is what is on disk, what the README promises exists, and nothing names one machine."""

import configparser
import re
import runpy
import subprocess
from importlib import metadata
from pathlib import Path

import click
import pytest
from packaging.requirements import Requirement

from cellsemi.configs.presets.preset_files import preset_names
from cellsemi.orchestrator.cli.main import cli

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("configs", "rounds", "models", "orchestrator")
DOOR = "cellsemi"  # the folder of the Python interface, which is the package itself
GUIDES = ("README.md", "CONTRIBUTING.md")
# The [x] keeps this very line from being found.
MACHINE_PATH = re.compile(r"/(?:roo[t]|hom[e]|User[s]|wor[k]|far[m]|mn[t])/[A-Za-z0-9_.-]+|[.]librar[y]\b")


def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def folders() -> set[str]:
    """The folders that hold Python modules, as the names of packages."""
    inits = (path.parent for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
    return {DOOR} | {"cellsemi." + folder.relative_to(ROOT).as_posix().replace("/", ".") for folder in inits}


def project_texts() -> list[Path]:
    """Every text that git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=False, text=True,
    )  # fmt: skip
    names = [name for name in listed.stdout.split("\0") if name]
    if listed.returncode or not names:  # an unpacked archive without its history
        tops = [*PACKAGES, "tests", "docs", "benchmarks", ".ci"]
        found = [path for top in tops for path in (ROOT / top).rglob("*") if "__pycache__" not in path.parts]
        return [path for path in [*found, *ROOT.iterdir()] if path.is_file()]
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def code_blocks(name: str) -> list[str]:
    """The lines of the fenced blocks of a guide, without prompts."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", (ROOT / name).read_text(encoding="utf-8"), re.M | re.S)
    return [line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines()]


def test_the_package_list_is_what_is_on_disk() -> None:
    options = setup()["options"]
    listed = options["packages"].split()
    assert set(listed) == folders() and len(set(listed)) == len(listed)
    mapped = dict(line.split(" = ") for line in options["package_dir"].strip().splitlines())
    assert mapped == {name: name.removeprefix("cellsemi.").replace(".", "/") for name in listed}
    assert mapped[DOOR] == DOOR and (ROOT / DOOR / "__init__.py").is_file()


def test_every_package_has_an_init_and_is_typed() -> None:
    for name in setup()["options"]["packages"].split():
        folder = ROOT / name.removeprefix("cellsemi.").replace(".", "/")
        assert (folder / "__init__.py").is_file(), name
    for name in PACKAGES:
        assert (ROOT / name / "py.typed").is_file(), name


def test_presets_and_markers_are_package_data() -> None:
    data = setup()["options.package_data"]
    assert data["*"] == "py.typed"
    assert data["cellsemi.configs.presets"] == "*.yaml"
    assert preset_names() == sorted(path.stem for path in (ROOT / "configs" / "presets").glob("*.yaml"))
    assert {"demo", "dsb2018"} <= set(preset_names())


@pytest.mark.parametrize(
    ("package", "last_refused", "first_taken"),
    [
        ("torch", "2.10.0", "2.11.0"),  # CVE-2026-24747: weights_only runs code below 2.10
        ("torchvision", "0.25.0", "0.26.0"),  # that of torch 2.11
        ("pillow", "12.2.0", "12.3.0"),
        ("opencv-python-headless", "4.11.0.86", "4.12.0.88"),
        ("pyarrow", "23.0.0", "23.0.1"),
        ("cellpose", "4.1.1", "4.2.0"),
    ],
)
def test_versions_with_known_holes_are_not_installed(package: str, last_refused: str, first_taken: str) -> None:
    lines = [line for line in setup()["options"]["install_requires"].splitlines() if line]
    (wanted,) = (found.specifier for found in map(Requirement, lines) if found.name == package)
    assert last_refused not in wanted and first_taken in wanted


def test_cellpose_5_is_not_installed_unseen() -> None:
    lines = [line for line in setup()["options"]["install_requires"].splitlines() if line]
    (wanted,) = (found.specifier for found in map(Requirement, lines) if found.name == "cellpose")
    assert "5.0.0" not in wanted


def test_the_command_is_installed() -> None:
    (entry,) = (e for e in metadata.entry_points(group="console_scripts") if e.name == "cellsemi")
    assert entry.value == "cellsemi.orchestrator.cli.main:main"
    assert callable(entry.load())
    assert metadata.version("cellsemi") == setup()["metadata"]["version"]


@pytest.mark.parametrize("name", GUIDES)
def test_the_commands_of_the_guides_exist(name: str) -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    lines = code_blocks(name)
    made = {word for line in lines for word in re.findall(r"^make ([a-z-]+)", line)}
    called = {word for line in lines for word in re.findall(r"(?:^|[ /])cellsemi ([a-z]+)\b", line)}
    assert made | called, f"{name} shows no command"
    assert made <= targets
    assert called <= set(cli.commands)


@pytest.mark.parametrize("name", GUIDES)
def test_the_options_of_the_guides_exist(name: str) -> None:
    for line in code_blocks(name):
        for command, rest in re.findall(r"(?:^|[ /])cellsemi ([a-z]+)\b([^#]*)", line):
            found = cli.commands[command]
            if isinstance(found, click.Group):
                found = found.commands[rest.split()[0]]
            known = {option for parameter in found.params for option in parameter.opts}
            assert set(re.findall(r"(?<=\s)--[a-z-]+", rest)) <= known, line


@pytest.mark.parametrize("name", [*GUIDES, *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))])
def test_the_commands_in_the_text_of_a_guide_exist(name: str) -> None:
    text = re.sub(r"^```.*?^```", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.M | re.S)
    for word, rest in re.findall(r"`cellsemi ([a-z-]+)\b([^`]*)`", text.replace("\n", " ")):
        if word.startswith("-"):
            continue  # an option of cellsemi itself
        found = cli.commands[word]
        if isinstance(found, click.Group) and rest.split():
            found = found.commands[re.sub(r"\W+$", "", rest.split()[0])]
        known = {option for each in found.params for option in (*each.opts, *each.secondary_opts)}
        assert set(re.findall(r"(?<=\s)--[a-z-]+", rest)) <= known | {"--help"}, f"{name}: cellsemi {word}{rest}"


@pytest.mark.parametrize("name", [*GUIDES, "CHANGELOG.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))])
def test_links_between_files_lead_somewhere(name: str) -> None:
    path = ROOT / name
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{name} links to {target}"


def test_the_changelog_holds_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version = setup()["metadata"]["version"]
    assert re.search(rf"^## {re.escape(version)} \(\d{{4}}-\d{{2}}-\d{{2}}\)$", text, re.M)


def test_the_pages_of_settings_are_current() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_config.py"))
    for page, text in (("config.md", made["page"]()), ("models.md", made["models_page"]())):
        assert (ROOT / "docs" / page).read_text(encoding="utf-8") == text, "run `make docs`"


@pytest.mark.parametrize("script", ["make_reference.py", "make_gallery.py"])
def test_the_pages_that_scripts_write_are_current(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))  # what such a script itself finds beside it
    for page, make in runpy.run_path(str(ROOT / "docs" / script))["PAGES"].items():
        assert (ROOT / "docs" / page).read_text(encoding="utf-8") == make(), "run `make docs`"


def test_no_text_names_a_path_of_one_machine() -> None:
    found = []
    for path in project_texts():
        text = path.read_bytes().decode("utf-8", errors="replace")
        found += [f"{path.relative_to(ROOT)}: {hit.group()}" for hit in MACHINE_PATH.finditer(text)]
    assert found == []


def test_a_path_of_one_machine_would_be_found() -> None:
    for top in ("root", "home", "Users"):
        assert MACHINE_PATH.search(f"see /{top}/someone/file")


def test_the_ci_script_can_be_run() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o100
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
