"""Stand in front of Engine.IO and python-socketio, and end the connections that send more than their share."""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery_realtime.bounded import BoundedDict
from celery_realtime.clocks import time
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.web import capacity
from celery_realtime.web.budgets import MOST_ATTACHMENTS, Allowance, Budget, Collected, Rates
from celery_realtime.web.cors import OuterCors
from celery_realtime.web.cuts import Cuts
from celery_realtime.web.decisions import Blocking, Decision
from celery_realtime.web.failures import Failures
from celery_realtime.web.memory import Memory
from celery_realtime.web.metering import Users, budget_of
from celery_realtime.web.pings import Pings
from celery_realtime.web.polls import PART, Polls
from celery_realtime.web.seams import (
    EngineSockets,
    Request,
    allowed_origins,
    guard_messages,
    guard_of,
    guard_websockets,
)
from celery_realtime.web.sessions import Limits
from celery_realtime.web.turns import Owner

if TYPE_CHECKING:
    from celery_realtime.settings import Settings

logger = logging.getLogger(__name__)

#: Connections without a token that may say nothing for longer than ``PATIENCE``. Beyond, the oldest of the address with
#: most of them end. After an outage all clients come back at once, behind a proxy all have one address, and a server
#: that is busy with them reads late what they say.
MOST_IDLE = 1200
PATIENCE = 5.0

#: The part of a fixed number of threads, or greenlets, that stays free for requests to come.
RESERVE = 8

#: Seconds for which a connection may hold one without a token before it is the first to go.
PATIENCE_OF_THREADS = 1.0

#: The part of them that one user may hold while less than the reserve is free.
MOST_OF_USER = 4

#: Users of whom it is remembered how much they have sent.
MOST_USERS = 10_000

_TYPE_AND_NAMESPACE = re.compile(r"(\d)(?:(\d+)-)?(/[^,?]*)?")
_CONNECT, _BINARY_EVENT, _BINARY_ACK = "0", "5", "6"


class Gate:
    """Keeps the budget of each connection, from its first request on.

    Args:
        server: The Socket.IO server, sync or asyncio.
        settings: The settings: ``namespace``, which takes no attachments, and the limits.

    Attributes:
        sockets: The connections of the server.
        pings: Pings them.
        most_newcomers: Connections without a token altogether; beyond, the oldest ends.
        ended: How many connections it has ended because they sent too much, or did not read.
    """

    def __init__(self, server: Any, settings: Settings) -> None:
        limits = Limits.of(settings)
        self.sockets = sockets = EngineSockets(server)
        self._server = server
        self._namespace = settings.namespace
        self._on_gone: list[Callable[[str], None]] = []
        self._memory = Memory()
        self.ended = 0
        self._max_unread = settings.max_backlog, settings.max_backlog_bytes
        self._before = Allowance.before_token(limits)
        self._after = Allowance.after_token(limits, sockets.max_message)
        self._collected = Collected()
        self.most_newcomers = capacity.most_without_token(server.async_mode, {})
        #: Those that wait, of connections without a token.
        self.polls = Polls(sockets.answer_poll, self.most_newcomers // PART)
        #: How many requests the web server answers at once; None before the first, and 0 for any number.
        self._capacity: int | None = None
        self._answering: set[int] = set()  # requests
        self._failures = Failures()
        self._rates_of: BoundedDict[str, Rates] = BoundedDict(MOST_USERS)
        self._budgets: dict[str, Budget] = {}
        #: Those without a token, the oldest first.
        self._newcomers: dict[str, Budget] = {}
        self.pings = Pings(server)
        self._outer_cors = OuterCors(allowed_origins(server))
        #: Looks at the requests of HTTP, of Engine.IO and others.
        self.guard: Any = guard_of(server, self._begin_request, self._end_request)
        self._log = RateLimitedLogger(logger)
        self._cuts = Cuts(sockets, self.forget, self._log)
        self._on_connection: Callable[[str], None] | None = None

    def install(self, on_connection: Callable[[str], None]) -> None:
        """Stand in front of the server from now on.

        Args:
            on_connection: Called with the Engine.IO session id of each new connection.
        """
        self._on_connection = on_connection
        users = Users.nobody()
        self.guard.install()
        guard_websockets(self._server, users)
        guard_messages(self._server, self._may_pass, self._note_passed, users=users, user_of=self._user_of_poller)
        self.sockets.watch(self._note_connection, self.forget)

    # -- requests of HTTP ----------------------------------------------------------------------------------------

    @property
    def requests_at_once(self) -> int | None:
        """How many requests the web server answers at once; None for any number, or where that is not known."""
        return self._capacity or None

    def _begin_request(self, request: Request) -> Budget | None:
        """Return the budget of the connection that a request is of, or None where it has to be refused."""
        self._outer_cors.look(request.environ)
        budget = self._budgets.get(request.sid or "") or self._new_budget(request.peer)
        may_wait = not self._capacity or len(self._answering) < self._capacity // 2
        may_begin = self._failures.admit(budget, may_wait=may_wait)
        if not (may_begin and budget.begin_request(request.method, request.environ)):
            return None
        self._answering.add(id(request.environ))
        self._keep_free(budget, request)
        if request.method == "GET" and request.sid is not None and not budget.has_token:
            self.polls.begin(budget, request.environ)
        if request.method != "POST":
            return budget
        size = max(0, request.length)
        may_come = budget.take_packet() and budget.take_body(size, request.environ) and budget.take_bytes(size)
        if not may_come:
            self._end_request(budget, request)
        return budget if may_come else None

    def _new_budget(self, peer: str) -> Budget:
        return Budget(self._before, peer, self._end, self._collected)

    def _end_request(self, budget: Budget, request: Request) -> None:
        self._answering.discard(id(request.environ))
        self.polls.end(budget, request.environ)
        budget.end_request(request.method, request.environ)

    def _keep_free(self, budget: Budget, request: Request) -> None:
        """End a connection while the threads that answer requests are about to be used up.

        One without a token, or of a user who holds many.
        """
        if self._capacity is None:
            self._capacity = capacity.requests_at_once() or 0
            self.most_newcomers = capacity.most_without_token(self._server.async_mode, request.environ)
            self.polls.most = max(1, min(self.most_newcomers, self._capacity or self.most_newcomers) // PART)
        if not self._capacity or len(self._answering) <= self._capacity - max(1, self._capacity // RESERVE):
            return
        holding = [other for other in list(self._newcomers.values()) if other is not budget and other.requests]
        victim = _first_to_go(holding, list(self._budgets.values()), self._capacity // MOST_OF_USER)
        if victim is not None and victim.exceeded is None:
            self._log.warning(
                "the threads of this web server are about to be used up, so a connection is ended; give it more "
                "threads, or see who opens connections"
            )
            victim.exceed("requests that wait")
            for _, environ in victim.requests:
                self.sockets.cut(environ)

    # -- connections ---------------------------------------------------------------------------------------------

    def _note_connection(self, eio_sid: str, budget: Budget | None) -> None:
        """Note a new connection; one that came past us has what a connection of nobody in particular has."""
        budget = budget or self._new_budget("")
        budget.eio_sid = eio_sid
        self._budgets[eio_sid] = self._newcomers[eio_sid] = budget
        self.sockets.ping_from(self.pings, eio_sid)
        if len(self._newcomers) > self.most_newcomers:
            self._end_newcomer(next(iter(self._newcomers.values())))
        if self._on_connection is not None:
            self._on_connection(eio_sid)

    def _end_idle(self) -> None:
        """End connections without a token that say nothing, if they are too many."""
        late = time.monotonic() - PATIENCE
        for budget in _surplus([budget for budget in list(self._newcomers.values()) if budget.is_idle(late)]):
            self._end_newcomer(budget)

    def _end_newcomer(self, budget: Budget) -> None:
        self._newcomers.pop(budget.eio_sid or "", None)
        budget.exceed("connections without a token")
        self.sockets.stop_reading(budget.eio_sid or "")

    def on_gone(self, gone: Callable[[str], None]) -> None:
        """Call a function with the Engine.IO session id of each connection that has gone."""
        self._on_gone.append(gone)

    def note_user(self, environ: dict[str, Any], user: str | None) -> None:
        """Note whose a connection is that has shown a token."""
        budget = budget_of(environ)
        if budget is None or user is None:
            return
        rates = self._rates_of.get(user)
        if rates is None:
            rates = self._rates_of[user] = Rates(self._after)
        budget.belongs_to(user, rates)

    def owner_of(self, eio_sid: str) -> Owner:
        """Return whose a connection is; one whose user is not known is a user of its own."""
        budget = self._budgets.get(eio_sid)
        if budget is None:
            return Owner("", eio_sid, eio_sid)
        return Owner(budget.peer, eio_sid if budget.user is None else budget.user, eio_sid)

    def forget(self, eio_sid: str) -> None:
        """Forget a connection that has gone."""
        for gone in self._on_gone:
            gone(eio_sid)
        self._memory.note_gone()
        budget = self._budgets.pop(eio_sid, None)
        if budget is not None:
            budget.release()
        self._newcomers.pop(eio_sid, None)

    def _user_of_poller(self, eio_sid: str) -> str | None:
        budget = self._budgets.get(eio_sid)
        return None if budget is None or self.sockets.request_of(eio_sid) is not None else budget.user

    # -- messages ------------------------------------------------------------------------------------------------

    def _may_pass(self, eio_sid: str, message: Any) -> bool:
        """Return whether python-socketio gets a message."""
        budget = self._budgets.get(eio_sid)
        if budget is None:
            return True
        if isinstance(message, bytes):
            if not self.sockets.awaits_attachment(eio_sid):
                budget.exceed("attachments")
            return budget.exceeded is None
        found = _TYPE_AND_NAMESPACE.match(message) if isinstance(message, str) else None
        if found is None:
            budget.exceed("messages that are none of Socket.IO's")
        elif found[1] == _CONNECT:
            budget.is_connecting = budget.take_connect(found[3] or "/")
        elif found[1] in (_BINARY_EVENT, _BINARY_ACK):
            self._check_attachments(budget, int((found[2] or "0")[:10]), found[3] or "/")
        return budget.exceeded is None

    def _check_attachments(self, budget: Budget, count: int, namespace: str) -> None:
        if namespace == self._namespace or count > MOST_ATTACHMENTS or not budget.has_token:
            budget.exceed("attachments")

    def _note_passed(self, eio_sid: str, message: Any) -> None:
        """Note what has come of a message: its connection may have entered its first namespace."""
        budget = self._budgets.get(eio_sid)
        if budget is None or budget.has_token or not isinstance(message, str) or message[:1] != _CONNECT:
            return
        budget.is_connecting = False
        found = _TYPE_AND_NAMESPACE.match(message)
        if found is not None and self.sockets.has_entered(eio_sid, found[3] or "/"):
            budget.admit(self._after)
            self._newcomers.pop(eio_sid, None)
        else:
            self._failures.note(budget.peer)

    # -- ending --------------------------------------------------------------------------------------------------

    def _end(self, budget: Budget) -> None:
        """Begin to end a connection: nothing more is read from it, and what it has not read is gone at once."""
        self.ended += 1
        self._log.warning(
            "a client sends too much (%s), so it is disconnected; the limits are settings, such as "
            "realtime_request_rate",
            budget.exceeded,
        )
        if budget.eio_sid is not None:
            self.sockets.refuse(budget.eio_sid, self._namespace)
            self.cut_soon(budget.eio_sid)

    def end_unread(self) -> None:
        """End the connections for which too much waits, in whatever namespace they are, or in none."""
        most_packets, most_bytes = self._max_unread
        for eio_sid, budget in list(self._budgets.items()):
            packets, size = self.sockets.unread(eio_sid)
            if budget.exceeded is None and (packets > 2 * most_packets or size > 2 * most_bytes):
                budget.exceed("bytes that it does not read")

    def cut_soon(self, eio_sid: str) -> None:
        """Cut a connection that is about to be closed, when its client has had time to read why."""
        self._cuts.put(eio_sid, self._budgets.get(eio_sid))

    @property
    def is_busy(self) -> bool:
        """Whether connections have still to be cut."""
        return bool(self._cuts) or self.sockets.has_stuck() or self._memory.has_more

    def sweep(self) -> Decision[None]:
        """Cut the connections that are over their budget, or closed and not gone; end those that are too many."""
        self._end_idle()
        yield from self._cuts.make()
        self.sockets.cut_stuck()
        if self._memory.is_due():
            yield Blocking(self._memory.give_back)


def _surplus(idle: list[Budget]) -> list[Budget]:
    """Return those of too many idle connections that end: the oldest of the addresses with most of them."""
    by_peer: dict[str, deque[Budget]] = {}
    for budget in idle:
        by_peer.setdefault(budget.peer, deque()).append(budget)
    return [max(by_peer.values(), key=len).popleft() for _ in range(len(idle) - MOST_IDLE)]


def _first_to_go(newcomers: list[Budget], everybody: list[Budget], most_of_user: int) -> Budget | None:
    """Return the connection that ends while threads are about to be used up: a silent one, if there is any."""
    late = time.monotonic() - PATIENCE_OF_THREADS
    silent = next((budget for budget in newcomers if budget.is_idle(late)), None)
    return silent or _greediest(everybody, most_of_user) or next(iter(newcomers), None)


def _greediest(budgets: list[Budget], most: int) -> Budget | None:
    """Return a connection of the user with most requests, if these are too many."""
    held: dict[str, list[Budget]] = {}
    for budget in budgets:
        if budget.user is not None and budget.exceeded is None and budget.requests:
            held.setdefault(budget.user, []).append(budget)
    of_one = max(held.values(), key=_requests_of, default=[])
    return of_one[-1] if _requests_of(of_one) > most else None


def _requests_of(budgets: list[Budget]) -> int:
    return sum(len(budget.requests) for budget in budgets)
