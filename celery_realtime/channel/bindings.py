"""Listen to the shards of a channel that somebody wants, beside the channel itself, which all listeners hear."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable
from typing import Any

from celery_realtime.channel.seams import RedisTopics, answered_within
from celery_realtime.channel.shards import Shard
from celery_realtime.clocks import time

#: Seconds that a RabbitMQ may be silent when it is asked for something, as long as a silent listener counts as hearing.
ANSWER_TIMEOUT = 5.0


class Bindings:
    """Which shards are wanted, and which are listened to. Safe over threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._wanted: set[Shard] = set()
        self._bound: set[Shard] = set()
        #: Those that have been listened to since they were last asked for.
        self._fresh: set[Shard] = set()
        #: Into how many shards projects have been divided of those that were ever wanted.
        self.totals: set[int] = set()
        #: Of these, what others have announced, and what of that the broker does not allow.
        self._announced: set[int] = set()
        self._forbidden: frozenset[int] = frozenset()
        #: Changes with what is wanted.
        self.version = 0

    def want(self, shards: Iterable[Shard]) -> bool:
        """Have shards listened to from now on; returns whether any of them was not wanted before."""
        with self._changed:
            new = {shard for shard in shards if shard.total not in self._forbidden} - self._wanted
            self._wanted |= new
            self.totals.update(shard.total for shard in new)
            self.version += bool(new)
            return bool(new)

    def drop(self, shards: Iterable[Shard]) -> None:
        """Have shards listened to no more."""
        with self._changed:
            self._wanted.difference_update(shards)
            self.version += 1
            # At once, and not only when the broker knows: whoever wants one again waits until it is bound again.
            self._bound.intersection_update(self._wanted)

    def wait(self, shards: Collection[Shard], timeout: float) -> bool:
        """Wait until shards are listened to, at most ``timeout`` seconds; returns whether they are.

        Those that the broker does not allow are not waited for.
        """
        if self._are_bound(shards):
            return True
        with self._changed:
            return self._changed.wait_for(lambda: self._are_bound(shards), timeout)

    def _are_bound(self, shards: Collection[Shard]) -> bool:
        return all(shard in self._bound or shard.total in self._forbidden for shard in shards)

    def wait_for_change(self, timeout: float) -> bool:
        """Wait until one more shard is listened to, or all are that are wanted; returns whether all are."""
        with self._changed:
            before = len(self._bound)
            self._changed.wait_for(lambda: len(self._bound) > before or self.is_complete, timeout)
            return self.is_complete

    # -- in the thread that listens -----------------------------------------------------------------------------

    @property
    def is_complete(self) -> bool:
        """Whether all that are wanted are listened to."""
        return self._bound == self._wanted

    def wanted(self) -> set[Shard]:
        """Return those that are wanted."""
        with self._changed:
            return set(self._wanted)

    def note_bound(self, shard: Shard) -> None:
        """Note that a shard is listened to, whatever is published from now on."""
        with self._changed:
            if shard in self._wanted and shard not in self._bound:
                self._bound.add(shard)
                self._fresh.add(shard)
                self._changed.notify_all()

    def note_announced(self, total: int) -> None:
        """Note that shards of this number are wanted because others have announced it."""
        with self._changed:
            self._announced.add(total)

    def forbid_announced(self) -> set[int]:
        """Do without the shards that others have announced, since the broker has refused something; return of which."""
        with self._changed:
            new = self._announced - self._forbidden
            self._forbidden |= new
            self._wanted = {shard for shard in self._wanted if shard.total not in new}
            self._bound &= self._wanted
            self.version += bool(new)
            self._changed.notify_all()
            return new

    def note_deaf(self) -> None:
        """Note that nothing is listened to any more."""
        with self._changed:
            self._bound.clear()

    def take_fresh(self) -> set[Shard]:
        """Return those that have been listened to since the last call."""
        if not self._fresh:
            return self._fresh
        with self._changed:
            fresh, self._fresh = self._fresh, set()
        return fresh


class Binder:
    """Makes one connection listen to the shards that are wanted. For the thread that listens alone.

    A RabbitMQ binds the queue of the connection to further routing keys, and answers when it has. On a Redis the
    connection subscribes to further topics, and goes on listening meanwhile: a shard counts as bound when Redis has
    confirmed it. Other transports of kombu let everybody hear all shards.

    Args:
        bindings: What is wanted.
        consumer: The :class:`kombu.Consumer` of the connection.
        queue: Makes the :class:`kombu.Queue` of an exchange, for brokers on which each exchange needs one.
        exchange: ``(total) -> kombu.Exchange``, that of the shards.
    """

    def __init__(
        self, bindings: Bindings, consumer: Any, queue: Callable[[Any], Any], exchange: Callable[[int], Any]
    ) -> None:
        self._bindings = bindings
        self._consumer = consumer
        self._queue = queue
        self._exchange = exchange
        self._topics = RedisTopics(consumer.channel, self._note_confirmed)
        self._binds = consumer.channel.connection.client.transport.driver_type == "amqp"
        #: By the number of shards, the name of their exchange; and the other way round.
        self._declared: dict[int, str] = {}
        self._totals: dict[str, int] = {}
        #: What the broker was asked for, and when it was looked at last what is wanted.
        self._asked: set[Shard] = set()
        self._version = -1

    def turn(self) -> None:
        """Ask the broker for what is wanted and was not asked for, and to end what is not wanted any more."""
        if self._version == self._bindings.version:
            return
        self._version = self._bindings.version  # before the look: what changes after it is looked at again
        wanted = self._bindings.wanted()
        for shard in self._asked - wanted:
            self._unbind(shard)
        new = list(wanted - self._asked)
        for shard in new:
            self._bind(shard, is_last=shard is new[-1])
        if self._answers_at_once:
            for shard in new:
                self._bindings.note_bound(shard)

    def wait(self, drain: Callable[[], Any], timeout: float) -> None:
        """Ask for all that is wanted, and wait until the broker has confirmed it.

        Args:
            drain: Receives what comes, for a moment.
            timeout: The longest wait, in seconds.

        Raises:
            TimeoutError: It has not.
        """
        self.turn()
        deadline = time.monotonic() + timeout
        while not self._bindings.is_complete:
            if time.monotonic() > deadline:
                raise TimeoutError("the broker has not confirmed what is to be listened to")
            drain()
            self.turn()

    @property
    def _answers_at_once(self) -> bool:
        return not self._topics.are_there

    def _bind(self, shard: Shard, *, is_last: bool) -> None:
        name = self._exchange_of(shard.total)
        self._asked.add(shard)
        if self._binds:  # an answer to the last one is one to all
            self._amqp("queue_bind", name, shard, nowait=not is_last)
        else:
            self._topics.subscribe(name, shard.routing_key)

    def _unbind(self, shard: Shard) -> None:
        self._asked.discard(shard)
        name = self._declared[shard.total]
        if self._binds:
            self._amqp("queue_unbind", name, shard)
        else:
            self._topics.unsubscribe(name, shard.routing_key)

    def _amqp(self, method: str, name: str, shard: Shard, **options: Any) -> None:
        channel = self._consumer.channel
        with answered_within(channel, ANSWER_TIMEOUT):
            getattr(channel, method)(self._consumer.queues[0].name, name, routing_key=shard.routing_key, **options)

    def _exchange_of(self, total: int) -> str:
        """Declare the exchange of the shards, once, and return its name."""
        if total not in self._declared:
            exchange = self._exchange(total)
            if self._binds:
                with answered_within(self._consumer.channel, ANSWER_TIMEOUT):
                    exchange(self._consumer.channel).declare()
            else:
                self._consumer.add_queue(self._queue(exchange))
                self._consumer.consume()
            self._declared[total] = exchange.name
            self._totals[exchange.name] = total
        return self._declared[total]

    def _note_confirmed(self, exchange: str, routing_key: str) -> None:
        shard = Shard(self._totals[exchange], int(routing_key))
        if shard in self._asked:
            self._bindings.note_bound(shard)
