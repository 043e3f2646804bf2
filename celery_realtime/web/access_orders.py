"""Take access away: from a user's open connections on all web servers, and from tokens that were issued before."""

from __future__ import annotations

import functools
import logging
import math
import os
import socket
import threading
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from celery_realtime.bounded import BoundedDict
from celery_realtime.clocks import time
from celery_realtime.forks import after_fork
from celery_realtime.living import Living
from celery_realtime.logs import RateLimitedLogger, describe
from celery_realtime.loops import BackgroundLoop, PeriodicLoop
from celery_realtime.rooms import normalise_project_id, normalise_user_id
from celery_realtime.sending.manager import SocketIOManager
from celery_realtime.web.order_results import OrderResult
from celery_realtime.web.revocations import Revocations

if TYPE_CHECKING:
    from celery_realtime.history.access import AccessRecord, Look, Servers, Taken

logger = logging.getLogger(__name__)

Order = dict[str, Any]

#: Seconds between two looks at what is on record. An order that is heard has it looked at once.
PAUSE = 2.0

#: Seconds without a look after which the loop counts as standing still; Redis may take a few to time out.
LONGEST_TURN = 30.0

#: Longest wait, in seconds, for the end of a look when it is to be the last.
STOP_TIMEOUT = 2.0

#: Seconds for which a clock that could not be read is not read again.
CLOCK_PAUSE = 10.0

#: Seconds, after a part of the record was lost, for which it is read from where it was before: each server notes again
#: what it remembers.
RESTORING = 10.0

#: Seconds for which a server that has noted what it has carried out counts on being listed.
LISTED = 300.0

#: Ends of connections, and names of records, that are remembered.
MOST_ENDED, MOST_RECORDS = 10_000, 100

#: How long, in seconds, it is waited by default for web servers to confirm an order.
CONFIRM_TIMEOUT = 1.0


class Server(Protocol):
    """A Socket.IO server of this process, whose clients orders concern."""

    def carry_out(self, order: Order) -> Any:
        """Carry out an order; from any thread."""

    def carry_out_missed(self, orders: list[Order]) -> None:
        """Carry out orders, each of which it may have carried out before, and return when it has.

        Raises:
            TimeoutError: It has not within a few seconds.
        """

    def decide_again(self) -> Any:
        """Have the access of all clients decided again before anything more is passed to them; from any thread."""


class Remembered:
    """What a process remembers of the record, for when a part of that is lost.

    Args:
        revocations: Has the revocations.
    """

    def __init__(self, revocations: Revocations) -> None:
        self._revocations = revocations
        self._ended: BoundedDict[str, Taken] = BoundedDict(MOST_ENDED)
        #: The names of the records that have been read; what was on them is remembered.
        self._records: BoundedDict[str, bool] = BoundedDict(MOST_RECORDS)
        self._current: str | None = None
        #: Of other records, when it was noticed that their revocations are gone.
        self._lost: dict[str, float] = {}
        #: Up to when the record is read again, and from where.
        self._since = (-math.inf, math.inf)

    @property
    def records(self) -> list[str]:
        """The names of the records that have been read."""
        return self._records.names()

    def start(self, up_to: float | None) -> float | None:
        """Return from when on the record is to be read by a process that has read it up to a time."""
        until, since = self._since
        return up_to if up_to is None or time.monotonic() > until else min(since, up_to)

    def note(self, look: Look, before: float | None) -> bool:
        """Note what was read, and tell whether a part of what had been read before is gone."""
        former, self._current = self._current, look.record
        is_lost = (former is not None and former != look.record) or any(name in self._records for name in look.lost)
        if is_lost and before is not None:
            self._since = time.monotonic() + RESTORING, before
        if look.record is not None:
            self._records[look.record] = True
        for one in look.taken:
            if one.project is None:
                self._ended[one.user] = one
        return is_lost

    def restore(self, record: AccessRecord) -> None:
        """Note it again.

        Raises:
            redis.RedisError: The record cannot be written.
        """
        ended = [one for user in self._ended.names() if (one := self._ended.get(user)) is not None]
        record.restore([*self._revocations.remembered(), *ended], self._lost, self.records)

    def note_lost(self, look: Look) -> bool:
        """Note which revocations nobody remembers, and tell whether these have become more."""
        self._lost = {name: at for name, at in look.lost.items() if name not in self._records}
        return self._revocations.note_unknown(max(self._lost.values(), default=-1.0))


class AccessOrders:
    """Orders to all web servers about what their users may see.

    Each is noted on record first, and then published. A process with web servers reads the record every two seconds,
    whenever it has heard an order, and before it passes on what it may have missed; so it carries out what it did not
    hear, and then notes on the record that it has.

    Args:
        manager: Has the history, which has the record, and the publisher, which publishes the orders.
    """

    def __init__(self, manager: SocketIOManager) -> None:
        self._manager = manager
        self._log = RateLimitedLogger(logger)
        self._servers = Living[Server]()
        #: Which tokens no longer open which projects.
        self.revocations = Revocations(self)
        #: The record of the thread that looks at what is on record.
        self.loop = BackgroundLoop("access orders", logger, LONGEST_TURN)
        self._periodic = PeriodicLoop(self.loop, self.catch_up, PAUSE)
        self._start_over()
        after_fork(self._start_over)

    def _start_over(self) -> None:
        self._lock = threading.Lock()
        #: What this process is called on the record.
        self.name = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:4]}"
        #: Up to when all that is on record has been carried out here; None before the first look.
        self._up_to: float | None = None
        self._remembered = Remembered(self.revocations)
        self._confirmed_at = self._listed_at = -math.inf
        self._no_clock_until = 0.0

    @property
    def _record(self) -> AccessRecord | None:
        history = self._manager.history
        return None if history is None else history.access

    @property
    def is_there(self) -> bool:
        """Whether there is a record."""
        return self._record is not None

    @property
    def has_been_read(self) -> bool:
        """Whether what is on record has been noted here, but for what has come since."""
        return self._up_to is not None

    @property
    def time(self) -> float | None:
        """The time by the clock of the record, as far as that is known without asking."""
        record = self._record
        return None if record is None else record.clock.estimate

    @property
    def position(self) -> float:
        """Up to when all that is on record has been carried out here, by the clock of Redis."""
        return self._up_to or 0.0

    def add(self, server: Server) -> None:
        """Let a server of this process carry out orders, while anybody has it; its own do not wait for the broker."""
        self._servers.add(server)

    # -- giving orders ------------------------------------------------------------------------------------------

    def revoke(self, user_id: object, project_id: object, wait: float = CONFIRM_TIMEOUT) -> OrderResult:
        """Take a project away from a user; see :meth:`celery_realtime.Realtime.revoke_access`."""
        user, project = normalise_user_id(user_id), normalise_project_id(project_id)
        at = self._noted(lambda record: record.revoke(user, project))
        self.revocations.note(user, project, time.time() if at is None else at)
        return self._publish(_order(user, project, at), at, wait)

    def disconnect(self, user_id: object, wait: float = CONFIRM_TIMEOUT) -> OrderResult:
        """Disconnect a user's clients; see :meth:`celery_realtime.Realtime.disconnect_user`."""
        user = normalise_user_id(user_id)
        at = self._noted(lambda record: record.disconnect(user))
        return self._publish(_order(user, None, at), at, wait)

    def _noted(self, note: Callable[[AccessRecord], float]) -> float | None:
        record = self._record
        if record is None:
            return None
        from celery_realtime.history.connection import ERRORS

        try:
            return note(record)
        except ERRORS as error:
            self._log.error(
                "cannot store that access was taken back, so web servers that do not hear it, and those that start "
                "later, will not know; revoke it again when the history answers: %s",
                describe(error),
            )
            return None

    def _publish(self, order: Order, at: float | None, wait: float) -> OrderResult:
        for server in self._servers:
            server.carry_out(order)
        is_published = self._manager.publisher.order(order)
        self._periodic.wake()
        is_accepted = is_published and (at is not None or self._record is None)
        result = OrderResult(is_accepted=is_accepted, at=at, read=functools.partial(self._servers_after, order))
        result.wait(0.0 if _is_on_event_loop() else wait)
        return result

    def _servers_after(self, order: Order) -> Servers | None:
        """Return how far the web servers are that are to carry out an order."""
        from celery_realtime.history.access import Taken

        record = self._record
        with self._log.suppressing(
            "cannot read which web servers have carried out an order, so that is not known; ask the result again"
        ):
            return None if record is None else record.servers(Taken(order["user"], order.get("project"), order["at"]))
        return None

    def time_of_tokens(self) -> float | None:
        """Return the time by the clock of the record, for a token that is made now; None where that is not known."""
        record = self._record
        if record is None or time.monotonic() < self._no_clock_until:
            return None
        from celery_realtime.history.connection import ERRORS

        try:
            return record.clock.now()
        except ERRORS as error:
            self._no_clock_until = time.monotonic() + CLOCK_PAUSE
            self._log.warning(
                "cannot read the clock of Redis, so tokens have the time of this host; see that the clocks of all "
                "hosts agree: %s",
                describe(error),
            )
            return None

    # -- carrying out what was missed ---------------------------------------------------------------------------

    def start(self) -> None:
        """Look at the record from now on, for as long as the process lives; without a history, do nothing."""
        if self._record is not None:
            self._periodic.start()

    def stop(self) -> None:
        """Look no more, and say so on the record."""
        self._periodic.stop(STOP_TIMEOUT)
        record = self._record
        if record is not None and self._up_to is not None:
            with self._log.suppressing(
                "cannot note that this web server has ended, so it is listed for ten minutes; orders are reported "
                "as open on it meanwhile"
            ):
                record.leave(self.name)
                self._listed_at = -math.inf

    def note_heard(self) -> None:
        """Look at the record soon, since an order was heard."""
        self._periodic.wake()

    def catch_up(self) -> None:
        """Carry out on all servers of this process what is on record and was not heard, and note that it is done.

        Raises:
            redis.RedisError: The record cannot be read.
            TimeoutError: A server has not carried it out within a few seconds.
        """
        record = self._record
        if record is None:
            return
        with self._lock:
            before = self._up_to
            start = self._remembered.start(before)
            look = record.look(start)
            self._carry_out(look)
            if self._remembered.note(look, start):
                look, before = self._restored(record), None
            self._note_lost(look)
            self._up_to = look.up_to if before is None else max(before, look.up_to)
        if self._up_to != before or time.monotonic() > self._confirmed_at + PAUSE / 2:
            self._confirm(record, self._up_to)

    def _confirm(self, record: AccessRecord, up_to: float) -> None:
        self._confirmed_at = time.monotonic()
        with self._log.suppressing(
            "cannot note which orders this web server has carried out, so they count as open; noting it again in a "
            "moment"
        ):
            was_listed = self._confirmed_at - self._listed_at < LISTED
            record.confirm(self.name, up_to, self._remembered.records, was_listed=was_listed)
            self._listed_at = self._confirmed_at

    def _restored(self, record: AccessRecord) -> Look:
        """Note again what is remembered of a record that was lost, and have all access decided again."""
        self._log.error(
            "the record of revoked access was lost from Redis, so what this process remembers of it is noted again;"
            " see that Redis evicts no keys"
        )
        self._remembered.restore(record)
        for server in self._servers:
            server.decide_again()
        look = record.look(None)
        self._carry_out(look)
        return look

    def _note_lost(self, look: Look) -> None:
        """Let older tokens open nothing while it is not known what was revoked."""
        if not self._remembered.note_lost(look):
            return
        self._log.error(
            "revocations were lost from Redis that this web server does not remember (it has evicted keys, or they "
            "were deleted), so signed tokens issued before now open no project, unless another server remembers "
            "them; let pages get new tokens"
        )
        for server in self._servers:
            server.decide_again()

    def _carry_out(self, look: Look) -> None:
        for one in look.taken:
            if one.project is not None:
                self.revocations.note(one.user, one.project, one.at)
        orders = [_order(one.user, one.project, one.at) for one in look.taken if one.at > look.since]
        for server in self._servers if orders else ():
            server.carry_out_missed(orders)


def _order(user: str, project: str | None, at: float | None) -> Order:
    """Return an order; one that is on record has the same id whenever it is read: it is carried out once."""
    action = {"action": "disconnect"} if project is None else {"action": "revoke", "project": project}
    return {"id": uuid.uuid4().hex if at is None else f"{at!r}", **action, "user": user, "at": at or time.time()}


def _is_on_event_loop() -> bool:
    """Tell whether this thread runs an event loop, whose own server could not confirm while it waits."""
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
