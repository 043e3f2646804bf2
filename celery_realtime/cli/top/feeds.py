"""The state of each project that is shown, merged from the channel and the history as clients merge it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from celery_realtime.channel.wire import Heard
from celery_realtime.cli.top.followed import Followed
from celery_realtime.cli.top.requests import Request
from celery_realtime.client import Feed, FeedOptions
from celery_realtime.client.protocol import BATCH_EVENT, MARK, RESYNC_EVENT
from celery_realtime.clocks import time
from celery_realtime.stream_parts import STREAM_EVENT

#: Beyond so many, those are forgotten of which nothing runs.
MOST_PROJECTS = 1000

#: Seconds after which a feed asks once more: the history of very many projects is read one after the other.
ACK_TIMEOUT = 60.0

#: A job, by its project and its id.
Key = tuple[str, str]


class Feeds:
    """The feeds of the projects. Safe over threads.

    Args:
        ask: Called with what has to be read for a feed.
        project: The one project to follow; None for all.
        max_jobs: Jobs that are kept of each project; beyond, those are forgotten that have ended.

    Attributes:
        version: Changes with whatever is shown.
    """

    def __init__(self, ask: Callable[[Request], None], project: str | None, max_jobs: int) -> None:
        self._ask = ask
        self._project = project
        self._max_jobs = max_jobs
        self._lock = threading.RLock()
        #: Those of which something was heard last come last.
        self._feeds: dict[str, Feed] = {}
        self._followed: Followed | None = None
        self._is_connected = False
        self.version = 0
        if project is not None:
            self.add([project])

    # -- what comes in --------------------------------------------------------------------------------------------

    def add(self, projects: Iterable[str]) -> None:
        """Follow projects that may not be followed yet."""
        with self._lock:
            for project in projects:
                if project not in self._feeds:
                    self._begin(project)

    def heard(self, events: Iterable[Heard]) -> None:
        """Take events as they came from the channel."""
        with self._lock:
            for event in events:
                if self._project not in (None, event.project_id):
                    continue
                if event.event == STREAM_EVENT:  # it has no place among the events of its project
                    self._note_event(event.project_id, event.event, event.data)
                else:
                    self._feed_of(event.project_id).heard(BATCH_EVENT, [_item(event)])

    def _feed_of(self, project: str) -> Feed:
        feed = self._feeds.pop(project, None)
        if feed is None:
            return self._begin(project)
        self._feeds[project] = feed
        return feed

    def _begin(self, project: str) -> Feed:
        options = FeedOptions(
            lambda name, data: self._note_event(project, name, data),
            self._note_change,
            max_jobs=self._max_jobs,
            ack_timeout=ACK_TIMEOUT,
        )
        feed = Feed(
            project,
            lambda number, request: self._ask(Request("snapshot", project, number, request)),
            options,
            ask_page=lambda number, request: self._ask(Request("page", project, number, request)),
        )
        self._feeds[project] = feed
        self._forget_one()
        if self._is_connected:
            feed.connected()
        return feed

    def _forget_one(self) -> None:
        if len(self._feeds) > MOST_PROJECTS:
            names = list(self._feeds)[:-1]
            name = next((name for name in names if not _has_live_jobs(self._feeds[name])), names[0])
            self._feeds.pop(name).close()

    def connected(self) -> None:
        """Note that the channel is listened to from now on, so that what was missed has to be read."""
        with self._lock:
            self._is_connected = True
            for feed in list(self._feeds.values()):
                feed.disconnected()
                feed.connected()

    def look_again(self, projects: Iterable[str]) -> None:
        """Have it read again what the history has of some projects: the channel is not heard."""
        with self._lock:
            for name in projects:
                if name in self._feeds:
                    self._feeds[name].heard(RESYNC_EVENT, {"project_id": name})

    def answered(self, request: Request, answer: Any) -> None:
        """Take what was read for a feed; None if it could not be read."""
        with self._lock:
            feed = self._feeds.get(request.project_id)
            if feed is not None and request.kind == "page":
                feed.page_answered(request.number, answer)
            elif feed is not None:
                feed.answered(request.number, answer)

    def wake(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        with self._lock:
            for feed in list(self._feeds.values()):
                if feed.wakes_at is not None and feed.wakes_at <= now:
                    feed.wake()

    def _note_change(self, _feed: Feed, _reason: str) -> None:
        self.version += 1

    def _note_event(self, project: str, name: str, data: Any) -> None:
        if self._followed is not None:
            self._followed.add(project, name, data)

    # -- what is shown --------------------------------------------------------------------------------------------

    def jobs(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Return the latest state of each job, with its project."""
        with self._lock:
            return [(name, job) for name, feed in self._feeds.items() for job in feed.jobs.values()]

    def job(self, key: Key) -> Mapping[str, Any] | None:
        """Return the latest state of a job, or None if it is not known any more."""
        with self._lock:
            feed = self._feeds.get(key[0])
            return None if feed is None else feed.jobs.get(key[1])

    @property
    def are_whole(self) -> bool:
        """Whether all that the history has of the projects has been read."""
        with self._lock:
            return self._is_connected and all(feed.state == "subscribed" for feed in self._feeds.values())

    @property
    def projects(self) -> int:
        """How many projects are followed."""
        return len(self._feeds)

    def follow(self, key: Key) -> Followed:
        """Record the events of one job from now on, and of no other; returns the record."""
        with self._lock:
            self._followed = Followed(key)
            return self._followed

    def unfollow(self, followed: Followed) -> None:
        """Record no events of a job any more, unless another one is followed by now."""
        with self._lock:
            if self._followed is followed:
                self._followed = None


def _item(event: Heard) -> dict[str, Any]:
    """Return an event as an item of a batch; what its data cannot say of it is put around them."""
    data = event.data if event.mark is None else {MARK: event.mark, "data": event.data}
    return {"event": event.event, "data": data}


def _has_live_jobs(feed: Feed) -> bool:
    return any(job.get("status") in ("queued", "running") for job in feed.jobs.values())
