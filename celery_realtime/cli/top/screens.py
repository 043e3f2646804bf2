"""What is shown over the list of jobs: a question before a job is cancelled, and all of one job."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen, Screen
from textual.widgets import Footer, Log, Static

from celery_realtime.cli.output import line_of
from celery_realtime.cli.top.feeds import Key
from celery_realtime.cli.top.followed import MOST_EVENTS, Event
from celery_realtime.cli.top.follower import Follower
from celery_realtime.cli.top.rows import Row, in_one_line

#: Seconds between two looks at a job that is followed.
LOOK = 0.25

#: Most characters of what is said of a job in one line.
MOST_TEXT = 300

#: What is said of each event anyway, or in the first line.
_HIDDEN = ("event", "job_id", "project_id", "status", "state")


class Question(ModalScreen[bool]):
    """Ask whether a job is to be cancelled.

    Args:
        row: The job.
    """

    CSS = """
    Question { align: center middle; }
    Question > Static { width: 70%; height: auto; border: heavy $error; padding: 1 2; background: $surface; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Cancel the job"),
        Binding("n,escape,q", "answer(False)", "Leave it"),
    ]

    def __init__(self, row: Row) -> None:
        super().__init__()
        self._row = row

    def compose(self) -> ComposeResult:
        """Show the question."""
        row, (project_id, job_id) = self._row, map(in_one_line, self._row.key)
        what = f"Cancel this job, which is {row.status}?\n\n{row.name}\n{job_id}\nproject {project_id}"
        yield Static(Text(f"{what}\n\ny  cancel it        n  leave it"))

    def action_answer(self, answer: bool) -> None:
        """Take the answer."""
        self.dismiss(answer)


class JobScreen(Screen[None]):
    """All that is known of one job, and its events as they come.

    Args:
        follower: Knows it.
        row: The job.
        cancel: Asks whether a job is to be cancelled.
    """

    CSS = """
    #job { height: auto; max-height: 50%; padding: 0 1; }
    #events { height: 1fr; border-top: solid $primary; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter", "leave", "Back"),
        Binding("c", "cancel", "Cancel the job"),
    ]

    def __init__(self, follower: Follower, row: Row, cancel: Callable[[Key], None]) -> None:
        super().__init__()
        self._follower = follower
        self._key = row.key
        self._cancel = cancel
        self._followed = follower.follow(row.key)
        self._version = -1
        self._shown: list[Event] = []
        self._job = Static(id="job")
        self._events = Log(id="events", max_lines=MOST_EVENTS)

    def compose(self) -> ComposeResult:
        """Show the job above its events."""
        yield self._job
        yield self._events
        yield Footer()

    def on_mount(self) -> None:
        """Begin to follow it."""
        self._look()
        self.set_interval(LOOK, self._look)
        self._events.focus()

    def on_unmount(self) -> None:
        """Follow it no more."""
        self._follower.feeds.unfollow(self._followed)

    def action_leave(self) -> None:
        """Go back to the list."""
        self.dismiss()

    def action_cancel(self) -> None:
        """Ask whether to cancel the job."""
        self._cancel(self._key)

    def _look(self) -> None:
        self._job.update(Text("\n".join(self._lines())))
        if self._version != self._followed.version:
            self._version = self._followed.version
            self._show(self._followed.events)

    def _show(self, events: list[Event]) -> None:
        """Add the events that are new; all are shown anew once those of the past have been read."""
        count = len(self._shown)
        if count and (count > len(events) or events[count - 1] is not self._shown[-1]):
            self._events.clear()
            count = 0
        self._shown = events
        self._events.write_lines([in_one_line(line_of(name, data)) for name, data in events[count:]])

    def _lines(self) -> Iterator[str]:
        project_id, job_id = map(in_one_line, self._key)
        job = self._follower.feeds.job(self._key)
        if job is None:
            yield f"job {job_id} of project {project_id} is not shown any more"
            return
        yield f"{job.get('status')} {job.get('state') or ''}  job {job_id}  project {project_id}"
        for name, value in job.items():
            if name not in _HIDDEN and value not in (None, False):
                text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
                yield f"{in_one_line(name)}: {in_one_line(text)[:MOST_TEXT]}"
