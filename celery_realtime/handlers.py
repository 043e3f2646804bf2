"""Let browsers in, and let them subscribe to the projects that they may see.

Every decision is written once, as a generator that yields what it needs to have done (ask the user's rules, enter a
room) as a callable. A synchronous server calls it, an asyncio server awaits it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, Protocol

import msgspec
import socketio.exceptions

from celery_realtime import auth, sessions
from celery_realtime.events import (
    EXPIRING_EVENT,
    MARK,
    PROGRESS_EVENT,
    PROGRESS_FIELDS,
    RESYNC_EVENT,
    STATUS_EVENT,
    WORKFLOW_EVENT,
)
from celery_realtime.exceptions import SubscribeError
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.pacer import cut
from celery_realtime.requests import (
    Since,
    Topic,
    check_size,
    job_id_of,
    project_id_of,
    since_of,
    token_of,
    wants_batches,
)
from celery_realtime.revocations import Revocations
from celery_realtime.rooms import rooms_of
from celery_realtime.sessions import Limits, Session, Sessions, Wish
from celery_realtime.sharing import AsyncSharedReads, SharedReads

logger = logging.getLogger(__name__)

_failures = RateLimitedLogger(logger)

Step = Callable[[], Any]
Decision = Generator[Step, Any, Any]
Authenticate = Callable[[Any, dict[str, Any]], Any]
Authorize = Callable[[Any, str], Any]
Read = Callable[[str, str, int], Any]

LISTEN_TIMEOUT = 2.0

#: The same for who connects: python-socketio's clients give up after a second.
CONNECT_PATIENCE = 0.5

#: Seconds between two looks at what ends by itself: tokens, clients that never say who they are.
TICK = 0.5

#: How often it is looked, a tick apart, whether a client that is too slow has read why it is sent away.
PARTING = 4

#: A client is told that its token ends this long before, in seconds, or when a fifth of its life is left.
WARNING = 60.0

#: Where a job is looked for that no project is known of, so that its absence takes as long as a refusal.
NOWHERE = "-"

#: Stands in a handler's arguments where the client asked for no acknowledgement; no client can send it.
NO_ACKNOWLEDGEMENT = object()

#: What a subscriber is told where nothing is remembered.
NO_HISTORY: dict[str, Any] = {
    "epoch": None,
    "offset": None,
    "recovered": False,
    "jobs": [],
    "jobs_total": 0,
    "events": [],
    "workflows": [],
}
_FORBIDDEN = "this project does not exist, or is not open to you"
_NO_SUCH_JOB = "this job does not exist, or is not open to you"

#: Why a client that lags too far behind is disconnected.
TOO_SLOW = {"code": "too_slow", "message": "too much waited to be read; connect again"}

_WITHDRAWN = "the subscription was withdrawn before it was answered"

#: The events of clients that are ours, each handled by the method ``on_...`` of its name.
REQUESTS = (
    *("subscribe_project", "unsubscribe_project", "subscribe_job", "unsubscribe_job"),
    *("get_result", "cancel_job", "refresh_token"),
)


class Listener(Protocol):
    """What a server's client manager tells of its ears."""

    def wait_until_listening(self, timeout: float) -> Any:
        """Wait until messages are heard."""


class JobDesk(Protocol):
    """What is known of single jobs, and can be done about them; all of it may take a while."""

    def project_of(self, job_id: str) -> str | None:
        """Return the project of a job, or None when none is known."""

    def state_of(self, project_id: str, job_id: str) -> dict[str, Any] | None:
        """Return a job as its project's snapshot has it, or None when that does not know it."""

    def result_of(self, project_id: str, job_id: str) -> dict[str, Any]:
        """Return how a job ended: ``status``, ``result``, ``error``."""

    def cancel(self, project_id: str, job_id: str) -> dict[str, Any]:
        """Cancel a job, and return what has come of it."""


class Options(msgspec.Struct, frozen=True):
    """What handlers can be given beside the two rules that everybody needs.

    Attributes:
        authorize_cancel: ``(user_id, project_id, job_id) -> bool``; replaces ``_validate_cancel_access``.
        audience: ``(user_id, project_id) -> str``, the audience that ``event_filter`` is asked for; sync or async.
        revocations: Whose tokens open a project no more.
        desk: What is known of single jobs, where something is.
        limits: What clients may ask.
    """

    authorize_cancel: Any = None
    audience: Any = None
    revocations: Revocations = msgspec.field(default_factory=Revocations)
    desk: Any = None
    limits: Limits = Limits()


class SocketIOEventHandlers:
    """Handle connections and requests on a synchronous Socket.IO server.

    Subclass it to decide who may connect (:meth:`_validate_token`), what they may see
    (:meth:`_validate_project_access`) and what they may cancel (:meth:`_validate_cancel_access`); all may also be
    coroutine functions.

    Args:
        server: The :class:`socketio.Server`.
        namespace: The namespace to serve.
        secret_key: Verifies the tokens of ``issue_token``.
        authenticate: ``(token, environ) -> user id``, or None to refuse; replaces :meth:`_validate_token`.
        authorize: ``(user_id, project_id) -> bool``; replaces :meth:`_validate_project_access`.
        read: ``(project_id, epoch, offset) -> snapshot``, where there is a history.
        options: Everything else.
    """

    def __init__(
        self,
        server: Any,
        *,
        namespace: str = "/",
        secret_key: str | tuple[str, ...] | None = None,
        authenticate: Authenticate | None = None,
        authorize: Authorize | None = None,
        read: Read | None = None,
        options: Options = Options(),  # noqa: B008 - it is frozen
    ) -> None:
        self.server = server
        self.namespace = namespace
        self._secret_key = secret_key
        self._authenticate = authenticate
        self._authorize = authorize
        self._options = options
        self._read = None if read is None else self._shared(read)
        self._sessions = Sessions(options.limits)
        self._newcomers: dict[str, float] = {}
        #: By Engine.IO session id, the request of each WebSocket that is open.
        self._websockets: dict[str, dict[str, Any]] = {}
        self._housekeeping = threading.Lock()
        self._keeps_house = False
        self._generation = 0
        self._first_client: Callable[[], None] | None = None

    @staticmethod
    def _shared(read: Read) -> Read:
        return SharedReads(read)

    @property
    def _users(self) -> dict[str, Any]:
        """Who is connected, by session id."""
        return self._sessions.users()

    # -- the user's rules ---------------------------------------------------------------------------------------

    def _validate_token(self, token: Any) -> Any:
        """Return the id of the user whom a token names, or None to refuse the connection."""
        return auth.verify_token(self._secret_key, token) if self._secret_key else None

    def _validate_project_access(self, user_id: Any, project_id: str) -> Any:
        """Tell whether a user may see a project; by default, whether the user's token says so."""
        return project_id in getattr(user_id, "projects", ())

    def _validate_cancel_access(self, user_id: Any, project_id: str, job_id: str) -> Any:  # noqa: ARG002
        """Tell whether a user, who may see the project, may cancel a job of it; by default nobody may."""
        return False

    # -- registration -------------------------------------------------------------------------------------------

    def register(self) -> None:
        """Register the handlers; a ``connect`` or ``disconnect`` handler that is there already runs after ours."""
        self._register("connect", self._after(self.on_connect, "connect"))
        self._register("disconnect", self._after(self.on_disconnect, "disconnect"))
        for request in REQUESTS:
            self._register(request, getattr(self, f"on_{request}"))
        self._mark_unacknowledged()
        self._watch_newcomers()
        self._take_orders()

    def _mark_unacknowledged(self) -> None:
        """Let a subscription that asks for no acknowledgement be known as such; python-socketio tells no handler."""
        handle_event = self.server._handle_event

        def marked(eio_sid: str, namespace: str, id: int | None, data: list[Any]) -> Any:
            ours = (namespace or "/") == self.namespace
            if not _is_event(data) or (ours and data[0] in ("connect", "disconnect")):
                # python-socketio would take a client's word for what only the server can know.
                logger.debug("ignored what is no event of a client's")
                return self._nothing()
            if id is None and ours and data[0] in ("subscribe_project", "subscribe_job"):
                data = [*[*data, None][:2], NO_ACKNOWLEDGEMENT]
            return handle_event(eio_sid, namespace, id, data)

        self.server._handle_event = marked

    def _nothing(self) -> Any:
        return None

    def _register(self, event: str, handler: Callable[..., Any]) -> None:
        self.server.on(event, handler=handler, namespace=self.namespace)

    def _earlier(self, event: str) -> Callable[..., Any] | None:
        return (self.server.handlers.get(self.namespace) or {}).get(event)

    def _after(self, ours: Callable[..., Any], event: str) -> Callable[..., Any]:
        theirs = self._earlier(event)
        if theirs is None:
            return ours

        def both(sid: str, *args: Any) -> Any:
            ours(sid, *args)
            try:
                outcome = _call_with_fitting(theirs, (sid, *args))
            except Exception:
                self._sessions.close(sid)
                raise
            return self._unless_refused(sid, outcome)

        return both

    def _unless_refused(self, sid: str, outcome: Any) -> Any:
        """Forget a client that the user's own handler refuses, and pass on what it said."""
        if outcome is False:
            self._sessions.close(sid)
        return outcome

    def _watch_newcomers(self) -> None:
        """Note when each Engine.IO connection began; who never says more is sent away."""
        theirs = self.server.eio.handlers["connect"]

        def connected(eio_sid: str, environ: dict[str, Any]) -> Any:
            self._note_newcomer(eio_sid)
            return theirs(eio_sid, environ)

        self.server.eio.handlers["connect"] = connected

    def _note_newcomer(self, eio_sid: str) -> None:
        self._newcomers[eio_sid] = time.monotonic()
        self._note_websocket(eio_sid)
        with self._housekeeping:
            begins = not self._keeps_house
            self._keeps_house = True
        if begins:
            self.server.start_background_task(self._keep_house)

    def _note_websocket(self, eio_sid: str) -> None:
        """Note the request that a connection's WebSocket comes with, which need not be the connection's first."""
        held = self.server.eio.sockets.get(eio_sid)
        upgrade = getattr(held, "_upgrade_websocket", None)
        if upgrade is not None:
            held._upgrade_websocket = self._noting(upgrade, eio_sid)

    def _noting(self, upgrade: Callable[..., Any], eio_sid: str) -> Callable[..., Any]:
        def noted(environ: dict[str, Any], *rest: Any) -> Any:
            self._websockets[eio_sid] = environ
            try:
                return upgrade(environ, *rest)
            finally:
                self._websockets.pop(eio_sid, None)

        return noted

    def _take_orders(self) -> None:
        """Do what the application tells all servers of the channel to do, and part from clients that are too slow."""
        manager = self.server.manager
        if hasattr(manager, "pacer"):
            manager.obey = self.obey
            manager.pacer.give_up = functools.partial(self.server.start_background_task, self._give_up)
            manager.pacer.give_way = self._give_way

    def on_first_client(self, hook: Callable[[], None]) -> None:
        """Call ``hook`` when the first client comes: a server that forks has done so by then."""
        self._first_client = hook

    # -- events -------------------------------------------------------------------------------------------------

    def on_connect(self, sid: str, environ: dict[str, Any], auth: Any = None) -> Any:
        """Let a client in whose token is good.

        Raises:
            socketio.exceptions.ConnectionRefusedError: It is not, with the code in its data.
        """
        self._refusing(sid, lambda: self._drive(self._decide_connect(sid, environ, auth)))

    def on_disconnect(self, sid: str, *_reason: Any) -> Any:
        """Forget a client."""
        self._sessions.close(sid)
        pacer = getattr(self.server.manager, "pacer", None)
        if pacer is not None:
            pacer.forget(sid)

    def on_subscribe_project(self, sid: str, data: Any = None, *rest: Any) -> Any:
        """Let a client hear a project; returns the acknowledgement, or sends it as events where none is asked for."""
        return self._acknowledge(sid, self._decide_subscribe(sid, data, NO_ACKNOWLEDGEMENT in rest))

    def on_unsubscribe_project(self, sid: str, data: Any = None, *_: Any) -> Any:
        """Let a client hear a project no more; returns the acknowledgement."""
        return self._acknowledge(sid, self._decide_unsubscribe(sid, data))

    def on_subscribe_job(self, sid: str, data: Any = None, *rest: Any) -> Any:
        """Let a client hear one job; as :meth:`on_subscribe_project`."""
        return self._acknowledge(sid, self._decide_subscribe_job(sid, data, NO_ACKNOWLEDGEMENT in rest))

    def on_unsubscribe_job(self, sid: str, data: Any = None, *_: Any) -> Any:
        """Let a client hear one job no more; returns the acknowledgement."""
        return self._acknowledge(sid, self._decide_unsubscribe_job(sid, data))

    def on_get_result(self, sid: str, data: Any = None, *_: Any) -> Any:
        """Return how a job ended, from the result backend, in the acknowledgement."""
        return self._acknowledge(sid, self._decide_result(sid, data))

    def on_cancel_job(self, sid: str, data: Any = None, *_: Any) -> Any:
        """Cancel a job; the acknowledgement says what has come of it."""
        return self._acknowledge(sid, self._decide_cancel(sid, data))

    def on_refresh_token(self, sid: str, data: Any = None, *_: Any) -> Any:
        """Let a client stay that shows a new token; returns the acknowledgement."""
        return self._acknowledge(sid, self._decide_refresh(sid, data))

    # -- decisions: who it is -----------------------------------------------------------------------------------

    def _decide_connect(self, sid: str, environ: dict[str, Any], given: Any) -> Decision:
        token = token_of(environ, given)
        if token is None and (self._authenticate is None or not _shows_otherwise(environ)):
            raise SubscribeError("a token is needed to connect", "unauthorized")
        user_id = yield from self._decide_who(token, environ)
        # So that an application may place it in a project as soon as it is here.
        yield lambda: self._wait_until_listening(CONNECT_PATIENCE)
        self._sessions.open(sid, user_id)
        hook, self._first_client = self._first_client, None
        if hook is not None:
            hook()

    def _decide_who(self, token: Any, environ: dict[str, Any]) -> Decision:
        user_id = yield lambda: self._ask_who(token, environ)
        if user_id is None or user_id is False or user_id == "":
            raise SubscribeError("the token is not valid, or has ended", "unauthorized")
        return user_id

    def _ask_who(self, token: Any, environ: dict[str, Any]) -> Any:
        return self._validate_token(token) if self._authenticate is None else self._authenticate(token, environ)

    def _decide_refresh(self, sid: str, data: Any) -> Decision:
        session = self._asking(sid, data)
        token = data.get("token") if isinstance(data, dict) else None
        if token is None:
            raise SubscribeError("send an object such as {token: ...}", "bad_request")
        environ = self.server.get_environ(sid, namespace=self.namespace) or {}
        user_id = yield from self._decide_who(token, environ)
        if not sessions.is_same_user(user_id, session.user):
            raise SubscribeError("this token is another user's; connect anew with it", "forbidden")
        session.renew(user_id)
        for project_id in {topic.project_id for topic in [*session.rooms, *(wish.topic for wish in session.wishes)]}:
            allowed = yield from self._decide_access(user_id, project_id)
            if not allowed and self._take_back(sid, session, project_id):
                yield from self._tell_all(self._words_of_parting(sid, project_id))
        return {"ok": True, "expires_in": session.expires_in}

    def _asking(self, sid: str, data: Any) -> Session:
        session = self._sessions.asking(sid)
        check_size(data, self._sessions.limits.max_request)
        return session

    def _asking_for_much(self, sid: str, data: Any) -> Session:
        """Return the session of a client whose answer may be long, if it reads those that it was given."""
        session = self._asking(sid, data)
        self._check_reading(sid, session)
        return session

    def _promise(self, sid: str, session: Session, answer: Any) -> None:
        """Note that a client is given a long answer, unless too much of others waits, or is about to."""
        size = _size_of(answer)
        with self._sessions.entering:
            self._check_reading(sid, session)
            session.promise(size)

    def _check_reading(self, sid: str, session: Session) -> None:
        manager = self.server.manager
        if hasattr(manager, "pacer") and manager.pacer.is_loaded(sid, session.promised, manager):
            raise SubscribeError("read what was sent before asking for more", "too_many_requests")

    # -- decisions: subscriptions -------------------------------------------------------------------------------

    def _decide_access(self, user_id: Any, project_id: str) -> Decision:
        """Return whether a user may see a project now."""
        allowed = yield lambda: self._ask_access(user_id, project_id)
        if not isinstance(allowed, bool):
            logger.warning("the rule for access to projects returned %.40r, which is no bool and counts as no", allowed)
        if allowed is not True:
            return False
        return not (yield lambda: self._ask_revoked(user_id, project_id))

    def _ask_revoked(self, user_id: Any, project_id: str) -> Any:
        return self._options.revocations.cover(user_id, project_id)

    def _ask_access(self, user_id: Any, project_id: str) -> Any:
        if self._authorize is None:
            return self._validate_project_access(user_id, project_id)
        return self._authorize(user_id, project_id)

    def _decide_subscribe(self, sid: str, data: Any, replay: bool) -> Decision:
        session = self._asking_for_much(sid, data)
        topic = Topic(project_id_of(data))
        answer = yield from self._decide_topic(sid, session, topic, data, _FORBIDDEN)
        return (yield from self._answer(sid, answer, replay))

    def _decide_subscribe_job(self, sid: str, data: Any, replay: bool) -> Decision:
        session = self._asking_for_much(sid, data)
        if not hasattr(self.server.manager, "delivery"):
            raise SubscribeError("this server cannot follow single jobs; subscribe to the project", "unavailable")
        project_id = yield from self._decide_project_of(session, data, proven=False)
        topic = Topic(project_id, job_id_of(data))
        answer = yield from self._decide_topic(sid, session, topic, data, _NO_SUCH_JOB)
        return (yield from self._answer(sid, {"job_id": topic.job_id, **answer}, replay))

    def _answer(self, sid: str, answer: dict[str, Any], replay: bool) -> Decision:
        if replay:
            for event, told in _replayed(answer):
                yield functools.partial(self._send, sid, event, told)
        return {"ok": True, **answer}

    def _decide_topic(self, sid: str, session: Session, topic: Topic, data: dict[str, Any], refusal: str) -> Decision:
        since, batch = since_of(data), wants_batches(data)
        wish = self._sessions.wish(session, topic)
        try:
            if not (yield from self._decide_access(session.user, topic.project_id)):
                raise SubscribeError(refusal, "forbidden")
            audience = yield lambda: self._ask_audience(session.user, topic.project_id)
            self._check_wish(sid, wish)  # it may have gone while the rules were asked
            yield from self._join(sid, session, wish, audience, batch)
            snapshot = yield from self._decide_snapshot(sid, session, topic, since)
            self._check_wish(sid, wish)  # who withdrew it has left; the room may be another wish's by now
        finally:
            session.wishes.remove(wish)
        delivery = getattr(self.server.manager, "delivery", None)
        if delivery is not None:
            snapshot = delivery.redact_snapshot(topic.project_id, snapshot, audience)
        try:
            self._promise(sid, session, snapshot)
        except SubscribeError:
            self._leave(sid, session, topic)
            raise
        return {"project_id": topic.project_id, **snapshot}

    def _check_wish(self, sid: str, wish: Wish) -> None:
        self._sessions.get(sid)
        if wish.withdrawn is not None:
            raise wish.withdrawn

    def _ask_audience(self, user_id: Any, project_id: str) -> Any:
        return (
            None if self._options.audience is None else _checked_audience(self._options.audience(user_id, project_id))
        )

    def _join(self, sid: str, session: Session, wish: Wish, audience: str | None, batch: bool) -> Decision:
        """Join, and then read: what is told in between is seen twice and dropped by its offset, not lost."""
        topic = wish.topic
        room, others = topic.rooms(audience, batch)
        delivery = getattr(self.server.manager, "delivery", None)
        if delivery is not None:
            delivery.expect(topic.project_id, topic.job_id, audience)
        earlier = session.rooms.get(topic, [])
        yield lambda: self._enter(sid, session, wish, room)
        for other in {*others, *earlier} - {room}:
            yield functools.partial(self.server.leave_room, sid, other, namespace=self.namespace)

    def _enter(self, sid: str, session: Session, wish: Wish, room: str) -> Any:
        with self._sessions.entering:
            if wish.withdrawn is not None:
                raise wish.withdrawn
            session.rooms[wish.topic] = [room]
            return self.server.enter_room(sid, room, namespace=self.namespace)

    def _leave(self, sid: str, session: Session, topic: Topic) -> None:
        with self._sessions.entering:
            for room in session.rooms.pop(topic, []):
                # At once: an asyncio server's own way out may pause, and something may be told meanwhile.
                self.server.manager.basic_leave_room(sid, self.namespace, room)

    def _decide_snapshot(self, sid: str, session: Session, topic: Topic, since: Since | None) -> Decision:
        catch_up = getattr(self.server.manager, "catch_up", None)
        if catch_up is not None:
            catch_up.expect(topic.project_id)
        yield lambda: self._wait_until_listening(LISTEN_TIMEOUT)
        if self._read is None:
            return NO_HISTORY
        snapshot = yield lambda: self._ask_history(topic.project_id, since)
        if snapshot is None:
            self._leave(sid, session, topic)
            raise SubscribeError("the history cannot be read now; try again later", "unavailable")
        if catch_up is not None:
            catch_up.seed(topic.project_id, snapshot["epoch"], snapshot["offset"])
        if topic.job_id is None:
            return snapshot
        state = yield lambda: self._ask_desk("state_of", topic.project_id, topic.job_id)
        return _of_one_job(snapshot, topic.job_id, state)

    def _ask_history(self, project_id: str, since: Since | None) -> Any:
        """Return a project's snapshot, or None when it cannot be read."""
        assert self._read is not None
        try:
            return msgspec.structs.asdict(self._read(project_id, *_place(since)))
        except Exception as error:
            logger.error("the history of a project cannot be read: %r", error)
            return None

    def _wait_until_listening(self, timeout: float) -> Any:
        """Wait for the ears of a server whose first client this is: what was said before they open is lost."""
        listener: Listener = self.server.manager
        wait = getattr(listener, "wait_until_listening", None)
        return None if wait is None else wait(timeout)

    def _decide_unsubscribe(self, sid: str, data: Any) -> Decision:
        session = self._sessions.get(sid)
        check_size(data, self._sessions.limits.max_request)
        topic = Topic(project_id_of(data))
        for room in topic.rooms(None, False)[1] + [topic.rooms(None, False)[0]]:
            yield functools.partial(self.server.leave_room, sid, room, namespace=self.namespace)
        self._unsubscribe(sid, session, [topic])
        return {"ok": True}

    def _decide_unsubscribe_job(self, sid: str, data: Any) -> Decision:
        session = self._sessions.get(sid)
        check_size(data, self._sessions.limits.max_request)
        job_id = job_id_of(data)
        known = {*session.rooms, *(wish.topic for wish in session.wishes)}
        yield lambda: self._unsubscribe(sid, session, [topic for topic in known if topic.job_id == job_id])
        return {"ok": True}

    def _unsubscribe(self, sid: str, session: Session, topics: list[Topic]) -> None:
        for topic in topics:
            with self._sessions.entering:
                sessions.withdraw(session, None, SubscribeError(_WITHDRAWN, "bad_request"), topic)
                self._leave(sid, session, topic)

    # -- decisions: single jobs ---------------------------------------------------------------------------------

    def _decide_project_of(self, session: Session, data: Any, *, proven: bool) -> Decision:
        """Return the project of a job that the user may see; a job that is not there is refused in the same way."""
        job_id = job_id_of(data)
        named = project_id_of(data) if data.get("project_id") is not None else None
        found = None if self._options.desk is None else (yield lambda: self._ask_desk("project_of", job_id))
        project_id = found if proven or found is not None else named
        if named not in (None, project_id):
            project_id = None
        allowed = yield from self._decide_access(session.user, project_id or NOWHERE)
        if not allowed or project_id is None:
            raise SubscribeError(_NO_SUCH_JOB, "forbidden")
        return project_id

    def _ask_desk(self, question: str, *args: Any) -> Any:
        return None if self._options.desk is None else getattr(self._options.desk, question)(*args)

    def _decide_result(self, sid: str, data: Any) -> Decision:
        session = self._asking_for_much(sid, data)
        project_id = yield from self._decide_project_of(session, data, proven=True)
        job_id = job_id_of(data)
        found = yield lambda: self._ask_desk("result_of", project_id, job_id)
        audience = yield lambda: self._ask_audience(session.user, project_id)
        delivery = getattr(self.server.manager, "delivery", None)
        shown = found if delivery is None else delivery.redacted(STATUS_EVENT, project_id, found, audience)
        if shown is None:
            raise SubscribeError(_NO_SUCH_JOB, "forbidden")
        told = {name: shown.get(name) for name in ("status", "state", "result", "error")}
        self._promise(sid, session, told)
        return {"ok": True, "job_id": job_id, "project_id": project_id, **told}

    def _decide_cancel(self, sid: str, data: Any) -> Decision:
        session = self._asking(sid, data)
        project_id = yield from self._decide_project_of(session, data, proven=True)
        job_id = job_id_of(data)
        if (yield lambda: self._ask_cancel(session.user, project_id, job_id)) is not True:
            raise SubscribeError("you may not cancel this job", "forbidden")
        outcome = yield lambda: self._ask_desk("cancel", project_id, job_id)
        return {"ok": True, "job_id": job_id, "project_id": project_id, **outcome}

    def _ask_cancel(self, user_id: Any, project_id: str, job_id: str) -> Any:
        return (self._options.authorize_cancel or self._validate_cancel_access)(user_id, project_id, job_id)

    # -- orders -------------------------------------------------------------------------------------------------

    def obey(self, order: dict[str, Any]) -> Any:
        """Do what the application told all servers of the channel to do."""
        self._drive(self._carry_out(order))

    def _carry_out(self, order: dict[str, Any]) -> Decision:
        """Let clients hear no more at once, and return what is left to do: to tell them.

        Telling pauses on an asyncio server, and the next event may be heard meanwhile.
        """
        user, project_id = order.get("user"), order.get("project")
        if not isinstance(user, str):
            return self._tell_all([])
        if order.get("action") == "revoke" and isinstance(project_id, str) and isinstance(order.get("at"), float):
            self._options.revocations.note(user, project_id, order["at"])
        clients = self._sessions.of_user(user)
        if order.get("action") == "revoke" and isinstance(project_id, str):
            left = [sid for sid, session in clients if self._take_back(sid, session, project_id)]
            return self._tell_all([step for sid in left for step in self._words_of_parting(sid, project_id)])
        if order.get("action") == "disconnect":
            for sid, session in clients:
                self._silence(sid, session)
            refusal = {"code": "unauthorized", "message": "you have been disconnected"}
            return self._tell_all([functools.partial(self._part, sid, refusal) for sid, _ in clients])
        return self._tell_all([])

    @staticmethod
    def _tell_all(steps: list[Step]) -> Decision:
        for step in steps:
            try:
                yield step
            except Exception as error:
                _failures.error("a client could not be told what was decided: %r", error)

    def _take_back(self, sid: str, session: Session, project_id: str) -> bool:
        """Let a client hear a project no more; returns whether it heard it until now."""
        with self._sessions.entering:
            topics = sessions.withdraw(session, project_id, SubscribeError(_FORBIDDEN, "forbidden"))
            for topic in topics:
                self._leave(sid, session, topic)
            for room in rooms_of(project_id):
                self.server.manager.basic_leave_room(sid, self.namespace, room)
        return bool(topics)

    def _words_of_parting(self, sid: str, project_id: str) -> list[Step]:
        """Return what tells a client that a project was taken from it."""
        refusal = {"code": "forbidden", "message": _FORBIDDEN, "project_id": project_id}
        # Clients of ours subscribe again, and are refused: so they know where they stand.
        resync = {"project_id": project_id, "epoch": None, "offset": None}
        return [
            functools.partial(self._send_error, sid, refusal),
            functools.partial(self._send, sid, RESYNC_EVENT, resync),
        ]

    def _silence(self, sid: str, session: Session) -> None:
        """Let a client hear nothing more that it has subscribed to."""
        self._sessions.close(sid)
        for topic in list(session.rooms):
            self._leave(sid, session, topic)

    def _part(self, sid: str, refusal: dict[str, Any]) -> Any:
        """Disconnect a client with a code."""
        self._send_error(sid, refusal)
        return self.server.disconnect(sid, namespace=self.namespace, ignore_queue=True)

    # -- housekeeping -------------------------------------------------------------------------------------------

    def _keep_house(self) -> Any:
        while self._has_guests():
            self.server.sleep(TICK)
            for chore in self._chores():
                try:
                    _settle(chore())
                except Exception as error:
                    _failures.error("a connection could not be looked after: %r", error)

    def _has_guests(self) -> bool:
        with self._housekeeping:
            # A server of threads remembers closed sockets for a while.
            open_sockets = any(not held.closed for held in list(self.server.eio.sockets.values()))
            self._keeps_house = bool(open_sockets or self._users)
            return self._keeps_house

    def _chores(self) -> Iterator[Step]:
        """Yield what has to be done now, for all that ends by itself."""
        for sid, session in self._sessions.all():
            if session.expires_in is not None and session.expires_in <= 0:
                refusal = {"code": "unauthorized", "message": "the token has ended; connect with a new one"}
                yield functools.partial(self._part, sid, refusal)
            elif session.should_be_warned(WARNING):
                told = {"expires_in": session.expires_in}
                yield functools.partial(self._send, sid, EXPIRING_EVENT, told)
        for eio_sid in self._silent_newcomers():
            yield functools.partial(self._close_socket, eio_sid)
        manager = self.server.manager
        if hasattr(manager, "pacer"):
            self._doubt_after_silence(manager.generation)
            yield functools.partial(manager.pacer.part_from_overloaded, manager)
            for message in manager.pacer.due(manager):
                yield functools.partial(manager.emit_here, message)
            topics = list(self._sessions.topics())
            manager.delivery.forget_unwatched({(topic.project_id, topic.job_id) for topic in topics})

    def _doubt_after_silence(self, generation: int) -> None:
        """Orders may have been missed when the broker was away."""
        if generation != self._generation:
            self._generation = generation
            self._options.revocations.doubt()

    def _silent_newcomers(self) -> list[str]:
        """Return the connections that should have shown a token by now."""
        known = [rooms[None].inverse for rooms in self.server.manager.rooms.values() if None in rooms]
        late = time.monotonic() - self._options.limits.connect_timeout
        silent = []
        for eio_sid, began in list(self._newcomers.items()):
            if eio_sid not in self.server.eio.sockets or any(eio_sid in names for names in known):
                self._newcomers.pop(eio_sid, None)
            elif began < late:
                self._newcomers.pop(eio_sid, None)
                silent.append(eio_sid)
        return silent

    def _close_socket(self, eio_sid: str) -> Any:
        held = self.server.eio.sockets.get(eio_sid)
        return None if held is None else held.close(wait=False)

    def _give_way(self) -> None:
        """Let other threads, or greenlets, write what waits for clients."""
        self.server.sleep(0)

    def _give_up(self, sid: str, eio_sid: str) -> Any:
        """Part from a client that does not read what it is told; it comes back when it can, and recovers."""
        held = self.server.eio.sockets.get(eio_sid)
        if held is None:
            return
        logger.warning("a client reads too slowly and is disconnected; %d packets waited", _empty(held.queue))
        self._send_error(sid, dict(TOO_SLOW))
        # Not by a disconnect of Socket.IO, after which browsers do not come back by themselves, nor by one of
        # Engine.IO, after which python-socketio's clients do not.
        held.close(wait=False, abort=True)
        for _ in range(PARTING):
            if held.queue.qsize():
                self.server.sleep(TICK)
        self._forget_socket(eio_sid)

    def _forget_socket(self, eio_sid: str) -> None:
        """End a connection, and do not wait for Engine.IO to notice, which takes up to 20 seconds."""
        cut(self._websockets.get(eio_sid) or {})
        self.server.eio.sockets.pop(eio_sid, None)

    # -- a synchronous server -----------------------------------------------------------------------------------

    def _drive(self, decision: Decision) -> Any:
        outcome, failed = None, None
        try:
            while True:
                step = decision.send(outcome) if failed is None else decision.throw(failed)
                outcome, failed = None, None
                try:
                    outcome = _settle(step())
                except Exception as error:
                    failed = error
        except StopIteration as done:
            return done.value

    def _refusing(self, sid: str, connect: Callable[[], None]) -> None:
        try:
            connect()
        except Exception as error:
            self._sessions.close(sid)
            raise _refusal_to_connect(error) from None

    def _acknowledge(self, sid: str, decision: Decision) -> Any:
        try:
            return self._drive(decision)
        except Exception as error:
            refusal = _refusal(error)
            self._send_error(sid, refusal)
            return {"ok": False, "error": refusal}

    def _send_error(self, sid: str, refusal: dict[str, Any]) -> Any:
        return self._send(sid, "error", refusal)

    def _send(self, sid: str, event: str, data: dict[str, Any]) -> Any:
        """Send an event to one client of this server, not over the broker."""
        return self.server.emit(event, data, to=sid, namespace=self.namespace, ignore_queue=True)


class AsyncSocketIOEventHandlers(SocketIOEventHandlers):
    """Handle connections and requests on a :class:`socketio.AsyncServer`.

    Takes the arguments of :class:`SocketIOEventHandlers`. Rules that are plain functions run in a thread, so that
    they may block. Every ``on_...`` returns an awaitable.
    """

    _loop: asyncio.AbstractEventLoop | None = None

    async def _nothing(self) -> None:
        return None

    @staticmethod
    def _shared(read: Read) -> Read:
        return AsyncSharedReads(read)

    def _register(self, event: str, handler: Callable[..., Any]) -> None:
        @functools.wraps(handler)
        async def awaited(*args: Any) -> Any:
            return await handler(*args)

        super()._register(event, awaited)

    def _after(self, ours: Callable[..., Any], event: str) -> Callable[..., Any]:
        theirs = self._earlier(event)
        if theirs is None:
            return ours

        async def both(sid: str, *args: Any) -> Any:
            await ours(sid, *args)
            try:
                outcome = _call_with_fitting(theirs, (sid, *args))
                outcome = await outcome if inspect.isawaitable(outcome) else outcome
            except Exception:
                self._sessions.close(sid)
                raise
            return self._unless_refused(sid, outcome)

        return both

    def _watch_newcomers(self) -> None:
        theirs = self.server.eio.handlers["connect"]

        async def connected(eio_sid: str, environ: dict[str, Any]) -> Any:
            self._loop = asyncio.get_running_loop()
            self._note_newcomer(eio_sid)
            return await theirs(eio_sid, environ)

        self.server.eio.handlers["connect"] = connected

    def _noting(self, upgrade: Callable[..., Any], eio_sid: str) -> Callable[..., Any]:
        async def noted(environ: dict[str, Any]) -> Any:
            self._websockets[eio_sid] = environ
            try:
                return await upgrade(environ)
            finally:
                self._websockets.pop(eio_sid, None)

        return noted

    async def on_connect(self, sid: str, environ: dict[str, Any], auth: Any = None) -> None:
        """Let a client in whose token is good; see :meth:`SocketIOEventHandlers.on_connect`."""
        try:
            await self._drive(self._decide_connect(sid, environ, auth))
        except Exception as error:
            self._sessions.close(sid)
            raise _refusal_to_connect(error) from None

    async def on_disconnect(self, sid: str, *_reason: Any) -> None:
        """Forget a client."""
        super().on_disconnect(sid)

    def _ask_who(self, token: Any, environ: dict[str, Any]) -> Any:
        rule = self._validate_token if self._authenticate is None else self._authenticate
        return _off_the_loop(rule, *((token,) if self._authenticate is None else (token, environ)))

    async def _ask_history(self, project_id: str, since: Since | None) -> Any:
        assert self._read is not None
        try:
            return msgspec.structs.asdict(await self._read(project_id, *_place(since)))
        except Exception as error:
            logger.error("the history of a project cannot be read: %r", error)
            return None

    def _ask_revoked(self, user_id: Any, project_id: str) -> Any:
        revocations = self._options.revocations
        if revocations.is_fresh:
            return revocations.cover(user_id, project_id)
        return _off_the_loop(revocations.cover, user_id, project_id)

    def _ask_access(self, user_id: Any, project_id: str) -> Any:
        return _off_the_loop(self._authorize or self._validate_project_access, user_id, project_id)

    async def _ask_audience(self, user_id: Any, project_id: str) -> Any:
        if self._options.audience is None:
            return None
        return _checked_audience(await _off_the_loop(self._options.audience, user_id, project_id))

    def _ask_cancel(self, user_id: Any, project_id: str, job_id: str) -> Any:
        return _off_the_loop(
            self._options.authorize_cancel or self._validate_cancel_access, user_id, project_id, job_id
        )

    def _ask_desk(self, question: str, *args: Any) -> Any:
        return None if self._options.desk is None else _off_the_loop(getattr(self._options.desk, question), *args)

    def obey(self, order: dict[str, Any]) -> Any:
        """Do what the application told all servers of the channel to do; called in the thread that listens."""
        if self._loop is not None:
            # What is heard after it is handed over after it.
            self._loop.call_soon_threadsafe(lambda: _keep(self._drive(self._carry_out(order))))

    def _take_orders(self) -> None:
        super()._take_orders()
        if hasattr(self.server.manager, "pacer"):
            self.server.manager.pacer.give_way = None  # emitting pauses there anyway

    async def _part(self, sid: str, refusal: dict[str, Any]) -> None:
        await self._send_error(sid, refusal)
        await self.server.disconnect(sid, namespace=self.namespace, ignore_queue=True)

    async def _keep_house(self) -> None:
        while self._has_guests():
            await self.server.sleep(TICK)
            for chore in self._chores():
                try:
                    outcome = chore()
                    if inspect.isawaitable(outcome):
                        await outcome
                except Exception as error:
                    _failures.error("a connection could not be looked after: %r", error)

    async def _give_up(self, sid: str, eio_sid: str) -> None:
        held = self.server.eio.sockets.get(eio_sid)
        if held is None:
            return
        logger.warning("a client reads too slowly and is disconnected; %d packets waited", _empty(held.queue))
        await self._send_error(sid, dict(TOO_SLOW))
        await held.close(wait=False, abort=True)
        held.queue.put_nowait(None)  # the writer's end, which Engine.IO's threads are told of by ``close``
        for _ in range(PARTING):
            if held.queue.qsize():
                await self.server.sleep(TICK)
        self._forget_socket(eio_sid)

    async def _drive(self, decision: Decision) -> Any:
        outcome, failed = None, None
        try:
            while True:
                step = decision.send(outcome) if failed is None else decision.throw(failed)
                outcome, failed = None, None
                try:
                    outcome = step()
                    if inspect.isawaitable(outcome):
                        outcome = await outcome
                except Exception as error:
                    failed = error
        except StopIteration as done:
            return done.value

    async def _acknowledge(self, sid: str, decision: Decision) -> Any:
        try:
            return await self._drive(decision)
        except Exception as error:
            refusal = _refusal(error)
            await self._send_error(sid, refusal)
            return {"ok": False, "error": refusal}


async def _off_the_loop(rule: Callable[..., Any], *args: Any) -> Any:
    if inspect.iscoroutinefunction(rule):
        return await rule(*args)
    outcome = await asyncio.to_thread(rule, *args)
    return await outcome if inspect.isawaitable(outcome) else outcome


def _settle(outcome: Any) -> Any:
    """Return what a step returned; a rule that is a coroutine is run to its end."""
    return asyncio.run(_awaited(outcome)) if inspect.isawaitable(outcome) else outcome


async def _awaited(outcome: Any) -> Any:
    return await outcome


def _call_with_fitting(handler: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Call a user's handler with as many of the arguments as it takes: older ones take no ``auth`` or ``reason``."""
    try:
        inspect.signature(handler, follow_wrapped=False).bind(*args)
    except TypeError:
        return handler(*args[:-1])
    return handler(*args)


def _shows_otherwise(environ: dict[str, Any]) -> bool:
    """Tell whether a connection without a token shows who it is in another way, for ``authenticate`` to look at."""
    return bool(environ.get("HTTP_COOKIE") or environ.get("HTTP_AUTHORIZATION"))


def _replayed(snapshot: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return a snapshot as the ordinary events that tell it to a client without a callback."""
    told = []
    for job in snapshot["jobs"]:
        status = {name: value for name, value in job.items() if name not in (*PROGRESS_FIELDS, "stalled")}
        told.append((STATUS_EVENT, {**status, "replayed": True}))
        if job["progress"] is not None and job["status"] in ("queued", "running"):
            identity = {name: job.get(name) for name in ("job_id", "project_id", "timestamp", "task", "attempt")}
            done = {name: job[name] for name in PROGRESS_FIELDS} | ({"stalled": True} if job["stalled"] else {})
            told.append((PROGRESS_EVENT, {"event": "progress_update", **identity, **done, "replayed": True}))
    flows = ({"event": "workflow_update", **flow, "replayed": True} for flow in snapshot["workflows"])
    return [*told, *((WORKFLOW_EVENT, flow) for flow in flows)]


def _of_one_job(snapshot: dict[str, Any], job_id: str, state: dict[str, Any] | None) -> dict[str, Any]:
    """Return what a project's snapshot says of one job."""
    jobs = [] if state is None else [state]
    missed = [item for item in snapshot["events"] if _is_about(item, job_id)]
    return {**snapshot, "jobs": jobs, "jobs_total": len(jobs), "workflows": [], "events": missed}


def _is_about(item: dict[str, Any], job_id: str) -> bool:
    data = item["data"]
    told = data if item["event"] in (STATUS_EVENT, PROGRESS_EVENT) else isinstance(data, dict) and data.get(MARK)
    return isinstance(told, dict) and told.get("job_id") == job_id


def _checked_audience(audience: Any) -> str | None:
    if audience is not None and not isinstance(audience, str):
        raise TypeError(f"audience must return a str or None, not {type(audience).__name__}")
    return audience


def _is_event(data: Any) -> bool:
    """Tell whether a packet is an event as clients send it: a name, and what comes with it."""
    return isinstance(data, list) and bool(data) and isinstance(data[0], str)


def _empty(queue: Any) -> int:
    """Throw away what waits in a queue, of whatever kind of server, and return how much it was."""
    thrown = 0
    while queue.qsize():
        try:
            queue.get_nowait()
        except Exception:  # each kind has its own error for an empty one; somebody else took the last
            break
        queue.task_done()
        thrown += 1
    return thrown


#: asyncio holds tasks weakly.
_tasks: set[asyncio.Task[Any]] = set()


def _keep(coroutine: Any) -> None:
    task = asyncio.ensure_future(coroutine)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


def _size_of(answer: Any) -> int:
    """Return about how many bytes an answer takes, whatever the user's rules have put into it."""
    try:
        return len(msgspec.json.encode(answer, enc_hook=repr))
    except Exception:
        return len(repr(answer))


def _place(since: Since | None) -> tuple[str, int]:
    return (since.epoch, since.offset) if since else ("", -1)


def _refusal(error: Exception) -> dict[str, str]:
    if isinstance(error, SubscribeError):
        return {"code": error.code, "message": str(error)}
    logger.error("a rule failed, so the client is refused: %r", error)
    logger.debug("where it failed", exc_info=error)
    return {"code": "unavailable", "message": "this cannot be answered now; try again later"}


def _refusal_to_connect(error: Exception) -> Exception:
    # Any other exception would leave the client without an answer, yet in the namespace.
    if isinstance(error, socketio.exceptions.ConnectionRefusedError):
        raised: Exception = error
        return raised
    refusal = _refusal(error)
    refused: Exception = socketio.exceptions.ConnectionRefusedError(refusal["message"], refusal)
    return refused
