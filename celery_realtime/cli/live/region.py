"""Lines at the foot of a terminal that are written anew, and whatever is printed above them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rich.cells import cell_len

#: What terminals obey: nothing but these, and colors, is written beside what is printable.
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
NO_WRAP, WRAP = "\x1b[?7l", "\x1b[?7h"
CLEAR_BELOW = "\r\x1b[J"


class Size(NamedTuple):
    """Cells of a line, and lines, of a terminal."""

    columns: int
    lines: int


def size_of(descriptor: int) -> Size:
    """Return the size of a terminal now; that of a terminal of old, where it does not say."""
    try:
        columns, lines = os.get_terminal_size(descriptor)
    except OSError:
        columns, lines = 0, 0
    return Size(columns or 80, lines or 24)


class Line(NamedTuple):
    """A line: what is written, with its colors, and what is seen of it."""

    written: str
    seen: str


class Region:
    """The lines at the foot. All of a change is written at once, so a program that is killed leaves a usable terminal.

    Args:
        write: Writes to the terminal.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._drawn: list[int] = []

    def draw(self, above: str, lines: Sequence[Line], size: Size) -> None:
        """Print above the lines, and replace these.

        Args:
            above: Whole lines, which stay.
            lines: Not more than the terminal has, of which it cuts those that are too long.
            size: The terminal's.
        """
        foot = "".join(f"{line.written}\n" for line in lines)
        wrapped = f"{NO_WRAP}{foot}{WRAP}" if foot else ""
        self._write(f"{HIDE_CURSOR}{self._way_up(size)}{CLEAR_BELOW}{above}{wrapped}{SHOW_CURSOR}")
        self._drawn = [min(cell_len(line.seen), size.columns) for line in lines]

    def _way_up(self, size: Size) -> str:
        """Return what leads to the first line: in a terminal that became narrower, one line is several by now."""
        lines = sum(max(1, -(-width // size.columns)) for width in self._drawn)
        return f"\x1b[{min(lines, size.lines)}A" if lines else ""
