"""Look at the events that a test's jobs have reported."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, overload

import msgspec

from celery_realtime.events import GIVEN_BACK_GATE, MARK, PROGRESS_EVENT, STATUS_EVENT, Outgoing, is_note

#: Seconds between two looks at a condition that other threads make true.
STEP = 0.05

#: The statuses after which nothing comes.
ENDS = ("success", "error")


class RecordedEvent(NamedTuple):
    """An event as a browser would receive it.

    Attributes:
        name: The Socket.IO event name, such as ``agent_status``.
        project_id: The project whose subscribers would receive it.
        job_id: The job that it is about; None for a custom event of no job.
        data: Its data, without epoch and offset, which the history gives.
    """

    name: str
    project_id: str
    job_id: str | None
    data: Any


class RecordedEvents(Sequence[RecordedEvent]):
    """The events of all jobs so far, in the order in which a browser would receive them.

    Every report of progress is among them, also those that would be too soon after another one to be sent.
    """

    def __init__(self) -> None:
        self._events: list[RecordedEvent] = []
        self._sources: list[Outgoing] = []
        self._changed = threading.Condition()
        self._count_without_project: Callable[[], int] = lambda: 0

    def __repr__(self) -> str:
        return "\n".join(["recorded events:", *(f"  {_line(event)}" for event in self._snapshot()), *self._hints()])

    def __len__(self) -> int:
        return len(self._events)

    def __iter__(self) -> Iterator[RecordedEvent]:
        return iter(self._snapshot())

    @overload
    def __getitem__(self, index: int) -> RecordedEvent: ...
    @overload
    def __getitem__(self, index: slice) -> list[RecordedEvent]: ...
    def __getitem__(self, index: int | slice) -> RecordedEvent | list[RecordedEvent]:
        return self._snapshot()[index]

    # -- recording ----------------------------------------------------------------------------------------------

    def record(self, outgoing: Outgoing) -> None:
        """Take an event; called by whatever thread reports it."""
        if is_note(outgoing):
            return
        event = RecordedEvent(
            outgoing.event, outgoing.project_id, outgoing.job_id, msgspec.json.decode(outgoing.payload)
        )
        with self._changed:
            place = self._place(outgoing)
            self._events.insert(place, event)
            self._sources.insert(place, outgoing)
            self._changed.notify_all()

    def _place(self, outgoing: Outgoing) -> int:
        """Return where an event belongs: a worker may start a job before its publisher has reported it as queued."""
        if outgoing.rank == 0 and outgoing.standing.gate != GIVEN_BACK_GATE:
            for place, other in enumerate(self._sources):
                if _attempt_of(other) == _attempt_of(outgoing) and other.rank != 0:
                    return place
        return len(self._sources)

    def count_without_project(self, count: Callable[[], int]) -> None:
        """Be told how many events nobody would have received, for messages."""
        self._count_without_project = count

    def clear(self) -> None:
        """Forget all events so far."""
        with self._changed:
            self._events.clear()
            self._sources.clear()

    def _snapshot(self) -> list[RecordedEvent]:
        with self._changed:
            return list(self._events)

    # -- looking ------------------------------------------------------------------------------------------------

    def of(self, job: Any = None, *, project: object = None, name: str | None = None) -> list[RecordedEvent]:
        """Return the events of a job, of a project, of a name, or of all that are given.

        Args:
            job: A job's id, or anything that has it as ``id``, as Celery's results do.
            project: A project id.
            name: A Socket.IO event name.
        """
        job_id, project_id = _id_of(job), None if project is None else str(project)
        return [
            event
            for event in self._snapshot()
            if job_id in (None, event.job_id) and project_id in (None, event.project_id) and name in (None, event.name)
        ]

    def jobs(self, project: object = None) -> list[str]:
        """Return the ids of all jobs, or of those of a project, in the order of their first events."""
        return list(dict.fromkeys(event.job_id for event in self.of(project=project) if event.job_id is not None))

    def statuses(self, job: Any = None) -> list[str]:
        """Return the statuses of a job, or of all, in order: ``queued``, ``running``, ``success``, ``error``."""
        return [event.data["status"] for event in self.of(job, name=STATUS_EVENT)]

    def states(self, job: Any = None) -> list[str]:
        """Return the same as Celery's words: ``PENDING``, ``STARTED``, ``RETRY``, ``SUCCESS``, ``FAILURE`` ..."""
        return [event.data["state"] for event in self.of(job, name=STATUS_EVENT)]

    def progress(self, job: Any = None) -> list[float]:
        """Return the percentages that a job, or all jobs, have reported, in order."""
        return [event.data["progress"] for event in self.of(job, name=PROGRESS_EVENT)]

    def messages(self, job: Any = None) -> list[str | None]:
        """Return the messages of the same reports."""
        return [event.data["message"] for event in self.of(job, name=PROGRESS_EVENT)]

    def custom(self, name: str | None = None, job: Any = None, *, project: object = None) -> list[Any]:
        """Return the data of custom events, as they were emitted, in order.

        Args:
            name: The event name; by default all.
            job: As in :meth:`of`.
            project: As in :meth:`of`.
        """
        found = self.of(job, project=project, name=name)
        return [_unmarked(event.data) for event in found if event.name not in (STATUS_EVENT, PROGRESS_EVENT)]

    def end(self, job: Any) -> RecordedEvent:
        """Return the last status of a job that has ended.

        Raises:
            AssertionError: It has not; the message lists what was recorded.
        """
        statuses = self.of(job, name=STATUS_EVENT)
        if not statuses or statuses[-1].data["status"] not in ENDS:
            raise AssertionError(f"{_id_of(job)} has not ended; {self!r}")
        return statuses[-1]

    def result(self, job: Any) -> Any:
        """Return the result of a job that has ended, as a browser would receive it; raises as :meth:`end` does."""
        return self.end(job).data["result"]

    def error(self, job: Any) -> str | None:
        """Return the error of a job that has ended, or None; raises as :meth:`end` does."""
        error: str | None = self.end(job).data["error"]
        return error

    # -- waiting ------------------------------------------------------------------------------------------------

    def wait_for(self, job: Any, status: str | None = None, timeout: float = 30.0) -> RecordedEvent:
        """Wait until a job has come to a status, and return that event; for jobs that run in other threads.

        Args:
            job: As in :meth:`of`.
            status: The status; by default any end.
            timeout: Longest wait, in seconds.

        Raises:
            AssertionError: It has not come in time; the message lists what was recorded.
        """
        wanted = ENDS if status is None else (status,)

        def find(events: RecordedEvents) -> RecordedEvent | None:
            statuses = events.of(job, name=STATUS_EVENT)
            return next((event for event in statuses if event.data["status"] in wanted), None)

        found: RecordedEvent = self.wait_until(find, timeout, f"{_id_of(job)} has not come to {' or '.join(wanted)}")
        return found

    def wait_until(
        self, condition: Callable[[RecordedEvents], Any], timeout: float = 30.0, message: str = "it did not come true"
    ) -> Any:
        """Wait until a condition returns something true, and return that.

        Args:
            condition: Gets this object.
            timeout: Longest wait, in seconds.
            message: What the error says first.

        Raises:
            AssertionError: It was not in time; the message lists what was recorded.
        """
        # Counted in steps, not by a clock: tests stop the clock.
        for _ in range(max(1, round(timeout / STEP))):
            found = condition(self)
            if found:
                return found
            with self._changed:
                self._changed.wait(STEP)
        found = condition(self)
        if not found:
            raise AssertionError(f"{message} in {timeout:g} s; {self!r}")
        return found

    def _hints(self) -> list[str]:
        count = self._count_without_project()
        return [f"  and {count} of jobs without a project, which nobody would receive"] if count else []


def _id_of(job: Any) -> str | None:
    return job if job is None or isinstance(job, str) else str(job.id)


def _attempt_of(outgoing: Outgoing) -> tuple[object, ...]:
    return outgoing.project_id, outgoing.job_id, outgoing.standing.run, outgoing.attempt


def _unmarked(data: Any) -> Any:
    return {name: value for name, value in data.items() if name != MARK} if isinstance(data, dict) else data


def _line(event: RecordedEvent) -> str:
    words: list[Any] = [event.project_id, event.job_id, event.name]
    shown = {STATUS_EVENT: ("state", "error"), PROGRESS_EVENT: ("progress", "message")}.get(event.name)
    words += [_unmarked(event.data)] if shown is None else [event.data[name] for name in shown]
    return " ".join(str(word) for word in words if word is not None)
