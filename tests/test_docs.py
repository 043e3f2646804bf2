"""The documentation says what the code says."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

import celery_realtime
from celery_realtime import testing
from celery_realtime.events import RESERVED_EVENTS, STATUS_OF_STATE, ProgressUpdate, StatusChange
from celery_realtime.settings import NAMES, PREFIX, Settings
from tests.programs import require

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PACKAGE = ROOT / "celery_realtime"
EXAMPLE = ROOT / "example_project"
PAGES = sorted([*DOCS.glob("*.md"), *ROOT.glob("*.md"), EXAMPLE / "README.md", EXAMPLE / "deploy" / "README.md"])
BLOCK = re.compile(r"^```(\S*)(?: [^\n]*)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: What is named as settings are, and is none: the fixtures for users' tests.
FIXTURES = ("events", "server")
INCLUDE = re.compile(r"^```\{literalinclude\} (\S+)\n((?::.*\n)*)```$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
ANCHOR = re.compile(r"^\(([\w-]+)\)=$", re.MULTILINE)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(page.read_text()) if kind == language]


def anchors(page: Path) -> set[str]:
    text = BLOCK.sub("", page.read_text())
    headings = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in HEADING.findall(text)}
    return headings | set(ANCHOR.findall(text))


def test_every_setting_is_in_the_table_with_its_default() -> None:
    row = re.compile(r"^\| `(realtime_\w+)` \| `([^`]+)` \|", re.MULTILINE)
    table = dict(row.findall((DOCS / "settings.md").read_text()))
    defaults = msgspec.structs.asdict(Settings())
    assert list(table) == [PREFIX + name for name in NAMES]
    assert {name: ast.literal_eval(shown) for name, shown in table.items()} == {
        PREFIX + name: default for name, default in defaults.items()
    }


#: What begins like a setting, and is a function or a template tag of ``contrib``.
OTHERS = {"asgi", "lifespan", "router", "script", "token", "wsgi"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_settings_that_a_page_names_exist(page: Path) -> None:
    of_contrib = OTHERS if "celery_realtime.contrib" in page.read_text() else set()
    assert set(re.findall(r"\brealtime_(\w+)", page.read_text())) <= {*NAMES, *FIXTURES, *of_contrib}


def test_each_fixture_is_documented() -> None:
    fixtures = {
        name for name in vars(testing) if name == "lossy" or name in {f"realtime_{fixture}" for fixture in FIXTURES}
    }
    text = (DOCS / "testing.md").read_text()
    assert fixtures == {"lossy", "realtime_events", "realtime_server"}
    assert [name for name in sorted(fixtures) if f"`{name}`" not in text] == []


def test_the_changelog_begins_with_the_version_of_the_package() -> None:
    first = re.search(r"\b\d+\.\d+\.\d+\b", (ROOT / "CHANGELOG.md").read_text().partition("## [Unreleased]")[2])
    assert first is not None
    assert first[0] == celery_realtime.__version__


def test_the_requirements_are_those_of_the_package() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    readme = (ROOT / "README.md").read_text()
    for name, package in (("Celery", "celery"), ("python-socketio", "python-socketio")):
        bound = re.search(rf'"{package}>=([\d.]+)[",]', project)
        assert bound is not None
        assert f"{name} {bound[1]}+" in readme
    python = re.search(r'requires-python = ">=([\d.]+)"', project)
    assert python is not None
    assert f"Python {python[1]}+" in readme


def test_every_field_of_an_event_is_in_its_table() -> None:
    text = (DOCS / "events.md").read_text()
    for heading, struct in (("## `agent_status`", StatusChange), ("## `agent_progress`", ProgressUpdate)):
        section = text.partition(heading)[2].partition("\n## ")[0]
        lines = [line for line in section.splitlines() if line.startswith("| `")]
        named = {name for line in lines for name in re.findall(r"`(\w+)`", line.split("|")[1])}
        assert {*struct.__struct_fields__, "event", "epoch", "offset"} <= named


def test_every_state_is_documented_with_its_status() -> None:
    section = (DOCS / "events.md").read_text().partition("| `status` | `state` |")[2].partition("\n\n")[0]
    table = {state: status for status, state in re.findall(r"^\| `(\w+)` \| `(\w+)` \|", section, re.MULTILINE)}
    assert table == STATUS_OF_STATE
    outcomes = (DOCS / "outcomes.md").read_text()
    assert [state for state in STATUS_OF_STATE if state != "PENDING" and f"`{state}`" not in outcomes] == []


def test_the_reserved_names_are_the_documented_ones() -> None:
    text = (DOCS / "tasks.md").read_text()
    ours = {name for name in RESERVED_EVENTS if name.startswith("agent_")} | {"error"}
    assert [name for name in sorted(ours) if f"`{name}`" not in text] == []


def test_the_places_are_those_that_are_checked() -> None:
    contract = (ROOT / "setup.cfg").read_text().partition("[importlinter:contract:places]")[2].partition("\n\n")[0]
    layers = contract.partition("layers =\n")[2].splitlines()
    places = [name for layer in layers[:-1] for name in re.findall(r"\w+", layer)]  # the last one is what all share
    table = re.findall(r"^\| `(\w+)/?` \|", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    assert table == [*places, "static"]
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == {*places} - {"extension"}


def python_blocks() -> list[Any]:
    found = []
    for page in PAGES:
        for number, block in enumerate(blocks(page, "python"), start=1):
            found.append(pytest.param(block, id=f"{name_of(page)}-{number}"))
    return found


@pytest.mark.parametrize("block", python_blocks())
def test_python_in_the_pages_compiles_and_imports_what_exists(block: str) -> None:
    compile(block, "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("celery_realtime"):
            module = importlib.import_module(node.module or "")
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = BLOCK.sub("", page.read_text())
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name_of(page)} links to {target}"
        assert not anchor or anchor in anchors(file), f"{name_of(page)} links to {target}"


def test_files_that_pages_include_are_there_with_the_lines_that_are_named() -> None:
    included = 0
    for page in PAGES:
        for path, options in INCLUDE.findall(page.read_text()):
            text = (page.parent / path).read_text()
            marks = re.findall(r"^:(?:start-at|end-before|start-after|end-at): (.*)$", options, re.MULTILINE)
            assert [mark for mark in marks if mark.strip('"') not in text] == []
            included += 1
    assert included > 5


def test_every_page_is_reachable_from_the_index() -> None:
    entries = {line.strip() for tree in blocks(DOCS / "index.md", "{toctree}") for line in tree.splitlines()}
    assert {page.stem for page in DOCS.glob("*.md")} - entries == {"index"}


def test_each_test_that_the_page_on_security_names_is_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)`", (ROOT / "docs" / "security.md").read_text())
    assert len(named) > 30
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_the_modules_are_packed_as_the_page_on_react_says(tmp_path: Path) -> None:
    """Into an archive of an installed package's own files, which npm installs."""
    require("npm")
    (command,) = re.findall(r'^npm install "\./\$\((npm pack .*)\)"$', (DOCS / "react.md").read_text(), re.MULTILINE)
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-ec", command], cwd=tmp_path, env=env, timeout=100, check=True, stdout=subprocess.PIPE
    )
    with tarfile.open(tmp_path / done.stdout.decode().strip()) as files:
        assert {"package/celery-realtime.js", "package/celery-realtime-react.d.ts"} <= {*files.getnames()}
