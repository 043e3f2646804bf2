"""Notice that a broker has come back without its messages, and report the jobs that nobody can run any more."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from celery import Celery

from celery_realtime import events
from celery_realtime.clocks import time
from celery_realtime.encoding import legible
from celery_realtime.events import Ending, Job
from celery_realtime.forks import after_fork, talking
from celery_realtime.jobs.redis_broker import RedisBroker
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.loops import BackgroundLoop, PeriodicLoop
from celery_realtime.sending.manager import SocketIOManager

if TYPE_CHECKING:
    from celery_realtime.history.store import History

logger = logging.getLogger(__name__)

#: Seconds without a turn after which the loop counts as standing still: an attempt to connect may take that long.
LONGEST_TURN = 120.0

#: Most jobs of a project that are looked at.
MOST_JOBS = 100_000

#: Most bytes of their descriptions.
MOST_BYTES = 1 << 30

#: Longest wait, in seconds, for the end of a look when it is to be the last.
STOP_TIMEOUT = 1.0

ERROR = "MessageLost: the broker has come back without its data, and the message of the job with them"


class BrokerWatch:
    """Watches whether a Redis that is the broker still has what it had, from a thread of its own.

    It puts a mark into the broker, and remembers in the history that it did. When the mark is gone and the history
    remembers it, whatever was in a queue is gone too.

    Args:
        app: Whose broker it is, a Redis.
        manager: Has the history, and publishes the reports.
        channel: Keeps apart what shares a broker.
        pause: Seconds between two looks.
        patience: Seconds after the broker's return in which what is queued is looked at again and again: workers
            notice only then that they have lost what they had reserved, and late reports of publications come in.

    Attributes:
        loop: The record of the thread's loop.
    """

    def __init__(self, app: Celery, manager: SocketIOManager, channel: str, *, pause: float, patience: float) -> None:
        self._app = app
        self._manager = manager
        self._channel = channel
        self._patience = patience
        self._log = RateLimitedLogger(logger)
        self.loop = BackgroundLoop("broker watch", logger, LONGEST_TURN + pause)
        self._periodic = PeriodicLoop(self.loop, self.look, pause)
        self._start_over()
        after_fork(self._start_over)

    def _start_over(self) -> None:
        #: The connection that it looks through.
        self._broker: RedisBroker | None = None

    def start(self) -> None:
        """Look until :meth:`stop`."""
        self._periodic.start()

    def stop(self) -> None:
        """Look no more, and close the connection."""
        if self._periodic.stop(STOP_TIMEOUT):
            self._disconnect()

    def _disconnect(self) -> None:
        broker, self._broker = self._broker, None
        if broker is not None:
            broker.close()

    @contextlib.contextmanager
    def _connected(self) -> Iterator[RedisBroker]:
        """Talk to the broker, through the connection that there is if it still works; one that fails is closed."""
        with talking:
            if self._broker is not None and not self._broker.is_alive():
                self._disconnect()
            broker = self._broker = self._broker or RedisBroker.connect(self._app, self._channel)
            try:
                yield broker
            except broker.errors:
                self._disconnect()
                raise

    def look(self) -> None:
        """Look once, and report what was lost.

        Raises:
            redis.RedisError: Redis cannot be reached.
            kombu.exceptions.OperationalError: The broker cannot be reached.
        """
        history = self._manager.history
        if history is None:
            return
        with self._connected() as broker:
            is_marked, is_known = broker.is_marked(), history.brokers.has(broker.name)
            if is_marked and is_known:
                return
            if not is_known:
                broker.mark()
                history.brokers.add(broker.name)
                return
            age = broker.age()
        self._report_lost(history, time.time() - age)
        if age > self._patience and self._manager.flush():
            with self._connected() as broker:
                broker.mark()

    def _report_lost(self, history: History, since: float) -> None:
        held = history.leases.held()
        for project in history.places.projects():
            entries = history.read(project, most_jobs=MOST_JOBS, most_bytes=MOST_BYTES).jobs
            held_here = {job_id for owner, job_id in held if owner == project}
            lost = [*_undelivered(entries, held_here, since)]
            queued = sum(entry["status"] == "queued" for entry in lost)
            if queued:
                self._log.warning(
                    "the broker has come back without its data, so %d queued jobs of a project are lost, and shown "
                    "as LOST; start them again where they are still wanted",
                    queued,
                    project_id=project,
                )
            for entry in lost:
                end = Ending("LOST", ERROR)
                gate = events.UNDELIVERED_GATE
                self._manager.put(events.outgoing_end(_job_of(entry), end, incarnation="", gate=gate, since=since))


def _undelivered(entries: list[dict[str, Any]], held: set[str], before: float) -> Iterator[dict[str, Any]]:
    """Return the jobs whose message the broker had, as far as one can tell, and has no more.

    That is what has been queued since before a time, in seconds since the epoch, and what may have been handed on by
    then, as the history knows: of its workflow, nothing that it may wait for is left.
    """
    there: set[Any] = set()
    missing = []
    for entry in entries:
        status = entry.get("status")
        is_later = status == "queued" and _time_of(entry) >= before
        if status in ("queued", "running") and (is_later or legible(entry["job_id"]) in held):
            there.add(entry.get("root_id"))
        elif status in ("queued", "running") and _time_of(entry) < before:
            missing.append(entry)
    there.discard(None)
    for entry in missing:
        if entry["status"] == "queued" or entry.get("root_id") not in there:
            yield entry


def _time_of(entry: dict[str, Any]) -> float:
    return datetime.fromisoformat(str(entry["timestamp"]).replace("Z", "+00:00")).timestamp()


def _job_of(entry: dict[str, Any]) -> Job:
    names = ("job_id", "project_id", "task", "attempt", "root_id", "parent_id", "group_id")
    fields: dict[str, Any] = {name: entry.get(name) for name in names}
    return Job(**fields)
