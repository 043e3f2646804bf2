"""On each host events come in order, to clients that read and to those that do not, past the queues or not."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from celery import Celery

from celery_realtime import Realtime
from tests.attacks.hosts import KINDS, PROJECT, Attacked, is_missing, token_of
from tests.attacks.raw import PING, PONG, Raw, frame
from tests.client_recorder import Recorder
from tests.launcher import Launcher
from tests.variants import long_unless
from tests.web_servers import steps

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.service

#: One of greenlets; threads are in test_fan_out_threads, an event loop in test_fan_out.
SAMPLE = ("gevent",)
#: Those that show neither the sockets nor the transports of their WebSockets.
BY_QUEUE = ("granian", "daphne")
COUNT, TEXT = 600, "x" * 12_000


@pytest.fixture(params=long_unless(SAMPLE, KINDS))
def host(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str) -> Iterator[Attacked]:
    if is_missing(request.param):
        pytest.skip(f"{request.param} is not installed: run this with the venv of make attack, .venv/attack")
    with Launcher(tmp_path) as launcher:
        env = {"CELERY_BROKER_URL": redis_url, "PING_INTERVAL": "10000"}  # nobody here answers pings
        yield launcher.start(Attacked(request.param, tmp_path, env))


def follow(client: Raw, user: str) -> Raw:
    client.enter(token_of(user))
    client.ask("subscribe_project", {"project_id": PROJECT})
    return client


def test_events_come_in_order_whether_clients_read_or_not(host: Attacked, redis_url: str) -> None:
    speaker = Realtime(Celery("speaker", broker=redis_url, set_as_current=False), history_url=None)
    slow = follow(Raw(host.url, timeout=120, receive_buffer=4096), "slow")
    pongs: list[bytes] = []
    slow.on_control = lambda opcode, payload: pongs.append(payload) if opcode == PONG else None
    with Recorder() as reader:
        reader.connect(host.url, token=token_of("reader"), transports=["websocket"])
        assert reader.subscribe(PROJECT)["ok"]
        counted = slow.ask("count_pipes", None, 2)

        for number in range(COUNT):
            speaker.manager.emit_to_project(PROJECT, "step", {"number": number, "text": TEXT})
            if number % 50 == 49:
                assert speaker.flush(60)
                slow.write(frame(PING, b"%d" % number))  # is answered between two frames, whoever writes

        reader.wait_for_event("step", number=COUNT - 1, timeout=120)
        assert steps(reader) == [*range(COUNT)]
    heard: list[int] = []
    for message in slow.messages():
        if message.startswith('42["step"'):
            heard.append(json.loads(message[2:])[1]["number"])
        if heard[-1:] == [COUNT - 1]:
            break
    assert heard == [*range(COUNT)]
    while len(pongs) < COUNT // 50:
        slow.text('423["count_pipes",null]')
        next(message for message in slow.messages() if message.startswith("433"))
    assert pongs == [b"%d" % number for number in range(49, COUNT, 50)]
    assert re.findall(r"\d+", counted.removeprefix("432")) == ["0" if host.kind in BY_QUEUE else "2"]
    speaker.manager.publisher.close()
    slow.close()
