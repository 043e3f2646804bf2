"""WebKit for tests: WebKitGTK's MiniBrowser, over WebDriver, on a screen that nobody sees."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tests.processes import HOST, ManagedProcess, accepts_connections, free_port
from tests.programs import require
from tests.waiting import PATIENCE, wait_for

#: Debian keeps it beside the library.
MINIBROWSERS = tuple(f"/usr/lib/{machine}-linux-gnu/webkit2gtk-4.1/MiniBrowser" for machine in ("x86_64", "aarch64"))
#: Its own sandbox needs more than containers allow; the tests' pages are our own.
ENV = {"WEBKIT_DISABLE_SANDBOX_THIS_IS_DANGEROUS": "1", "GDK_BACKEND": "x11", "NO_AT_BRIDGE": "1"}
#: Calls a function with what follows, or takes what an expression says, as Playwright does.
EXPRESSION = """const [argument, answer] = arguments;
Promise.resolve().then(() => { const it = (%s); return typeof it === "function" ? it(argument) : it; })
  .then((value) => answer({value: value ?? null}), (error) => answer({error: String(error) + "\\n" + error?.stack}));"""


class WebDriverError(AssertionError):
    """A page, or the browser, refuses."""


class Session:
    """A browser of its own.

    Args:
        driver: The URL of the WebDriver.
        binary: The browser.
    """

    def __init__(self, driver: str, binary: str) -> None:
        self._url = driver
        options = {"binary": binary, "args": ["--automation"]}
        answer = self.call("POST", "", {"capabilities": {"alwaysMatch": {"webkitgtk:browserOptions": options}}})
        self.version = answer["capabilities"]["browserVersion"]
        self._url = f"{driver}/{answer['sessionId']}"
        self.call("POST", "/timeouts", {"script": PATIENCE * 1000})
        self._fresh: str | None = self.call("GET", "/window")

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Send one command, and return what it is answered."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(self._url + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urlopen(request, timeout=PATIENCE * 2) as answer:
                return json.load(answer)["value"]
        except HTTPError as error:
            raise WebDriverError(json.load(error)["value"]["message"]) from None

    def open(self) -> WebKitTab:
        """Open a page in a window of its own: of two tabs one is hidden."""
        handle, self._fresh = self._fresh or self.call("POST", "/window/new", {"type": "window"})["handle"], None
        tab = WebKitTab(self, handle)
        tab.show()
        return tab

    def close(self) -> None:
        self.call("DELETE", "")


class WebKitTab:
    """A tab, with what the tests use of Playwright's pages."""

    def __init__(self, session: Session, handle: str) -> None:
        self._session = session
        self._handle = handle

    def show(self) -> None:
        """Show it, and hide the others."""
        self._session.call("POST", "/window", {"handle": self._handle})

    def _call(self, path: str, body: dict[str, Any]) -> Any:
        if self._session.call("GET", "/window") != self._handle:
            self.show()
        return self._session.call("POST", path, body)

    def goto(self, url: str) -> None:
        self._call("/url", {"url": url})

    def go_back(self) -> None:
        self._call("/back", {})

    def evaluate(self, expression: str, argument: Any = None) -> Any:
        """Return what a JavaScript expression says, or a function of the argument returns, also later."""
        answer = self._call("/execute/async", {"script": EXPRESSION % expression, "args": [argument]})
        if "error" in answer:
            raise WebDriverError(answer["error"])
        return answer["value"]

    def until(self, condition: str, argument: Any = None) -> None:
        """Wait until a function of the argument returns something true."""
        wait_for(lambda: self.evaluate(condition, argument), message=condition)


@contextmanager
def opened_webkit(folder: Path) -> Iterator[Session]:
    """Open WebKit, with a profile of its own."""
    program, screen = require("webkit"), require("xvfb")
    binary = next((path for path in map(shutil.which, MINIBROWSERS) if path), "")
    display = ManagedProcess([screen, "-displayfd", "1", "-screen", "0", "1280x900x24"], folder=folder, name="xvfb")
    port = free_port()
    driver = ManagedProcess(
        [program, f"--port={port}"],
        folder=folder,
        name="webkit",
        env=ENV,
        ready=lambda: accepts_connections(port),
    )
    try:
        display.start()
        number = display.wait_for_log(r"(?m)^(\d+)$")[1]
        driver.env["DISPLAY"] = f":{number}"
        driver.start()
        session = Session(f"http://{HOST}:{port}/session", binary)
        yield session
        session.close()
    finally:
        for process in (driver, display):
            if process.running:
                process.stop()
