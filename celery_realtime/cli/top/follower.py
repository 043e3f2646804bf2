"""Hear the channel and read the history, from threads of this process, for as long as somebody looks."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from celery_realtime.channel.listener import Listener
from celery_realtime.channel.shards import Shard, shard_of
from celery_realtime.channel.wire import Heard, decode_message
from celery_realtime.cli.top.feeds import Feeds, Key
from celery_realtime.cli.top.followed import Followed
from celery_realtime.cli.top.requests import Request, Requests
from celery_realtime.clocks import time
from celery_realtime.logs import describe
from celery_realtime.loops import BackgroundLoop

if TYPE_CHECKING:
    from typing_extensions import Self

    from celery_realtime.history.snapshot import Snapshot
    from celery_realtime.history.store import History

logger = logging.getLogger(__name__)

#: Seconds between two looks at what is due.
LOOK = 0.2

#: Seconds between two looks at what could not be read, and two marks of the projects that are looked at.
LOOK_INTERVAL = 2.0

#: Seconds without a turn after which a loop counts as standing still.
LONGEST_TURN = 30.0

#: What there is to read where there is no history.
NOTHING: dict[str, Any] = {"ok": True, "epoch": None, "offset": None, "jobs": [], "workflows": [], "events": []}


class Follower:
    """Follows the jobs of a project, or of all, while its block runs.

    Args:
        realtime: The Realtime.
        project: The project; None for all.
        max_jobs: Jobs that are kept of each project.

    Attributes:
        feeds: What has been heard and read.
        loops: The records of its background loops.
        visible: The projects that are looked at: their progress is sent as often as for a browser.

    Raises:
        ImproperlyConfigured: A setting is mistaken.
    """

    def __init__(self, realtime: Any, project: str | None, max_jobs: int) -> None:
        settings = realtime.settings
        self._history: History | None = realtime.manager.history
        self._all = project is None
        self._listener = Listener(settings.url or "", settings.channel, connection_options=settings.connection_options)
        self._listener.bindings.want(_shards(project, settings.shards))
        self._requests = Requests()
        #: What could not be read, and no feed asks for again.
        self._later: list[Request] = []
        self._is_over = False
        self._listening, self._reading = (
            BackgroundLoop(name, logger, LONGEST_TURN) for name in ("top-listening", "top-reading")
        )
        self.loops = [self._listening, self._reading]
        #: Why the history was not read last; None if it was.
        self.reading_error: str | None = None
        self.feeds = Feeds(self._requests.put, project, max_jobs)
        self.visible: Collection[str] = [] if project is None else [project]
        self._followed: Followed | None = None

    def __enter__(self) -> Self:
        for run in (self._listen, self._read):
            threading.Thread(target=run, name=f"celery-realtime-top{run.__name__}", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True  # the threads end within a second, or when the broker or Redis answers

    @property
    def is_hearing(self) -> bool:
        """Whether the channel is heard."""
        return self._listener.is_hearing

    @property
    def has_history(self) -> bool:
        """Whether there is a history, without which only what happens from now on is known."""
        return self._history is not None

    def follow(self, key: Key) -> Followed:
        """Record the events of one job, and read those that there have been."""
        self._followed = self.feeds.follow(key)
        if self._history is not None:
            self._requests.put(Request("events", key[0], data=self._followed))
        return self._followed

    # -- the channel ----------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        generation = self._listener.generation
        with contextlib.closing(self._listener.messages(lambda: LOOK)) as messages:
            for message in messages:
                if self._is_over:
                    return
                with self._listening.turn():
                    if generation != self._listener.generation:
                        generation = self._listener.generation
                        self._note_connection()
                    if message is not None:
                        self._take(message)

    def _note_connection(self) -> None:
        if self._all and self._history is not None:
            self._requests.put(Request("projects"))
        self.feeds.connected()

    def _take(self, message: Any) -> None:
        items = decode_message(message.body, message.content_type)
        self.feeds.heard(item for item in items if isinstance(item, Heard))

    # -- the history ----------------------------------------------------------------------------------------------

    def _read(self) -> None:
        self._note_connection()  # what is stored is shown even if the broker is away
        looks_at = time.monotonic()
        while not self._is_over:
            request = self._requests.take(LOOK)
            with self._reading.turn():
                if request is not None:
                    self._answer(request)
                self.feeds.wake()
                if time.monotonic() >= looks_at:
                    looks_at = time.monotonic() + LOOK_INTERVAL
                    self._look()

    def _look(self) -> None:
        """Ask again for what could not be read, or was not heard; and mark what is looked at."""
        later, self._later = self._later, []
        for request in later:
            self._requests.put(request)
        if not self.is_hearing:
            self.feeds.look_again(self.visible)
        if self._history is not None and self.visible and self.reading_error is None:
            self._history.watches.mark(list(self.visible))

    def _answer(self, request: Request) -> None:
        answer = None
        try:
            answer = self._answer_to(request)
            self.reading_error = None
        except Exception as error:  # noqa: BLE001 - each library of Redis' raises errors of its own; it is asked again
            self.reading_error = describe(error)
            logger.debug("cannot read the history: %s", self.reading_error)
        if request.kind in ("snapshot", "page"):
            self.feeds.answered(request, answer)
        elif answer is None and (request.kind == "projects" or request.data is self._followed):
            self._later.append(request)

    def _answer_to(self, request: Request) -> Any:
        history, project = self._history, request.project_id
        if history is None:
            return NOTHING
        if request.kind == "projects":
            self.feeds.add(history.places.projects())
        elif request.kind == "events":
            request.data.load([(item["event"], item["data"]) for item in history.recent(project)])
        elif request.kind == "page":
            return _page(history.read_on(project, request.data["from"]))
        else:
            return _snapshot(history, project, request.data.get("since"))
        return True


def _shards(project: str | None, total: int) -> list[Shard]:
    """Return the shards in which events of a project, or of all, are published."""
    if project is None:
        return [] if total == 1 else [Shard(total, number) for number in range(total)]
    shard = shard_of(project, total)
    return [] if shard is None else [shard]


def _snapshot(history: History, project: str, since: dict[str, Any] | None) -> dict[str, Any]:
    """Return what a web server answers; jobs are read only if the events since a position are not all there."""
    epoch, offset = (since["epoch"], since["offset"]) if since else ("", -1)
    read = history.read(project, epoch, offset, most_jobs=0) if since else None
    if read is None or not read.recovered:
        read = history.read(project, epoch, offset)
    return {**_page(read), "recovered": read.recovered, "workflows": read.workflows, "events": read.events}


def _page(read: Snapshot) -> dict[str, Any]:
    return {"ok": True, "epoch": read.epoch, "offset": read.offset, "jobs": read.jobs, "next": read.next}
