"""Filter events and route them to their projects: what all events of a process go through."""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401  (python-socketio loads it, which cannot be done once an exit has begun)
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from celery_realtime import events
from celery_realtime.bounded import BoundedDict
from celery_realtime.encoding import one_line
from celery_realtime.events import Job, Outgoing, StatusChange
from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.kept_messages import WaitingMessages
from celery_realtime.lazy import Lazy
from celery_realtime.loops import BackgroundLoop
from celery_realtime.rooms import normalise_project_id
from celery_realtime.sealing import sealer_of
from celery_realtime.sending.appending import HistoryAppender
from celery_realtime.sending.client_rooms import ClientRooms
from celery_realtime.sending.connections import Connections
from celery_realtime.sending.eager import Guard, unguarded
from celery_realtime.sending.filtering import EventFilter
from celery_realtime.sending.journal import Journal
from celery_realtime.sending.ledger import Counts
from celery_realtime.sending.outbox import Outbox
from celery_realtime.sending.spool import Spools
from celery_realtime.sending.watched_projects import WatchedProjects
from celery_realtime.settings import Settings
from celery_realtime.stages import UNOBSERVED, Stages

if TYPE_CHECKING:
    from celery_realtime.channel.kombu_manager import RealtimeKombuManager
    from celery_realtime.history.leases import StepsBehind
    from celery_realtime.history.store import History

logger = logging.getLogger(__name__)

TRACKED_JOBS = 10000


class JobListeners(Protocol):
    """What reports jobs to a manager, such as the signal bridge."""

    def connect(self, manager: SocketIOManager) -> None:
        """Start to report every job to ``manager``."""


class _Parts:
    """What a manager consists of, each part made when it is needed first.

    Args:
        settings: Returns the settings; asked when they are first needed.
        connect: Returns a new write-only Kombu manager.
        guard: Drops what cannot arrive anyway.
        behind: Returns what waits for a job that starts in this process.
        stages: Returns what observes appending and publishing.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        connect: Callable[[], RealtimeKombuManager],
        guard: Guard,
        behind: StepsBehind,
        stages: Callable[[], Stages],
    ) -> None:
        self._settings = settings
        self._stages = stages
        self._guard = guard
        self._outbox = Lazy(self._new_outbox)
        self._connect = connect
        self._publisher = Lazy(self._new_publisher)
        self._history = Lazy(self._new_history)
        self._event_filter = Lazy(lambda: EventFilter.for_everybody(self._settings(), self._counts.add))
        self._filter = Lazy(self._new_filter)
        self._flush_observers: list[Callable[[], object]] = []
        self._counts = Counts()
        #: The projects that somebody watches, as far as the history has said so.
        self.watched = WatchedProjects(self._history.get)
        self._appender = HistoryAppender(self._history.get, self._outbox.get, self._counts, behind, self.watched)
        self.connections = Connections()
        self.spools = Spools()
        #: Messages of jobs that are stored with what is told of the jobs.
        self.kept = WaitingMessages()
        self._journal = Lazy(lambda: Journal(self.outbox, self.spools, self._pack))

    @property
    def counts(self) -> Counter[str]:
        """What became of events before they were put into the outbox, or instead."""
        return self._counts.values

    @property
    def outbox(self) -> Outbox[Outgoing]:
        """The queue of events that wait to be sent."""
        return self._outbox.get()

    def _new_outbox(self) -> Outbox[Outgoing]:
        settings, stages = self._settings(), self._stages()
        append = None if settings.history_url is None else stages.append(self._appender.append)
        publish, stores = self._guard(
            stages.publish(
                lambda batch: self.publisher.publish_events(batch),  # noqa: PLW0108 - made by the thread that sends
            ),
            append,
            self._counts,
        )
        outbox: Outbox[Outgoing] = Outbox(
            publish,
            append=stores,
            queue_size=settings.queue_size,
            batch_size=settings.batch_size,
            linger=settings.linger,
            flush_timeout=settings.flush_timeout,
        )
        outbox.on_idle(self.connections.close_idle)
        if self.has_watched_pace:
            outbox.on_held(self.watched.look)
        return outbox

    def _new_filter(self) -> Callable[[Outgoing], Outgoing | None] | None:
        event_filter = self._event_filter.get()
        wrapped: Callable[[Outgoing], Outgoing | None] | None
        wrapped = self._stages().report(None if event_filter is None else event_filter.outgoing)
        return wrapped

    def _new_publisher(self) -> RealtimeKombuManager:
        publisher = self.connections.broker = self._connect()
        return publisher

    def _new_history(self) -> History | None:
        history = _open_history(self._settings(), self._appender.look_later, self.kept)
        if history is not None:
            history.on_watch(self.watched.note)
            self.connections.add_history(history.connection)
        return history

    @property
    def has_watched_pace(self) -> bool:
        """Whether progress leaves more often while somebody watches."""
        settings = self._settings()
        return settings.history_url is not None and settings.progress_interval_watched < settings.progress_interval

    @property
    def publisher(self) -> RealtimeKombuManager:
        """The write-only Kombu manager that events are published through."""
        return self._publisher.get()

    @property
    def history(self) -> History | None:
        """The history of each project; None where none is configured."""
        return self._history.get()

    def preload(self) -> None:
        """Load what sending needs, once, in a process whose children will send; opens no connection.

        Raises:
            ImproperlyConfigured: The history's URL cannot be used.
        """
        self.publisher.preload()
        _ = self.history

    @property
    def outbox_in_use(self) -> Outbox[Outgoing] | None:
        """The outbox, if anything has been put into it."""
        return self._outbox.peek()

    @property
    def loops(self) -> list[BackgroundLoop]:
        """The loops that send, for health checks."""
        outbox = self._outbox.peek()
        return [] if outbox is None else outbox.loops

    def start_over(self, connect: Callable[[], RealtimeKombuManager] | None = None) -> None:
        """Forget the outbox, the publisher and the history; the next event makes them with the present settings.

        Args:
            connect: Returns the new publisher, such as a recorder in tests; by default as before.
        """
        outbox = self._outbox.peek()
        if outbox is not None:
            outbox.stop()  # it would send what waits with the new settings
        if connect is not None:
            self._connect, self._guard = connect, unguarded
        self.watched.forget()
        self.connections = Connections()  # the thread that ends closes those that there were
        for part in (self._outbox, self._publisher, self._history, self._event_filter, self._filter, self._journal):
            part.forget()

    @contextlib.contextmanager
    def diverted(self, outbox: Outbox[Outgoing]) -> Iterator[None]:
        """Put events into another outbox for a while, without a history, as tests do; then go on as before."""
        before = self._outbox, self._history
        self._outbox, self._history = Lazy(lambda: outbox), Lazy(lambda: None)
        try:
            yield
        finally:
            self._outbox, self._history = before

    def _pack(self, event: Outgoing) -> bytes:
        history = self._history.peek()  # as long as it has not been made, it has stored nothing
        return events.pack(event, "" if history is None else history.writer)

    def secure(self) -> None:
        """Keep what waits from being lost with this process, if it is a child of a pool."""
        if self.spools.mine is not None:
            self._journal.get().write()

    def on_flush(self, observer: Callable[[], object]) -> None:
        """Call ``observer`` before all that was accepted is sent, so that it can put what it has held back."""
        self._flush_observers.append(observer)

    def close(self) -> None:
        """Flush, then close the connection: RabbitMQ may discard the last messages of a client that merely hangs up."""
        self.flush()
        self.close_publisher()

    def close_publisher(self) -> None:
        """Close the connection that events are published through; the next event makes a new one."""
        self.connections.close_publisher()

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything accepted has been sent, at most ``timeout`` seconds; returns whether it has."""
        for observer in self._flush_observers:
            observer()
        outbox = self._outbox.peek()
        return True if outbox is None else outbox.flush(timeout)


class SocketIOManager(_Parts):
    """Send events to projects, from any process.

    Args:
        settings: Returns the settings; asked when they are first needed.
        connect: Returns a new write-only Kombu manager.
        guard: Drops what cannot arrive anyway.
        behind: Returns what waits for a job that starts in this process, and ends if that is lost.
        stages: Returns what observes appending and publishing.

    Attributes:
        counts: How many events had ``no_project``, were ``filtered`` (``event_filter`` dropped them), ``hidden`` (it
            failed on a status, which went out without what it says), ``stale`` or (of eager tasks) ``unreachable``;
            how many the history has ``stored``, or refused (``unstored``); and how many characters and items of
            streams were let go for want of room (``stream_dropped``).
        spools: What children of this process have not sent, and in a child its own.
        connections: Those that it has open.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        connect: Callable[[], RealtimeKombuManager],
        guard: Guard = unguarded,
        *,
        behind: StepsBehind = lambda _: (),
        stages: Callable[[], Stages] = lambda: UNOBSERVED,
    ) -> None:
        super().__init__(settings, connect, guard, behind, stages)
        self._tracked: BoundedDict[str, str] = BoundedDict(TRACKED_JOBS)
        self._rooms = ClientRooms(lambda: self.publisher, lambda: settings().namespace)

    @property
    def sio(self) -> Any:
        """The Socket.IO server of this process, once one is attached; else None."""
        return self._rooms.server

    # -- events -------------------------------------------------------------------------------------------------

    def put(self, event: Outgoing, due: float = 0.0, *, quietly: bool = False) -> None:
        """Put an encoded event into the outbox; returns at once.

        Args:
            event: The event.
            due: For progress, the :func:`time.monotonic` time before which it is held back.
            quietly: Whether the thread that sends is left alone until :meth:`wake`.
        """
        allowed = self._filtered(event) if self._settings().enabled else None
        if allowed is not None:
            self._outbox.get().put(allowed, due, quietly=quietly)

    def wake(self) -> None:
        """Let the thread that sends look at what was put quietly."""
        outbox = self._outbox.peek()
        if outbox is not None:
            outbox.wake()

    def put_part(self, part: Outgoing) -> None:
        """Put a part of a stream into the outbox, of which :meth:`visible` has left this much.

        Without a history it leaves as its writer counts, and nobody keeps it.
        """
        if self._settings().enabled:
            if self.history is None and part.part is not None:
                part = events.numbered_chunk(part, part.part.begin, part.part.generation)
            self._outbox.get().put(part)

    @property
    def has_filter(self) -> bool:
        """Whether ``event_filter`` decides for everybody what leaves."""
        return self._event_filter.get() is not None

    def visible(self, event: str, project_id: str, data: Any) -> Any:
        """Return what ``event_filter`` leaves of an event's data, or None for nothing, which is counted."""
        event_filter = self._event_filter.get()
        visible = data if event_filter is None else event_filter.visible(event, project_id, data)
        if visible is None:
            self._counts.add("filtered")
        return visible

    def count(self, what: str, number: int = 1) -> None:
        """Count something that is not put into the outbox."""
        self._counts.add(what, number)

    def put_status(self, change: StatusChange) -> None:
        """Put a job's new status into the outbox."""
        self.put(events.outgoing_status(change))

    def wait_until_sent(self, job: Job, timeout: float) -> bool:
        """Wait until no status of a job waits to be sent.

        Nothing waits during an outage, nor for a process's first event, which has python-socketio loaded.

        Args:
            job: The job, which must have a project.
            timeout: Longest wait in seconds.

        Returns:
            Whether its statuses have been sent, as far as is known.
        """
        is_ready = self._publisher.is_made and (self._history.is_made or self._settings().history_url is None)
        return is_ready and self.outbox.waits.until_sent((job.project_id or "", job.job_id), timeout)

    def _filtered(self, event: Outgoing) -> Outgoing | None:
        """Return what ``event_filter`` leaves of an event, as it is observed; None if it is dropped."""
        event_filter = self._filter.get()
        return event if event_filter is None else event_filter(event)

    def count_without_project(self, job: Job) -> None:
        """Count an event of a job whose project is unknown, and which nobody sees."""
        self._counts.add("no_project")
        logger.debug("job %s has no project: nobody sees it", job.job_id, extra={"job_id": job.job_id})

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
        self.put(events.outgoing_custom(event, data, project, job_id, self._settings().max_payload))

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
        checked = [events.outgoing_custom(*_pair(item), project, job_id, limit) for item in named_data]
        if self._settings().enabled:
            self.outbox.put_all([allowed for allowed in map(self._filtered, checked) if allowed is not None])

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
        """Name, for this process alone, the project of a job that does not carry it itself, as by a header."""
        if not isinstance(job_id, str) or not job_id:
            raise TypeError(f"job_id must be a non-empty str, not {job_id!r}")
        self._tracked[job_id] = normalise_project_id(project_id)

    def project_of(self, job_id: str) -> str | None:
        """Return the project that :meth:`track_job_for_project` named, or None."""
        return self._tracked.get(job_id)

    def register_client_for_project(self, project_id: object, sid: str) -> None:
        """Put a connected client into a project's room, without asking the authorizer: the caller vouches for it.

        Args:
            project_id: The project.
            sid: The client's Socket.IO session id, on any web server of this channel.
        """
        self._rooms.enter(project_id, sid)

    def unregister_client_for_project(self, project_id: object, sid: str) -> None:
        """Undo :meth:`register_client_for_project`."""
        self._rooms.leave(project_id, sid)

    def attach(self, server: Any) -> None:
        """Note the Socket.IO server of this process."""
        self._rooms.server = server

    def register_job_listeners(self, bridge: JobListeners) -> None:
        """Take events of jobs from a bridge, as ``Realtime(app)`` does from its own; twice is the same as once."""
        bridge.connect(self)


def _open_history(
    settings: Settings, on_workflows_due: Callable[[str, float], None], waiting: WaitingMessages
) -> History | None:
    address = settings.history_address
    if address is None:
        return None
    try:
        from celery_realtime.history.kept import KeptLimits, ToKeep
        from celery_realtime.history.store import History
        from celery_realtime.history.streams import StreamLimits
    except ModuleNotFoundError as error:
        if error.name != "redis":
            raise
        raise ImproperlyConfigured(
            "realtime_history_url needs redis-py: pip install celery-realtime[redis], or set it to None"
        ) from None
    streams = StreamLimits(settings.stream_size, settings.streams_per_project, settings.streams_per_job)
    limits = KeptLimits(settings.messages_ttl, settings.keep_messages_per_project, settings.keep_messages_size)
    to_keep = ToKeep(waiting, sealer_of(settings.secret_key), limits)
    history = History(address, settings.history_channel, settings.history_size, settings.history_ttl, streams, to_keep)
    history.on_workflows_due(on_workflows_due)
    return history


def _pair(item: Any) -> tuple[Any, Any]:
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise TypeError(f"emit_many takes pairs of an event name and its data, not {one_line(repr(item))}")
    return item[0], item[1]
