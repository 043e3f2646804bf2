"""``celery -A proj realtime top`` in a terminal, as somebody starts it who has one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from celery_realtime.cli.top import command
from tests.integration import jobs
from tests.integration.stage import Stage, new_project
from tests.integration.test_cli import CELERY, run
from tests.processes import ROOT
from tests.waiting import WaitTimeout, wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services import Broker

COLUMNS, LINES = 140, 30

#: What tells a terminal how to show a text.
CONTROL = re.compile(r"\x1b(\[[0-9;?<>=]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|P[^\x1b]*\x1b\\|[@-Z\\-_=>])")


class Terminal:
    """A program in a terminal.

    Args:
        arguments: What is run.
        env: Its environment.
    """

    def __init__(self, arguments: list[str], env: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        self._process = subprocess.Popen(
            arguments,
            env={**os.environ, **env, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(LINES)},
            cwd=ROOT,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self._written = bytearray()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the program has ended
            while data := os.read(self._master, 65536):
                self._written += data

    @property
    def text(self) -> str:
        """All that has been shown."""
        return CONTROL.sub("", bytes(self._written).decode(errors="replace"))

    def wait_for(self, words: str) -> None:
        """Wait until something has been shown."""
        with contextlib.suppress(WaitTimeout):
            wait_for(lambda: words in self.text or self._process.poll() is not None, timeout=120)
        assert words in self.text, self.text[-3000:]

    def press(self, keys: str) -> None:
        """Press keys."""
        os.write(self._master, keys.encode())

    def wait(self) -> int:
        """Return how the program has ended."""
        wait_for(lambda: self._process.poll() is not None)
        return self._process.wait()

    def close(self) -> None:
        """End the program."""
        self._process.kill()
        self._process.wait()
        os.close(self._master)


@pytest.fixture
def start() -> Iterator[Callable[..., Terminal]]:
    with contextlib.ExitStack() as stack:

        def started(stage: Stage, *arguments: str) -> Terminal:
            command = [sys.executable, *CELERY, "tests.integration.jobs", "realtime", "top", *arguments]
            terminal = Terminal(command, stage.broker.env)
            stack.callback(terminal.close)
            return terminal

        yield started


def test_jobs_are_shown_and_one_is_cancelled_in_a_terminal(
    shared_stage: Callable[..., Stage], start: Callable[..., Terminal], tmp_path: Path
) -> None:
    project, stage = new_project(), shared_stage()
    held = jobs.hold.apply_async((str(tmp_path / "never"), 300.0), headers={"project_id": project})
    terminal = start(stage, project)
    terminal.wait_for("jobs.hold")
    terminal.wait_for("1 jobs: 1 running")
    terminal.press("c")
    terminal.wait_for("Cancel this job")
    terminal.press("y")
    terminal.wait_for("error REVOKED")
    terminal.press("q")
    assert terminal.wait() == 0
    assert held.state == "REVOKED"
    assert "Traceback" not in terminal.text


def test_all_projects_are_shown_until_ctrl_q(
    shared_stage: Callable[..., Stage], start: Callable[..., Terminal]
) -> None:
    project, stage = new_project(), shared_stage()
    terminal = start(stage)
    terminal.wait_for("all projects (")
    jobs.fail.apply_async(headers={"project_id": project})
    terminal.wait_for("ValueError: nothing works")
    terminal.wait_for(project[:16])
    terminal.press("\x11")
    assert terminal.wait() == 0


def test_without_a_terminal_it_says_what_to_use(redis_broker: Broker) -> None:
    said = run("tests.integration.jobs", "top", broker=redis_broker, code=1)
    assert said == "Error: top needs a terminal; for files and pipes there are watch and history\n"


def test_without_textual_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textual", None)
    done = CliRunner().invoke(command, [], obj=jobs.realtime)
    assert done.exit_code == 1
    assert "pip install 'celery-realtime[top]'" in done.output


def test_the_other_commands_do_without_textual() -> None:
    code = "import sys; import celery_realtime.cli; assert not {'textual', 'rich', 'socketio'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)
