"""Run a web server that sends events to real clients, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import socketio
import uvicorn
from celery import Celery

from celery_realtime.client import ProjectSubscription
from celery_realtime.extension import Realtime
from celery_realtime.instances import instances

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from celery_realtime.web.client_manager import AsyncRealtimeClientManager

HOST = "127.0.0.1"

#: Seconds until it must serve, and in which the last events of a test may leave.
START_TIMEOUT = 60.0
FLUSH_TIMEOUT = 5.0
STEP = 0.02


class RealtimeServer:
    """A web server with a history. What every Realtime of this process reports arrives at its clients.

    While it serves, these Realtimes publish to its Redis, and sign tokens with its key. Jobs have to run in this
    process, or in one that is given ``redis_url``.

    Args:
        redis_url: A Redis of the tests'.

    Attributes:
        url: Where it serves.
        redis_url: The Redis, which is its channel and its history.
        realtime: Its own Realtime.
    """

    def __init__(self, redis_url: str) -> None:
        self.redis_url = redis_url
        self.url = ""
        self._settings = {
            "url": redis_url,
            "history_url": redis_url,
            "secret_key": secrets.token_hex(),
            "channel": "socketio",
            "wire": "frames",
            "namespace": "/",
            "connection_options": {},
            "history_options": {},
        }
        app = Celery("celery-realtime-testing", broker=redis_url, set_as_current=False)
        self.realtime = Realtime(app, **self._settings)
        self._clients = contextlib.ExitStack()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        try:
            self._serve()
            self._stack.enter_context(instances.observed(self._connect))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, _type: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self._clients.close()
        self._stack.close()

    # -- using it -----------------------------------------------------------------------------------------------

    def token(self, *projects: object, user: object = "tester", expires_in: float = 3600) -> str:
        """Return a token that opens projects."""
        return self.realtime.issue_token(user, projects, expires_in)

    def client(self, project: object, url: str | None = None, **options: Any) -> ProjectSubscription:
        """Return a subscription to a project over a connection of its own; both end with the test.

        Args:
            project: The project.
            url: Where to connect to, such as a lossy proxy; by default the server itself.
            **options: Of :class:`celery_realtime.client.ProjectSubscription`.
        """
        client = socketio.Client(reconnection_delay=0.1, reconnection_delay_max=1, request_timeout=START_TIMEOUT)
        client.connect(
            url or self.url, auth=lambda: {"token": self.token(project)}, wait_timeout=START_TIMEOUT, retry=True
        )
        self._clients.callback(client.shutdown)
        return self._clients.enter_context(ProjectSubscription(client, project, **options))

    def emit(self, project: object, event: str, data: Any) -> None:
        """Send a custom event to a project, as a job or a web server would."""
        self.realtime.manager.emit_to_project(project, event, data)

    # -- running it ---------------------------------------------------------------------------------------------

    def _connect(self, realtime: Realtime) -> None:
        """Have a Realtime publish here until the end."""
        if realtime is not self.realtime:
            self._stack.enter_context(_published_here(realtime, self._settings))

    def _serve(self) -> None:
        clients = self.realtime.async_client_manager()
        self._stack.callback(self._stop_realtime, clients)
        server = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*", client_manager=clients)
        self.realtime.init_socketio(server)
        config = uvicorn.Config(socketio.ASGIApp(server), host=HOST, port=0, log_level="error", lifespan="off")
        http = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(http.serve()), name="realtime-server", daemon=True)
        thread.start()
        self._stack.callback(_end, http, thread)
        for _ in range(round(START_TIMEOUT / STEP)):
            if http.started or not thread.is_alive():
                break
            thread.join(STEP)
        if not http.started:
            raise RuntimeError("the web server for tests does not start")
        self.url = f"http://{HOST}:{http.servers[0].sockets[0].getsockname()[1]}"

    def _stop_realtime(self, clients: AsyncRealtimeClientManager) -> None:
        clients.stop_listening()
        manager = self.realtime.manager
        manager.flush(FLUSH_TIMEOUT)
        self.realtime.keeper.stop()
        self.realtime.access.stop()
        self.realtime.watch_marks.stop()
        manager.close_publisher()


@contextlib.contextmanager
def _published_here(realtime: Realtime, settings: dict[str, Any]) -> Iterator[None]:
    realtime.manager.close_publisher()
    with realtime.reconfigured(**settings):
        try:
            yield
        finally:
            realtime.flush(FLUSH_TIMEOUT)
            realtime.manager.close_publisher()


def _end(http: uvicorn.Server, thread: threading.Thread) -> None:
    http.should_exit = True
    http.force_exit = True  # it would wait for clients that poll
    thread.join(START_TIMEOUT)
