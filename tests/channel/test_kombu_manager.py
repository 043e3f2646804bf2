"""A manager that publishes says everything once, in order, over threads and forks, and waits for no broker."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from celery_realtime.channel.kombu_manager import RealtimeKombuManager
from tests.channels import Channel, numbers, returns, step
from tests.processes import HOST, free_port, python_path
from tests.variants import any_broker, long_unless
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.services import Broker

WIRES = pytest.mark.parametrize("stock", [False, True], ids=["frames", "stock"])
SCHEMES = pytest.mark.parametrize("scheme", ["redis", "amqp"])


@pytest.fixture
def channel(broker: Broker) -> Iterator[Channel]:
    channel = Channel(broker.url)
    yield channel
    channel.close()


def test_small_events_share_a_broker_message_and_large_ones_do_not(channel: Channel) -> None:
    raw, publisher = channel.stock_recorder(), channel.publisher()

    publisher.publish_events([step(number) for number in range(100)])
    assert len(wait_for(lambda: list(raw.bodies))) == 1

    publisher.publish_events([step(number, padding=100_000) for number in range(100, 110)])
    publisher.publish_events([step(110)])
    heard = wait_for(lambda: next((list(raw.bodies) for one in raw.bodies if '"number":110' in _squeeze(one)), None))
    assert [len(json.loads(one)["events"]) for one in heard] == [100, 2, 2, 2, 2, 2, 1]


def _squeeze(text: str) -> str:
    return text.replace(" ", "")


# -- beside python-socketio's own managers ------------------------------------------------------------------------


def test_a_server_with_pythonsocketios_own_manager_hears_stock_messages(channel: Channel) -> None:
    server, publisher = channel.stock_server(), channel.publisher(stock=True)

    publisher.publish_events([step(number) for number in range(100)])

    wait_for(lambda: len(server.emitted) >= 100)
    assert _numbers(server.emitted) == list(range(100))
    assert {message["room"] for message in server.emitted} == {"project:alpha"}


def test_a_server_with_pythonsocketios_own_manager_ignores_frames_without_harm(
    channel: Channel, caplog: pytest.LogCaptureFixture
) -> None:
    server, frames, stock = channel.stock_server(), channel.publisher(), channel.publisher(stock=True)

    for number in range(10):
        frames.publish_events([step(1000 + number)])
        stock.publish_events([step(number)])

    wait_for(lambda: len(server.emitted) >= 10)
    assert _numbers(server.emitted) == list(range(10))
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_what_our_manager_emits_itself_is_heard_by_ours_and_by_pythonsocketios_own(channel: Channel) -> None:
    ours, theirs, publisher = channel.recorder(), channel.stock_server(), channel.publisher()

    publisher.emit("step", {"number": 1}, room="project:alpha")

    assert numbers(ours.wait_for_count(1)) == [1]
    wait_for(lambda: theirs.emitted)
    assert _numbers(theirs.emitted) == [1]


def _numbers(messages: list[dict[str, Any]]) -> list[int]:
    return [message["data"][0]["number"] for message in messages]


# -- when the broker is not there ---------------------------------------------------------------------------------


@SCHEMES
@WIRES
def test_publishing_to_a_broker_that_refuses_returns_soon_with_nothing_sent(scheme: str, stock: bool) -> None:
    publisher = RealtimeKombuManager(f"{scheme}://{HOST}:{free_port()}/", stock=stock)

    assert returns(publisher.publish_events, [step(1), step(2)]) == 0
    returns(lambda: publisher.emit("step", {"number": 3}, room="project:alpha"))


@SCHEMES
def test_publishing_to_a_broker_that_never_answers_returns_soon_with_nothing_sent(scheme: str) -> None:
    with socket.create_server((HOST, 0), backlog=16) as silent:
        publisher = RealtimeKombuManager(f"{scheme}://{HOST}:{silent.getsockname()[1]}/")

        assert returns(publisher.publish_events, [step(1)]) == 0


@SCHEMES
def test_a_manager_whose_emit_failed_does_not_try_again_at_once(scheme: str) -> None:
    tries: list[socket.socket] = []
    with socket.create_server((HOST, 0), backlog=200) as broker:
        broker.settimeout(0.1)
        publisher = RealtimeKombuManager(f"{scheme}://{HOST}:{broker.getsockname()[1]}/")
        accepting = threading.Thread(target=_hang_up_on_all, args=(broker, tries), daemon=True)
        accepting.start()

        for number in range(100):
            publisher.emit("step", {"number": number}, room="project:alpha")

    accepting.join(60)
    assert 1 <= len(tries) < 20


def _hang_up_on_all(broker: socket.socket, tries: list[socket.socket]) -> None:
    while broker.fileno() >= 0:
        try:
            connection, _ = broker.accept()
        except TimeoutError:
            continue
        except OSError:
            return
        tries.append(connection)
        connection.close()


@SCHEMES
def test_an_outage_is_logged_once_a_minute_without_the_password(scheme: str, caplog: pytest.LogCaptureFixture) -> None:
    publisher = RealtimeKombuManager(f"{scheme}://guest:hunter2@{HOST}:{free_port()}/")

    for number in range(5):
        publisher.publish_events([step(number)])

    [record] = [record for record in caplog.records if record.name == "celery_realtime.channel.publisher"]
    assert "cannot publish" in record.getMessage()
    assert "hunter2" not in record.getMessage()
    assert record.exc_info is None


def test_after_close_the_next_publish_connects_anew(channel: Channel) -> None:
    listener, publisher = channel.recorder(), channel.publisher()

    for number in range(3):
        publisher.publish_events([step(number)])
        publisher.close()

    assert numbers(listener.wait_for_count(3)) == [0, 1, 2]


# -- threads and processes ----------------------------------------------------------------------------------------


@WIRES
def test_eight_threads_share_a_manager_and_lose_nothing(channel: Channel, stock: bool) -> None:
    listener, publisher = channel.recorder(), channel.publisher(stock=stock)
    refused: list[int] = []

    def publish(thread: int) -> None:
        own = range(thread * 200, thread * 200 + 200)
        refused.extend(number for number in own if publisher.publish_events([step(number)]) != 1)

    _run_in_threads(publish, 8)

    heard = numbers(listener.wait_for_count(1600))
    assert refused == []
    assert sorted(heard) == list(range(1600))
    for thread in range(8):
        own = [number for number in heard if number // 200 == thread]
        assert own == sorted(own)


def test_threads_that_emit_and_threads_that_publish_share_a_manager(channel: Channel) -> None:
    listener, publisher = channel.recorder(), channel.publisher()

    def publish(thread: int) -> None:
        for number in range(thread * 100, thread * 100 + 100):
            if thread % 2:
                publisher.emit("step", {"number": number}, room="project:alpha")
            else:
                publisher.publish_events([step(number)])

    _run_in_threads(publish, 4)

    assert sorted(numbers(listener.wait_for_count(400))) == list(range(400))


def _run_in_threads(target: Any, count: int) -> None:
    threads = [threading.Thread(target=target, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


FORKING = """
import os, sys
from celery_realtime.events import Outgoing
from celery_realtime.channel.kombu_manager import RealtimeKombuManager

def publish(start, count):
    for number in range(start, start + count):
        if manager.publish_events([Outgoing("alpha", "step", b'{"number":%d}' % number)]) != 1:
            os._exit(3)

manager = RealtimeKombuManager(sys.argv[1])
publish(0, 50)
children = []
for start in (100, 200):
    child = os.fork()
    if child == 0:
        publish(start, 100)
        manager.close()
        os._exit(0)
    children.append(child)
publish(300, 100)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
publish(400, 50)
manager.close()
sys.exit(max(codes))
"""


@any_broker
def test_a_manager_used_before_a_fork_goes_on_in_the_parent_and_in_each_child(channel: Channel) -> None:
    listener = channel.recorder()

    done = subprocess.run(
        [sys.executable, "-c", FORKING, channel.url],
        env=python_path(),
        timeout=240,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    expected = [*range(50), *range(100, 300), *range(300, 450)]
    assert sorted(numbers(listener.wait_for_count(len(expected)))) == expected


ENDING = """
import os, sys
from celery import Celery, signals
from celery_realtime import Realtime

realtime = Realtime(Celery("worker", broker=sys.argv[1]), history_url=None, flush_timeout=200)  # a busy machine
for number in range(100):
    realtime.manager.emit_to_project("alpha", "step", {"number": number})
if sys.argv[2] == "as a prefork child":
    signals.worker_process_shutdown.send(sender=None, pid=os.getpid(), exitcode=0)
    os._exit(0)
"""


@pytest.mark.parametrize("how", long_unless(["as a prefork child"], ["as a prefork child", "as any process"]))
def test_a_process_that_ends_at_once_is_heard_to_its_last_word(channel: Channel, broker: Broker, how: str) -> None:
    listener = channel.recorder()

    done = subprocess.run(
        [sys.executable, "-c", ENDING, channel.url, how],
        env=python_path(),
        timeout=240,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert numbers(listener.wait_for_count(100)) == list(range(100))
    if broker.name == "rabbitmq":  # which throws away some of the last messages of a client that just hangs up
        vhost = broker.url.rpartition("/")[2]
        said = broker.server.wait_for_log(rf"closing AMQP connection .*{vhost}.*\n(.*\n)?")
        assert "client unexpectedly closed TCP connection" not in said.group()
