"""A Socket.IO client that remembers all that it hears."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlencode

import engineio
import socketio

from tests.waiting import PATIENCE, wait_for

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")


class Heard(NamedTuple):
    """One event, as it came."""

    event: str
    data: Any


class OrderedEngine(engineio.Client):
    """Handles each packet before it reads the next; its parent starts a thread for each, and they overtake."""

    def _trigger_event(self, event: str, *args: Any, **options: Any) -> Any:
        return super()._trigger_event(event, *args, **{**options, "run_async": False})

    def disconnect(self, abort: bool = False, **options: Any) -> None:
        """Disconnect; one that polls does not wait for the end of its last request, which is the server's next ping."""
        super().disconnect(abort=abort or self.current_transport == "polling", **options)


class OrderedClient(socketio.Client):
    """A client whose handlers run in the order in which the server spoke, and that waits for a server that is busy."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"request_timeout": PATIENCE, **options})

    def _engineio_client_class(self) -> type[OrderedEngine]:
        return OrderedEngine


def hang_up(client: socketio.Client) -> None:
    """Disconnect a client for good, without the waits of a polite one."""
    websocket = getattr(client.eio, "ws", None)
    if websocket is not None:  # werkzeug never answers the closing handshake, which websocket-client awaits for 3 s
        websocket.close = functools.partial(websocket.close, timeout=0.1)
    client.shutdown()


def _take_as_it_is(_name: str, _data: Any) -> None:
    """Hold what travels against nothing."""


class Recorder:
    """A client to connect, subscribe and question.

    Args:
        reconnection: Come back by itself after a disconnect.
        namespace: The Socket.IO namespace.

    Attributes:
        check_event: Called with the name and the data of each event.
        check_answer: Called with the name of each request, and what it is answered with.
    """

    check_event: Callable[[str, Any], None] = staticmethod(_take_as_it_is)
    check_answer: Callable[[str, Any], None] = staticmethod(_take_as_it_is)

    def __init__(self, *, reconnection: bool = False, namespace: str = "/") -> None:
        self.sio = OrderedClient(reconnection=reconnection, reconnection_delay=0.1, reconnection_delay_max=0.5)
        self.namespace = namespace
        self.events: list[Heard] = []
        self.connects = 0
        self.disconnects = 0
        self.refusals: list[Any] = []
        self._lock = threading.Lock()
        self._listen()

    def connect(
        self,
        url: str,
        *,
        token: str | None = None,
        via: str = "auth",
        transports: list[str] | None = None,
        timeout: float = PATIENCE,
    ) -> Self:
        """Connect, with the token in the ``auth`` object (``via="auth"``) or the query string (``via="query"``).

        A test of refusals best says ``transports=["polling"]``: after one over a WebSocket, websocket-client waits 3
        seconds for the server's goodbye.

        Raises:
            socketio.exceptions.ConnectionError: When the server refuses; ``refusals`` has what it said.
        """
        in_query = token is not None and via == "query"
        self.sio.connect(
            f"{url}?{urlencode({'token': token})}" if in_query else url,
            auth=None if token is None or in_query else {"token": token},
            transports=transports,
            namespaces=[self.namespace],
            wait_timeout=timeout,
        )
        return self

    def subscribe(self, project_id: str, *, since: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """Subscribe to a project, and return the acknowledgement."""
        position = {} if since is None else {"since": since}
        return self.call("subscribe_project", {"project_id": project_id, **position, **more})

    def call(self, event: str, data: Any = None, *, timeout: float = PATIENCE) -> dict[str, Any]:
        """Emit an event, and return its acknowledgement."""
        answer: dict[str, Any] = self.sio.call(event, data, namespace=self.namespace, timeout=timeout)
        self.check_answer(event, answer)
        return answer

    def emit(self, event: str, data: Any = None) -> None:
        """Emit an event, and ask for no acknowledgement."""
        self.sio.emit(event, data, namespace=self.namespace)

    def wait(self, condition: Callable[[list[Heard]], T | None], *, timeout: float = PATIENCE) -> T:
        """Wait until ``condition`` returns something true for the events heard so far, and return that."""
        try:
            return wait_for(lambda: condition(list(self.events)), timeout=timeout)
        except AssertionError as error:
            heard = "\n".join(f"  {event} {data}" for event, data in self.events)
            raise AssertionError(f"{error}\nheard:\n{heard or '  nothing'}") from None

    def wait_for_event(self, event: str, *, timeout: float = PATIENCE, **fields: Any) -> Any:
        """Wait for an event with these fields in its data, and return its data."""

        def heard(events: list[Heard]) -> Heard | None:
            return next((one for one in events if one.event == event and _has(one.data, fields)), None)

        return self.wait(heard, timeout=timeout).data

    def wait_for_end(self, job_id: str, *, timeout: float = PATIENCE) -> Any:
        """Wait for the terminal status of a job, and return its data."""

        def ended(events: list[Heard]) -> list[Any]:
            return [
                data
                for event, data in events
                if event == "agent_status" and data["job_id"] == job_id and data["status"] in ("success", "error")
            ]

        return self.wait(ended, timeout=timeout)[0]

    def of(self, event: str) -> list[Any]:
        """Return the data of each event of that name."""
        return [data for name, data in list(self.events) if name == event]

    def for_job(self, job_id: str) -> list[Heard]:
        """Return the events of one job, custom events included."""
        return [one for one in list(self.events) if _job_id(one.data) == job_id]

    def statuses(self, job_id: str) -> list[str]:
        """Return the statuses of a job, in the order in which they came."""
        return [data["status"] for event, data in self.for_job(job_id) if event == "agent_status"]

    def clear(self) -> None:
        """Forget what was heard."""
        with self._lock:
            self.events.clear()

    def close(self) -> None:
        """Disconnect for good, and give up coming back."""
        hang_up(self.sio)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _listen(self) -> None:
        self.sio.on("*", self._heard, namespace=self.namespace)
        self.sio.on("connect", self._connected, namespace=self.namespace)
        self.sio.on("disconnect", self._disconnected, namespace=self.namespace)
        self.sio.on("connect_error", self.refusals.append, namespace=self.namespace)

    def _heard(self, event: str, *data: Any) -> None:
        one = Heard(event, data[0] if len(data) == 1 else list(data) or None)
        with self._lock:
            self.events.append(one)
        self.check_event(*one)

    def _connected(self) -> None:
        self.connects += 1

    def _disconnected(self, *_reason: Any) -> None:
        self.disconnects += 1


def _has(data: Any, fields: dict[str, Any]) -> bool:
    return all(isinstance(data, dict) and key in data and data[key] == value for key, value in fields.items())


def _job_id(data: Any) -> Any:
    if not isinstance(data, dict):
        return None
    extra = data.get("_realtime")
    return extra.get("job_id") if isinstance(extra, dict) else data.get("job_id")
