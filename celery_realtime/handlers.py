"""Let browsers in, and let them subscribe to the projects that they may see.

Every decision is written once, as a generator that yields what it needs to have done (ask the user's rules, enter a
room) as a callable. A synchronous server calls it, an asyncio server awaits it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import math
import time
from collections.abc import Callable, Generator
from typing import Any, Protocol
from urllib.parse import parse_qs

import msgspec
import socketio.exceptions

from celery_realtime import auth
from celery_realtime.events import PROGRESS_EVENT, STATUS_EVENT, WORKFLOW_EVENT
from celery_realtime.exceptions import SubscribeError
from celery_realtime.rooms import batch_room, normalise_project_id, project_room
from celery_realtime.sharing import AsyncSharedReads, SharedReads

logger = logging.getLogger(__name__)

PROGRESS_FIELDS = ("progress", "message", "current", "total")

Step = Callable[[], Any]
Decision = Generator[Step, Any, Any]
Authenticate = Callable[[Any, dict[str, Any]], Any]
Authorize = Callable[[Any, str], Any]
Read = Callable[[str, str, int], Any]

LISTEN_TIMEOUT = 2.0

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


class Listener(Protocol):
    """What a server's client manager tells of its ears."""

    def wait_until_listening(self, timeout: float) -> Any:
        """Wait until messages are heard."""


class Wish:
    """A subscription that is being decided on; unsubscribing meanwhile withdraws it."""

    withdrawn = False


class Since(msgspec.Struct, frozen=True):
    """Where a client stopped hearing a project."""

    epoch: str
    offset: int


class SocketIOEventHandlers:
    """Handle connections and subscriptions on a synchronous Socket.IO server.

    Subclass it to decide who may connect (:meth:`_validate_token`) and what they may see
    (:meth:`_validate_project_access`); both may also be coroutine functions.

    Args:
        server: The :class:`socketio.Server`.
        namespace: The namespace to serve.
        secret_key: Verifies the tokens of ``issue_token``.
        authenticate: ``(token, environ) -> user id``, or None to refuse; replaces :meth:`_validate_token`.
        authorize: ``(user_id, project_id) -> bool``; replaces :meth:`_validate_project_access`.
        read: ``(project_id, epoch, offset) -> snapshot``, where there is a history.
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
    ) -> None:
        self.server = server
        self.namespace = namespace
        self._secret_key = secret_key
        self._authenticate = authenticate
        self._authorize = authorize
        self._read = None if read is None else self._shared(read)
        self._users: dict[str, Any] = {}
        self._wishes: dict[tuple[str, str], list[Wish]] = {}
        self._first_client: Callable[[], None] | None = None

    @staticmethod
    def _shared(read: Read) -> Read:
        return SharedReads(read)

    # -- the user's rules ---------------------------------------------------------------------------------------

    def _validate_token(self, token: Any) -> Any:
        """Return the id of the user whom a token names, or None to refuse the connection."""
        return auth.verify_token(self._secret_key, token) if self._secret_key else None

    def _validate_project_access(self, user_id: Any, project_id: str) -> Any:
        """Tell whether a user may see a project; by default, whether the user's token says so."""
        return project_id in getattr(user_id, "projects", ())

    # -- registration -------------------------------------------------------------------------------------------

    def register(self) -> None:
        """Register the handlers; a ``connect`` or ``disconnect`` handler that is there already runs after ours."""
        self._register("connect", self._after(self.on_connect, "connect"))
        self._register("disconnect", self._after(self.on_disconnect, "disconnect"))
        self._register("subscribe_project", self.on_subscribe_project)
        self._register("unsubscribe_project", self.on_unsubscribe_project)
        self._mark_unacknowledged()

    def _mark_unacknowledged(self) -> None:
        """Let a subscription that asks for no acknowledgement be known as such; python-socketio tells no handler."""
        handle_event = self.server._handle_event

        def marked(eio_sid: str, namespace: str, id: int | None, data: list[Any]) -> Any:
            if id is None and data[:1] == ["subscribe_project"] and (namespace or "/") == self.namespace:
                data = [*[*data, None][:2], NO_ACKNOWLEDGEMENT]
            return handle_event(eio_sid, namespace, id, data)

        self.server._handle_event = marked

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
                self._users.pop(sid, None)
                raise
            return self._unless_refused(sid, outcome)

        return both

    def _unless_refused(self, sid: str, outcome: Any) -> Any:
        """Forget a client that the user's own handler refuses, and pass on what it said."""
        if outcome is False:
            self._users.pop(sid, None)
        return outcome

    def on_first_client(self, hook: Callable[[], None]) -> None:
        """Call ``hook`` when the first client comes: a server that forks has done so by then."""
        self._first_client = hook

    # -- events -------------------------------------------------------------------------------------------------

    def on_connect(self, sid: str, environ: dict[str, Any], auth: Any = None) -> None:
        """Let a client in whose token is good.

        Raises:
            socketio.exceptions.ConnectionRefusedError: It is not, with the code in its data.
        """
        self._refusing(sid, lambda: self._drive(self._decide_connect(sid, environ, auth)))

    def on_disconnect(self, sid: str, *_reason: Any) -> None:
        """Forget a client."""
        self._users.pop(sid, None)

    def on_subscribe_project(self, sid: str, data: Any = None, *rest: Any) -> dict[str, Any]:
        """Let a client hear a project; returns the acknowledgement, or sends it as events where none is asked for."""
        return self._acknowledge(sid, self._decide_subscribe(sid, data, NO_ACKNOWLEDGEMENT in rest))

    def on_unsubscribe_project(self, sid: str, data: Any = None, *_: Any) -> dict[str, Any]:
        """Let a client hear a project no more; returns the acknowledgement."""
        return self._acknowledge(sid, self._decide_unsubscribe(sid, data))

    # -- decisions ----------------------------------------------------------------------------------------------

    def _decide_connect(self, sid: str, environ: dict[str, Any], given: Any) -> Decision:
        token = _token(environ, given)
        if token is None and (self._authenticate is None or not _shows_otherwise(environ)):
            raise SubscribeError("a token is needed to connect", "unauthorized")
        user_id = yield lambda: self._ask_who(token, environ)
        if user_id is None or user_id is False or user_id == "":
            raise SubscribeError("the token is not valid, or has ended", "unauthorized")
        self._users[sid] = user_id
        hook, self._first_client = self._first_client, None
        if hook is not None:
            hook()

    def _ask_who(self, token: Any, environ: dict[str, Any]) -> Any:
        return self._validate_token(token) if self._authenticate is None else self._authenticate(token, environ)

    def _decide_subscribe(self, sid: str, data: Any, replay: bool) -> Decision:
        user_id = self._user(sid)
        project_id = _project_id(data)
        since = _since(data)
        rooms = _rooms(project_id, data)
        wish = Wish()
        self._wishes.setdefault((sid, project_id), []).append(wish)
        try:
            allowed = yield lambda: self._ask_access(user_id, project_id)
        finally:
            self._forget_wish(sid, project_id, wish)
        if not isinstance(allowed, bool):
            logger.warning("the rule for access to projects returned %.40r, which is no bool and counts as no", allowed)
        if allowed is not True:
            raise SubscribeError(_FORBIDDEN, "forbidden")
        self._user(sid)  # it may have gone while the rules were asked
        if wish.withdrawn:
            raise SubscribeError("the subscription was withdrawn before it was answered", "bad_request")
        snapshot = yield from self._decide_snapshot(sid, project_id, since, rooms)
        if replay:
            for event, told in _replayed(snapshot):
                yield functools.partial(self._send, sid, event, told)
        return {"ok": True, "project_id": project_id, **snapshot}

    def _decide_snapshot(self, sid: str, project_id: str, since: Since | None, rooms: tuple[str, str]) -> Decision:
        room, other = rooms
        catch_up = getattr(self.server.manager, "catch_up", None)
        # Join, then read: what is told in between is seen twice and dropped by its offset, where the other order
        # would lose it.
        yield lambda: self.server.enter_room(sid, room, namespace=self.namespace)
        yield lambda: self.server.leave_room(sid, other, namespace=self.namespace)
        if catch_up is not None:
            catch_up.expect(project_id)
        yield self._wait_until_listening
        if self._read is None:
            return NO_HISTORY
        snapshot = yield lambda: self._ask_history(project_id, since)
        if snapshot is None:
            yield lambda: self.server.leave_room(sid, room, namespace=self.namespace)
            raise SubscribeError("the history cannot be read now; try again later", "unavailable")
        if catch_up is not None:
            catch_up.seed(project_id, snapshot["epoch"], snapshot["offset"])
        return snapshot

    def _forget_wish(self, sid: str, project_id: str, wish: Wish) -> None:
        wishes = self._wishes.get((sid, project_id), [])
        if wish in wishes:
            wishes.remove(wish)
        if not wishes:
            self._wishes.pop((sid, project_id), None)

    def _ask_history(self, project_id: str, since: Since | None) -> Any:
        """Return a project's snapshot, or None when it cannot be read."""
        assert self._read is not None
        try:
            return msgspec.structs.asdict(self._read(project_id, *_place(since)))
        except Exception as error:
            logger.error("the history of a project cannot be read: %r", error)
            return None

    def _ask_access(self, user_id: Any, project_id: str) -> Any:
        if self._authorize is None:
            return self._validate_project_access(user_id, project_id)
        return self._authorize(user_id, project_id)

    def _wait_until_listening(self) -> Any:
        """Wait for the ears of a server whose first client this is: what was said before they open is lost."""
        listener: Listener = self.server.manager
        wait = getattr(listener, "wait_until_listening", None)
        return None if wait is None else wait(LISTEN_TIMEOUT)

    def _decide_unsubscribe(self, sid: str, data: Any) -> Decision:
        self._user(sid)
        project_id = _project_id(data)
        for wish in self._wishes.get((sid, project_id), []):
            wish.withdrawn = True
        for room in _rooms(project_id, {}):
            yield functools.partial(self.server.leave_room, sid, room, namespace=self.namespace)
        return {"ok": True}

    def _user(self, sid: str) -> Any:
        user = self._users.get(sid)
        if user is None:
            raise SubscribeError("connect with a token first", "unauthorized")
        if getattr(user, "expires_at", math.inf) <= time.time():
            raise SubscribeError("the token has ended; connect with a new one", "unauthorized")
        return user

    # -- a synchronous server -----------------------------------------------------------------------------------

    def _drive(self, decision: Decision) -> Any:
        outcome = None
        try:
            while True:
                outcome = _settle(decision.send(outcome)())
        except StopIteration as done:
            return done.value

    def _refusing(self, sid: str, connect: Callable[[], None]) -> None:
        try:
            connect()
        except Exception as error:
            self._users.pop(sid, None)
            raise _refusal_to_connect(error) from None

    def _acknowledge(self, sid: str, decision: Decision) -> dict[str, Any]:
        try:
            return self._drive(decision)  # type: ignore[no-any-return]
        except Exception as error:
            refusal = _refusal(error)
            self._send_error(sid, refusal)
            return {"ok": False, "error": refusal}

    def _send_error(self, sid: str, refusal: dict[str, str]) -> Any:
        return self._send(sid, "error", refusal)

    def _send(self, sid: str, event: str, data: dict[str, Any]) -> Any:
        """Send an event to one client of this server, not over the broker."""
        return self.server.emit(event, data, to=sid, namespace=self.namespace, ignore_queue=True)


class AsyncSocketIOEventHandlers(SocketIOEventHandlers):
    """Handle connections and subscriptions on a :class:`socketio.AsyncServer`.

    Takes the arguments of :class:`SocketIOEventHandlers`. Rules that are plain functions run in a thread, so that
    they may block.
    """

    @staticmethod
    def _shared(read: Read) -> Read:
        return AsyncSharedReads(read)

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
                self._users.pop(sid, None)
                raise
            return self._unless_refused(sid, outcome)

        return both

    async def on_connect(  # type: ignore[override]
        self, sid: str, environ: dict[str, Any], auth: Any = None
    ) -> None:
        """Let a client in whose token is good; see :meth:`SocketIOEventHandlers.on_connect`."""
        try:
            await self._drive_async(self._decide_connect(sid, environ, auth))
        except Exception as error:
            self._users.pop(sid, None)
            raise _refusal_to_connect(error) from None

    async def on_disconnect(self, sid: str, *_reason: Any) -> None:  # type: ignore[override]
        """Forget a client."""
        super().on_disconnect(sid)

    async def on_subscribe_project(  # type: ignore[override]
        self, sid: str, data: Any = None, *rest: Any
    ) -> dict[str, Any]:
        """Let a client hear a project; returns the acknowledgement, or sends it as events where none is asked for."""
        return await self._acknowledge_async(sid, self._decide_subscribe(sid, data, NO_ACKNOWLEDGEMENT in rest))

    async def on_unsubscribe_project(  # type: ignore[override]
        self, sid: str, data: Any = None, *_: Any
    ) -> dict[str, Any]:
        """Let a client hear a project no more; returns the acknowledgement."""
        return await self._acknowledge_async(sid, self._decide_unsubscribe(sid, data))

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

    def _ask_access(self, user_id: Any, project_id: str) -> Any:
        return _off_the_loop(self._authorize or self._validate_project_access, user_id, project_id)

    async def _drive_async(self, decision: Decision) -> Any:
        outcome = None
        try:
            while True:
                outcome = decision.send(outcome)()
                if inspect.isawaitable(outcome):
                    outcome = await outcome
        except StopIteration as done:
            return done.value

    async def _acknowledge_async(self, sid: str, decision: Decision) -> dict[str, Any]:
        try:
            return await self._drive_async(decision)  # type: ignore[no-any-return]
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


def _token(environ: dict[str, Any], given: Any) -> Any:
    """Return the token of a new connection: in the ``auth`` object, else in the query string."""
    if isinstance(given, dict) and given.get("token"):
        return given["token"]
    return parse_qs(environ.get("QUERY_STRING") or "").get("token", [None])[0]


def _shows_otherwise(environ: dict[str, Any]) -> bool:
    """Tell whether a connection without a token shows who it is in another way, for ``authenticate`` to look at."""
    return bool(environ.get("HTTP_COOKIE") or environ.get("HTTP_AUTHORIZATION"))


def _project_id(data: Any) -> str:
    if not isinstance(data, dict):
        raise SubscribeError("send an object such as {project_id: ...}", "bad_request")
    try:
        return normalise_project_id(data.get("project_id"))
    except (TypeError, ValueError) as error:
        raise SubscribeError(str(error), "bad_request") from None


def _rooms(project_id: str, data: dict[str, Any]) -> tuple[str, str]:
    """Return the room that a subscription is for, and the one that it is not for."""
    batch = data.get("batch")
    if not isinstance(batch, (bool, type(None))):
        raise SubscribeError("batch must be true or false", "bad_request")
    rooms = project_room(project_id), batch_room(project_id)
    return rooms[::-1] if batch else rooms


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


def _since(data: dict[str, Any]) -> Since | None:
    if data.get("since") is None:
        return None
    try:
        return msgspec.convert(data["since"], Since)
    except msgspec.ValidationError as error:
        raise SubscribeError(f"since must be {{epoch, offset}}: {error}", "bad_request") from None


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
