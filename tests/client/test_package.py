"""The npm package is what the wheel ships, is described rightly, and can be used in every way that it says."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path

import pytest

import celery_realtime
from celery_realtime.contrib import browser
from tests.npm_package import STATIC, Consumer, pack, run
from tests.processes import ROOT
from tests.programs import FRAMEWORKS, require

ABOUT = json.loads((STATIC / "package.json").read_text())
#: What is imported by its name, and so has types.
ENTRIES = (
    *("react", "vue", "svelte", "solid", "query", "store", "element"),
    *("streams", "socket", "connection", "shared", "token", "filter"),
)
#: Ways to look for types of those who cannot import ES modules, or know no "exports".
NOT_OFFERED = ("node10", "node16-cjs")
#: Bytes, as they are: neither minified nor compressed.
BUDGETS = {
    "celery-realtime.js": 14 * 1024,
    "celery-realtime-react.js": 3 * 1024,
    "celery-realtime-element.js": 20 * 1024,
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="module")
def consumer(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Consumer:
    return Consumer(tmp_path_factory.mktemp("consumer") / "site", archive)


def test_it_has_the_version_of_the_wheel() -> None:
    assert (ABOUT["name"], ABOUT["version"]) == ("celery-realtime", celery_realtime.__version__)


def test_it_has_the_license_of_the_wheel() -> None:
    assert (STATIC / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_npm_packs_what_the_wheel_ships_and_nothing_else(archive: Path) -> None:
    with tarfile.open(archive) as files:
        packed = {name.removeprefix("package/") for name in files.getnames()}
    assert packed == {path.name for path in STATIC.iterdir()}


def test_what_a_page_imports_with_the_import_map_is_what_npm_gives() -> None:
    mapped = browser.import_map("/rt/")
    (pattern,) = (target["default"] for name, target in ABOUT["exports"].items() if "*" in name)
    assert mapped.pop("celery-realtime") == ABOUT["exports"]["."]["default"].replace("./", "/rt/")
    names = {name: name.removeprefix("celery-realtime/") for name in mapped}
    assert mapped == {name: pattern.replace("*", last).replace("./", "/rt/") for name, last in names.items()}
    assert {f"celery-realtime/{entry}" for entry in ENTRIES} <= {*mapped}


def test_all_that_is_imported_is_a_module_of_its_own_or_a_peer() -> None:
    peers = {name.removesuffix("-core") for name in ABOUT["peerDependencies"]}
    for path in STATIC.glob("*.js"):
        for name in re.findall(r'(?:from|import) ?\(?"([^"]+)"', path.read_text()):
            assert (STATIC / name).is_file() if name.startswith("./") else name.split("/")[0] in peers, (path, name)


def test_what_is_optional_is_each_peer_but_the_socket() -> None:
    assert {*ABOUT["peerDependencies"]} - {*ABOUT["peerDependenciesMeta"]} == {"socket.io-client"}


@pytest.mark.parametrize("name", BUDGETS)
def test_it_is_small(name: str) -> None:
    assert len((STATIC / name).read_bytes()) <= BUDGETS[name]


def test_publint_finds_nothing(archive: Path) -> None:
    require("publint")
    program = FRAMEWORKS / "node_modules" / "publint" / "src" / "cli.js"
    said = run([require("node"), str(program), str(archive), "--strict"], FRAMEWORKS)
    assert "All good" in said, said


def test_the_types_are_found_in_every_way_to_look_for_them(archive: Path) -> None:
    program = Path(require("@arethetypeswrong/cli")) / "dist" / "index.js"
    options = ["--profile", "esm-only", "--format", "json", "--entrypoints", ".", *ENTRIES]
    said = json.loads(run([require("node"), str(program), str(archive), *options], FRAMEWORKS))
    assert {f"./{entry}" for entry in ENTRIES} <= {*said["analysis"]["entrypoints"]}
    found = [one for problems in said["problems"].values() for one in problems]
    assert [one for one in found if one.get("resolutionKind") not in NOT_OFFERED] == []


@pytest.mark.long
def test_a_project_in_typescript_compiles_and_its_mistakes_do_not(consumer: Consumer) -> None:
    consumer.run("node_modules/typescript/bin/tsc", "--project", "pages/tsconfig.json")


def test_a_socket_shows_a_new_token_at_each_connection(consumer: Consumer) -> None:
    consumer.run("--test", "pages/socket.test.mjs")


def test_the_hooks_of_react_render_what_changes_and_nothing_else(consumer: Consumer) -> None:
    consumer.run("--test", "pages/react.test.mjs", PAGE_ABOUT_REACT=str(ROOT / "docs" / "react.md"))


def test_what_components_of_vue_share_goes_on_without_the_first_of_them(consumer: Consumer) -> None:
    consumer.run("--test", "pages/vue.test.mjs")


def test_the_cache_of_tanstack_query_has_what_came_last(consumer: Consumer) -> None:
    consumer.run("--test", "pages/query.test.mjs")


def test_a_server_renders_what_will_be_followed_and_follows_nothing(consumer: Consumer) -> None:
    consumer.run("--test", "pages/server.test.mjs")
