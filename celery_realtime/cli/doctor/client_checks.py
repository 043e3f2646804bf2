"""Connect to a web server as a client does, subscribe, and wait for an event."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import celery_realtime
from celery_realtime.cli.doctor.context import Context
from celery_realtime.cli.doctor.findings import Finding, finding
from celery_realtime.cli.doctor.web_checks import site_of
from celery_realtime.clocks import time
from celery_realtime.jobs.reporting import ECHO_EVENT, send_echo

#: What runs here.
VERSION = celery_realtime.__version__

#: What a server says of a namespace that it does not serve.
_NO_NAMESPACE = ("Unable to connect", "Invalid namespace")

#: Seconds between two events: the first may come before the server listens.
PAUSE = 1.0


class Client:
    """A client of the web server.

    Args:
        context: What is looked at.
        sio: A :class:`socketio.Client`.
    """

    def __init__(self, context: Context, sio: Any) -> None:
        self._context = context
        self._sio = sio
        self._namespace = context.settings.namespace
        self._echoes: set[str] = set()
        self.refusal: Any = None
        sio.on(ECHO_EVENT, self._hear, namespace=self._namespace)
        sio.on("connect_error", self._note_refusal, namespace=self._namespace)

    def _hear(self, data: Any) -> None:
        self._echoes.add(str(data.get("echo")) if isinstance(data, dict) else "")

    def _note_refusal(self, error: Any = None) -> None:
        self.refusal = error

    def connect(self, transports: list[str]) -> None:
        """Connect.

        Raises:
            socketio.exceptions.ConnectionError: There is no connection.
        """
        context = self._context
        self._sio.connect(
            context.url,
            auth={"token": context.token},
            namespaces=[self._namespace],
            socketio_path=site_of(context).path.strip("/"),
            transports=transports,
            wait_timeout=context.connect_wait,
        )

    def call(self, request: str, **data: Any) -> dict[str, Any]:
        """Make a request, and return the acknowledgement.

        Raises:
            socketio.exceptions.TimeoutError: There is none.
        """
        answer = self._sio.call(request, data, namespace=self._namespace, timeout=self._context.patience)
        return answer if isinstance(answer, dict) else {}

    def hears(self, echo: str) -> bool:
        """Send events until one has come, or time is over; returns whether one has."""
        deadline = time.monotonic() + self._context.echo_wait
        while not self._echoes and time.monotonic() < deadline:
            send_echo(self._context.realtime.manager, self._context.project, echo)
            until = time.monotonic() + PAUSE
            while not self._echoes and time.monotonic() < until:
                time.sleep(0.01)
        return bool(self._echoes)


def look_at_client(context: Context) -> Iterator[Finding]:
    """Send an event the whole way, to a client."""
    if context.token is None:
        return
    try:
        import socketio
        import websocket  # noqa: F401 - the extra brings it, and the rest of what a client needs
        from socketio import exceptions
    except ImportError as error:
        yield finding("client-missing", f"{error}: the web server cannot be tried as a client does")
        return
    sio = socketio.Client(reconnection=False)
    client = Client(context, sio)
    try:
        for transports in (["websocket"], ["polling"]):
            with contextlib.suppress(exceptions.ConnectionError):
                client.connect(transports)
                break
        yield from _of_connection(context, client) if sio.connected else [_refused(client)]
    except exceptions.TimeoutError:
        yield finding("web-not-ours")
    finally:
        sio.disconnect()


def _refused(client: Client) -> Finding:
    error = client.refusal
    message = error.get("message") if isinstance(error, dict) else error
    if any(words in str(message) for words in _NO_NAMESPACE):
        return finding("web-namespace", f"the web server does not serve the namespace: {message}")
    return finding("token-refused", f"the web server refuses to connect: {message}")


def _of_connection(context: Context, client: Client) -> Iterator[Finding]:
    answer = client.call("subscribe_project", project_id=context.project, version=True)
    if not answer.get("ok"):
        error = answer.get("error") or {}
        is_away = error.get("code") == "unavailable"
        yield finding("web-unavailable" if is_away else "project-refused", f"{context.project}: {error.get('message')}")
        return
    yield from _of_version(answer.get("version"))
    single = client.call("subscribe_job", project_id=context.project, job_id=context.echo)
    if "cannot follow single jobs" in str((single.get("error") or {}).get("message")):
        yield finding("stock-manager")
    found = _of_history(context, answer)
    if found is not None:  # events of another history are held back for long
        yield found
    elif not client.hears(context.echo):
        yield finding("web-deaf")


def _of_version(there: Any) -> Iterator[Finding]:
    if there != VERSION:
        says = "does not say its version, as an older one" if there is None else f"runs version {there}"
        yield finding("web-version", f"the web server {says}; here is {VERSION}")


def _of_history(context: Context, answer: dict[str, Any]) -> Finding | None:
    position = None if context.history is None else context.history.position(context.project)
    if position is None or answer.get("epoch") == position["epoch"]:
        return None
    return finding("web-without-history" if answer.get("epoch") is None else "web-history-elsewhere")
