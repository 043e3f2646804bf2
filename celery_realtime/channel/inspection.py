"""Try a broker, and hear what is published on a channel, for as long as somebody looks."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from celery_realtime.channel.connections import connection
from celery_realtime.channel.listener import Listener
from celery_realtime.channel.shards import shard_of
from celery_realtime.channel.wire import Heard, decode_message
from celery_realtime.clocks import time
from celery_realtime.logs import describe

if TYPE_CHECKING:
    from typing_extensions import Self

#: Seconds between two looks at what has been heard.
LOOK = 0.02


class BrokerError(Exception):
    """A broker cannot be used.

    Attributes:
        is_forbidden: Whether it can be reached, and refuses.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(describe(error))
        text = f"{type(error).__name__} {error}".lower()
        self.is_forbidden = any(word in text for word in ("permission", "noperm", "accessrefused", "access_refused"))


@contextlib.contextmanager
def connected(url: str, options: dict[str, Any]) -> Iterator[Any]:
    """Connect to a broker in the block, and give its redis-py client, or None if it is no Redis.

    Args:
        url: Of the broker.
        options: Further keyword arguments of :class:`kombu.Connection`.

    Raises:
        BrokerError: It cannot be used.
    """
    broker = connection(url, options)
    try:
        client: Any = getattr(broker.default_channel, "client", None)
        if not callable(getattr(client, "ping", None)):
            client = None
        elif client is not None:
            client.ping()
    except Exception as error:  # noqa: BLE001 - each transport raises what its library raises
        broker.release()
        raise BrokerError(error) from None
    try:
        yield client
    finally:
        broker.release()


def _ignore(_heard: Heard) -> None:
    """Do nothing more about an event."""


class Ear:
    """Hears the events of one project on a channel, from a thread.

    Args:
        listener: Receives the messages.
        project_id: The project.
        shards: Parts that the projects are divided into.
        observer: Called with each event as soon as it is heard, in that thread.
    """

    def __init__(
        self, listener: Listener, project_id: str, shards: int, observer: Callable[[Heard], None] = _ignore
    ) -> None:
        self._listener = listener
        self._observer = observer
        self._project_id = project_id
        self._heard: list[Heard] = []
        self._is_over = False
        shard = shard_of(project_id, shards)
        listener.bindings.want([] if shard is None else [shard])
        self._thread = threading.Thread(target=self._listen, name="celery-realtime-doctor", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True  # the thread ends within a second

    def _listen(self) -> None:
        with contextlib.closing(self._listener.messages()) as messages:
            for message in messages:
                if self._is_over:
                    return
                if message is not None:
                    self._note(message)

    def _note(self, message: Any) -> None:
        for item in decode_message(message.body, message.content_type):
            if isinstance(item, Heard) and item.project_id == self._project_id:
                self._observer(item)
                self._heard.append(item)

    def is_listening(self, timeout: float) -> bool:
        """Wait until messages are received, at most ``timeout`` seconds; returns whether they are."""
        return self._listener.wait(timeout)

    def hear(self, event: str, echo: str, timeout: float) -> Heard | None:
        """Wait for an event whose data begins with an echo.

        Args:
            event: Its name.
            echo: What the member ``echo`` of its data begins with.
            timeout: Longest wait in seconds.
        """
        deadline = time.monotonic() + timeout
        while True:
            for heard in list(self._heard):
                data = heard.data if isinstance(heard.data, dict) else {}
                if heard.event == event and str(data.get("echo", "")).startswith(echo):
                    return heard
            if time.monotonic() > deadline:
                return None
            time.sleep(LOOK)
