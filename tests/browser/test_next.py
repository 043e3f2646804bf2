"""A project on Next.js renders on its server what will be followed, and its browser takes it from there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.launcher import Launcher
from tests.npm_package import install, pack, run
from tests.processes import HOST, ManagedProcess, accepts_connections, free_port
from tests.programs import FRAMEWORKS, require

LONG = 60_000
SILENT = {"NEXT_TELEMETRY_DISABLED": "1"}


@pytest.mark.long  # tests/client/test_package.py renders with React's own server
@pytest.mark.timeout(900)
def test_what_a_server_has_rendered_is_what_the_browser_goes_on_with(
    page: Page, launcher: Launcher, tmp_path: Path
) -> None:
    require("next")
    site = tmp_path / "site"
    shutil.copytree(FRAMEWORKS / "next", site, symlinks=True, copy_function=_linked)
    install(pack(tmp_path), site / "node_modules")
    next_ = [require("node"), str(site / "node_modules" / "next" / "dist" / "bin" / "next")]
    run([*next_, "build"], site, timeout=800, **SILENT)
    port = free_port()
    launcher.start(
        ManagedProcess(
            [*next_, "start", "--hostname", HOST, "--port", str(port)],
            folder=tmp_path,
            name="next",
            env=SILENT,
            cwd=site,
            ready=lambda: accepts_connections(port),
            start_timeout=60,
        )
    )
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    rendered = page.request.get(f"http://{HOST}:{port}/").text().replace("<!-- -->", "")
    assert "subscribing: 0 jobs" in rendered
    page.goto(f"http://{HOST}:{port}/")
    expect(page.locator("#jobs")).to_have_attribute("data-hydrated", "true", timeout=LONG)
    expect(page.locator("#jobs")).to_have_text("subscribing: 0 jobs")
    assert [text for text in said if "hydrat" in text.lower() or "did not match" in text] == []


def _linked(source: str, target: str) -> None:
    """Spare the room of a copy where that can be."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
