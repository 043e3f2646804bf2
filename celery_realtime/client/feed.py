"""The state of one subscription, and what has to be asked to complete it; no input or output, no locks, no clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from celery_realtime.client.entries import Entry
from celery_realtime.client.messages import Answer, Item, items_of, read_answer, refusal_in
from celery_realtime.client.ordering import EventOrder
from celery_realtime.client.pages import MOST_JOBS, Pages
from celery_realtime.client.project_state import ProjectState
from celery_realtime.client.protocol import RESYNC_EVENT
from celery_realtime.client.subscription_requests import Ask, SubscriptionRequests
from celery_realtime.client.subscription_state import ACK_TIMEOUT, FIRST_PAUSE, GAP_TIMEOUT, SubscriptionState
from celery_realtime.client.timers import spread
from celery_realtime.clocks import time
from celery_realtime.job_filters import JobFilter

CHECK_INTERVAL = 30.0

#: Seconds in which jobs are collected that have to be read.
COLLECTING = 0.05

OnEvent = Callable[[str, Any], Any]
OnChange = Callable[["Feed", str], Any]


@dataclass(frozen=True)
class FeedOptions:
    """What a feed does with its events.

    Args:
        on_event: ``(name, data)``, for each event, in order.
        on_change: ``(feed, reason)``; ``snapshot`` when all entries have been replaced, else ``jobs``, ``workflows``
            or ``state``.
        since: Where to begin, of a :class:`~celery_realtime.jobs.handle.JobHandle`.
        batch: Whether events come as lists.
        max_jobs: Beyond so many, jobs and workflows that have ended are forgotten, the oldest first, and no further
            jobs of a snapshot are asked for.
        ack_timeout: Seconds to wait for an answer before the server is asked again.
        first_pause: Seconds until the first retry; doubled each time, up to ``LONGEST_PAUSE``.
        clock: Returns the time in seconds.
        filter: Which jobs are shown, as ``{"status": [...], "task": [...], "label": [...]}``; None for all.

    Raises:
        ValueError: ``filter`` is no such object.
    """

    on_event: OnEvent = lambda _name, _data: None
    on_change: OnChange = lambda _feed, _reason: None
    since: Mapping[str, Any] | None = None
    batch: bool = False
    max_jobs: int = 5000
    ack_timeout: float = ACK_TIMEOUT
    first_pause: float = FIRST_PAUSE
    clock: Callable[[], float] = time.monotonic
    filter: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        JobFilter.of(self.filter)

    @property
    def job_filter(self) -> JobFilter | None:
        """Which jobs are shown; None for all."""
        return JobFilter.of(self.filter)

    @property
    def of_requests(self) -> dict[str, Any]:
        """What requests for jobs say beside."""
        wanted = self.job_filter
        return {} if wanted is None else {"filter": wanted.as_wire()}


class Feed(SubscriptionState):
    """The state of one project, as its server has described it so far.

    Args:
        project_id: The project.
        ask: ``(number, request)``: sends a request for a subscription.
        options: Callbacks, and where and how to begin.
        ask_page: ``(number, request)``: sends a request for further jobs, which :meth:`page_answered` gets with the
            number; None for never asking.

    Attributes:
        state: ``subscribing``, ``subscribed``, ``stale`` or ``refused``.
        error: What the server refused with, as ``{"code", "message"}``.
        jobs: The latest state of each job, by its id.
        workflows: The latest state of each workflow, by the id of its first job.
        recovered: Whether all events since the position that it began at were passed on before its latest snapshot.
    """

    def __init__(
        self, project_id: str, ask: Ask, options: FeedOptions | None = None, *, ask_page: Ask | None = None
    ) -> None:
        self._options = options or FeedOptions()
        super().__init__(self._options.clock, self._options.first_pause)
        self.project_id = project_id
        self._shown = ProjectState(self, self._options)
        self.jobs: Mapping[str, Entry] = self._shown.jobs.view
        self.workflows: Mapping[str, Entry] = self._shown.workflows.view
        also = self._options.of_requests
        self._asking = SubscriptionRequests(project_id, ask, batch=self._options.batch, also=also)
        self._pages = Pages(project_id, ask_page, also)
        self._order = EventOrder(self._options.since)
        #: There has been a snapshot.
        self._began = False
        self.recovered = False
        self._last_event_at = 0.0

    def _drop_requests(self) -> None:
        self._asking.drop()
        self._pages.drop()

    @property
    def requests(self) -> int:
        """How many requests for a subscription have been sent, which numbers them."""
        return self._asking.count

    @property
    def epoch(self) -> str | None:
        """The epoch of the project's history; None without one."""
        return self._order.epoch

    @property
    def offset(self) -> int | None:
        """The offset up to which every event has been passed on; None without a history."""
        return self._order.offset

    @property
    def held_offsets(self) -> list[int]:
        """The offsets of events that wait for an earlier one."""
        return self._order.held_offsets

    def close(self) -> None:
        """Call no callback any more."""
        self._shown.close()
        super().close()

    def _check(self) -> None:
        """Ask whether something was missed: the loss of the last event leaves no hole to see."""
        if not self._live or self._asking.is_awaiting:
            return
        if self._options.clock() - self._last_event_at > CHECK_INTERVAL / 2:
            self._ask()
        else:
            self._timers.set("check", spread(CHECK_INTERVAL, 0.75, 1.25), self._check)

    # -- asking -------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        if self._closed or not self._connected:
            return
        self._timers.clear()
        self._pages.drop()
        number = self._asking.begin()
        self._timers.set("ack", self._options.ack_timeout, lambda: self.answered(number, None))
        self._asking.send(self.epoch, self.offset)

    def _ask_again(self) -> None:
        """Ask, unless there is no subscription: then a request is due anyway, or would be in vain."""
        if self._asking.is_awaiting:
            self._asking.is_due_again = True
        elif self._live:
            self._ask()

    def answered(self, number: int, answer: Any) -> None:
        """Take the answer to a request; None if none came in time."""
        if not self._asking.settle(number):
            return
        granted = read_answer(answer)
        if granted is None:
            self.refused(refusal_in(answer))
            return
        self._timers.clear()
        self._live = True
        self._backoff.reset()
        self._last_event_at = self._options.clock()
        self._take(granted)
        if self._live:  # a callback may have closed it
            self._resume()

    def _resume(self) -> None:
        self._set_state("subscribed", None)
        self._check()
        self._watch_hole()
        if self._asking.is_due_again:
            self._ask_again()
        else:
            self._read_on()

    # -- what the server sends ----------------------------------------------------------------------------------

    def _take(self, answer: Answer) -> None:
        if answer.recovered and answer.epoch == self.epoch:
            for item in answer.events:
                self._insert(item)
            if not self._began:
                self.recovered = True
                self._load(answer)  # the events began with a handle, which has no jobs
        elif not self._began or answer.epoch != self.epoch or (answer.offset or 0) > (self.offset or 0):
            is_anew = answer.epoch != self.epoch
            self.recovered = False
            self._order.restart(answer.epoch, answer.offset)
            self._load(answer, anew=is_anew)
        for item in self._order.take_held():
            self._sort(item)

    def _load(self, answer: Answer, *, anew: bool = False) -> None:
        self._began, self._pages.next = True, answer.next
        self._shown.load(answer, anew=anew)

    def _read_on(self) -> None:
        """Ask for the next page of a snapshot; without an answer of use, the subscription goes on from there.

        Not while a subscription is asked for: what its answer has may be newer than the page, which would replace it.
        """
        if self._asking.is_awaiting or self._pages.is_busy:
            return
        some = self._shown.jobs.partial[:MOST_JOBS]
        if self._live and some and self._pages.reads_some:
            self._timers.set("page", self._options.ack_timeout, self._ask)
            self._pages.ask_some(some)
        elif self._live and self._pages.are_left and len(self.jobs) < self._options.max_jobs:
            self._timers.set("page", self._options.ack_timeout, self._ask)
            self._pages.ask()

    def page_answered(self, number: int, answer: Any) -> None:
        """Take the answer to a request for further jobs; None if there is none."""
        self._pages.answered(number, answer, self.epoch)
        self._take_page()
        if not self._pages.reads_some and not self._pages.is_busy:
            self._timers.cancel("page")
            self._read_on()

    def _take_page(self) -> None:
        if (page := self._pages.take(self.offset)) is not None:
            self._timers.cancel("page")
            self._shown.insert(*page)
            self._read_on()

    def heard(self, name: str, data: Any) -> None:
        """Take an event that the client received, of whatever project."""
        for item in items_of(name, data, self.project_id):
            if item.event == RESYNC_EVENT:
                self._ask_again()
            else:
                self._sort(item)

    def _sort(self, item: Item) -> None:
        numbered = item.offset is not None
        foreign = numbered and item.epoch != self.epoch
        if not foreign:
            self._last_event_at = self._options.clock()
        if not self._began or (foreign and self._asking.is_awaiting):
            self._order.hold_until_answer(item)
        elif numbered and not foreign:
            self._insert(item)
        else:
            if foreign and self._order.is_first_of_epoch(item.epoch):
                self._ask_again()
            if not numbered or self.epoch is None:
                self._deliver(item, numbered=False)

    def _insert(self, item: Item) -> None:
        for due in self._order.insert(item):
            self._timers.cancel("gap")  # the next hole gets a timer of its own
            self._deliver(due, numbered=True)
        self._take_page()
        self._watch_hole()

    def _watch_hole(self) -> None:
        if self._order.drop_overflow():
            self._ask_again()
        elif self.held_offsets and self._live and not self._asking.is_awaiting and "gap" not in self._timers:
            self._timers.set("gap", GAP_TIMEOUT, self._ask)

    def _deliver(self, item: Item, *, numbered: bool) -> None:
        self._pages.note(item, numbered=numbered)
        self._shown.deliver(item, numbered=numbered)
        if self._shown.jobs.partial and self._pages.reads_some and "some" not in self._timers:
            self._timers.set("some", COLLECTING, self._read_on)

    def _state_changed(self) -> None:
        self._shown.changed("state")
