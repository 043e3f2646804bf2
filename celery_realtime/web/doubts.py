"""Decide again whether clients may see their projects, when orders to the contrary may have been missed."""

from __future__ import annotations

import functools
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from celery_realtime.clocks import time
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.web.access import Access
from celery_realtime.web.answers import FORBIDDEN, UNAVAILABLE, Refusal
from celery_realtime.web.decisions import Blocking, Decision, Step
from celery_realtime.web.membership import Clients
from celery_realtime.web.revocations import Revocations
from celery_realtime.web.sessions import Session
from celery_realtime.web.turns import Owner, Rotation

if TYPE_CHECKING:
    from celery_realtime.web.stock_manager import ClientManager

logger = logging.getLogger(__name__)

#: How many are decided at the same time: of all clients, and of one user, for whom the rule may take long.
WORKERS, OF_USER = 8, 6

#: The place of the user among the names of an owner; those before it are not known here.
USER = Owner._fields.index("user")

#: Seconds between two tries to decide what could not be decided.
RETRY = 0.25

#: Seconds after which a subscription ends that could not be decided; its client subscribes again, or is told.
LONGEST_DOUBT = 30.0

#: A client, by its session id, and a project.
Pair = tuple[str, str]


class Doubt:
    """One client's access to one project, which is in doubt."""

    def __init__(self, session: Session, project_id: str) -> None:
        self.session = session
        self.project_id = project_id
        self.since = time.monotonic()
        #: How often it has come into doubt; an answer to an earlier question is none.
        self.count = 1

    @property
    def pair(self) -> Pair:
        """Which client's, and which project's."""
        return self.session.sid, self.project_id

    @property
    def owner(self) -> tuple[str, str]:
        """Whose turn it is when it is decided: the user's, and the client's."""
        return str(self.session.user), self.session.sid


class Doubts:
    """Holds what is emitted for clients whose access is in doubt, and asks the rule for access again.

    Users take turns, and of each its clients: one that follows much on many connections does not keep others waiting.

    Args:
        clients: The clients of the server.
        manager: The server's client manager, which holds.
        access: Asks the application what a user may see.
        revocations: Carries out the orders that are on record and were not heard.
        begin: Runs a decision in the background; from any thread.
    """

    def __init__(
        self,
        clients: Clients,
        manager: ClientManager,
        *,
        access: Access,
        revocations: Revocations,
        begin: Callable[[Decision[None]], Any],
    ) -> None:
        self._clients = clients
        self._access = access
        self._manager = manager
        self._revocations = revocations
        self._begin = begin
        self._log = RateLimitedLogger(logger)
        self._lock = threading.Lock()
        self._doubts: dict[Pair, Doubt] = {}
        self._waiting: Rotation[Doubt] = Rotation(len(Owner._fields) - USER)
        self._workers = 0
        #: By user, how many are being decided.
        self._deciding: Counter[str] = Counter()
        #: How often orders may have been missed, and how many of these times the record has been read since.
        self._gaps = 0
        self._gaps_read = 0
        self._is_reading = False

    def __len__(self) -> int:
        return len(self._doubts)

    def doubt_all(self, generation: int | None = None) -> None:
        """Doubt all access: orders may have been missed. What is on record is carried out before anything else.

        Args:
            generation: How many connections to the broker have been listened on; clients that came since the last of
                these are not concerned. None for all clients.
        """
        concerned = {
            session.sid: session
            for session in self._clients.sessions.all()
            if generation is None or session.arrival.generation < generation
        }
        subscriptions = list(dict.fromkeys(self._all_of(concerned)))
        if concerned:
            with self._lock:
                self._gaps += 1
                begins, self._is_reading = not self._is_reading, True
            self.doubt(subscriptions)
            if begins:
                self._begin(self._read_record())

    def _all_of(self, sessions: dict[str, Session]) -> Iterable[tuple[Session, str]]:
        for session in sessions.values():
            for project_id in {topic.project_id for topic in session.topics()}:
                yield session, project_id
        # The application may have placed clients in rooms by itself.
        for sid, project_id in self._manager.suspensions.members():
            if sid in sessions:
                yield sessions[sid], project_id

    def doubt(self, subscriptions: Iterable[tuple[Session, str]]) -> None:
        """Hold what is emitted of projects for clients until it has been decided again that they may see it."""
        for session, project_id in subscriptions:
            with self._lock:  # nobody decides, and releases, what is not held yet
                self._add(session, project_id)
                self._manager.suspensions.begin(session.sid, project_id)
            for pending in list(session.pending):
                pending.is_doubtful |= pending.topic.project_id == project_id
        self._start_workers()

    def _add(self, session: Session, project_id: str) -> None:
        doubt = self._doubts.get((session.sid, project_id))
        if doubt is not None:
            doubt.count += 1
            return
        doubt = self._doubts[session.sid, project_id] = Doubt(session, project_id)
        self._waiting.put(doubt.owner, doubt)

    def _start_workers(self) -> None:
        """Start as many workers as there may be to decide: those that are there may be held up by the rule."""
        with self._lock:
            missing = (
                min(WORKERS - self._workers, len(self._doubts)) if self._waiting and not self._is_record_due else 0
            )
            self._workers += missing
        for _ in range(missing):
            self._begin(self._work())

    @property
    def _is_record_due(self) -> bool:
        return self._gaps_read < self._gaps

    # -- the record ---------------------------------------------------------------------------------------------

    def _read_record(self) -> Decision[None]:
        """Carry out what is on record, again and again until that was possible; then begin to decide."""
        has_ended = False
        try:
            while not has_ended:
                if not (yield from self._try_record()):
                    yield functools.partial(self._clients.sender.pause, RETRY)
                with self._lock:
                    has_ended = not self._is_record_due
                    self._is_reading = not has_ended
        finally:
            self._is_reading &= has_ended
        self._start_workers()

    def _try_record(self) -> Decision[bool]:
        gaps, has_read = self._gaps, False
        with self._log.suppressing(
            "cannot read which access was taken back, so events are held back meanwhile; reading it again"
        ):
            yield Blocking(self._revocations.read)
            has_read = True
        if has_read:
            self._gaps_read = max(self._gaps_read, gaps)
        return has_read

    # -- deciding -----------------------------------------------------------------------------------------------

    def _work(self) -> Decision[None]:
        has_retired = False
        try:
            while not has_retired:
                doubt = self._next()
                has_retired = doubt is None
                if doubt is not None and not (yield from self._decide_in_turn(doubt)):
                    yield functools.partial(self._clients.sender.pause, RETRY)
        finally:
            if not has_retired:
                with self._lock:
                    self._workers -= 1

    def _next(self) -> Doubt | None:
        """Return what is to be decided next; None for nothing, after which this worker is none any more."""
        with self._lock:
            while not self._is_record_due and (doubt := self._waiting.take(self._has_room)) is not None:
                if self._is_current(doubt):
                    self._deciding[doubt.owner[0]] += 1
                    return doubt
            self._workers -= 1
        return None

    def _has_room(self, place: int, name: str) -> bool:
        return place != USER or self._deciding[name] < OF_USER

    def _decide_in_turn(self, doubt: Doubt) -> Decision[bool]:
        user = doubt.owner[0]
        try:
            return (yield from self._decide(doubt))
        finally:
            with self._lock:
                self._deciding[user] -= 1
                if not self._deciding[user]:
                    del self._deciding[user]

    def _is_current(self, doubt: Doubt) -> bool:
        """Tell whether something is still in doubt: it may have taken too long, or its client may have gone."""
        return self._doubts.get(doubt.pair) is doubt

    def _decide(self, doubt: Doubt) -> Decision[bool]:
        """Ask the rule; return False, and ask again later, if there is no answer."""
        count, user = doubt.count, doubt.session.user
        allowed: bool | None = None
        with self._log.suppressing(
            "cannot decide whether a client may still see a project, so its events are held back; it is asked again",
            project_id=doubt.project_id,
        ):
            allowed = yield from self._access.allows(user, doubt.project_id, is_read_later=True)

        def holds() -> bool:
            is_same = count == doubt.count and user is doubt.session.user
            return is_same and not self._is_record_due and self._is_current(doubt)

        if allowed is not None and holds():
            yield from (self._release(doubt, holds) if allowed else self._end(doubt, FORBIDDEN))
        with self._lock:
            if allowed is not None and holds():
                del self._doubts[doubt.pair]
            elif self._is_current(doubt):
                self._waiting.put(doubt.owner, doubt)
        return allowed is not None

    def _release(self, doubt: Doubt, holds: Callable[[], bool]) -> Decision[None]:
        sid = doubt.session.sid
        for emit in self._manager.suspensions.release(sid, doubt.project_id, holds):
            with self._log.suppressing(
                "an event that was held for a client could not be emitted to it, so it misses that; clients of this"
                " package notice, and recover it",
                project_id=doubt.project_id,
            ):
                yield functools.partial(self._manager.emit_alone, sid, emit)

    def _end(self, doubt: Doubt, refusal: Refusal) -> Decision[None]:
        """Take a client out of a project."""
        session, project_id = doubt.session, doubt.project_id
        steps: list[Step] = []
        if (yield from self._clients.membership.revoke(session, project_id)):
            steps = self._clients.sender.report_lost_access(session.sid, project_id, refusal)
        self._manager.suspensions.drop(session.sid, project_id)
        self._manager.slow_clients.drop_progress(session.sid, project_id)
        yield from self._clients.sender.notify(steps)

    # -- ending -------------------------------------------------------------------------------------------------

    def end_overdue(self) -> Decision[None]:
        """End subscriptions that have been in doubt for too long, so that what is held for them need not be."""
        late = time.monotonic() - LONGEST_DOUBT
        with self._lock:
            overdue = [doubt for doubt in self._doubts.values() if doubt.since < late]
            for doubt in overdue:
                del self._doubts[doubt.pair]
        for doubt in overdue:
            yield from self._end(doubt, UNAVAILABLE)

    def forget(self, sid: str) -> None:
        """Forget a client that has disconnected."""
        if not self._doubts:
            return
        with self._lock:
            for pair in [pair for pair in self._doubts if pair[0] == sid]:
                del self._doubts[pair]
        self._manager.suspensions.forget(sid)
