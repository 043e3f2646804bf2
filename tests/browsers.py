"""Browsers for tests: Chromium, or what ``CELERY_TEST_BROWSER`` says."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Browser, Playwright, sync_playwright

from tests.processes import ROOT
from tests.programs import require

FLAGS = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
]
#: Pages of loopback alone, and nothing that is fetched in the background.
FIREFOX_PREFERENCES: dict[str, str | float | bool] = {
    "app.normandy.enabled": False,
    "browser.safebrowsing.downloads.enabled": False,
    "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False,
    "browser.search.update": False,
    "extensions.update.enabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "services.settings.server": "http://127.0.0.1:9/v1",
}
#: Which browser the tests of this run see.
CHOSEN = os.environ.get("CELERY_TEST_BROWSER", "chromium")


@contextmanager
def opened_browser() -> Iterator[Browser]:
    """Open the browser of this run, without a window.

    In the meantime Playwright's event loop counts as running in this thread, and asyncio.run() refuses to start one.
    """
    with sync_playwright() as playwright, opened_by(playwright, CHOSEN) as browser:
        yield browser


@contextmanager
def opened_by(playwright: Playwright, name: str, *, keeps_pages: bool = False) -> Iterator[Browser]:
    """Open a browser with a Playwright, of which a thread has one at a time.

    Args:
        playwright: Playwright.
        name: ``chromium`` or ``firefox``.
        keeps_pages: Whether a page that was left may be kept as it is until somebody returns to it (bfcache), as for
            users. Playwright does not notice such a return by itself.
    """
    program = require(name)
    with TemporaryDirectory() as folder:
        browser = OPENS[name](playwright, program, Path(folder), keeps_pages)
        yield browser
        browser.close()


def open_chromium(playwright: Playwright, program: str, _: Path, keeps_pages: bool) -> Browser:
    """Open Chromium."""
    less = ["--disable-back-forward-cache"] if keeps_pages else []
    return playwright.chromium.launch(executable_path=program, args=FLAGS, ignore_default_args=less)


def open_firefox(playwright: Playwright, program: str, folder: Path, keeps_pages: bool) -> Browser:
    """Open a Firefox of Mozilla's, over WebDriver BiDi."""
    relay = folder / "firefox"
    command = shlex.join([sys.executable, "-m", "tests.firefox_relay", program])
    relay.write_text(f'#!/bin/sh\ncd {shlex.quote(str(ROOT))} && exec {command} "$@"\n')
    relay.chmod(0o755)
    return playwright.firefox.launch(
        channel="moz-firefox",
        executable_path=relay,
        firefox_user_prefs={**FIREFOX_PREFERENCES, "fission.bfcacheInParent": keeps_pages},
    )


OPENS = {"chromium": open_chromium, "firefox": open_firefox}
