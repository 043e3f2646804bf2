"""The latest state of those jobs of a project that match a filter: jobs enter and leave as they change."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from celery_realtime.bounded import BoundedDict
from celery_realtime.client.entries import Entries, Entry, Update, is_final
from celery_realtime.client.protocol import NEW_RUN
from celery_realtime.job_filters import JobFilter


class FilteredEntries(Entries):
    """Jobs that match; of the others what is needed when they begin to.

    Args:
        key: The field that holds the id.
        limit: Beyond so many, the oldest that has ended is forgotten.
        wanted: Which jobs are shown.
    """

    def __init__(self, key: str, limit: int, wanted: JobFilter) -> None:
        super().__init__(key, limit)
        self._wanted = wanted
        #: Jobs that do not match, and are known whole.
        self._aside: BoundedDict[str, Entry] = BoundedDict(limit)
        self._partial: dict[str, None] = {}

    @property
    def partial(self) -> list[str]:
        """Jobs that are shown, and of which not all is known, since they were not heard from their beginning on."""
        return [*self._partial]

    def replace(self, entries: Any, *, anew: bool = False) -> None:
        """Take the jobs of a snapshot, as :meth:`Entries.replace`; an older server sends all jobs."""
        for name in self._aside.names():
            entry = self._aside.pop(name)
            if anew and entry is not None and is_final(entry):
                self._ends[name] = entry
        self._partial.clear()
        super().replace([], anew=anew)
        self._sift(self._read(entries), self._entries)

    def insert(self, entries: Any, updates: Iterable[Update], asked: Collection[str] | None = None) -> None:
        """Take further jobs, as :meth:`Entries.insert`, or those that were asked for by their ids."""
        page = self._page(entries, updates)
        for name in asked or ():
            self._partial.pop(name, None)
        merged = {**self._entries} if asked is not None else {**page, **self._entries}
        self._sift(page, merged)
        self._entries.clear()
        self._entries.update(merged)

    def _sift(self, jobs: dict[str, Entry], rows: dict[str, Entry]) -> None:
        """Put jobs that are known whole where they belong."""
        for name, job in jobs.items():
            self._partial.pop(name, None)
            if self._wanted.matches(job):
                rows[name] = job
                self._aside.pop(name)
            else:
                rows.pop(name, None)
                self._aside[name] = job

    def update(self, event: str, data: Any, *, numbered: bool) -> bool:
        """Merge an event into its job; returns whether that matches, or does not any more, so that it has left."""
        name = data.get(self._key) if isinstance(data, dict) else None
        if not isinstance(name, str):
            return False
        was_shown, known = name in self._entries, self._entries.get(name) or self._aside.get(name)
        found = {} if known is None else {name: known}
        if not self._apply(found, event, data, numbered=numbered):
            return False
        is_whole = _is_birth(data) or not numbered or (known is not None and name not in self._partial)
        self._partial.pop(name, None)
        self._aside.pop(name)
        if self._wanted.matches(found[name]):
            self._entries[name] = found[name]
            if not is_whole:
                self._partial[name] = None
            self._forget_beyond_limit(name)
            return True
        self._entries.pop(name, None)
        if is_whole:
            self._aside[name] = found[name]
        return was_shown


def _is_birth(data: Entry) -> bool:
    """Tell whether an event says all that there is of its job."""
    is_new = data.get("status") == "queued" and not data.get("attempt") and not data.get("worker")
    return data.get(NEW_RUN) is True or is_new
