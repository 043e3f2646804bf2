"""Read the jobs that a snapshot had no room for, page by page, and single ones, while events go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from celery_realtime.client.entries import Update
from celery_realtime.client.messages import Item, Page, read_page, refusal_in
from celery_realtime.client.ordering import MAX_HELD
from celery_realtime.client.protocol import METADATA_EVENT, PROGRESS_EVENT, STATUS_EVENT

#: Jobs that a server reads by their ids at once.
MOST_JOBS = 100


class Pages:
    """What is left to read of a snapshot, and the page that is being read.

    A page has its jobs as of its offset. It waits until all events up to there have been passed on; those behind it are
    applied to it, so that none is lost and nothing newer is overwritten.

    Args:
        project_id: The project.
        send: ``(number, request)``: sends a request; None where nothing further is read.
        also: What each request for a page says beside.

    Attributes:
        next: Where to read on; None if nothing is left.
        reads_some: Whether single jobs can be read by their ids; an older server cannot.
    """

    def __init__(
        self,
        project_id: str,
        send: Callable[[int, dict[str, Any]], None] | None,
        also: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.next: str | None = None
        self.reads_some = send is not None
        self._also = also
        #: The ids that were asked for; None for a page.
        self._asked: list[str] | None = None
        self._project_id = project_id
        self._send = send
        self._requests = 0
        self._page: Page | None = None
        #: What has come since the page was asked for; None if none is.
        self._later: list[tuple[Item, bool]] | None = None

    @property
    def are_left(self) -> bool:
        """Whether there are further pages, and a way to ask for them."""
        return self._send is not None and self.next is not None

    @property
    def is_busy(self) -> bool:
        """Whether something is being read."""
        return self._later is not None

    def ask(self) -> None:
        """Ask for the next page."""
        self._begin(None, {"from": self.next, **self._also})

    def ask_some(self, job_ids: list[str]) -> None:
        """Ask for jobs by their ids, at most :data:`MOST_JOBS`."""
        self._begin(job_ids, {"jobs": job_ids})

    def _begin(self, asked: list[str] | None, what: dict[str, Any]) -> None:
        if self._send is not None:
            self._requests += 1
            self._page, self._later, self._asked = None, [], asked
            self._send(self._requests, {"project_id": self._project_id, **what})

    def drop(self) -> None:
        """Read the page no more."""
        self._page = self._later = None

    def note(self, item: Item, *, numbered: bool) -> None:
        """Note an event that is passed on; after too many of jobs the page is dropped."""
        if self._later is not None and item.event in (STATUS_EVENT, PROGRESS_EVENT, METADATA_EVENT):
            self._later.append((item, numbered))
            if len(self._later) > MAX_HELD:
                self.drop()

    def answered(self, number: int, answer: Any, epoch: str | None) -> None:
        """Take the answer to a request, unless it is of no use in the epoch of the events."""
        page, refusal = read_page(answer), refusal_in(answer) or {}
        if number == self._requests and self._asked is not None and refusal.get("code") == "bad_request":
            self.reads_some = False
            self.drop()
        if number == self._requests and self._later is not None and page is not None and page.epoch == epoch:
            self._page = page

    def take(self, offset: int | None) -> tuple[Any, list[Update], list[str] | None] | None:
        """Return the jobs of the page, what came behind it, and which were asked for by their ids.

        None until all before the page has been passed on.
        """
        page, later = self._page, self._later
        if page is None or later is None or offset is None or page.offset > offset:
            return None
        self.drop()
        if self._asked is None:
            self.next = page.next
        asked = None if self._asked is None else [name for name in self._asked if name not in page.unread]
        updates = [
            (item.event, item.data, numbered)
            for item, numbered in later
            if item.offset is None or item.offset > page.offset
        ]
        return page.jobs, updates, asked
