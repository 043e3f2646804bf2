"""Answer plain HTTP, for clients without Socket.IO: server-sent events, and JSON."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from celery_realtime.bounded import BoundedDict
from celery_realtime.clocks import time
from celery_realtime.exceptions import SubscribeError
from celery_realtime.logs import RateLimitedLogger, describe
from celery_realtime.web import decisions
from celery_realtime.web.answers import UNAVAILABLE
from celery_realtime.web.bodies import MOST_DISCARDED
from celery_realtime.web.budgets import BURST, Bucket
from celery_realtime.web.client_requests import filter_of
from celery_realtime.web.decisions import Decision
from celery_realtime.web.event_streams import KEEP_ALIVE, EventStream, Held, retry
from celery_realtime.web.gate import MOST_OF_USER, MOST_USERS, RESERVE, Gate
from celery_realtime.web.http_answers import Answer, of_json, of_preflight, of_refusal, of_stream
from celery_realtime.web.http_requests import HttpRequest, Route, subscription_in
from celery_realtime.web.inner_clients import InnerClient
from celery_realtime.web.job_views import JobView
from celery_realtime.web.metering import budget_of
from celery_realtime.web.seams import cors_headers_of, environ_of_asgi, is_asyncio, send_at_once
from celery_realtime.web.server_ends import GLANCE, Farewells, of_asgi, of_wsgi

if TYPE_CHECKING:
    from celery_realtime.settings import Settings

logger = logging.getLogger(__name__)

#: Streams that a process has at once unless a setting says so: of servers with threads, of which nobody knows how many
#: there may be, and of others.
MOST_OF_THREADS, MOST_STREAMS = 200, 1000

#: The part of a web server's threads, or greenlets, that streams may hold.
PART = 2

#: Seconds after which a client comes back whose stream has ended; each another time, since many streams end together.
SOONEST, LATEST = 1.0, 4.0

#: How much sooner than others a stream may end, as a part of its age.
SCATTER = 0.1

#: Longest wait, in seconds, for events that further jobs have seen, before those are sent.
LONGEST_LAG = 5.0

_random = random.Random()

#: To whom the gate does not let in; what is still to come of the request is not waited for.
TOO_MANY = of_refusal(
    SubscribeError("too many requests of this kind wait; wait for answers", "too_many_requests")
).with_headers([("Connection", "close")])


class Slots:
    """The streams that a process has, of which each holds a thread where requests do.

    Args:
        most: Returns how many there may be.
    """

    def __init__(self, most: Callable[[], int]) -> None:
        self.used = 0
        self._most = most
        self._of_users: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, user: str) -> None:
        """Take one for a user; the last ones are for those who have few.

        Raises:
            SubscribeError: All are taken, or the user has many.
        """
        with self._lock:
            most = self._most()
            left = most - self.used
            if left <= 0:
                raise SubscribeError(
                    "this server has as many streams as it can; try again later, or ask for jobs", "unavailable"
                )
            if left <= most // RESERVE and self._of_users[user] >= most // MOST_OF_USER:
                raise SubscribeError(
                    "you have many streams, and the last of this server are for others; end some", "too_many_requests"
                )
            self.used += 1
            self._of_users[user] += 1

    def give(self, user: str) -> None:
        """Give one back that a user has taken."""
        with self._lock:
            self.used -= 1
            self._of_users[user] -= 1
            if not self._of_users[user]:
                del self._of_users[user]


class PlainHttp:
    """Answers requests as a client of a Socket.IO server that is made for each.

    Args:
        server: The Socket.IO server, sync or asyncio.
        settings: The settings: ``namespace``, ``http_...``, and the limits.
        gate: Stands in front of the server.

    Attributes:
        settings: As given.
        is_asyncio: Whether it answers ASGI, and not WSGI.
        slots: The streams that there are.
    """

    def __init__(self, server: Any, settings: Settings, gate: Gate) -> None:
        self.settings = settings
        self.is_asyncio = is_asyncio(server)
        self.slots = Slots(self._most_streams)
        self._server = server
        self._gate = gate
        self._log = RateLimitedLogger(logger)
        self._farewells = Farewells()
        self._requests_of: BoundedDict[str, Bucket] = BoundedDict(MOST_USERS)
        #: What ends the streams that whoever had them has dropped, without ending them.
        self._dropped: deque[contextlib.ExitStack] = deque()

    def _most_streams(self) -> int:
        if self.settings.http_streams is not None:
            return self.settings.http_streams
        at_once = self._gate.requests_at_once
        if at_once is not None:
            return max(1, at_once // PART)
        return MOST_OF_THREADS if self._server.async_mode == "threading" else MOST_STREAMS

    # -- what requests need -------------------------------------------------------------------------------------

    def client(self, environ: dict[str, Any]) -> InnerClient:
        """Return a new client, which is not connected yet."""
        return InnerClient(self._server, self._gate.sockets, self.settings.namespace, environ)

    def cors_of(self, environ: dict[str, Any]) -> list[tuple[str, str]] | None:
        """Return the headers for a page of another origin; None if pages of its origin may not ask."""
        return cors_headers_of(self._server, environ)

    def user_of(self, environ: dict[str, Any]) -> str:
        """Return whose a request is: the address, if its user is not known."""
        budget = budget_of(environ)
        return "" if budget is None else budget.user or budget.peer

    def spend(self, environ: dict[str, Any]) -> None:
        """Take a request from what its user may ask for, over whatever connections.

        Raises:
            SubscribeError: That is too much.
        """
        user, rate = self.user_of(environ), self.settings.request_rate
        bucket = self._requests_of.get(user)
        if bucket is None:
            bucket = self._requests_of[user] = Bucket(rate, rate * BURST)
        if not bucket.take():
            raise SubscribeError("too many requests; wait a moment", "too_many_requests")

    def refusal_of(self, error: Exception) -> Answer:
        """Return the answer to a request that has failed."""
        if isinstance(error, SubscribeError):
            return of_refusal(error)
        self._log.error(
            "a request of HTTP failed, so it is refused as unavailable; the client may try again: %s", describe(error)
        )
        logger.debug("where the request failed", exc_info=error)
        return of_refusal(SubscribeError(UNAVAILABLE["message"], UNAVAILABLE["code"]))

    # -- servers ------------------------------------------------------------------------------------------------

    def wsgi(self, environ: dict[str, Any], start_response: Any, route: Route) -> Iterable[bytes]:
        """Answer a request of WSGI."""
        self._end_dropped()
        with contextlib.ExitStack() as stack:
            guarding = self._gate.guard.answering(environ, start_response, is_of_engine=False)
            start = stack.enter_context(guarding)
            exchange = Exchange(self, environ, route)
            if start is None:
                answer, start = TOO_MANY, start_response
            else:
                stack.callback(lambda: decisions.call(exchange.close()))
                answer = decisions.call(exchange.answer())
            start(answer.status_line, answer.headers)
            if answer.body is not None:
                return [answer.body]
            send_at_once(environ)
            return _Chunks(exchange, stack.pop_all(), of_wsgi(), self._dropped.append)

    def _end_dropped(self) -> None:
        with contextlib.suppress(IndexError):  # another thread has taken the last one
            while self._dropped:
                stack = self._dropped.popleft()
                with self._log.suppressing(
                    "cannot end a stream that was dropped, so its place may be lost; restart this server if none is"
                ):
                    stack.close()

    async def asgi(self, scope: dict[str, Any], receive: Any, send: Any, route: Route) -> None:
        """Answer a request of ASGI."""
        async with self._gate.guard.answering(scope, send, is_of_engine=False) as may_go_on:
            if not may_go_on:
                await send_answer(send, TOO_MANY)
                return
            environ = await environ_of_asgi(self._server, scope, receive, send)
            if not environ:  # the client has gone
                return
            exchange = Exchange(self, environ, route)
            try:
                answer = await decisions.wait(exchange.answer())
                await send_answer(send, answer)
                if answer.body is None:
                    with self._farewells.watching(of_asgi(send), exchange.leave):
                        await _stream(exchange, receive, send)
            except OSError:  # the client has gone; some servers say so
                pass
            finally:
                await decisions.wait(exchange.close())


class Exchange:
    """One request, and the answer to it.

    Args:
        http: Answers requests.
        environ: The request, as Engine.IO has it.
        route: What it asks for.
    """

    def __init__(self, http: PlainHttp, environ: dict[str, Any], route: Route) -> None:
        self._http = http
        self._route = route
        self._request = HttpRequest(environ)
        self._client: InnerClient | None = None
        #: Who has taken a slot for it.
        self._slot_of: str | None = None
        self._stream = EventStream()
        self._blocks: list[bytes] = []
        #: Until when further jobs wait for the events that they have seen.
        self._page_due = 0.0
        self._ends_at = time.monotonic() + http.settings.http_max_age * _random.uniform(1 - SCATTER, 1)
        #: When it says something if there is nothing to say.
        self._silent_until = time.monotonic() + http.settings.http_keep_alive

    def answer(self) -> Decision[Answer]:
        """Return the answer, or the beginning of it."""
        cors = self._http.cors_of(self._request.environ)
        if cors is None:
            return of_refusal(SubscribeError("pages of this origin may not ask", "forbidden"))
        if self._request.method == "OPTIONS":
            return of_preflight().with_headers(cors)
        if self._request.method != "GET":
            refusal = SubscribeError("ask by GET", "bad_request")
            return of_refusal(refusal, HTTPStatus.METHOD_NOT_ALLOWED).with_headers(cors)
        answer = yield from decisions.caught(self._answer())
        if isinstance(answer, Exception):
            answer = self._http.refusal_of(answer)
        return answer.with_headers(cors)

    def _answer(self) -> Decision[Answer]:
        if self._route.what == "events":
            return (yield from self._begin())
        content = yield from (self._jobs() if self._route.what == "jobs" else self._job(self._route.job_id))
        return of_json(HTTPStatus.OK, content)

    def _connected(self) -> Decision[InnerClient]:
        environ = self._request.environ
        self._client = client = self._http.client(environ)
        yield from client.connect(self._request.token)
        self._http.spend(environ)
        return client

    def close(self) -> Decision[None]:
        """End what the request has taken."""
        user, self._slot_of = self._slot_of, None
        if user is not None:
            self._http.slots.give(user)
        if self._client is not None:
            client, self._client = self._client, None
            yield from client.close()

    def leave(self) -> None:
        """Note, in the event loop of the server, that the client has gone."""
        if self._client is not None:
            self._client.end()

    # -- JSON ---------------------------------------------------------------------------------------------------

    def _jobs(self) -> Decision[dict[str, Any]]:
        """Return the jobs of a project, or further ones."""
        page, asked = self._request.text("from"), {**self._request.project, **self._request.filter}
        client = yield from self._connected()
        snapshot = yield from client.ask("subscribe_project", asked)
        if page is not None:
            return (yield from client.ask("read_jobs", {**asked, "from": page}))
        return {name: value for name, value in snapshot.items() if name not in ("events", "recovered", "report_lag")}

    def _job(self, job_id: str | None) -> Decision[dict[str, Any]]:
        """Return the state of a job, with how it ended."""
        asked = {"job_id": job_id, **self._request.project, "job": True}
        client = yield from self._connected()
        end = yield from client.ask("get_result", asked)
        state = end.pop("job", {})
        return {**{name: value for name, value in state.items() if name != "truncated"}, **end}

    # -- events -------------------------------------------------------------------------------------------------

    def _begin(self) -> Decision[Answer]:
        """Subscribe, and begin a stream."""
        asked = subscription_in(self._request)
        wanted = filter_of(asked.data)
        client = yield from self._connected()
        user = self._http.user_of(self._request.environ)
        self._http.slots.take(user)
        self._slot_of = user
        answer = yield from client.ask(*asked)
        self._stream = EventStream(asked.data.get("job_id"), None if wanted is None else JobView(wanted))
        self._blocks = [retry(_random.uniform(SOONEST, LATEST)), *self._stream.begin(answer)]
        return of_stream()

    def next(self, most: float = math.inf) -> Decision[bytes | None]:
        """Return what comes next of a stream; nothing if nothing has come, and None at its end.

        Args:
            most: The longest wait, in seconds.
        """
        client = self._client
        if client is None:
            return None
        if not self._blocks:
            if self._stream.is_over or client.is_over or time.monotonic() >= self._ends_at:
                return None
            yield from self._read_on(client)
        if not self._blocks:
            for name, data in (yield from client.take(min(most, self._patience()))):
                self._blocks += self._stream.take(name, data)
        clock = time.monotonic()
        if not self._blocks and clock < self._silent_until:
            return b""
        self._silent_until = clock + self._http.settings.http_keep_alive
        blocks, self._blocks = self._blocks or [KEEP_ALIVE], []
        return b"".join(blocks)

    def _patience(self) -> float:
        due = min(self._ends_at, self._silent_until)
        return max(0.0, (due if self._stream.held is None else min(due, self._page_due)) - time.monotonic())

    def _read_on(self, client: InnerClient) -> Decision[None]:
        """Read what the answer had no room for: of streams, and of jobs.

        Jobs are sent when the client has the events that they have seen.
        """
        if self._stream.unread:
            yield from self._read_stream(client)
            return
        if self._stream.held is None:
            yield from self._read_jobs(client)
        if not self._stream.is_behind or time.monotonic() >= self._page_due:
            self._blocks += self._stream.release()

    def _read_jobs(self, client: InnerClient) -> Decision[None]:
        asked = self._stream.unread_jobs
        what = {"from": self._stream.next, **self._request.filter} if self._stream.next else {"jobs": asked}
        if self._stream.next is None and not asked:
            return
        try:
            page = yield from client.ask("read_jobs", {"project_id": self._stream.project_id, **what})
        except SubscribeError as error:
            self._blocks += self._stream.refuse(error)
            return
        self._stream.held = Held(page, asked)
        self._page_due = time.monotonic() + LONGEST_LAG

    def _read_stream(self, client: InnerClient) -> Decision[None]:
        rest = self._stream.unread.pop(0)
        identity = {"job_id": self._stream.job_id, "project_id": self._stream.project_id}
        asked = {**identity, "stream": rest.stream, "from": rest.position, "generation": rest.generation}
        try:
            answer = yield from client.ask("read_stream", asked)
        except SubscribeError as error:
            self._blocks += self._stream.refuse(error)
            return
        if answer["generation"] == rest.generation and answer["position"] > rest.position:
            self._blocks.append(self._stream.add_stream(identity, answer, rest.end))


class _Chunks:
    """What a WSGI server sends of a stream.

    Args:
        exchange: Whose.
        stack: Ends it.
        is_ending: Tells whether the server is about to end.
        drop: Given the stack if nobody calls :meth:`close`, as a middleware that fails, or a hook of Flask's does not.
    """

    def __init__(
        self,
        exchange: Exchange,
        stack: contextlib.ExitStack,
        is_ending: Callable[[], bool],
        drop: Callable[[contextlib.ExitStack], object],
    ) -> None:
        self._exchange = exchange
        self._stack = stack
        self._is_ending = is_ending
        self._drop: Callable[[contextlib.ExitStack], object] | None = drop

    def __del__(self) -> None:
        """Have it ended later: whoever lets go of it last may hold any lock."""
        if self._drop is not None:
            self._drop(self._stack)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        while not self._is_ending():
            chunk = decisions.call(self._exchange.next(GLANCE))
            if chunk is None:
                break
            if chunk:
                return chunk
        raise StopIteration

    def close(self) -> None:
        """End the stream; the server calls it, whatever has become of the client."""
        self._drop = None
        self._stack.close()


async def send_answer(send: Any, answer: Answer) -> None:
    """Send an answer, or the beginning of a stream, over ASGI."""
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    await send({"type": "http.response.start", "status": answer.status.value, "headers": headers})
    if answer.body is not None:
        await send({"type": "http.response.body", "body": answer.body})


async def _stream(exchange: Exchange, receive: Any, send: Any) -> None:
    watching = asyncio.ensure_future(_watch(exchange, receive))
    try:
        while (chunk := await decisions.wait(exchange.next())) is not None:
            if chunk:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        watching.cancel()


async def _watch(exchange: Exchange, receive: Any) -> None:
    """End a stream when its client has gone, or sends on and on."""
    left = MOST_DISCARDED
    while left >= 0 and (message := await receive())["type"] != "http.disconnect":
        left -= len(message.get("body") or b"")
    exchange.leave()
