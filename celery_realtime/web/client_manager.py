"""Be the client manager of a server with clients: publish as others do, and emit what others publish."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import weakref
from collections.abc import Callable, Collection, Iterator
from typing import Any

from socketio.async_pubsub_manager import AsyncPubSubManager

from celery_realtime.channel.kombu_manager import RealtimeKombuManager
from celery_realtime.channel.listener import Listener
from celery_realtime.channel.shards import Shard
from celery_realtime.channel.speaker import Speaker
from celery_realtime.channel.wire import PING, Message
from celery_realtime.clocks import time
from celery_realtime.forks import after_fork
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.loops import BackgroundLoop, start_detached
from celery_realtime.rooms import project_of_room
from celery_realtime.stages import UNOBSERVED, Stages
from celery_realtime.web import seams
from celery_realtime.web.audiences import AudienceFilter
from celery_realtime.web.catchup import CatchUp
from celery_realtime.web.channel_reader import ChannelReader, Gap, Item, OrderObservers, is_order
from celery_realtime.web.delivery import Delivery, Emit
from celery_realtime.web.fan_out import LoopEmitter, ThreadEmitter
from celery_realtime.web.history_reader import Positions, Read
from celery_realtime.web.listening import Handover, emit_on, hand_over, listen
from celery_realtime.web.loop_queue import LoopQueue
from celery_realtime.web.newcomers import Newcomers
from celery_realtime.web.slow_clients import SlowClients
from celery_realtime.web.stream_board import Source, StreamBoard
from celery_realtime.web.suspensions import Suspensions
from celery_realtime.web.watched_shards import WatchedShards

logger = logging.getLogger(__name__)

#: What may wait for an event loop before the listening thread waits for it, in emits.
MAX_WAITING = 10_000

#: Seconds after which it is looked again whether what one of many clients waits for is listened to.
GLANCE = 0.1

NOT_HANDLED = (
    "another server's call of python-socketio (%s) failed on this one, so clients here go without it; see what its "
    "application asked for"
)


def _parts(manager: RealtimeClientManager | AsyncRealtimeClientManager, emit: Emit) -> Iterator[Emit]:
    """Yield what to emit now instead of an emit: less where it is held for a client, more where one catches up."""
    suspensions = manager.suspensions
    for rest in (emit,) if suspensions.is_idle else suspensions.split(emit):
        for part in manager.newcomers.split(rest):
            yield from manager.slow_clients.paced(part)


def _parts_alone(manager: RealtimeClientManager | AsyncRealtimeClientManager, sid: str, emit: Emit) -> Iterator[Emit]:
    """Yield what to emit at once to one client of what was held for it."""
    for part in manager.newcomers.alone(sid, emit):
        yield from manager.slow_clients.paced(part)


def _watch_room(manager: RealtimeClientManager | AsyncRealtimeClientManager, namespace: str, room: Any) -> None:
    """Have the events of a project heard, should it be the application that places a client in its room."""
    project_id = project_of_room(room)
    if project_id is not None and namespace == manager.namespace:
        manager.watched.watch(project_id)


def _watched_shards(
    manager: RealtimeClientManager | AsyncRealtimeClientManager, listener: Listener, count: int
) -> WatchedShards:
    is_watched = functools.partial(manager.delivery.is_watched, manager.namespace)
    # What the listener hears has it look at once at what is wanted; all others ignore it.
    return WatchedShards(count, listener.bindings, is_watched, lambda: manager.speaker.publish(PING))


class RealtimeClientManager(RealtimeKombuManager):
    """A :class:`socketio.KombuManager` for a server with clients: publishes, and emits what others publish.

    Args:
        url: Broker URL.
        channel: Fan-out exchange, the same on every side.
        max_backlog: Packets that may wait for a client before it is disconnected.
        max_backlog_bytes: Bytes that may wait for a client before it is disconnected.
        audience_filter: Decides what each audience sees of an event; None where all see everything.
        read: ``(project_id, epoch, offset, most_jobs) -> snapshot``, reads the history; None where there is none.
        positions: ``(project_ids) -> Positions``, says how far histories go; None for never looking.
        streams: Reads streams; None where there is no history.
        stages: What observes hearing and delivering.
        namespace: Socket.IO namespace of the events.
        **options: Further keyword arguments of :class:`~celery_realtime.channel.kombu_manager.RealtimeKombuManager`.
    """

    #: Whether clients can subscribe to single jobs.
    follows_jobs = True

    def __init__(  # noqa: PLR0913 - each by its name
        self,
        url: str,
        channel: str = "socketio",
        *,
        max_backlog: int,
        max_backlog_bytes: int,
        audience_filter: AudienceFilter | None = None,
        read: Read | None = None,
        positions: Callable[[list[str]], Positions] | None = None,
        streams: Source | None = None,
        stages: Stages = UNOBSERVED,
        **options: Any,
    ) -> None:
        super().__init__(url, channel, write_only=False, **options)
        self.emitter = ThreadEmitter(self, max_backlog // 4, stages)
        self._backlogs = seams.ClientBacklogs(self, self.namespace)
        #: Which rooms of this server an event goes to.
        self.delivery = Delivery(self.is_occupied, audience_filter, self._backlogs)
        #: Puts the events of each project in order, and recovers what was missed.
        self.catch_up = CatchUp(read, self.delivery.is_watched, self.namespace, positions=positions)
        #: The same of what jobs say bit by bit.
        self.streams = StreamBoard(streams, self.delivery.is_read, self.namespace)
        listener = self._listener()
        #: Which parts of the channel are listened to.
        self.watched = _watched_shards(self, listener, self.shards)
        #: Reads the channel.
        self.reader = ChannelReader(
            *(listener, self.catch_up, self.delivery),
            streams=self.streams,
            shards=self.watched,
            host_id=self.host_id,
            stages=stages,
        )
        #: What is held for clients that are being given a snapshot, and for those whose access is decided again.
        self.newcomers = Newcomers(self._backlogs.is_in_room, self.namespace)
        self.suspensions = Suspensions(self._backlogs)
        #: What waits for clients that read slowly.
        self.slow_clients = SlowClients(
            self._backlogs,
            self.namespace,
            max_backlog=max_backlog,
            max_backlog_bytes=max_backlog_bytes,
            disconnect=self._disconnect_slow_client,
            give_way=self._give_way,
            anybody_lags=self.emitter.anybody_lags,
        )
        self._orders = OrderObservers()
        self._on_slow_client: Callable[[str, str], Any] = self._close_socket
        self._failures = RateLimitedLogger(logger)
        # In place of python-socketio's, whose thread has the manager, and by that the whole app, for ever.
        self._thread = functools.partial(listen, weakref.ref(self))
        after_fork(self.after_fork)

    def set_server(self, server: Any) -> None:
        """Take the server whose clients these are, before any has connected; python-socketio calls it."""
        super().set_server(server)
        self.emitter.attach(server)

    def after_fork(self) -> None:
        """Start over in a child process; the thread that listened is the parent's."""
        self.reader.after_fork()
        if self.server is not None:
            seams.forget_initialization(self.server)

    def _listener(self) -> Listener:
        return Listener(
            self.url,
            self.channel,
            connection_options=self.connection_options,
            exchange_options=self.exchange_options,
            queue_options=self.queue_options,
        )

    # -- observers ----------------------------------------------------------------------------------------------

    def on_order(self, callback: Callable[[dict[str, Any]], Any]) -> None:
        """Call ``callback`` with each order to every server of the channel, in the thread that listens."""
        self._orders.add(callback)

    def on_gap(self, callback: Callable[[int], Any]) -> None:
        """Call ``callback`` with the generation when orders may have been missed, before later events are emitted."""
        self._orders.add_of_gaps(callback)

    def on_slow_client(self, callback: Callable[[str, str], Any]) -> None:
        """Have ``callback`` disconnect clients that lag too far behind, instead of just closing their sockets.

        Args:
            callback: Called in a background task of the server, with the session id of the client and that of its
                Engine.IO socket.
        """
        self._on_slow_client = callback

    # -- listening ----------------------------------------------------------------------------------------------

    def start_listening(self) -> None:
        """Listen from now on, and not from the server's first client on.

        Raises:
            RuntimeError: The server runs in a mode that needs monkey patching, and nothing is patched.
        """
        seams.initialize_manager(self.server)

    def stop_listening(self) -> None:
        """End the thread that listens, within about a second."""
        self.reader.stop()

    def wait_until_listening(self, timeout: float, project_id: str | None = None) -> bool:
        """Wait until messages are received, at most ``timeout`` seconds; returns whether they are.

        Args:
            timeout: The longest wait, in seconds.
            project_id: A project of which a client has entered a room, and whose messages count; None for those only
                that go to every server.
        """
        deadline = time.monotonic() + timeout
        if project_id is not None:
            self.watched.watch(project_id)  # whatever comes of the wait
        if not self.reader.listener.wait(timeout) or project_id is None:
            return self.reader.listener.wait(0)
        return self.watched.wait(project_id, max(0.0, deadline - time.monotonic()))

    def basic_enter_room(self, sid: str, namespace: str, room: Any, eio_sid: str | None = None) -> None:
        """Let a client enter a room; python-socketio calls it, whoever places the client there."""
        super().basic_enter_room(sid, namespace, room, eio_sid)
        _watch_room(self, namespace, room)

    @property
    def filters(self) -> bool:
        """Whether a filter of the application decides what each audience sees."""
        return self.delivery.audiences.has_filter

    @property
    def loops(self) -> list[BackgroundLoop]:
        """The background loops, for health checks."""
        return [self.reader.loop, *self.catch_up.loops, *self.streams.loops]

    @property
    def listening(self) -> BackgroundLoop:
        """The background loop that listens."""
        return self.reader.loop

    @property
    def is_hearing(self) -> bool:
        """Whether there is proof from the last five seconds that messages are received, such as an own ping."""
        return self.reader.listener.is_hearing

    @property
    def generation(self) -> int:
        """How many connections have been listened on; when it changes, messages may have been missed."""
        return self.reader.listener.generation

    @property
    def last_heard(self) -> float | None:
        """When the last message came, of :func:`time.monotonic`; None before the first."""
        return self.reader.listener.last_heard

    def is_occupied(self, namespace: str, room: str) -> bool:
        """Return whether any client of this server is in a room."""
        return bool(self.rooms.get(namespace, {}).get(room))

    def take(self, items: list[Item]) -> None:
        """Do what a message of the channel is to this server, in the thread that listens."""
        with self.reader.loop.turn():
            for item in items:
                if isinstance(item, Emit):
                    self._emit(item)
                elif isinstance(item, Gap):
                    self._orders.notify_gap(item)
                elif is_order(item):
                    self._orders.notify(item)
                else:
                    self._handle(item)
            self.emitter.flush()

    def _handle(self, message: Message) -> None:
        handle = seams.handler_of_message(self, message)
        if handle is not None:
            with self._failures.suppressing(NOT_HANDLED, message["method"]):
                handle(message)

    def _emit(self, emit: Emit) -> None:
        if any(self.is_occupied(emit.namespace, room) for room in emit.rooms):
            with self._failures.suppressing(
                "the event %s could not be emitted to all its clients, so some miss it; those of this package "
                "notice, and recover it",
                emit.event,
                project_id=emit.project_id,
            ):
                for part in _parts(self, emit):
                    self.emitter.deliver(part)

    def emit_alone(self, sid: str, emit: Emit) -> None:
        """Emit to one client of a room what was held for it."""
        for part in _parts_alone(self, sid, emit):
            self.emit_here(part)

    def emit_here(self, emit: Emit) -> None:
        """Emit on this server only."""
        self.emitter.leave(emit)

    # -- slow clients -------------------------------------------------------------------------------------------

    def _give_way(self) -> None:
        """Let other threads, or greenlets, write what waits for clients."""
        self.server.sleep(0)

    def _disconnect_slow_client(self, sid: str, eio_sid: str) -> None:
        self.server.start_background_task(self._on_slow_client, sid, eio_sid)

    def _close_socket(self, _sid: str, eio_sid: str) -> None:
        self._backlogs.close(eio_sid)


class ListeningWait:
    """Waits in an event loop for the thread that listens. One thread waits for all clients, of which many may come.

    Args:
        attached: Set when the event loop takes what is received.
        listener: Receives the messages.
        watched: Which parts of the channel are listened to.
    """

    def __init__(self, attached: threading.Event, listener: Listener, watched: WatchedShards) -> None:
        self._attached = attached
        self._listener = listener
        self._watched = watched
        self._waiting: asyncio.Task[bool] | None = None

    async def wait(self, timeout: float, project_id: str | None) -> bool:
        """Wait until messages, and those of a project, are received; returns whether they are."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        shards = () if project_id is None else self._watched.watch(project_id)
        while not self._is_over(shards) and (left := deadline - loop.time()) > 0:
            if self._waiting is None or self._waiting.done():
                self._waiting = loop.create_task(asyncio.to_thread(self._block, left))
            await asyncio.wait([self._waiting], timeout=left)
        return self._is_over(shards)

    def _is_over(self, shards: Collection[Shard]) -> bool:
        return self._attached.is_set() and self._listener.wait(0) and self._listener.bindings.wait(shards, 0)

    def _block(self, timeout: float) -> bool:
        if not (self._attached.wait(timeout) and self._listener.wait(timeout)):
            return False
        self._watched.wake()
        return self._listener.bindings.wait_for_change(min(timeout, GLANCE))


class AsyncRealtimeClientManager(AsyncPubSubManager):
    """The asyncio counterpart of :class:`RealtimeClientManager`, on every broker that kombu fans out on.

    kombu blocks, so a daemon thread reads the channel and hands over to the event loop. Where the loop does not keep
    up, the thread waits for it for two seconds, so that the broker keeps what comes; then it leaves messages out, and
    their projects are recovered from the history.

    Args:
        url: Broker URL.
        channel: Fan-out exchange, the same on every side.
        max_backlog: Packets that may wait for a client before it is disconnected.
        max_backlog_bytes: Bytes that may wait for a client before it is disconnected.
        audience_filter: As that of :class:`RealtimeClientManager`; called in the thread that listens.
        read, positions, streams: As those of :class:`RealtimeClientManager`; called in threads.
        namespace: Socket.IO namespace of the events.
        **options: ``logger``, ``stages``, ``stock``, ``shards`` and ``connection_options``, as of
            :class:`RealtimeClientManager`.
    """

    name = "celery-realtime-async"

    #: Whether clients can subscribe to single jobs.
    follows_jobs = True

    def __init__(  # noqa: PLR0913 - each by its name
        self,
        url: str,
        channel: str = "socketio",
        *,
        max_backlog: int,
        max_backlog_bytes: int,
        audience_filter: AudienceFilter | None = None,
        read: Read | None = None,
        positions: Callable[[list[str]], Positions] | None = None,
        streams: Source | None = None,
        namespace: str = "/",
        **options: Any,
    ) -> None:
        super().__init__(channel=channel, write_only=False, logger=options.pop("logger", None))
        stages: Stages = options.pop("stages", UNOBSERVED)
        self.url, self.namespace = url, namespace
        #: What it publishes through.
        self.speaker = Speaker(url, channel, namespace=namespace, **options)
        self.host_id = self.speaker.host_id
        self.emitter = LoopEmitter(self, max_backlog // 4, stages)
        self._backlogs = seams.ClientBacklogs(self, self.namespace)
        #: Which rooms of this server an event goes to.
        self.delivery = Delivery(self.is_occupied, audience_filter, self._backlogs)
        #: Puts the events of each project in order, and recovers what was missed.
        self.catch_up = CatchUp(read, self.delivery.is_watched, namespace, positions=positions)
        #: The same of what jobs say bit by bit.
        self.streams = StreamBoard(streams, self.delivery.is_read, namespace)
        listener = Listener(url, channel, connection_options=options.get("connection_options"))
        #: Which parts of the channel are listened to.
        self.watched = _watched_shards(self, listener, options.get("shards", 1))
        #: Reads the channel.
        self.reader = ChannelReader(
            *(listener, self.catch_up, self.delivery),
            streams=self.streams,
            shards=self.watched,
            host_id=self.host_id,
            stages=stages,
        )
        #: What is held for clients that are being given a snapshot, and for those whose access is decided again.
        self.newcomers = Newcomers(self._backlogs.is_in_room, namespace)
        self.suspensions = Suspensions(self._backlogs)
        #: What waits for clients that read slowly.
        self.slow_clients = SlowClients(
            self._backlogs,
            namespace,
            max_backlog=max_backlog,
            max_backlog_bytes=max_backlog_bytes,
            disconnect=self._disconnect_slow_client,
            give_way=None,  # emitting pauses anyway
            anybody_lags=self.emitter.anybody_lags,
        )
        self._orders = OrderObservers()
        self._on_slow_client: Callable[[str, str], Any] = self._close_socket
        self._failures = RateLimitedLogger(logging.getLogger(__name__))
        # In place of python-socketio's, whose task has the manager, and by that the whole app, for ever.
        self._thread = functools.partial(emit_on, weakref.ref(self))
        self._start_over()
        after_fork(self.after_fork)

    def _start_over(self) -> None:
        #: The thread that listens; None before it is started.
        self.listener_thread: threading.Thread | None = None
        #: Hands over to the event loop what is heard.
        self.handover = Handover()
        self._attached = threading.Event()
        self._wait = ListeningWait(self._attached, self.reader.listener, self.watched)

    def set_server(self, server: Any) -> None:
        """Take the server whose clients these are, before any has connected; python-socketio calls it."""
        super().set_server(server)
        self.emitter.attach(server)

    def after_fork(self) -> None:
        """Start over in a child process, which has neither the parent's event loop nor its threads."""
        self._start_over()
        self.reader.after_fork()

    # -- observers ----------------------------------------------------------------------------------------------

    def on_order(self, callback: Callable[[dict[str, Any]], Any]) -> None:
        """Call ``callback`` with each order to every server; in the loop, or before the first client in a thread.

        What it schedules in the loop is run before the next event is emitted.
        """
        self._orders.add(callback)

    def on_gap(self, callback: Callable[[int], Any]) -> None:
        """Call ``callback`` with the generation when orders may have been missed, before later events are emitted."""
        self._orders.add_of_gaps(callback)

    def on_slow_client(self, callback: Callable[[str, str], Any]) -> None:
        """Have ``callback`` disconnect clients that lag too far behind, instead of just closing their sockets.

        Args:
            callback: A coroutine function, called in a background task of the server, with the session id of the
                client and that of its Engine.IO socket.
        """
        self._on_slow_client = callback

    # -- listening ----------------------------------------------------------------------------------------------

    def start_listening(self) -> None:
        """Listen from now on; what comes before the event loop runs is for nobody, since there is no client."""
        if self.listener_thread is None or not self.listener_thread.is_alive():
            arguments = (weakref.ref(self), self.handover)
            thread = threading.Thread(target=hand_over, args=arguments, name="celery-realtime-listener", daemon=True)
            self.listener_thread = thread
            start_detached(thread)

    def stop_listening(self) -> None:
        """End the thread that listens, within about a second."""
        self.reader.stop()

    @property
    def waiting(self) -> int:
        """How much waits for the event loop."""
        return len(self.handover)

    async def wait_until_listening(self, timeout: float, project_id: str | None = None) -> bool:
        """Wait until messages are received; see :meth:`RealtimeClientManager.wait_until_listening`."""
        if self._attached.is_set():
            self.start_listening()  # again, should the thread have ended
        return await self._wait.wait(timeout, project_id)

    def basic_enter_room(self, sid: str, namespace: str, room: Any, eio_sid: str | None = None) -> None:
        """Let a client enter a room; python-socketio calls it, whoever places the client there."""
        super().basic_enter_room(sid, namespace, room, eio_sid)
        _watch_room(self, namespace, room)

    @property
    def filters(self) -> bool:
        """Whether a filter of the application decides what each audience sees."""
        return self.delivery.audiences.has_filter

    @property
    def loops(self) -> list[BackgroundLoop]:
        """The background loops, for health checks."""
        return [self.reader.loop, *self.catch_up.loops, *self.streams.loops]

    @property
    def listening(self) -> BackgroundLoop:
        """The background loop that listens."""
        return self.reader.loop

    @property
    def is_hearing(self) -> bool:
        """Whether there is proof from the last five seconds that messages are received, such as an own ping."""
        return self.reader.listener.is_hearing

    @property
    def generation(self) -> int:
        """How many connections have been listened on; when it changes, messages may have been missed."""
        return self.reader.listener.generation

    @property
    def last_heard(self) -> float | None:
        """When the last message came, of :func:`time.monotonic`; None before the first."""
        return self.reader.listener.last_heard

    def is_occupied(self, namespace: str, room: str) -> bool:
        """Return whether any client of this server is in a room."""
        return bool(self.rooms.get(namespace, {}).get(room))

    def hand_over(self, items: list[Item]) -> None:
        """Hand over to the event loop, from the thread that listens, what is for any of its clients.

        Raises:
            RuntimeError: The loop has been closed.
        """
        queue = self.handover.queue
        if queue is not None:
            queue.put([item for item in items if self._is_for_clients(item)])
            return
        for order in filter(is_order, items):
            self._orders.notify(order)

    def _is_for_clients(self, item: Item) -> bool:
        return not isinstance(item, Emit) or any(self.is_occupied(item.namespace, room) for room in item.rooms)

    def attach_loop(self) -> LoopQueue[Item]:
        """Have what is heard from now on handed over to the event loop that runs here; return what hands it over."""
        queue = self.handover.queue = LoopQueue[Item](asyncio.get_running_loop(), MAX_WAITING)
        self._attached.set()
        self.start_listening()
        return queue

    async def take(self, item: Item) -> bool:
        """Do what was heard; returns whether what that has scheduled goes before anything else."""
        if isinstance(item, Emit):
            await self._emit(item)
        elif isinstance(item, Gap):
            self._orders.notify_gap(item)
        elif is_order(item):
            self._orders.notify(item)
            return True
        else:
            await self._handle(item)
        return False

    async def _handle(self, message: Message) -> None:
        handle = seams.handler_of_message(self, message)
        if handle is not None:
            with self._failures.suppressing(NOT_HANDLED, message["method"]):
                await handle(message)

    async def _emit(self, emit: Emit) -> None:
        with self._failures.suppressing(
            "the event %s could not be emitted to all its clients, so some miss it; those of this package notice, "
            "and recover it",
            emit.event,
            project_id=emit.project_id,
        ):
            for part in _parts(self, emit):
                await self.emitter.deliver(part)

    async def emit_alone(self, sid: str, emit: Emit) -> None:
        """Emit to one client of a room what was held for it."""
        for part in _parts_alone(self, sid, emit):
            await self.emit_here(part)

    async def emit_here(self, emit: Emit) -> None:
        """Emit on this server only."""
        await self.emitter.emit(emit)

    # -- publishing ---------------------------------------------------------------------------------------------

    def order(self, order: dict[str, Any]) -> bool:
        """Have every server of the channel do something; returns whether the broker accepted it. Blocks meanwhile."""
        return self.speaker.order(order)

    async def _publish(self, data: Any) -> bool:
        """Publish python-socketio's own message; returns whether the broker accepted it."""
        body = self.json.dumps(data)
        return await asyncio.to_thread(self.speaker.publish, body.encode() if isinstance(body, str) else body)

    def close(self) -> None:
        """Close the publishing connection; the next publish makes a new one."""
        self.speaker.close()

    # -- slow clients -------------------------------------------------------------------------------------------

    def _disconnect_slow_client(self, sid: str, eio_sid: str) -> None:
        self.server.start_background_task(self._on_slow_client, sid, eio_sid)

    async def _close_socket(self, _sid: str, eio_sid: str) -> None:
        closing = self._backlogs.close(eio_sid)
        if closing is not None:
            await closing
