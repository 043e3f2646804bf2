"""Read the jobs that a snapshot had no room for, page by page, while events go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery_realtime.client.entries import Update
from celery_realtime.client.messages import Item, Page, read_page
from celery_realtime.client.ordering import MAX_HELD
from celery_realtime.client.protocol import METADATA_EVENT, PROGRESS_EVENT, STATUS_EVENT


class Pages:
    """What is left to read of a snapshot, and the page that is being read.

    A page has its jobs as of its offset. It waits until all events up to there have been passed on; those behind it are
    applied to it, so that none is lost and nothing newer is overwritten.

    Args:
        project_id: The project.
        send: ``(number, request)``: sends a request; None where nothing further is read.

    Attributes:
        next: Where to read on; None if nothing is left.
    """

    def __init__(self, project_id: str, send: Callable[[int, dict[str, Any]], None] | None) -> None:
        self.next: str | None = None
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

    def ask(self) -> None:
        """Ask for the next page."""
        if self._send is not None:
            self._requests += 1
            self._page, self._later = None, []
            self._send(self._requests, {"project_id": self._project_id, "from": self.next})

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
        page = read_page(answer)
        if number == self._requests and self._later is not None and page is not None and page.epoch == epoch:
            self._page = page

    def take(self, offset: int | None) -> tuple[Any, list[Update]] | None:
        """Return the jobs of the page, and what came behind it; None until all before that has been passed on."""
        page, later = self._page, self._later
        if page is None or later is None or offset is None or page.offset > offset:
            return None
        self.drop()
        self.next = page.next
        updates = [
            (item.event, item.data, numbered)
            for item, numbered in later
            if item.offset is None or item.offset > page.offset
        ]
        return page.jobs, updates
