"""What a line says of a job; which jobs are shown, and in which order."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from celery_realtime.cli.output import printable
from celery_realtime.cli.top.feeds import Key

#: What jobs can be filtered by, in the order in which they are offered; None for all.
STATUSES = (None, "running", "queued", "error", "success")

Job = tuple[str, Mapping[str, Any]]


class Row(msgspec.Struct, frozen=True):
    """What a line says of a job. None of its texts has a character that a terminal would obey.

    Attributes:
        key: Its project and its id.
        status: One of the four.
        state: Celery's own word.
        progress: Percent, or None.
        name: What it is called, or its task.
        note: What it does, or why it failed.
        worker: Where it runs, or ran.
        since: When it came to its status, as the event says.
        words: All that a text is looked for in, in lower case.
    """

    key: Key
    status: str
    state: str
    progress: float | None
    name: str
    note: str
    worker: str
    since: str
    words: str

    @property
    def is_running(self) -> bool:
        """Whether it runs."""
        return self.status == "running"

    @property
    def has_ended(self) -> bool:
        """Whether it has ended."""
        return self.status in ("success", "error")

    def age(self, now: float) -> str:
        """Return how long it has had its status.

        Args:
            now: The time, in seconds since the epoch.
        """
        with contextlib.suppress(ValueError):
            since = datetime.fromisoformat(self.since.replace("Z", "+00:00")).timestamp()
            return _span(max(0.0, now - since))
        return ""


def in_one_line(value: object) -> str:
    """Return a text in one line, without what a terminal would obey or nobody would see."""
    return " ".join(printable(str(value or "")).split())


def row_of(project: str, job: Mapping[str, Any]) -> Row:
    """Return what a line says of a job.

    Args:
        project: Its project.
        job: Its latest state, of which a filter may have left anything out.
    """
    progress, job_id = job.get("progress"), str(job.get("job_id"))
    status, name = in_one_line(job.get("status")), in_one_line(job.get("label") or job.get("task")) or "-"
    note = in_one_line(job.get("error") or job.get("message"))
    worker = in_one_line(job.get("worker"))
    words = "\n".join((project, job_id, status, in_one_line(job.get("state")), name, note, worker)).lower()
    return Row(
        key=(project, job_id),
        status=status,
        state="STALLED" if job.get("stalled") else in_one_line(job.get("state")),
        progress=progress if isinstance(progress, (int, float)) and math.isfinite(progress) else None,
        name=name,
        note=note,
        worker=worker,
        since=in_one_line(job.get("timestamp")),
        words=words,
    )


class Rows:
    """The lines of all jobs; those of jobs that have not changed are kept."""

    def __init__(self) -> None:
        self._rows: dict[Key, tuple[Mapping[str, Any], Row]] = {}

    def of(self, jobs: Iterable[Job]) -> list[Row]:
        """Return the lines of jobs; what was known of others is forgotten."""
        before, self._rows = self._rows, {}
        for project, job in jobs:
            key = project, str(job.get("job_id"))
            known = before.get(key)
            self._rows[key] = known if known is not None and known[0] is job else (job, row_of(project, job))
        return [row for _, row in self._rows.values()]


class Filter(msgspec.Struct, frozen=True):
    """Which jobs are shown.

    Attributes:
        status: Those of this status; None for all.
        text: Those with all of these words, in upper or lower case.
    """

    status: str | None = None
    text: str = ""

    def chosen(self, rows: Iterable[Row]) -> list[Row]:
        """Return the lines that are shown, in order.

        What runs comes first, and of that what began last; then what is queued, the oldest first; then what has ended,
        the latest first.
        """
        words = self.text.lower().split()
        groups: dict[bool | None, list[Row]] = {True: [], False: [], None: []}
        for row in rows:
            if self.status in (None, row.status) and all(word in row.words for word in words):
                groups[None if row.has_ended else row.is_running].append(row)
        running, queued, ended = (sorted(group, key=_by_time) for group in groups.values())
        return [*running[::-1], *queued, *ended[::-1]]

    @property
    def described(self) -> str:
        """What is shown, in words."""
        words = [] if self.status is None else [f"status {self.status}"]
        return ", ".join([*words, *([f"text {self.text!r}"] if self.text else [])])

    def next_status(self) -> Filter:
        """Return the filter with the status that is offered next."""
        number = (STATUSES.index(self.status) + 1) % len(STATUSES)
        return msgspec.structs.replace(self, status=STATUSES[number])


def _by_time(row: Row) -> tuple[str, Key]:
    return row.since, row.key


def _span(seconds: float) -> str:
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if minutes < 1:
        return f"{seconds:.0f}s"
    if hours < 1:
        return f"{minutes:.0f}m"
    return f"{hours:.0f}h" if days < 2 else f"{days:.0f}d"
