"""Programs in a terminal, and what is to be seen there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading

from tests.processes import ROOT
from tests.waiting import WaitTimeout, wait_for

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
