"""The quickstart does what it says, letter by letter, in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.processes import HOST, ROOT, ManagedProcess, accepts_connections, free_port
from tests.programs import require
from tests.waiting import wait_for

PAGE = (ROOT / "docs" / "quickstart.md").read_text()
FILE = re.compile(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: In the log of curl, which may have said how far it is before it, on the same line.
EVENT = re.compile(r"event: (\w+)$", re.MULTILINE)
COMMANDS = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)

#: Notes each text that the list of jobs shows, however briefly.
NOTE_TEXTS = """() => {
  window.texts = [];
  new MutationObserver((changes) => {
    for (const change of changes) for (const node of change.addedNodes) texts.push(node.textContent.trim());
  }).observe(document.getElementById("jobs"), { childList: true, subtree: true });
}"""

#: Milliseconds that a busy machine may take.
LONG = 60_000


class Studio:
    """The folder of the quickstart, and what runs there.

    Args:
        folder: An empty folder.
        ours: Where this package is to be installed from; None to use what is installed.
    """

    def __init__(self, folder: Path, ours: Path | None) -> None:
        self.folder = folder / "studio"
        self._ours = ours
        self._ports = {"6379": str(free_port()), "8080": str(free_port())}
        self.url = f"http://{HOST}:{self._ports['8080']}/"
        self.processes: list[ManagedProcess] = []
        self._preparing, *self._programs, self._curl = COMMANDS.findall(PAGE)

    def adapted(self, text: str) -> str:
        """Return a text of the page with ports that are free, and the place of the package."""
        for port, free in self._ports.items():
            text = text.replace(port, free)
        if self._ours is None:
            text = text.replace("time.sleep(0.3)", "time.sleep(0.05)")
        where = f"celery-realtime[redis] @ {self._ours.as_uri()}" if self._ours is not None else ""
        return text.replace("../celery_realtime[redis]", where).replace("../celery_realtime", str(ROOT))

    def prepare(self) -> None:
        """Do what the page says first, and write its files."""
        lines = self.adapted(self._preparing).splitlines()
        if self._ours is None:
            lines = [line for line in lines if not re.match(r"python3 -m venv|\. |pip ", line)]
        done = subprocess.run(
            ["sh", "-ec", "\n".join(lines)], cwd=self.folder.parent, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        for name, text in FILE.findall(PAGE):
            (self.folder / name).write_text(self.adapted(text))

    def start(self) -> None:
        """Start its three programs, each in a terminal of its own."""
        binaries = Path(sys.executable).parent if self._ours is None else self.folder / ".venv" / "bin"
        environment = {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
        ready: dict[str, Callable[[], bool]] = {
            "redis": lambda: accepts_connections(int(self._ports["6379"])),
            "worker": lambda: "ready." in self.processes[1].current_log,
            "web": lambda: accepts_connections(int(self._ports["8080"])),
        }
        for (name, is_ready), commands in zip(ready.items(), self._programs, strict=True):
            process = ManagedProcess(
                ["sh", "-ec", self.adapted(commands)],
                folder=self.folder.parent,
                name=name,
                env=environment,
                cwd=self.folder,
                ready=is_ready,
                start_timeout=90,
            )
            self.processes.append(process)
            process.start()

    def curl(self) -> ManagedProcess:
        """Follow the project as the page does without a browser; the process's log has what was sent."""
        require("curl")
        process = ManagedProcess(
            ["sh", "-ec", self.adapted(self._curl)],
            folder=self.folder.parent,
            name="curl",
            cwd=self.folder,
            ready=lambda: "agent_snapshot" in process.current_log,
        )
        self.processes.append(process)
        return process.start()

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.kill()


@pytest.fixture(params=["installed", pytest.param("wheel", marks=[pytest.mark.long, pytest.mark.timeout(600)])])
def studio(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Studio]:
    ours = None
    if request.param == "wheel":
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
        subprocess.run(command, check=True)
        ours = next(tmp_path.glob("*.whl"))
    studio = Studio(tmp_path, ours)
    try:
        studio.prepare()
        studio.start()
        yield studio
    finally:
        studio.stop()


def test_the_quickstart_works_as_it_is_written(studio: Studio, page: Page) -> None:
    curl = studio.curl()
    missing: list[str] = []
    page.on("response", lambda response: missing.append(response.url) if response.status == 404 else None)
    page.goto(studio.url)
    expect(page.locator("#state")).to_have_text("subscribed", timeout=LONG)
    page.evaluate(NOTE_TEXTS)
    page.get_by_role("button", name="Transcribe", exact=True).click()
    good = page.locator('#jobs li[data-status="success"]')
    expect(good).to_have_count(1, timeout=LONG)
    # A busy machine may show one of them alone.
    assert {"Downloading monday.wav", "Transcribing monday.wav"} & {*page.evaluate("texts")}
    wait_for(lambda: {"agent_status", "agent_progress", "transcript_line"} <= {*EVENT.findall(curl.current_log)})
    page.get_by_role("button", name="Transcribe a broken recording").click()
    expect(page.locator("#jobs li")).to_have_count(2, timeout=LONG)
    page.reload()  # while that job runs: the latest state of both is there again
    expect(good.locator(".task")).to_have_text("tasks.transcribe", timeout=LONG)
    expect(good.locator(".result")).to_have_text('{"recording":"monday.wav","words":1234}')
    assert good.locator("progress").get_attribute("value") == "100"
    bad = page.locator('#jobs li[data-status="error"]')
    expect(bad.locator(".error")).to_have_text("ValueError: the recording ends in the middle of a word", timeout=LONG)
    page.reload()
    expect(page.locator("#jobs li")).to_have_count(2, timeout=LONG)
    expect(bad).to_have_count(1)
    expect(good).to_have_count(1)
    page.set_viewport_size({"width": 360, "height": 640})  # nothing is wider than a phone
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert missing == []


@pytest.mark.parametrize("key", ["", "change-me"])
def test_no_server_starts_with_a_key_that_is_none(tmp_path: Path, key: str) -> None:
    studio = Studio(tmp_path, None)
    studio.prepare()
    done = subprocess.run(
        [sys.executable, "web.py"],
        cwd=studio.folder,
        env={**os.environ, "SECRET_KEY": key},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode != 0
    assert "ImproperlyConfigured" in done.stderr
    assert "secret_key" in done.stderr
