"""The view: the jobs, what is said above them, and what can be done with them; by keys alone."""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import msgspec
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Footer, Input, Static

from celery_realtime.cli.top.feeds import Key
from celery_realtime.cli.top.follower import LOOK_INTERVAL, Follower
from celery_realtime.cli.top.job_list import JobList
from celery_realtime.cli.top.rows import STATUSES, Filter, Row, Rows, in_one_line, row_of
from celery_realtime.cli.top.screens import JobScreen, Question
from celery_realtime.clocks import time
from celery_realtime.logs import describe

#: Seconds between two looks at what has changed.
REFRESH = 0.25

#: How much longer than it takes to show what has changed no more is shown: keys are answered in that time.
REST = 4.0

#: Seconds after which what was said is gone.
SAID_FOR = 15.0

#: Cancels a job of a project, and returns what came of it.
Cancel = Callable[[str, str], dict[str, Any]]


class LastLine(logging.Handler):
    """Keeps the last line of the log, which would be written over the view."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._line, self._at = "", 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self._line, self._at = in_one_line(record.getMessage()), time.monotonic()

    @property
    def line(self) -> str:
        """The last line, for a while."""
        return self._line if time.monotonic() - self._at < SAID_FOR else ""


class Top(App[None]):
    """The view.

    Args:
        follower: Knows the jobs.
        cancel: Cancels one; may take seconds, and raise.
        project: The project; None for all.
        log: Has the last line of the log.
    """

    TITLE = "celery realtime top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #summary { height: auto; padding: 0 1; background: $panel; }
    #find { height: 3; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "find", "Find"),
        Binding("s", "status", "Status"),
        Binding("c", "cancel", "Cancel"),
        Binding("escape", "clear", "Clear"),
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "quit", "Quit", show=False),
    ]

    def __init__(self, follower: Follower, cancel: Cancel, project: str | None, log: LastLine | None = None) -> None:
        super().__init__()
        self._follower = follower
        self._cancel_job = cancel
        self._project = project
        self._last_line = log or LastLine()
        self._rows = Rows()
        self._all: list[Row] = []
        self._counts: Counter[str] = Counter()
        self._filter = Filter()
        self._version = -1
        self._next_at = 0.0
        self._said, self._said_at = "", 0.0
        self._summary = Static(id="summary")
        self._list = JobList(with_project=project is None)
        self._find = Input(id="find", placeholder="words of a job, its task, project, worker, message or error")

    def compose(self) -> ComposeResult:
        """Put the parts of the view together."""
        self._find.display = False
        yield self._summary
        yield self._list
        yield self._find
        yield Footer()

    def on_mount(self) -> None:
        """Begin to look."""
        self._look()
        self.set_interval(REFRESH, self._look)
        self._list.focus()

    # -- showing --------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Show what has changed, if there was time to answer keys since the last time."""
        began = time.monotonic()
        if began < self._next_at:
            return
        version = self._follower.feeds.version
        if version != self._version:
            self._version = version
            self._all = self._rows.of(self._follower.feeds.jobs())
            self._counts = Counter(row.status for row in self._all)
            self._show()
        else:
            self._list.refresh()  # all grow older
        self._follower.visible = {row.key[0] for row in self._list.seen}
        self._summary.update(Text("\n").join(self._summary_lines()))
        self._next_at = time.monotonic() + (time.monotonic() - began) * REST

    def _show(self) -> None:
        self._list.show(self._filter.chosen(self._all))

    def _summary_lines(self) -> Iterator[Text]:
        follower = self._follower
        where = f"all projects ({follower.feeds.projects:,})" if self._project is None else f"project {self._project}"
        counts = ", ".join(f"{self._counts[status]:,} {status}" for status in STATUSES if status is not None)
        shown = "" if self._filter == Filter() else f"   shown: {self._list.count:,}, {self._filter.described}"
        yield Text(f"{in_one_line(where)}   {len(self._all):,} jobs: {counts}{in_one_line(shown)}")
        if not follower.is_hearing:
            instead = f", so the history is read every {LOOK_INTERVAL:g} s" if follower.has_history else ""
            yield Text(f"the broker is not heard{instead}", "bold red")
        if follower.reading_error is not None:
            yield Text(f"the history cannot be read: {in_one_line(follower.reading_error)}", "bold red")
        elif not follower.has_history:
            yield Text("no history is configured: only what happens from now on is shown", "yellow")
        elif not follower.feeds.are_whole:
            yield Text("reading the history", "yellow")
        if self._said and time.monotonic() - self._said_at < SAID_FOR:
            yield Text(self._said, "bold")
        if line := self._last_line.line:
            yield Text(line, "dim")

    def _say(self, text: str) -> None:
        self._said, self._said_at = in_one_line(text), time.monotonic()

    # -- choosing what is shown -----------------------------------------------------------------------------------

    def action_find(self) -> None:
        """Ask for words to look for."""
        self._find.display = True
        self._find.focus()

    def action_status(self) -> None:
        """Show the jobs of the next status alone."""
        self._filter = self._filter.next_status()
        self._show()

    def action_clear(self) -> None:
        """Show all jobs again."""
        self._find.value = ""
        self._find.display = False
        self._filter = Filter()
        self._list.focus()
        self._show()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Show the jobs with these words."""
        self._filter = msgspec.structs.replace(self._filter, text=event.value)
        self._show()

    def on_input_submitted(self, _event: Input.Submitted) -> None:
        """Go on with the jobs that were found."""
        self._find.display = bool(self._find.value)
        self._list.focus()

    # -- one job --------------------------------------------------------------------------------------------------

    def on_job_list_chosen(self, event: JobList.Chosen) -> None:
        """Follow a job."""
        self.push_screen(JobScreen(self._follower, event.row, self._ask))

    def action_cancel(self) -> None:
        """Ask whether to cancel the job that the cursor is on."""
        if self._list.current is not None:
            self._ask(self._list.current.key)

    def _ask(self, key: Key) -> None:
        job = self._follower.feeds.job(key)
        if job is None or row_of(key[0], job).has_ended:
            self._say(f"job {key[1]} has ended")
            return
        self.push_screen(Question(row_of(key[0], job)), functools.partial(self._answered, key))

    def _answered(self, key: Key, answer: bool | None) -> None:
        if answer:
            self._say(f"cancelling job {key[1]}")
            self.run_worker(functools.partial(self._cancel, key), thread=True, exit_on_error=False)

    def _cancel(self, key: Key) -> None:
        try:
            outcome = self._cancel_job(*key)
        except Exception as error:  # noqa: BLE001 - the broker's and Redis' libraries raise errors of their own
            text = f"job {key[1]} is not cancelled: {describe(error)}"
        else:
            how = f", {outcome['how']}" if outcome.get("how") else ""
            text = f"job {key[1]}: {outcome.get('cancel')}{how}"
        self.call_from_thread(self._say, text)
