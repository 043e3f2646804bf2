"""Both ends of a broker's channel, for tests that look at what a web server receives."""

from __future__ import annotations

import json
import logging
import threading
from typing import TYPE_CHECKING, Any

import kombu
import socketio

from celery_realtime.channel.kombu_manager import RealtimeKombuManager
from celery_realtime.events import Outgoing
from celery_realtime.web.channel_reader import Gap
from celery_realtime.web.client_manager import AsyncRealtimeClientManager, RealtimeClientManager
from celery_realtime.web.delivery import Emit
from tests.waiting import PATIENCE, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMITS = {"max_backlog": 1000, "max_backlog_bytes": 16 * 1024 * 1024}
PROBE = Outgoing("alpha", "probe", b"{}")


def step(number: int, project_id: str = "alpha", padding: int = 0) -> Outgoing:
    data = {"number": number, **({"padding": "x" * padding} if padding else {})}
    return Outgoing(project_id, "step", json.dumps(data).encode())


def numbers(emits: list[Emit]) -> list[int]:
    return [emit.data["number"] for emit in emits]


def client_manager(url: str, **options: Any) -> RealtimeClientManager:
    """Make the client manager of a synchronous server."""
    return RealtimeClientManager(url, **{**LIMITS, **options})


class EveryRoom(RealtimeClientManager):
    """The client manager of a server that has a client in every project but some, for tests of what is received.

    Attributes:
        left: The rooms that have none.
    """

    left: frozenset[str] = frozenset()

    def is_occupied(self, namespace: str, room: str) -> bool:
        return not room.startswith("batch") and room not in self.left


def every_room(url: str, **options: Any) -> EveryRoom:
    """Make the client manager of a server that has a client in every project."""
    return EveryRoom(url, **{**LIMITS, **options})


def async_client_manager(url: str, **options: Any) -> AsyncRealtimeClientManager:
    """Make the client manager of an asyncio server."""
    return AsyncRealtimeClientManager(url, **{**LIMITS, **options})


class ChannelRecorder:
    """Records, in a thread, what a server receives that has a client in every project.

    Args:
        url: The broker.
        **options: Of the client manager.

    Attributes:
        emits: What it would emit in the rooms of projects.
        messages: python-socketio's own messages.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self.manager = every_room(url, **options)
        self.emits: list[Emit] = []
        self.messages: list[dict[str, Any]] = []
        self.probed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self.manager.wait_until_listening(60)

    def _run(self) -> None:
        for items in self.manager.reader.read():
            for item in items:
                if isinstance(item, Gap):
                    continue
                if not isinstance(item, Emit):
                    self.messages.append(item)
                elif item.event == PROBE.event:
                    self.probed.set()
                else:
                    self.emits.append(item)

    def wait_for_count(self, count: int, *, timeout: float = PATIENCE) -> list[Emit]:
        """Wait until so many events have come, and return all."""
        wait_for(lambda: len(self.emits) >= count, timeout=timeout, message=f"did not receive {count} events")
        return list(self.emits)

    def stop(self) -> None:
        """Let the thread end, with the next message or within a second."""
        self.manager.stop_listening()

    def close(self) -> None:
        """End the thread."""
        self.stop()
        self._thread.join(60)
        assert not self._thread.is_alive()
        self.manager.close()


class StockRecorder:
    """Records the bodies of the channel's messages as python-socketio's own KombuManager receives them.

    Args:
        url: The broker.
    """

    def __init__(self, url: str) -> None:
        self.bodies: list[str] = []
        self.probed = threading.Event()
        self._manager = socketio.KombuManager(url, logger=logging.getLogger("stock"))
        self._stopped = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for body in self._manager._listen():
            if self._stopped:
                return
            if PROBE.event in str(body):
                self.probed.set()
            else:
                self.bodies.append(body)

    def stop(self) -> None:
        """Let the thread end with the next message."""
        self._stopped = True

    def close(self) -> None:
        """End the thread."""
        self._thread.join(60)
        assert not self._thread.is_alive()


class StockServer(socketio.KombuManager):
    """The manager of a server that knows nothing of this package; records what it would emit to its clients."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.emitted: list[dict[str, Any]] = []
        self.probed = threading.Event()
        self._stopped = False
        socketio.Server(client_manager=self, async_mode="threading")
        self.initialize()

    def _listen(self) -> Iterator[Any]:
        for message in super()._listen():
            if self._stopped:
                return
            yield message

    def _handle_emit(self, message: dict[str, Any]) -> None:
        if message["event"] == PROBE.event:
            self.probed.set()
        else:
            self.emitted.append(message)

    def stop(self) -> None:
        """Let the thread end with the next message."""
        self._stopped = True

    def close(self) -> None:
        """End the thread."""
        self.thread.join(60)
        assert not self.thread.is_alive()


class Channel:
    """Both ends of a broker's channel, closed after the test.

    Args:
        url: The broker.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._receiving: list[ChannelRecorder | StockRecorder | StockServer] = []
        self._publishing: list[RealtimeKombuManager] = []

    def publisher(self, **options: Any) -> RealtimeKombuManager:
        """Make a manager that publishes."""
        self._publishing.append(RealtimeKombuManager(self.url, **options))
        return self._publishing[-1]

    @property
    def publishers(self) -> list[RealtimeKombuManager]:
        """The managers that publish."""
        return list(self._publishing)

    def recorder(self, **options: Any) -> ChannelRecorder:
        """Record what a server of ours receives."""
        recorder = ChannelRecorder(self.url, **options)
        self._receiving.append(recorder)
        return recorder

    def stock_recorder(self) -> StockRecorder:
        """Record the channel's messages as they are, undecoded."""
        recorder = StockRecorder(self.url)
        self._receiving.append(recorder)
        self.probe(recorder)
        return recorder

    def stock_server(self) -> StockServer:
        """Start the listener of a server with python-socketio's own manager."""
        server = StockServer(self.url)
        self._receiving.append(server)
        self.probe(server)
        return server

    def probe(self, receiving: ChannelRecorder | StockRecorder | StockServer) -> None:
        """Wait until messages are received; python-socketio's own managers do not say when."""
        receiving.probed.clear()
        publisher = self.publisher(stock=True)
        wait_for(lambda: publisher.publish_events([PROBE]) and receiving.probed.wait(0.05))

    def publish_raw(self, body: Any, **options: Any) -> None:
        """Publish as any stranger on the broker may."""
        exchange = kombu.Exchange("socketio", type="fanout", durable=False)
        with kombu.Connection(self.url) as connection:
            connection.Producer(exchange=exchange).publish(body, **options)

    def close(self) -> None:
        """End all threads, and close all connections."""
        for receiving in self._receiving:
            receiving.stop()
        self.publisher(stock=True).publish_events([PROBE])
        for receiving in self._receiving:
            receiving.close()
        for manager in self._publishing:
            manager.close()


def returns(call: Any, *args: Any, timeout: float = PATIENCE) -> Any:
    """Call something that must not wait for ever, and return what it does."""
    outcome: list[Any] = []
    thread = threading.Thread(target=lambda: outcome.append(call(*args)), daemon=True)
    thread.start()
    thread.join(timeout)
    assert not thread.is_alive(), f"{call!r} waits for ever"
    return outcome[0]
