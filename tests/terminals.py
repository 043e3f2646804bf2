"""Programs in a terminal, and what is to be seen there."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Callable
from typing import Any

import pyte

from tests.processes import ROOT
from tests.waiting import WaitTimeout, wait_for

COLUMNS, LINES = 140, 30

#: What tells a terminal how to show a text.
CONTROL = re.compile(r"\x1b(\[[0-9;?<>=]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|P[^\x1b]*\x1b\\|[@-Z\\-_=>])")


class Screen:
    """What is to be seen on a terminal.

    Args:
        master: The end of the terminal that reads what is written to it.
        columns: Cells of a line.
        lines: Lines.
        encoding: That of what is written.
    """

    def __init__(self, master: int, columns: int = COLUMNS, lines: int = LINES, encoding: str = "utf-8") -> None:
        self._master = master
        self._encoding = encoding
        self._lock = threading.Lock()
        self._screen = pyte.HistoryScreen(columns, lines, history=10_000)
        self._stream = pyte.Stream(self._screen)
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._written = bytearray()
        self._is_closed = False
        self.resize(columns, lines)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the program has ended
            while not self._is_closed:
                if not select.select([self._master], [], [], 0.05)[0]:
                    continue
                if not (data := os.read(self._master, 65536)):
                    return
                with self._lock:
                    self._written += data
                    self._stream.feed(self._decoder.decode(data))

    def resize(self, columns: int, lines: int) -> None:
        """Give the terminal another size."""
        with self._lock:
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
            self._screen.resize(lines, columns)

    def close(self) -> None:
        """Let the terminal be gone."""
        if not self._is_closed:
            self._is_closed = True
            self._reader.join()
            os.close(self._master)

    @property
    def written(self) -> str:
        """All that has been written."""
        with self._lock:
            return bytes(self._written).decode(self._encoding, errors="replace")

    @property
    def text(self) -> str:
        """All that has been shown."""
        return CONTROL.sub("", self.written)

    @property
    def controls(self) -> list[str]:
        """All that has told the terminal how to show a text."""
        return [found[0] for found in CONTROL.finditer(self.written)]

    @property
    def lines(self) -> list[str]:
        """The lines that are seen now, without those that are empty."""
        with self._lock:
            return [line.rstrip() for line in self._screen.display if line.strip()]

    @property
    def scrolled_away(self) -> list[str]:
        """The lines that have left the screen at its top."""
        with self._lock:
            rows = [dict(row) for row in self._screen.history.top]
        widths = [max(row, default=-1) + 1 for row in rows]
        return [
            "".join(row[place].data if place in row else " " for place in range(width)).rstrip()
            for row, width in zip(rows, widths, strict=True)
        ]

    @property
    def is_as_found(self) -> bool:
        """Whether the terminal shows its cursor, and wraps lines."""
        with self._lock:
            return not self._screen.cursor.hidden and pyte.modes.DECAWM in self._screen.mode


class Terminal:
    """A program in a terminal.

    Args:
        arguments: What is run.
        env: Its environment.
    """

    def __init__(self, arguments: list[str], env: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        self.screen = Screen(self._master)
        self._process = subprocess.Popen(
            arguments,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(LINES), **env},
            cwd=ROOT,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)

    @property
    def text(self) -> str:
        """All that has been shown."""
        return self.screen.text

    def wait_for(self, words: str) -> None:
        """Wait until something has been shown."""
        with contextlib.suppress(WaitTimeout):
            wait_for(lambda: words in self.text or self._process.poll() is not None, timeout=120)
        assert words in self.text, self.text[-3000:]

    def wait_to_see(self, condition: Callable[[list[str]], Any]) -> list[str]:
        """Wait until the screen is as it should be, and return its lines."""
        with contextlib.suppress(WaitTimeout):
            wait_for(lambda: condition(self.screen.lines) or self._process.poll() is not None)
        lines = self.screen.lines
        assert condition(lines), "\n".join(lines)
        return lines

    def press(self, keys: str) -> None:
        """Press keys."""
        os.write(self._master, keys.encode())

    def interrupt(self) -> None:
        """Do what Ctrl+C does to the program that has the terminal."""
        self._process.send_signal(signal.SIGINT)

    def wait(self) -> int:
        """Return how the program has ended."""
        wait_for(lambda: self._process.poll() is not None)
        return self._process.wait()

    def close(self) -> None:
        """End the program."""
        self._process.kill()
        self._process.wait()
        self.screen.close()
