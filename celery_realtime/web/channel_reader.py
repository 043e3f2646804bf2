"""Turn the messages of the channel into what is emitted on this server."""

from __future__ import annotations

import contextlib
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeGuard

import msgspec

from celery_realtime.channel import wire
from celery_realtime.channel.listener import Listener
from celery_realtime.channel.wire import Heard, Message
from celery_realtime.clocks import time
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.loops import BackgroundLoop
from celery_realtime.stages import UNOBSERVED, Stages
from celery_realtime.stream_parts import STREAM_EVENT
from celery_realtime.web.catchup import CatchUp
from celery_realtime.web.delivery import Delivery, Emit
from celery_realtime.web.stream_board import StreamBoard, only_chunks
from celery_realtime.web.watched_shards import WatchedShards

logger = logging.getLogger(__name__)

#: Recovered emits after which the rest has to wait for the next message: what waits for an event loop is bounded.
MOST_AT_ONCE = 1000

#: Seconds without a turn after which the loop counts as standing still; a broker that is away takes a few.
LONGEST_TURN = 15.0

#: Seconds until the next try after a failure that no broker should cause.
PAUSE = 1.0


class Gap(msgspec.Struct, frozen=True):
    """Something may have been missed before what comes next: what is listened on began anew.

    Attributes:
        generation: How many connections have been listened on.
    """

    generation: int


#: What is emitted on this server, or a message of python-socketio's own for it to handle, or an order of ours.
Item = Emit | Message | Gap


class ChannelReader:
    """Reads the channel in the caller's thread, for ever: decodes, puts events in order, and names rooms.

    Args:
        listener: Receives the messages.
        catch_up: Puts events in order, and recovers what was missed.
        delivery: Names the rooms.
        streams: Puts the chunks of streams in order.
        shards: Knows which parts of the channel are to be listened to.
        host_id: Of this server's own messages, which python-socketio has emitted here already.
        stages: What observes the hearing of a message.

    Attributes:
        messages, events: How many messages of the channel, and events in them that a client follows, have been heard.
        left_out: Of these events, how many there was no room for.
    """

    def __init__(
        self,
        listener: Listener,
        catch_up: CatchUp,
        delivery: Delivery,
        *,
        streams: StreamBoard,
        shards: WatchedShards,
        host_id: str,
        stages: Stages = UNOBSERVED,
    ) -> None:
        self.listener = listener
        self.loop = BackgroundLoop("channel reader", logger, LONGEST_TURN)
        self._catch_up = catch_up
        self._delivery = delivery
        self._streams = streams
        self._shards = shards
        self._host_id = host_id
        self._hear: Callable[..., list[Item]] = stages.hear(lambda message, has_room: self.items(message, has_room))  # noqa: PLW0108 - as it is then
        self.messages = self.events = self.left_out = 0
        self._failures = RateLimitedLogger(logger)
        self.after_fork()

    def after_fork(self) -> None:
        """Start over in a child process, which has not the thread that read."""
        self.listener.after_fork()
        self._shards.start_over(self.listener.bindings)
        self._catch_up.after_fork()
        self._streams.after_fork()
        self._stopped = threading.Event()
        self._generation = 0

    def stop(self) -> None:
        """End :meth:`read`, within about a second."""
        self._stopped.set()
        self._catch_up.close()
        self._streams.close()

    def read(self, has_room: Callable[[], bool] = lambda: True) -> Iterator[list[Item]]:
        """Yield what each message of the channel is to this server; a list about every second without any.

        It ends when nobody has the reader any more, whoever reads included: between two messages it has none itself.

        Args:
            has_room: Whether there is room for what is yielded next. Events that there is no room for are not emitted,
                and their projects are recovered from the history later.
        """
        return _read_on(weakref.ref(self), self.loop, has_room)

    @property
    def is_stopped(self) -> bool:
        """Whether nothing more is to be read."""
        return self._stopped.is_set()

    def hear(self, message: Any, has_room: Callable[[], bool]) -> list[Item]:
        """Return what one message of the channel is to this server, none if that cannot be told; observed."""
        with self.loop.turn():
            return self._hear(message, has_room)
        return []

    @property
    def patience(self) -> float:
        """Seconds until :meth:`items` has to be called, whether a message has come or not."""
        return min(self._catch_up.turns_in, self._streams.turns_in)

    def items(self, message: Any, has_room: Callable[[], bool] = lambda: True) -> list[Item]:
        """Return what one message of the channel, or None for a silence, is to this server; see :meth:`read`."""
        gaps: list[Item] = []
        if self._generation != self.listener.generation:
            self._generation = self.listener.generation
            self._catch_up.fall_behind()
            self._streams.fall_behind()
            gaps.append(Gap(self._generation))
        bound_late = self._shards.sweep()
        if bound_late:
            self._catch_up.fall_behind(bound_late, started_only=True)
            self._streams.fall_behind(bound_late)
        decoded = [] if message is None else self._decoded(message)
        is_due = self.patience <= 0
        if (decoded or is_due) and not has_room():
            return [*gaps, *self._without_room(decoded)]
        items: list[Item] = [*gaps, *(other for other in decoded if not isinstance(other, Heard))]
        items += self._emits(decoded)
        if is_due:
            items += self._recovered()
        return items

    def _decoded(self, message: Any) -> list[Heard | Message]:
        self.messages += 1
        head = wire.head_of_frame(message.body)
        if head is not None and self._is_for_nobody(head):
            return []
        decoded = wire.decode_message(message.body, message.content_type)
        if decoded and wire.is_announcement(decoded[0]):
            self._shards.learn(decoded[0].get("shards"))
            return []
        if self._shards.are_there and head is not None and not self.listener.is_of_shard(message):
            self._shards.learn(1)
        self.events += len(decoded) if head is not None else sum(isinstance(item, Heard) for item in decoded)
        return decoded

    def _is_for_nobody(self, head: wire.FrameHead) -> bool:
        """Tell whether no client follows any project of a frame: a snapshot that is read later has its events.

        Of a project whose clients have left a moment ago it is still known where it stands; what it misses would be
        looked for when they come back.
        """
        namespace, is_tracked = head.namespace or "/", self._catch_up.is_tracked
        if head.streams is not None:
            return not any(self._delivery.is_read(namespace, *job) for job in head.streams)
        return not any(is_tracked(name) or self._delivery.is_watched(namespace, name) for name in head.projects)

    def _recovered(self) -> list[Item]:
        """Return what was missed and has been recovered; the rest of very much of it at once in the next turn."""
        recovered: list[Item] = []
        for chunks in self._streams.missed():
            recovered += self._delivery.spread(chunks)
        for events in self._catch_up.missed():
            recovered += self._spread(events)
            if len(recovered) >= MOST_AT_ONCE:
                break
        return recovered

    def _emits(self, decoded: list[Heard | Message]) -> Iterator[Emit]:
        others = [event for event in decoded if isinstance(event, Heard) and event.host_id != self._host_id]
        if any(event.event == STREAM_EVENT for event in others):
            chunks, others = only_chunks(others)
            yield from self._delivery.spread(self._streams.sort(chunks))
        yield from self._spread(self._catch_up.sort(others))

    def _spread(self, events: list[Heard]) -> Iterator[Emit]:
        """Yield what to emit for events, and before for streams that end with a job of which they are."""
        yield from self._delivery.spread(self._streams.note(events))
        yield from self._delivery.spread(events)

    def _without_room(self, decoded: list[Heard | Message]) -> list[Item]:
        """Return the orders among messages that there is no room for: what they take from a client must be taken."""
        orders: list[Item] = [item for item in decoded if not isinstance(item, Heard) and is_order(item)]
        if len(orders) < len(decoded):
            self.left_out += len(decoded) - len(orders)
            projects = {event.project_id for event in decoded if isinstance(event, Heard)}
            self._catch_up.fall_behind(projects)
            self._streams.fall_behind(projects)
            self._failures.error(
                "the event loop does not keep up, so messages are left out; the events among them will be recovered"
                " from the history, if there is one"
            )
        return orders


def _read_on(
    reference: weakref.ref[ChannelReader], loop: BackgroundLoop, has_room: Callable[[], bool]
) -> Iterator[list[Item]]:
    """Read as :meth:`ChannelReader.read` says; only in the midst of a turn has it more than a reference."""

    def patience() -> float:
        reader = reference()
        return 0.0 if reader is None else reader.patience

    while (listener := _listener_of(reference)) is not None:
        with loop.turn(), contextlib.closing(listener.messages(patience)) as messages:
            for message in messages:
                if _listener_of(reference) is None:
                    break
                yield _hear(reference, message, has_room)
        if _listener_of(reference) is not None:
            time.sleep(PAUSE)
    loop.rest()


def _listener_of(reference: weakref.ref[ChannelReader]) -> Listener | None:
    """Return what is listened to, which does not know who listens; None if nobody does any more."""
    reader = reference()
    return None if reader is None or reader.is_stopped else reader.listener


def _hear(reference: weakref.ref[ChannelReader], message: Any, has_room: Callable[[], bool]) -> list[Item]:
    reader = reference()
    return [] if reader is None else reader.hear(message, has_room)


def is_order(item: Item) -> TypeGuard[Message]:
    """Return whether an item is an order to every server of the channel."""
    return isinstance(item, dict) and item["method"] == wire.ORDER_METHOD


class OrderObservers:
    """Calls what observes the orders of the channel, and the gaps in which some may have been missed."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[dict[str, Any]], Any]] = []
        self._of_gaps: list[Callable[[int], Any]] = []
        self._failures = RateLimitedLogger(logger)

    def add(self, callback: Callable[[dict[str, Any]], Any]) -> None:
        """Call ``callback`` with each order from now on."""
        self._callbacks.append(callback)

    def add_of_gaps(self, callback: Callable[[int], Any]) -> None:
        """Call ``callback`` at each gap from now on, with how many connections have been listened on."""
        self._of_gaps.append(callback)

    def notify_gap(self, gap: Gap) -> None:
        """Call all observers of gaps; one that fails is logged."""
        for callback in list(self._of_gaps):
            with self._failures.suppressing(
                "orders may have been missed and access was not decided again, so clients may see what was taken "
                "from them; revoke it again"
            ):
                callback(gap.generation)

    def notify(self, order: dict[str, Any]) -> None:
        """Call all observers with an order; one that fails is logged."""
        for callback in list(self._callbacks):
            with self._failures.suppressing(
                "an order from the channel was not carried out on this server, so clients may see what was taken "
                "from them; it is carried out from the record, if there is a history"
            ):
                callback(order)
