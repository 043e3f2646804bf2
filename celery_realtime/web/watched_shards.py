"""Have a server listen to the shards of the projects that its clients watch, and to no others."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from collections.abc import Set as AbstractSet
from typing import Any

from celery_realtime.channel.bindings import Bindings
from celery_realtime.channel.shards import Shard, shard_of
from celery_realtime.clocks import time
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.settings import MOST_SHARDS

logger = logging.getLogger(__name__)

#: Seconds for which a shard is still listened to after the last client has left its projects, at least.
LINGER = 10.0

#: Seconds between two looks at which projects are still watched.
SWEEP_INTERVAL = 5.0

#: The most numbers of shards of publishers that disagree which are followed; each of them costs bindings.
MOST_COUNTS = 4

DIFFERS = "a publisher has realtime_shards = %d, and this web server %d, "
FOLLOWED = (
    "so this server listens to the shards of both, which costs more (what it has missed before it knew is read from "
    "the history, if there is one); give all processes the same number"
)
NOT_FOLLOWED = (
    "and listens to the shards of several numbers already, so it hears no live events of that publisher; give all "
    "processes the same number"
)


class WatchedShards:
    """The projects that clients of a server watch, and the shards that are listened to for them.

    Publishers say now and then into how many shards they divide the projects. Where that is another number than this
    server's, both are listened to, so that nothing is missed while a deployment changes it, and the log says so.

    Args:
        count: Into how many shards this server takes the projects to be divided.
        bindings: What the listener listens to.
        is_watched: Whether any client of this server follows a project.
        wake: Has the listening thread look at what is wanted; may block, and may do nothing if the broker is away.
    """

    def __init__(
        self, count: int, bindings: Bindings, is_watched: Callable[[str], bool], wake: Callable[[], Any]
    ) -> None:
        self._count = count
        self._is_watched = is_watched
        self._wake = wake
        self._failures = RateLimitedLogger(logger)
        self.start_over(bindings)

    def start_over(self, bindings: Bindings) -> None:
        """Forget everything, in a child process."""
        self._bindings = bindings
        self._lock = threading.Lock()
        self._counts = {self._count} - {1}
        #: Those that agree, or that the log has.
        self._reported = {self._count}
        #: By project, when a client was last about to watch it.
        self._projects: dict[str, float] = {}
        #: Whether something is wanted that the listening thread has not been woken for.
        self._is_news = False
        self._sweeps_at = 0.0

    @property
    def are_there(self) -> bool:
        """Whether this server takes projects to be divided at all."""
        return self._count > 1

    # -- clients, in their threads ------------------------------------------------------------------------------

    def watch(self, project_id: str) -> Collection[Shard]:
        """Have a project's shards listened to from now on, since a client enters a room of it; return them."""
        with self._lock:
            self._projects[project_id] = time.monotonic()
            shards = self._shards_of(project_id)
            if shards and self._bindings.want(shards):
                self._is_news = True
            return shards

    def projects(self, but: AbstractSet[str] = frozenset()) -> set[str]:
        """Return the projects that clients of this server watch now, but for some; from any thread."""
        with self._lock:
            names = self._projects.keys() - but
        return {name for name in names if self._is_watched(name)}

    def _shards_of(self, project_id: str) -> list[Shard]:
        found = (shard_of(project_id, count) for count in self._counts)
        return [shard for shard in found if shard is not None]

    def wait(self, project_id: str, timeout: float) -> bool:
        """Watch a project, and wait until what is published of it is heard; returns whether it is."""
        shards = self.watch(project_id)
        if self._bindings.wait(shards, 0):
            return True
        self.wake()
        return self._bindings.wait(shards, timeout)

    def wake(self) -> None:
        """Have the listening thread bind what is new now; it does that within a second anyway."""
        with self._lock:
            is_news, self._is_news = self._is_news, False
        if is_news:
            self._wake()

    # -- the thread that listens --------------------------------------------------------------------------------

    def learn(self, announced: Any) -> None:
        """Note into how many shards a publisher divides the projects."""
        if type(announced) is not int or announced in self._reported or not 1 <= announced <= MOST_SHARDS:
            return
        self._reported.add(announced)
        consequence = FOLLOWED if self._follow(announced) else NOT_FOLLOWED
        self._failures.warning(DIFFERS + consequence, announced, self._count)

    def _follow(self, announced: int) -> bool:
        """Listen to the shards of another number, too; return whether that is done."""
        if announced == 1:  # every server hears them
            return True
        with self._lock:
            if len(self._counts) >= MOST_COUNTS:
                return False
            self._counts = self._counts | {announced}
            self._bindings.note_announced(announced)
            for project_id in self._projects:
                self._bindings.want(self._shards_of(project_id))
            return True

    def sweep(self) -> set[str]:
        """Return the projects of shards that have been listened to since the last call; and listen to fewer.

        Of those something may have been missed. Now and then it is looked which projects are watched no more.
        """
        clock, fresh = time.monotonic(), self._bindings.take_fresh()
        if clock >= self._sweeps_at:
            self._sweeps_at = clock + SWEEP_INTERVAL
            self._forget_unwatched(clock)
        if not fresh:
            return set()
        with self._lock:
            return {name for name in self._projects if not fresh.isdisjoint(self._shards_of(name))}

    def _forget_unwatched(self, clock: float) -> None:
        with self._lock:
            old = [name for name, since in self._projects.items() if clock - since > LINGER]
        left = [name for name in old if not self._is_watched(name)]
        with self._lock:
            for name in left:
                if clock - self._projects.get(name, clock) > LINGER:
                    del self._projects[name]
            wanted = {shard for name in self._projects for shard in self._shards_of(name)}
            self._bindings.drop(self._bindings.wanted() - wanted)
