"""Draw the display as long as somebody looks, from a thread of its own."""

from __future__ import annotations

import logging
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from celery_realtime.cli.live.board import Board, Job
from celery_realtime.cli.live.drawing import Drawing
from celery_realtime.cli.live.region import Line, Region, Size, size_of
from celery_realtime.cli.output import line_of, printable, write
from celery_realtime.cli.spoken import SpeechAsLines
from celery_realtime.clocks import time
from celery_realtime.events import METADATA_EVENT, PROGRESS_EVENT, STATUS_EVENT, WORKFLOW_EVENT

if TYPE_CHECKING:
    from typing_extensions import Self

#: Seconds between two looks at what has changed, and between two drawings of what has not, for the sake of clocks.
LOOK, TICK = 0.1, 1.0

#: Lines of streams and the like that wait to be printed; of more at once, the latest.
MOST_WAITING = 5000

#: Lines of streams that are not complete, and are shown as they grow.
MOST_OPEN = 3

#: What is said of a subscription that is well.
WELL = "subscribed"
SAID = {"stale": "the connection is lost: what is shown may be out of date; trying again", "subscribing": "connecting"}


class Display(logging.Handler):
    """The display. Its methods may be called in any thread; while its block runs, it is drawn.

    Args:
        fail: Called with what keeps it from being drawn.
    """

    def __init__(self, fail: Callable[[OSError], None]) -> None:
        super().__init__()
        self._fail = fail
        self._board = Board()
        self._out = sys.stdout
        self._drawing = Drawing(Console(file=self._out), time.time)
        self._region = Region(lambda text: write(text, self._out))
        self._above: deque[str] = deque(maxlen=MOST_WAITING)
        self._state = SAID["subscribing"]
        self._is_over = threading.Event()
        self._is_gone = False
        #: What has changed since it was drawn, and when that was.
        self._is_stale, self._drawn_at, self._size = True, 0.0, Size(0, 0)
        self.speech = SpeechAsLines(is_terminal=False, write=self._print_above)
        self._thread = threading.Thread(target=self._run, name="celery-realtime-watch-display", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._try_to_draw()  # what stays on the terminal

    # -- what there is to show --------------------------------------------------------------------------------------

    def event(self, event: str, data: Any) -> None:
        """Take an event; what is no state of a job is printed as a line."""
        if event in (STATUS_EVENT, PROGRESS_EVENT):
            self._board.heard(event, data, time.monotonic())
        elif event not in (WORKFLOW_EVENT, METADATA_EVENT):
            self._print_above(f"{printable(line_of(event, data))}\n")
        self._is_stale = True

    def show(self, jobs: Mapping[str, Job], workflows: Mapping[str, Mapping[str, Any]]) -> None:
        """Take the jobs and workflows, by their ids, which may change afterwards."""
        self._board.show(jobs, workflows)
        self._is_stale = True

    def load(self, jobs: Sequence[Job]) -> None:
        """Take a snapshot of the jobs."""
        self._board.load(jobs)

    def note(self, text: str) -> None:
        """Say how it stands with the subscription; also on the standard error, if that is no terminal."""
        self._state = "" if text == WELL else SAID.get(text, text)
        self._is_stale = True
        if not sys.stderr.isatty():
            click.echo(text, err=True)

    def emit(self, record: logging.LogRecord) -> None:
        """Print what is logged: anything else that wrote to the terminal would spoil what is drawn."""
        self._print_above(f"{printable(self.format(record))}\n")

    def _print_above(self, text: str) -> None:
        self._above.append(text)
        self._is_stale = True

    # -- drawing ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._is_over.wait(LOOK):
            size, now = size_of(self._out.fileno()), time.monotonic()
            if self._is_stale or size != self._size or now - self._drawn_at >= TICK:
                self._try_to_draw()

    def _try_to_draw(self) -> None:
        if self._is_gone:
            return
        try:
            self._draw()
        except OSError as error:  # the terminal has been closed
            self._is_gone = True
            self._fail(error)

    def _draw(self) -> None:
        self._is_stale, self._drawn_at = False, time.monotonic()
        self._size = size = size_of(self._out.fileno())
        self._region.draw(self._take_above(), self._foot(size), size)

    def _take_above(self) -> str:
        said = [self._above.popleft() for _ in range(len(self._above))]
        ended, more = self._board.take_ended()
        lines = [f"({more} more have ended)"] * bool(more) + [self._drawing.ended(job).written for job in ended]
        return "".join(said) + "".join(f"{line}\n" for line in lines)

    def _foot(self, size: Size) -> list[Line]:
        """Return the lines at the foot: as many as leave some room for what is above."""
        opened = [self._drawing.open_line(text, size.columns) for text in self.speech.open_lines()[-MOST_OPEN:]]
        room = max(1, size.lines * 3 // 4 - len(opened) - 2)
        view = self._board.view(room, time.monotonic())
        entries = [self._drawing.entry(entry, size.columns) for entry in view.entries]
        lines = [*opened, *entries, *self._drawing.sums(view, self._state, size.columns)]
        return lines[-max(1, size.lines - 1) :]
