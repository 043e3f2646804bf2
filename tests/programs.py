"""Find the programs outside Python that tests need, and say what to do where one is missing."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

CLIENT = Path(__file__).parent / "client"
FRAMEWORKS = Path(__file__).parent / "frameworks"
#: Where npm installs packages, and those of each place that tests ask for.
NPM_PACKAGES = {
    CLIENT: (
        *("@ai-sdk/react", "@assistant-ui/react", "@asyncapi/specs", "@grafana/schema", "ai", "axe-core", "esbuild"),
        *("htmx-ext-sse", "htmx.org", "react", "react-dom", "socket.io-client", "typescript"),
    ),
    FRAMEWORKS: ("@arethetypeswrong/cli", "publint", "vite"),
}
#: The same of what only ``make long`` needs, and is large.
LARGE_NPM_PACKAGES = {FRAMEWORKS / "next": ("next",)}

RABBITMQ_PATHS = (
    # On Debian the one on PATH is a wrapper that changes the user and refuses any but its own.
    "/usr/lib/rabbitmq/bin/rabbitmq-server",
    "/opt/homebrew/sbin/rabbitmq-server",
    "/usr/local/sbin/rabbitmq-server",
)
#: Chromium without what draws windows: the same pages take less than half the processor time.
HEADLESS_SHELL = "chromium-headless-shell"
CHROMIUM_NAMES = (HEADLESS_SHELL, "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM_PATHS = (
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)


@dataclass(frozen=True)
class Program:
    """A program that tests need.

    Args:
        find: Returns its path, or None.
        used_by: The tests that are skipped without it.
        debian: The Debian packages that bring it.
        homebrew: What ``brew install`` calls it; nothing for what is only there on Linux.
    """

    find: Callable[[], str | None]
    used_by: str
    debian: tuple[str, ...]
    homebrew: str


def find_redis() -> str | None:
    from example_project.embedded_redis import find_redis_server

    try:
        return find_redis_server()
    except LookupError:
        return None


def find_rabbitmq() -> str | None:
    if (chosen := os.environ.get("CELERY_TEST_RABBITMQ")) is not None:
        return shutil.which(chosen)
    return _first(*RABBITMQ_PATHS, "rabbitmq-server")


def find_epmd() -> str | None:
    """Find the name server of Erlang, which a RabbitMQ always has with it."""
    return _first("epmd", "/usr/lib/erlang/bin/epmd", "/opt/homebrew/bin/epmd")


def find_chromium() -> str | None:
    if (chosen := os.environ.get("CELERY_TEST_CHROMIUM")) is not None:
        return shutil.which(chosen)
    return _first(*CHROMIUM_NAMES, *CHROMIUM_PATHS) or _playwright_chromium()


def find_firefox() -> str | None:
    return _first("firefox-esr", "firefox", "/Applications/Firefox.app/Contents/MacOS/firefox")


def find_webkit_driver() -> str | None:
    return shutil.which("WebKitWebDriver")


def find_luacheck() -> str | None:
    return shutil.which("luacheck")


def find_memcached() -> str | None:
    return _first("memcached", "/opt/homebrew/bin/memcached")


def find_node() -> str | None:
    return shutil.which("node")


def find_nginx() -> str | None:
    return _first("nginx", "/usr/sbin/nginx", "/opt/homebrew/bin/nginx", "/usr/local/bin/nginx")


def find_postgres() -> str | None:
    """Find the server, which Debian keeps off PATH."""
    here = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    return str(here[-1]) if here else _first("postgres")


def find_prometheus() -> str | None:
    return _first("prometheus", "/opt/homebrew/bin/prometheus")


def find_npm() -> str | None:
    return shutil.which("npm")


def find_compose() -> str | None:
    """Find Docker Compose as a program of its own, which needs no Docker to check a file."""
    return _first("docker-compose", "/usr/libexec/docker/cli-plugins/docker-compose")


def find_systemd_analyze() -> str | None:
    return shutil.which("systemd-analyze")


def find_npm_package(name: str) -> str | None:
    """Find an installed package of one of the places of ``NPM_PACKAGES``, or of ``LARGE_NPM_PACKAGES``."""
    places = [place for place, names in (NPM_PACKAGES | LARGE_NPM_PACKAGES).items() if name in names]
    found = [package for place in places if (package := place / "node_modules" / name).is_dir()]
    return str(found[0]) if find_node() and found else None


def npm_packages_are_installed() -> bool:
    """Tell whether each package of ``NPM_PACKAGES`` is there."""
    return all(find_npm_package(name) for names in NPM_PACKAGES.values() for name in names)


PROGRAMS = {
    "redis": Program(find_redis, "most integration and browser tests", ("redis-server",), "valkey"),
    "rabbitmq": Program(find_rabbitmq, "integration tests on RabbitMQ", ("rabbitmq-server",), "rabbitmq"),
    "curl": Program(lambda: shutil.which("curl"), "the test of the quickstart", ("curl",), "curl"),
    "docker-compose": Program(find_compose, "the check of the compose file", ("docker-compose",), "docker-compose"),
    "epmd": Program(find_epmd, "integration tests on RabbitMQ", ("erlang-base",), "erlang"),
    "chromium": Program(find_chromium, "tests/browser", (HEADLESS_SHELL,), "--cask chromium"),
    "luacheck": Program(find_luacheck, "the check of Lua scripts in make lint", ("lua-check",), "luacheck"),
    "memcached": Program(find_memcached, "tests of results in memcached", ("memcached",), "memcached"),
    "node": Program(find_node, "tests of the JavaScript client", ("nodejs",), "node"),
    "nginx": Program(find_nginx, "tests of several web servers", ("nginx-light",), "nginx"),
    "prometheus": Program(find_prometheus, "tests of the dashboard and of alerts", ("prometheus",), "prometheus"),
    "npm": Program(find_npm, "tests of plain socket.io clients", ("npm",), "node"),
    "systemd-analyze": Program(find_systemd_analyze, "the check of units of systemd", ("systemd",), ""),
}

#: Browsers that ``make browsers`` tries beside Chromium, and installs.
BROWSERS = {
    "firefox": Program(find_firefox, "the tests in Firefox", ("firefox-esr",), "--cask firefox"),
    "webkit": Program(find_webkit_driver, "the tests in WebKit", ("webkit2gtk-driver",), ""),
    "xvfb": Program(lambda: shutil.which("Xvfb"), "the tests in WebKit", ("xvfb",), ""),
}

#: Those that only tests of ``make long`` need, and that are large: they are installed for that alone.
LARGE = {
    "postgres": Program(find_postgres, "tests of a restart of PostgreSQL", ("postgresql",), "postgresql"),
}


def missing(wanted: Mapping[str, Program] = PROGRAMS) -> dict[str, Program]:
    return {name: program for name, program in wanted.items() if not program.find()}


def improvable() -> dict[str, Program]:
    """Return what spares the tests much where something else would do, and is not there."""
    chosen = "CELERY_TEST_CHROMIUM" in os.environ or shutil.which(HEADLESS_SHELL)
    return {} if chosen else {HEADLESS_SHELL: PROGRAMS["chromium"]}


def can_be_had(program: Program) -> bool:
    """Tell whether a program can be installed on this kind of machine."""
    return sys.platform == "linux" or bool(program.homebrew)


@functools.cache
def find(name: str) -> str | None:
    program = (PROGRAMS | BROWSERS | LARGE).get(name)
    return program.find() if program else find_npm_package(name)


def require(name: str) -> str:
    """Return the path of a program, or skip the test; with ``CI`` set, fail it.

    Args:
        name: A key of ``PROGRAMS``, ``BROWSERS`` or ``LARGE``, or one of ``NPM_PACKAGES`` or ``LARGE_NPM_PACKAGES``.
    """
    path = find(name)
    if path:
        return path
    absent = f"{name} is not installed: make test, or python -m tests.tools.install_services"
    is_large = name in LARGE or name in BROWSERS or any(name in names for names in LARGE_NPM_PACKAGES.values())
    if on_ci() and not is_large and (name not in PROGRAMS or can_be_had(PROGRAMS[name])):
        pytest.fail(absent)
    pytest.skip(absent)


def on_ci() -> bool:
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def _first(*names: str) -> str | None:
    return next((path for path in map(shutil.which, names) if path), None)


def _playwright_chromium() -> str | None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        return shutil.which(playwright.chromium.executable_path)
