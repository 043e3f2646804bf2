"""Route events to the subscribers of a project: the one way out for everything that is said."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures.thread  # noqa: F401  (python-socketio loads it, which cannot be done once an exit has begun)
import functools
import inspect
import logging
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from celery_realtime import events
from celery_realtime.bounded import BoundedDict
from celery_realtime.encoding import describe_error, one_line
from celery_realtime.events import Job, Outgoing, StatusChange
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.outbox import Outbox
from celery_realtime.rooms import normalise_project_id, project_room
from celery_realtime.settings import Settings

if TYPE_CHECKING:
    from celery_realtime.history import History
    from celery_realtime.kombu_manager import RealtimeKombuManager

logger = logging.getLogger(__name__)

TRACKED_JOBS = 10000


class JobListeners(Protocol):
    """What tells a manager of jobs, such as the signal bridge."""

    def connect(self, manager: SocketIOManager) -> None:
        """Start to tell ``manager`` of every job."""


class SocketIOManager:
    """Send events to projects, from any process.

    Args:
        settings: Returns the settings; asked when they are first needed.
        connect: Returns a new write-only Kombu manager.
    """

    def __init__(self, settings: Callable[[], Settings], connect: Callable[[], RealtimeKombuManager]) -> None:
        self._settings = settings
        self._connect = connect
        self._tracked: BoundedDict[str, str] = BoundedDict(TRACKED_JOBS)
        self._failures = RateLimitedLogger(logger)
        self.counts: Counter[str] = Counter()
        #: The Socket.IO server, once one is attached.
        self.sio: Any = None

    @property
    def outbox(self) -> Outbox[Outgoing]:
        """The queue of events that wait to be sent."""
        # setdefault is atomic: of two threads that come first, one wins and both use its outbox.
        found: Outbox[Outgoing] | None = self.__dict__.get("_outbox")
        return found or self.__dict__.setdefault("_outbox", self._new_outbox())

    def _new_outbox(self) -> Outbox[Outgoing]:
        settings = self._settings()
        # Registered before the outbox registers its flush, so it runs after it.
        atexit.register(_close_publisher, weakref.ref(self))
        return Outbox(
            self._publish,
            append=None if self.history is None else self._persist,
            queue_size=settings.queue_size,
            batch_size=settings.batch_size,
            linger=settings.linger,
            flush_timeout=settings.flush_timeout,
        )

    @property
    def publisher(self) -> RealtimeKombuManager:
        """The write-only Kombu manager that events leave through."""
        found: RealtimeKombuManager | None = self.__dict__.get("_publisher")
        return found or self.__dict__.setdefault("_publisher", self._connect())

    def preload(self) -> None:
        """Load what sending needs, once, in a process whose children will send; opens no connection."""
        self.publisher.preload()
        _ = self.history

    @property
    def history(self) -> History | None:
        """What projects were told; None where no history is configured."""
        if "_history" not in self.__dict__:
            self.__dict__.setdefault("_history", self._open_history(self._settings()))
        found: History | None = self.__dict__["_history"]
        return found

    @staticmethod
    def _open_history(settings: Settings) -> History | None:
        if settings.history_url is None:
            return None
        from celery_realtime.history import History

        return History(settings.history_url, settings.channel, settings.history_size, settings.history_ttl)

    def _publish(self, batch: list[Outgoing]) -> int:
        return self.publisher.publish_events(batch)

    def _persist(self, batch: list[Outgoing]) -> list[Outgoing] | None:
        """Store events in the history, and return what to tell of them; None when Redis is away."""
        assert self.history is not None
        stored = self.history.append(batch)
        if stored is None:
            return None
        self.counts["stale"] += stored.count([])
        return [event for told in stored for event in told]

    # -- events -------------------------------------------------------------------------------------------------

    def publish_status(self, change: StatusChange) -> None:
        """Send a job's new status."""
        self.publish(events.outgoing_status(change))

    def publish(self, event: Outgoing, due: float = 0.0) -> None:
        """Send an encoded event; returns at once.

        Args:
            event: The event.
            due: For progress, the :func:`time.monotonic` time before which it is held back.
        """
        passed = self._passed(event)
        if passed is not None:
            self.outbox.put(passed, due)

    def _passed(self, event: Outgoing) -> Outgoing | None:
        """Return what ``event_filter`` leaves of an event."""
        if not self._filters:
            return event
        filtered = self._filter(event)
        if filtered is None:
            self.counts["filtered"] += 1
        return filtered

    @functools.cached_property
    def _filters(self) -> bool:
        settings = self._settings()
        return settings.event_filter is not None and not settings.filters_by_audience

    def _filter(self, event: Outgoing) -> Outgoing | None:
        """Apply ``event_filter``; an event that it fails on is dropped, since it may hold what must not be seen."""
        try:
            data = msgspec.json.decode(event.payload)
            shown = {} if data is None else data  # what is None on the way back is to be dropped
            kept = self._settings().event_filter(event.event, event.project_id, shown)
            if kept is None:
                return None
            return event if data is None and kept == {} else events.refilled(event, kept)
        except Exception as error:
            why = describe_error(error)
            self._failures.error("realtime_event_filter failed on %s; the event is dropped: %s", event.event, why)
            return None

    def count_homeless(self, job: Job) -> None:
        """Count a job's event that no project can see."""
        self.counts["no_project"] += 1
        logger.debug("job %s has no project: nobody sees it", job.job_id)

    def emit_to_project(self, project_id: object, event: str, data: Any, *, job_id: str | None = None) -> None:
        """Send a custom event to everyone who watches a project; returns at once.

        Args:
            project_id: The project.
            event: The Socket.IO event name.
            data: Anything that JSON can hold; an object also gets a ``_realtime`` member.
            job_id: The job that it belongs to.

        Raises:
            TypeError: ``data`` has no JSON form, or a name or id has the wrong type.
            ValueError: ``data`` is too large or holds NaN, or a name is reserved.
        """
        project = normalise_project_id(project_id)
        self.publish(events.outgoing_custom(event, data, project, job_id, self._settings().max_payload))

    def emit_many(
        self, project_id: object, named_data: Iterable[tuple[str, Any]], *, job_id: str | None = None
    ) -> None:
        """Send many custom events to everyone who watches a project, in order; returns at once.

        They leave together: in as few broker messages as they fit in. All are checked before any is sent.

        Args:
            project_id: The project.
            named_data: Pairs of a Socket.IO event name and its data, as for :meth:`emit_to_project`.
            job_id: The job that they belong to.

        Raises:
            TypeError: One has no JSON form, or a name or id has the wrong type, or an item is no pair.
            ValueError: One is too large or holds NaN, or a name is reserved.
        """
        project = normalise_project_id(project_id)
        limit = self._settings().max_payload
        told = [events.outgoing_custom(*_pair(item), project, job_id, limit) for item in named_data]
        self.outbox.put_all([passed for passed in map(self._passed, told) if passed is not None])

    async def emit_to_project_async(self, project_id: object, event: str, data: Any) -> None:
        """Send a custom event as :meth:`emit_to_project` does, which does not block an event loop either."""
        self.emit_to_project(project_id, event, data)

    def position(self, project_id: object) -> dict[str, Any] | None:
        """Return where a project stands now, for a page to subscribe with as its ``since``.

        Returns:
            ``{"epoch": str, "offset": int}``, or None where there is no history, or it cannot be read now.

        Raises:
            TypeError, ValueError: It is no project id.
        """
        project = normalise_project_id(project_id)
        return None if self.history is None else self.history.position(project)

    # -- jobs and clients ---------------------------------------------------------------------------------------

    def track_job_for_project(self, job_id: str, project_id: object) -> None:
        """Say which project a job belongs to, for jobs that do not carry it themselves.

        Known in this process; a job that is published with a ``project_id`` header needs no such word.
        """
        if not isinstance(job_id, str) or not job_id:
            raise TypeError(f"job_id must be a non-empty str, not {job_id!r}")
        self._tracked[job_id] = normalise_project_id(project_id)

    def project_of(self, job_id: str) -> str | None:
        """Return the project that :meth:`track_job_for_project` named, or None."""
        return self._tracked.get(job_id)

    def register_client_for_project(self, project_id: object, sid: str) -> None:
        """Let a connected client hear a project, without asking the authorizer: the caller vouches for it.

        Args:
            project_id: The project.
            sid: The client's Socket.IO session id, on any web server of this channel.
        """
        self._move_client("enter_room", project_id, sid)

    def unregister_client_for_project(self, project_id: object, sid: str) -> None:
        """Undo :meth:`register_client_for_project`."""
        self._move_client("leave_room", project_id, sid)

    def _move_client(self, move: str, project_id: object, sid: str) -> None:
        room = project_room(normalise_project_id(project_id))
        namespace = self._settings().namespace
        if self.sio is None or (_is_asynchronous(self.sio) and not _in_event_loop()):
            getattr(self.publisher, move)(sid, namespace, room)  # whichever server the client is on hears it
        else:
            _finish(getattr(self.sio, move)(sid, room, namespace=namespace))

    def attach(self, server: Any) -> None:
        """Note the Socket.IO server of this process."""
        self.sio = server

    def register_job_listeners(self, bridge: JobListeners) -> None:
        """Hear of jobs from a bridge; ``Realtime(app)`` does this with its own. Doing it twice changes nothing."""
        bridge.connect(self)

    def close(self) -> None:
        """Send what waits, and part from the broker; RabbitMQ may throw away the last words of who just hangs up."""
        self.flush()
        self.close_publisher()

    def close_publisher(self) -> None:
        """Let go of the connection that events leave through; the next event makes a new one."""
        publisher: RealtimeKombuManager | None = self.__dict__.get("_publisher")
        if publisher is not None:
            publisher.close()

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything accepted has been sent, at most ``timeout`` seconds; returns whether it has."""
        outbox = self.__dict__.get("_outbox")
        return True if outbox is None else outbox.flush(timeout)


def _close_publisher(reference: weakref.ref[SocketIOManager]) -> None:
    manager = reference()
    if manager is not None:
        manager.close_publisher()


def _pair(item: Any) -> tuple[Any, Any]:
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise TypeError(f"emit_many takes pairs of an event name and its data, not {one_line(repr(item))}")
    return item[0], item[1]


#: asyncio holds tasks weakly.
_tasks: set[asyncio.Future[Any]] = set()


def _finish(outcome: Any) -> None:
    """Let what an asyncio server returned run on in its event loop."""
    if inspect.isawaitable(outcome):
        task = asyncio.ensure_future(outcome)
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)


def _is_asynchronous(server: Any) -> bool:
    return inspect.iscoroutinefunction(server.enter_room)


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
