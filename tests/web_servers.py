"""Web servers in threads of the test's own process, so that a test can hand them rules and look at them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any, Literal

import socketio
import uvicorn
from celery import Celery
from flask import Flask
from flask_socketio import SocketIO
from werkzeug.serving import WSGIRequestHandler, make_server

from celery_realtime import Realtime, events
from celery_realtime.events import Job
from tests.client_recorder import Recorder
from tests.processes import HOST
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Kind = Literal["sync", "flask", "asgi"]
SECRET = "a long and random string of the tests"


DEFAULTS = {"history_url": None, "secret_key": SECRET, "linger": 0.0}


def keep_little(listening: Any) -> None:
    """Let the kernel keep 64 kB for a client that does not read; by itself it keeps four megabytes."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)  # Linux doubles it


class Web:
    """A web server with a ``Realtime`` of its own: make it, attach rules, start it.

    Args:
        kind: ``sync`` (python-socketio's ``Server``, in threads), ``flask`` (Flask-SocketIO) or ``asgi``.
        url: The broker.
        **settings: Of the ``Realtime``; without any, tokens that are signed with ``SECRET`` open their projects.
    """

    def __init__(self, kind: Kind, url: str, **settings: Any) -> None:
        self.kind = kind
        self.realtime = Realtime(Celery("web", broker=url, set_as_current=False), **{**DEFAULTS, **settings})
        self.manager = self._make_manager()
        #: What a user hands to ``init_socketio``; for Flask this is not python-socketio's server, which is inside.
        self.socketio = self._make_socketio()
        self.server = self.socketio.server if kind == "flask" else self.socketio
        self.handlers: Any = None
        self.url = ""
        #: Of an asyncio server that was started.
        self.loop: asyncio.AbstractEventLoop | None = None
        self._settled = threading.Event()
        self._stack = contextlib.ExitStack()
        self._clients = contextlib.ExitStack()
        self.manager.on_order(self._note_settled)

    def _make_manager(self) -> Any:
        return self.realtime.async_client_manager() if self.kind == "asgi" else self.realtime.client_manager()

    def _make_socketio(self) -> Any:
        if self.kind == "asgi":
            return socketio.AsyncServer(async_mode="asgi", client_manager=self.manager)
        if self.kind == "flask":
            self.flask = Flask("web")
            return SocketIO(self.flask, async_mode="threading", client_manager=self.manager)
        return socketio.Server(async_mode="threading", client_manager=self.manager)

    def _note_settled(self, order: dict[str, Any]) -> None:
        if order.get("action") == "settle":
            self._settled.set()

    def attach(self, **rules: Any) -> Web:
        """Call ``init_socketio``; ``handlers`` has what it returns."""
        self.handlers = self.realtime.init_socketio(self.socketio, **rules)
        return self

    def start(self) -> Web:
        """Serve, at ``url``."""
        self.url = self._start_asgi() if self.kind == "asgi" else self._start_wsgi()
        return self

    def _with_http(self, application: Any) -> Any:
        """Return an application that answers plain HTTP, too, if anybody is let in by now."""
        return application if self.handlers is None else self.realtime.http_app(application, server=self.socketio)

    def _start_wsgi(self) -> str:
        application = self._with_http(self.flask if self.kind == "flask" else socketio.WSGIApp(self.server))
        http = make_server(HOST, 0, application, threaded=True, request_handler=_OneRequest)
        keep_little(http.socket)
        self._in_thread(http.serve_forever, 0.02)
        self._stack.callback(self.server.shutdown)
        self._stack.callback(http.server_close)
        self._stack.callback(http.shutdown)
        return f"http://{HOST}:{http.port}"

    def _start_asgi(self) -> str:
        application = self._with_http(socketio.ASGIApp(self.server))
        config = uvicorn.Config(application, host=HOST, port=0, log_level="error", lifespan="off")
        http = uvicorn.Server(config)
        self._in_thread(lambda: asyncio.run(self._serve(http)))
        self._stack.callback(setattr, http, "should_exit", True)
        self._stack.callback(setattr, http, "force_exit", True)  # it would wait for who polls
        wait_for(lambda: http.started)
        keep_little(http.servers[0].sockets[0])
        return f"http://{HOST}:{http.servers[0].sockets[0].getsockname()[1]}"

    async def _serve(self, http: uvicorn.Server) -> None:
        self.loop = asyncio.get_running_loop()
        await http.serve()

    def _in_thread(self, target: Callable[..., Any], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        thread.start()
        self._stack.callback(thread.join, 10)

    # -- using it -----------------------------------------------------------------------------------------------

    def token(self, user_id: str = "ada", projects: Iterable[str] = ("alpha",), **more: Any) -> str:
        return self.realtime.issue_token(user_id, projects=projects, **more)

    def connect(self, token: Any = None, **options: Any) -> Recorder:
        """Connect a client; without a token of its own, with one of ada's for the project alpha."""
        client = self.client(namespace=self.realtime.settings.namespace)
        return client.connect(self.url, token=token or self.token(), **{"transports": ["websocket"], **options})

    def client(self, **options: Any) -> Recorder:
        """Make a client that is closed with the server."""
        client = Recorder(**options)
        self._clients.callback(client.close)
        return client

    def subscriber(self, *projects: str) -> Recorder:
        """Connect a client that may see these projects and watches them."""
        client = self.connect(self.token(projects=projects))
        for project in projects:
            assert client.subscribe(project)["ok"]
        return client

    def emit(self, project_id: str, number: int) -> None:
        """Say a number to a project, over the broker."""
        self.realtime.manager.emit_to_project(project_id, "step", {"number": number})

    def publish_status(self, project_id: str, job_id: str, state: str) -> None:
        """Tell of a job, over the broker."""
        job = Job(job_id=job_id, project_id=project_id)
        self.realtime.manager.put_status(events.status_change(job, state))

    def users(self) -> list[Any]:
        """Return the users that are connected, each as often as it is."""
        return [client.user for client in self.handlers.clients().values()]

    def reset(self) -> None:
        """Send the clients away, and wait until the server has dealt with all that was said."""
        self._clients.close()
        wait_for(lambda: not self.handlers.clients())
        if self._listener is not None:
            self.settle()

    def stop(self) -> None:
        """End all that was started."""
        self._clients.close()
        if self.realtime.manager.history is not None:
            self.realtime.keeper.stop()
            self.realtime.access.stop()
            self.realtime.watch_marks.stop()
        self.manager.stop_listening()
        self._stack.close()
        if self._listener is not None:
            self.realtime.manager.publisher.order({"action": "wake up"})
            self._listener.join(60)
            assert not self._listener.is_alive()
        self.realtime.manager.publisher.close()

    def settle(self) -> None:
        """Wait until the server has received everything that was published before."""
        self._order_settling()
        assert self._settled.wait(60)

    def _order_settling(self) -> None:
        """Send the server an order that comes after all else."""
        assert self.manager.reader.listener.wait(60)
        self._settled.clear()
        assert self.realtime.flush(60)
        assert self.realtime.manager.publisher.order({"action": "settle"})

    @property
    def _listener(self) -> threading.Thread | None:
        """The thread that listens to the broker, from the first client on."""
        return self.manager.listener_thread if self.kind == "asgi" else getattr(self.manager, "thread", None)


class _OneRequest(WSGIRequestHandler):
    """Close a connection after its request: else what a client still says on a web socket is read as the next one."""

    protocol_version = "HTTP/1.0"


def steps(client: Recorder) -> list[int]:
    """Return the numbers that a client heard."""
    return [data["number"] for data in client.of("step")]
