"""What ``watch`` prints of what it hears: events and streams, one thing at a time."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from celery_realtime.cli.output import Printer, printer
from celery_realtime.cli.spoken import News, Speech, SpeechAsEvents, SpeechAsIs, SpeechAsLines
from celery_realtime.events import STATUS_EVENT

if TYPE_CHECKING:
    from celery_realtime.cli.live.display import Display
    from celery_realtime.client import StreamState


@dataclass(frozen=True)
class Options:
    """What is watched, and how it is printed.

    Attributes:
        job: The one job that is followed until it has ended; None for all of the project.
        streams: Whether what jobs say in their streams is printed too.
        names: The streams that are printed; none for all of them.
        as_json: Whether each event is a line of JSON.
        plain: Whether lines are printed on a terminal too.
    """

    job: str | None
    streams: bool
    names: tuple[str, ...]
    as_json: bool
    plain: bool

    @property
    def has_streams(self) -> bool:
        """Whether streams are printed."""
        return self.streams or self.job is not None or bool(self.names)

    @property
    def may_be_live(self) -> bool:
        """Whether a display may take the place of lines."""
        return not (self.plain or self.as_json or self.is_one_stream)

    @property
    def is_one_stream(self) -> bool:
        """Whether one stream of one job is printed, and nothing else."""
        return self.job is not None and len(self.names) == 1 and not self.as_json


class Printing:
    """Prints events, and what is said in streams, one thing at a time: several threads bring them.

    Args:
        options: What is printed, and how.
        fail: Called with what keeps it from being printed.
        display: What it is shown on; None where lines are printed.
    """

    def __init__(self, options: Options, fail: Callable[[OSError], None], display: Display | None = None) -> None:
        self._options = options
        self._fail = fail
        self._display = display
        self._show: Printer = printer(options.as_json) if display is None else display.event
        self._lock = threading.RLock()
        self._speech = _speech(options, self._show) if display is None else display.speech
        self._news = News()
        #: The status, the state and the attempt of the one job, as they were printed last.
        self._status: tuple[Any, ...] = ()

    def event(self, event: str, data: Any) -> None:
        """Print an event, unless only a stream is wanted."""
        if self._options.is_one_stream:
            return
        with self._lock:
            if event == STATUS_EVENT:
                self._status = _status_of(data)
            self._guarded(self._speech.pause)
            self._guarded(lambda: self._show(event, data))

    def snapshot(self, jobs: Sequence[Any]) -> None:
        """Print all jobs of a project as they are known."""
        if self._display is not None:
            self._display.load(jobs)
            return
        for job in jobs:
            self.event(STATUS_EVENT, job)

    def show(self, jobs: Mapping[str, Any], workflows: Mapping[str, Any]) -> None:
        """Show, if anything but lines is, jobs and workflows by their ids; they may change afterwards."""
        if self._display is not None:
            self._display.show(jobs, workflows)

    def job(self, job: Any) -> None:
        """Print the one job as it is known, unless that has been printed."""
        if job is not None:
            self.show({str(job.get("job_id")): job}, {})
        with self._lock:
            if job is not None and _status_of(job) != self._status:
                self.event(STATUS_EVENT, dict(job))

    def chunk(self, project_id: str, job_id: str, stream: StreamState, chunk: Any) -> None:
        """Print what is new of a stream, if it is wanted."""
        if self._options.names and stream.name not in self._options.names:
            return
        with self._lock:
            said = self._news.of(project_id, job_id, stream, chunk)
            if said is not None:
                self._guarded(lambda: self._speech.say(said))

    def note(self, text: str) -> None:
        """Say on the standard error what is no event."""
        with self._lock:
            self._guarded(self._speech.pause)
            note = self._display.note if self._display is not None else lambda said: click.echo(said, err=True)
            self._guarded(lambda: note(text))

    def end(self) -> None:
        """Print what has been held back."""
        with self._lock:
            self._guarded(self._speech.end)

    def _guarded(self, show: Callable[[], object]) -> None:
        try:
            show()
        except OSError as error:
            self._fail(error)


def _status_of(job: Any) -> tuple[Any, ...]:
    return job.get("status"), job.get("state"), job.get("attempt")


def _speech(options: Options, show: Printer) -> Speech:
    is_terminal = sys.stdout.isatty()
    if options.as_json:
        return SpeechAsEvents(show)
    if options.is_one_stream:
        return SpeechAsIs(is_terminal=is_terminal, note=lambda text: click.echo(text, err=True))
    return SpeechAsLines(is_terminal=is_terminal)
