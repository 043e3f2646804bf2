"""What a speaker publishes, servers of the channel do, and nothing in it loads python-socketio."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import socketio

from celery_realtime.channel.speaker import Speaker
from tests.processes import HOST, free_port
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.services import Broker

ROOT = Path(__file__).parents[2]


class StockManager(socketio.KombuManager):
    """Python-socketio's own manager of a server, which records what it would do to its clients."""

    def __init__(self, url: str) -> None:
        super().__init__(url, logger=logging.getLogger("stock"))
        self.done: list[tuple[str, dict[str, Any]]] = []
        self.ending = False
        socketio.Server(client_manager=self, async_mode="threading")
        self.initialize()

    def _listen(self) -> Iterator[Any]:
        for message in super()._listen():
            if self.ending:
                return
            yield message

    def _handle_emit(self, message: dict[str, Any]) -> None:
        self.done.append(("emit", message))

    def _handle_enter_room(self, message: dict[str, Any]) -> None:
        self.done.append(("enter_room", message))

    def _handle_leave_room(self, message: dict[str, Any]) -> None:
        self.done.append(("leave_room", message))

    def _handle_close_room(self, message: dict[str, Any]) -> None:
        self.done.append(("close_room", message))

    def _handle_disconnect(self, message: dict[str, Any]) -> None:
        self.done.append(("disconnect", message))


@pytest.fixture
def speaker(redis_broker: Broker) -> Iterator[Speaker]:
    speaker = Speaker(redis_broker.url)
    yield speaker
    speaker.close()


@pytest.fixture
def server(redis_broker: Broker, speaker: Speaker) -> Iterator[StockManager]:
    manager = StockManager(redis_broker.url)
    wait_for(lambda: speaker.emit("probe", None) and bool(manager.done))
    yield manager
    manager.ending = True
    speaker.emit("probe", None)
    manager.thread.join(60)


@pytest.mark.parametrize(
    ("method", "arguments", "expected"),
    [
        ("emit", ("step", {"number": 1}), {"event": "step", "data": [{"number": 1}], "room": None}),
        ("emit", ("step", (1, 2)), {"event": "step", "data": [1, 2], "binary": False}),
        ("enter_room", ("sid", "project:alpha"), {"sid": "sid", "room": "project:alpha"}),
        ("leave_room", ("sid", "project:alpha"), {"sid": "sid", "room": "project:alpha"}),
        ("close_room", ("project:alpha",), {"room": "project:alpha"}),
        ("disconnect", ("sid",), {"sid": "sid"}),
    ],
)
def test_pythonsocketios_own_server_does_what_a_speaker_publishes(
    speaker: Speaker, server: StockManager, method: str, arguments: tuple[Any, ...], expected: dict[str, Any]
) -> None:
    server.done.clear()

    assert getattr(speaker, method)(*arguments) is True

    wait_for(lambda: any(name == method and expected.items() <= message.items() for name, message in server.done))
    [message] = [message for name, message in server.done if expected.items() <= message.items()]
    assert message["namespace"] == "/"
    assert message["host_id"] == speaker.host_id


def test_a_message_goes_to_the_namespace_that_is_asked_for(speaker: Speaker, server: StockManager) -> None:
    server.done.clear()

    speaker.leave_room("sid", "project:alpha", "/jobs")

    wait_for(lambda: [message["namespace"] for _, message in server.done if _ == "leave_room"] == ["/jobs"])


@pytest.mark.parametrize("scheme", ["amqp", "redis"])
def test_without_a_broker_every_method_returns_that_nothing_was_accepted(scheme: str) -> None:
    speaker = Speaker(f"{scheme}://{HOST}:{free_port()}/")
    assert speaker.emit("step", None) is False
    assert speaker.order({"action": "disconnect", "user": "ada"}) is False
    assert speaker.publish_events([]) == 0
    speaker.close()


def test_a_speaker_loads_no_pythonsocketio() -> None:
    code = """
import sys
from celery_realtime.channel.speaker import Speaker
Speaker("memory://").emit("step", 1)
print([name for name in ("socketio", "engineio") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"
