"""What one process says on a real broker, the others hear: all of it, in order, and nothing but it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import pickle
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kombu
import pytest
import redis
import socketio

from celery_realtime.client_manager import AsyncRealtimeClientManager, RealtimeClientManager
from celery_realtime.events import Outgoing
from celery_realtime.kombu_manager import RealtimeKombuManager
from tests.processes import HOST, free_port, python_path
from tests.test_wire import NO_MESSAGES
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.services import Broker

WIRES = pytest.mark.parametrize("stock", [False, True], ids=["frames", "stock"])
PROBE = Outgoing("alpha", "probe", b"{}")
STEP = {"method": "emit", "event": "step", "room": "project:alpha", "data": [{"number": 1}], "namespace": "/"}


def step(number: int, project_id: str = "alpha", padding: int = 0) -> Outgoing:
    data = {"number": number, **({"padding": "x" * padding} if padding else {})}
    return Outgoing(project_id, "step", json.dumps(data).encode())


def frame(*entries: object, version: object = 1, **more: object) -> dict[str, Any]:
    return {"method": "celery_realtime", "v": version, "namespace": "/", "events": list(entries), **more}


def numbers(messages: list[dict[str, Any]]) -> list[int]:
    return [message["data"][0]["number"] for message in messages]


class Listener:
    """Hears what a server's manager hears, in a thread as a server's does.

    Args:
        manager: The manager of a server, ours or python-socketio's own.
    """

    def __init__(self, manager: Any) -> None:
        self.manager = manager
        self.messages: list[Any] = []
        self.probed = threading.Event()
        self.ending = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        for message in self.manager._listen():
            if self.ending:
                return
            if PROBE.event in str(message):
                self.probed.set()
            else:
                self.messages.append(message)

    def wait_for_count(self, count: int, *, timeout: float = 15.0) -> list[Any]:
        wait_for(lambda: len(self.messages) >= count, timeout=timeout, message=f"did not hear {count} messages")
        return list(self.messages)


class StockServer(socketio.KombuManager):
    """The manager of a server that knows nothing of this package; keeps what it would send to its clients."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.emitted: list[dict[str, Any]] = []
        self.probed = threading.Event()
        self.ending = False
        socketio.Server(client_manager=self, async_mode="threading")
        self.initialize()

    def _listen(self) -> Iterator[Any]:
        for message in super()._listen():
            if self.ending:
                return
            yield message

    def _handle_emit(self, message: dict[str, Any]) -> None:
        if message["event"] == PROBE.event:
            self.probed.set()
        else:
            self.emitted.append(message)


class Wire:
    """Both ends of a broker's channel, let go of after the test.

    Args:
        url: The broker.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._ears: list[Listener | StockServer] = []
        self._mouths: list[RealtimeKombuManager] = []
        self._async_managers: list[AsyncRealtimeClientManager] = []

    def publisher(self, **options: Any) -> RealtimeKombuManager:
        manager = RealtimeKombuManager(self.url, write_only=True, **options)
        self._mouths.append(manager)
        return manager

    def listener(self, **options: Any) -> Listener:
        listener = Listener(RealtimeClientManager(self.url, **options))
        self._ears.append(listener)
        assert listener.manager.wait_until_listening(10)
        return listener

    def async_manager(self) -> AsyncRealtimeClientManager:
        """Make a manager whose listener ends with the first message after its event loop."""
        manager = AsyncRealtimeClientManager(self.url)
        self._async_managers.append(manager)
        return manager

    def stock_listener(self) -> Listener:
        """Hear the broker's messages as they are, undecoded."""
        listener = Listener(socketio.KombuManager(self.url, logger=logging.getLogger("stock")))
        self._ears.append(listener)
        self.probe(listener)
        return listener

    def stock_server(self) -> StockServer:
        server = StockServer(self.url)
        self._ears.append(server)
        self.probe(server)
        return server

    def probe(self, ears: Listener | StockServer) -> None:
        """Wait until ears hear; python-socketio's own do not say when."""
        ears.probed.clear()
        mouth = self.publisher(stock=True)
        wait_for(lambda: mouth.publish_events([PROBE]) and ears.probed.wait(0.05), timeout=20)

    def publish_raw(self, body: Any, **options: Any) -> None:
        """Publish as any stranger on the broker may."""
        exchange = kombu.Exchange("socketio", type="fanout", durable=False)
        with kombu.Connection(self.url) as connection:
            connection.Producer(exchange=exchange).publish(body, **options)

    def close(self) -> None:
        for ears in self._ears:
            ears.ending = True
        self.publisher(stock=True).publish_events([PROBE])
        for thread in [ears.thread for ears in self._ears] + [one._pump for one in self._async_managers]:
            thread.join(10)
            assert not thread.is_alive()
        for manager in self._mouths:
            manager.close()


@pytest.fixture
def wire(broker: Broker) -> Iterator[Wire]:
    wire = Wire(broker.url)
    yield wire
    broker.server.ensure_running()
    wire.close()


# -- what is said is heard ----------------------------------------------------------------------------------------


@WIRES
def test_a_thousand_events_are_heard_in_order_and_none_is_lost(wire: Wire, stock: bool) -> None:
    listener, publisher = wire.listener(), wire.publisher(stock=stock)

    for start in range(0, 1000, 100):
        assert publisher.publish_events([step(number) for number in range(start, start + 100)]) == 100

    assert numbers(listener.wait_for_count(1000)) == list(range(1000))


@WIRES
def test_a_heard_event_is_pythonsocketios_own_emit_to_the_room_of_its_project(wire: Wire, stock: bool) -> None:
    listener, publisher = wire.listener(), wire.publisher(stock=stock, namespace="/jobs")

    publisher.publish_events([Outgoing("beta", "thumbnail", b'{"url":"/1.png"}')])

    [message] = listener.wait_for_count(1)
    assert {name: message[name] for name in ("method", "event", "room", "namespace", "data", "host_id")} == {
        "method": "emit",
        "event": "thumbnail",
        "room": "project:beta",
        "namespace": "/jobs",
        "data": [{"url": "/1.png"}],
        "host_id": publisher.host_id,
    }


def test_small_events_share_a_broker_message_and_large_ones_do_not(wire: Wire) -> None:
    raw, publisher = wire.stock_listener(), wire.publisher()

    publisher.publish_events([step(number) for number in range(100)])
    assert len(raw.wait_for_count(1)) == 1

    publisher.publish_events([step(number, padding=100_000) for number in range(100, 110)])
    publisher.publish_events([step(110)])
    heard = wait_for(
        lambda: next((list(raw.messages) for one in raw.messages if '"number":110' in _squeeze(one)), None)
    )
    assert [len(json.loads(one)["events"]) for one in heard] == [100, 2, 2, 2, 2, 2, 1]


def test_an_event_larger_than_a_frame_is_heard_whole(wire: Wire) -> None:
    listener, publisher = wire.listener(), wire.publisher()

    assert publisher.publish_events([step(0), step(1, padding=1_000_000), step(2)]) == 3

    heard = listener.wait_for_count(3)
    assert numbers(heard) == [0, 1, 2]
    assert heard[1]["data"][0]["padding"] == "x" * 1_000_000


def test_no_events_are_no_message(wire: Wire) -> None:
    listener, publisher = wire.listener(), wire.publisher()

    assert publisher.publish_events([]) == 0
    assert publisher.publish_events([step(1)]) == 1

    assert numbers(listener.wait_for_count(1)) == [1]


@WIRES
def test_events_with_any_text_arrive_as_they_were(wire: Wire, stock: bool) -> None:
    listener, publisher = wire.listener(), wire.publisher(stock=stock)
    text = 'é ü 漢字 🎉 "quoted" \\ \u2028 </script> \x00'

    publisher.publish_events([Outgoing("café 🎉", "caption", json.dumps({"text": text}).encode())])

    [message] = listener.wait_for_count(1)
    assert message["room"] == "project:café 🎉"
    assert message["data"] == [{"text": text}]


def test_every_listener_hears_everything(wire: Wire) -> None:
    listeners, publisher = [wire.listener() for _ in range(3)], wire.publisher()

    publisher.publish_events([step(number) for number in range(50)])

    for listener in listeners:
        assert numbers(listener.wait_for_count(50)) == list(range(50))


def test_another_channel_is_not_heard(wire: Wire) -> None:
    listener = wire.listener()

    wire.publisher(channel="elsewhere").publish_events([step(1)])
    wire.publisher().publish_events([step(2)])

    assert numbers(listener.wait_for_count(1)) == [2]


@WIRES
def test_an_asyncio_listener_hears_the_same_in_the_same_order(wire: Wire, stock: bool) -> None:
    async def hear(count: int) -> list[dict[str, Any]]:
        manager = wire.async_manager()
        listening = asyncio.create_task(_take(manager, count))
        assert await manager.wait_until_listening(10)
        await asyncio.to_thread(publish_all, count)
        return await asyncio.wait_for(listening, 10)

    def publish_all(count: int) -> None:
        publisher = wire.publisher(stock=stock)
        for start in range(0, count, 10):
            publisher.publish_events([step(number) for number in range(start, start + 10)])

    assert numbers(asyncio.run(hear(200))) == list(range(200))


async def _take(manager: AsyncRealtimeClientManager, count: int) -> list[dict[str, Any]]:
    heard = []
    async for message in manager._listen():
        heard.append(message)
        if len(heard) == count:
            break
    return heard


def test_an_asyncio_manager_emits_to_all_others(wire: Wire) -> None:
    listener = wire.listener()

    asyncio.run(AsyncRealtimeClientManager(wire.url, write_only=True).emit("step", {"number": 1}, room="project:alpha"))

    assert numbers(listener.wait_for_count(1)) == [1]


def _squeeze(text: str) -> str:
    return text.replace(" ", "")


# -- beside python-socketio's own managers ------------------------------------------------------------------------


def test_a_server_with_pythonsocketios_own_manager_hears_stock_messages(wire: Wire) -> None:
    server, publisher = wire.stock_server(), wire.publisher(stock=True)

    publisher.publish_events([step(number) for number in range(100)])

    wait_for(lambda: len(server.emitted) >= 100)
    assert numbers(server.emitted) == list(range(100))
    assert {message["room"] for message in server.emitted} == {"project:alpha"}


def test_a_server_with_pythonsocketios_own_manager_ignores_frames_without_harm(
    wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    server, frames, stock = wire.stock_server(), wire.publisher(), wire.publisher(stock=True)

    for number in range(10):
        frames.publish_events([step(1000 + number)])
        stock.publish_events([step(number)])

    wait_for(lambda: len(server.emitted) >= 10)
    assert numbers(server.emitted) == list(range(10))
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_messages_of_pythonsocketios_own_manager_are_heard(wire: Wire) -> None:
    listener = wire.listener()
    stock = socketio.KombuManager(wire.url, write_only=True, logger=logging.getLogger("stock"))

    for number in range(20):
        stock.emit("step", {"number": number}, room="project:alpha")
    stock.enter_room("a-client", "/", "project:alpha")

    heard = listener.wait_for_count(21)
    stock.publisher_connection.release()
    assert numbers(heard[:20]) == list(range(20))
    assert {message["room"] for message in heard[:20]} == {"project:alpha"}
    assert (heard[20]["method"], heard[20]["sid"]) == ("enter_room", "a-client")


def test_what_our_manager_emits_itself_is_heard_by_ours_and_by_pythonsocketios_own(wire: Wire) -> None:
    ours, theirs, publisher = wire.listener(), wire.stock_server(), wire.publisher()

    publisher.emit("step", {"number": 1}, room="project:alpha")

    assert numbers(ours.wait_for_count(1)) == [1]
    wait_for(lambda: theirs.emitted)
    assert numbers(theirs.emitted) == [1]


# -- what strangers say -------------------------------------------------------------------------------------------


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


def test_neighbours_of_poison_are_heard_and_pickle_is_never_run(
    wire: Wire, broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listener, publisher = wire.listener(), wire.publisher()
    trace = tmp_path / "unpickled"
    poisons: list[tuple[Any, dict[str, Any]]] = [
        (body, {"content_type": "text/plain", "content_encoding": "utf-8"}) for body in NO_MESSAGES.values()
    ]
    poisons.append((pickle.dumps(Bomb(trace)), {"content_type": "application/x-python-serialize"}))
    poisons.append((pickle.dumps(Bomb(trace)), {"content_type": "application/data"}))
    poisons.append((b"\x00\xff", {"content_type": "text/plain", "content_encoding": "binary"}))
    poisons.append(
        (b"not compressed", {"content_type": "text/plain", "headers": {"compression": "application/x-gzip"}})
    )
    poisons.append((b"{}", {"content_type": "text/plain", "headers": {"compression": "unheard of"}}))

    kombu.enable_insecure_serializers(["pickle"])  # as a web process may have done for its own tasks
    try:
        publisher.publish_events([step(0)])
        for number, (body, options) in enumerate(poisons, 1):
            wire.publish_raw(body, **{"content_encoding": "binary", **options})
            publisher.publish_events([step(number)])
        wait_for(lambda: numbers(listener.messages)[-1:] == [len(poisons)])
    finally:
        kombu.disable_insecure_serializers()

    assert numbers(listener.messages) == list(range(len(poisons) + 1))
    assert not trace.exists()
    assert listener.manager.generation == 1
    assert "not hearing" not in caplog.text


@pytest.mark.parametrize(
    "envelope",
    ["not JSON", "5", "null", "[]", "{}", '{"body": 5}', '{"body": "%%%", "properties": {"body_encoding": "base64"}}'],
)
def test_neighbours_of_a_bare_publish_on_redis_are_heard(redis_broker: Broker, envelope: str) -> None:
    """Anybody may PUBLISH on the channel without the envelope that kombu expects."""
    with contextlib.closing(Wire(redis_broker.url)) as wire, redis.Redis.from_url(redis_broker.url) as stranger:
        listener, publisher = wire.listener(), wire.publisher()
        database = redis_broker.url.rpartition("/")[2]

        for number in range(5):
            publisher.publish_events([step(number)])
            stranger.publish(f"/{database}.socketio", envelope)
        publisher.publish_events([step(5)])

        wait_for(lambda: numbers(listener.messages)[-1:] == [5], timeout=3)
        assert numbers(listener.messages) == [0, 1, 2, 3, 4, 5]


# -- when the broker is not there ---------------------------------------------------------------------------------


SCHEMES = pytest.mark.parametrize("scheme", ["redis", "amqp"])


@contextlib.contextmanager
def took(at_most: float) -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < at_most


@SCHEMES
@WIRES
def test_publishing_to_a_broker_that_refuses_returns_soon_with_nothing_sent(scheme: str, stock: bool) -> None:
    publisher = RealtimeKombuManager(f"{scheme}://{HOST}:{free_port()}/", write_only=True, stock=stock)

    with took(at_most=3):
        assert publisher.publish_events([step(1), step(2)]) == 0
    with took(at_most=3):
        publisher.emit("step", {"number": 3}, room="project:alpha")


@SCHEMES
def test_publishing_to_a_broker_that_never_answers_returns_soon_with_nothing_sent(scheme: str) -> None:
    with socket.create_server((HOST, 0), backlog=16) as silent:
        publisher = RealtimeKombuManager(f"{scheme}://{HOST}:{silent.getsockname()[1]}/", write_only=True)

        with took(at_most=6):
            assert publisher.publish_events([step(1)]) == 0


@SCHEMES
def test_a_manager_whose_emit_failed_does_not_try_again_at_once(scheme: str) -> None:
    publisher = RealtimeKombuManager(f"{scheme}://{HOST}:{free_port()}/", write_only=True)
    publisher.emit("step", {"number": 1}, room="project:alpha")

    with took(at_most=0.2):
        for number in range(100):
            publisher.emit("step", {"number": number}, room="project:alpha")


@SCHEMES
def test_an_outage_is_logged_once_a_minute_without_the_password(scheme: str, caplog: pytest.LogCaptureFixture) -> None:
    publisher = RealtimeKombuManager(f"{scheme}://guest:hunter2@{HOST}:{free_port()}/", write_only=True)

    for number in range(5):
        publisher.publish_events([step(number)])

    [record] = [record for record in caplog.records if record.name == "celery_realtime.publisher"]
    assert "cannot publish" in record.getMessage()
    assert "hunter2" not in record.getMessage()
    assert record.exc_info is None


@SCHEMES
def test_a_manager_that_hears_nothing_says_so(scheme: str) -> None:
    manager = RealtimeClientManager(f"{scheme}://{HOST}:{free_port()}/")

    assert not manager.wait_until_listening(0.1)


@SCHEMES
def test_any_number_of_clients_wait_together_for_an_asyncio_manager_that_hears_nothing(scheme: str) -> None:
    async def wait() -> list[bool]:
        manager = AsyncRealtimeClientManager(f"{scheme}://{HOST}:{free_port()}/")
        waiting = [manager.wait_until_listening(0.5) for _ in range(500)]
        return await asyncio.wait_for(asyncio.gather(*waiting), 5)

    assert asyncio.run(wait()) == [False] * 500


@SCHEMES
def test_making_a_manager_opens_no_connection_and_starts_no_thread(scheme: str) -> None:
    with socket.create_server((HOST, 0), backlog=1) as broker:
        broker.settimeout(0.1)
        threads = threading.active_count()

        RealtimeClientManager(f"{scheme}://{HOST}:{broker.getsockname()[1]}/")
        AsyncRealtimeClientManager(f"{scheme}://{HOST}:{broker.getsockname()[1]}/")

        assert threading.active_count() == threads
        with pytest.raises(TimeoutError):
            broker.accept()


def test_both_sides_go_on_by_themselves_when_the_broker_comes_back(wire: Wire, broker: Broker) -> None:
    listener, publisher, leaving = wire.listener(), wire.publisher(), wire.publisher()
    publisher.publish_events([step(0)])
    leaving.publish_events([step(0)])
    listener.wait_for_count(2)

    broker.server.stop()
    leaving.close()
    wait_for(lambda: publisher.publish_events([step(-1)]) == 0)
    wait_for(lambda: not listener.manager.wait_until_listening(0))
    broker.server.start()

    wait_for(lambda: publisher.publish_events([PROBE]) and listener.probed.wait(0.05), timeout=20)
    listener.messages.clear()
    assert publisher.publish_events([step(number) for number in range(1, 101)]) == 100
    assert numbers(listener.wait_for_count(100)) == list(range(1, 101))
    assert listener.manager.generation >= 2


def test_both_sides_go_on_by_themselves_when_an_operator_cuts_them_off(wire: Wire, broker: Broker) -> None:
    listener, publisher = wire.listener(), wire.publisher()
    publisher.publish_events([step(0)])
    listener.wait_for_count(1)

    _cut_all_connections(broker)
    wait_for(lambda: listener.manager.generation >= 2)

    wait_for(lambda: publisher.publish_events([PROBE]) and listener.probed.wait(0.05))
    publisher.publish_events([step(number) for number in range(1, 11)])
    assert numbers(listener.wait_for_count(11)) == list(range(11))


def _cut_all_connections(broker: Broker) -> None:
    if broker.name == "rabbitmq":
        broker.server.manage("DELETE", "connections/username/guest")  # type: ignore[union-attr]
        return
    with redis.Redis.from_url(broker.url) as client:
        client.client_kill_filter(_type="pubsub")
        client.client_kill_filter(_type="normal", skipme=True)


def test_a_paused_broker_holds_up_nobody_and_is_used_again_when_it_goes_on(wire: Wire, broker: Broker) -> None:
    listener, publisher = wire.listener(), wire.publisher()
    publisher.publish_events([step(0)])

    broker.server.pause()
    try:
        with took(at_most=6):
            publisher.publish_events([step(-1)])
    finally:
        broker.server.resume()

    wait_for(lambda: publisher.publish_events([PROBE]) and listener.probed.wait(0.05))
    publisher.publish_events([step(1)])
    wait_for(lambda: numbers(listener.messages)[-1:] == [1])


def test_after_close_the_next_publish_connects_anew(wire: Wire) -> None:
    listener, publisher = wire.listener(), wire.publisher()

    for number in range(3):
        publisher.publish_events([step(number)])
        publisher.close()

    assert numbers(listener.wait_for_count(3)) == [0, 1, 2]


def test_closing_does_not_wait_for_a_broker_that_does_not_answer(wire: Wire, broker: Broker) -> None:
    publisher = wire.publisher()
    publisher.publish_events([step(1)])

    broker.server.pause()
    try:
        with took(at_most=5):
            publisher.close()
    finally:
        broker.server.resume()

    assert wait_for(lambda: publisher.publish_events([step(2)]))


# -- threads and processes ----------------------------------------------------------------------------------------


@WIRES
def test_eight_threads_share_a_manager_and_lose_nothing(wire: Wire, stock: bool) -> None:
    listener, publisher = wire.listener(), wire.publisher(stock=stock)
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


def test_threads_that_emit_and_threads_that_publish_share_a_manager(wire: Wire) -> None:
    listener, publisher = wire.listener(), wire.publisher()

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
        thread.join(30)
        assert not thread.is_alive()


FORKING = """
import os, sys
from celery_realtime.events import Outgoing
from celery_realtime.kombu_manager import RealtimeKombuManager

def publish(start, count):
    for number in range(start, start + count):
        if manager.publish_events([Outgoing("alpha", "step", b'{"number":%d}' % number)]) != 1:
            os._exit(3)

manager = RealtimeKombuManager(sys.argv[1], write_only=True)
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


def test_a_manager_used_before_a_fork_goes_on_in_the_parent_and_in_each_child(wire: Wire) -> None:
    listener = wire.listener()

    done = subprocess.run(
        [sys.executable, "-c", FORKING, wire.url],
        env=python_path(),
        timeout=60,
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

realtime = Realtime(Celery("worker", broker=sys.argv[1]), history_url=None)
for number in range(100):
    realtime.manager.emit_to_project("alpha", "step", {"number": number})
if sys.argv[2] == "as a prefork child":
    signals.worker_process_shutdown.send(sender=None, pid=os.getpid(), exitcode=0)
    os._exit(0)
"""


@pytest.mark.parametrize("how", ["as a prefork child", "as any process"])
def test_a_process_that_ends_at_once_is_heard_to_its_last_word(wire: Wire, broker: Broker, how: str) -> None:
    listener = wire.listener()

    done = subprocess.run(
        [sys.executable, "-c", ENDING, wire.url, how],
        env=python_path(),
        timeout=60,
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


# -- what is left behind ------------------------------------------------------------------------------------------


def test_a_listener_that_ends_leaves_nothing_on_the_broker(broker: Broker) -> None:
    wire = Wire(broker.url)
    listener, publisher = wire.listener(), wire.publisher()
    publisher.publish_events([step(number) for number in range(10)])
    listener.wait_for_count(10)
    assert len(_left_on(broker)) == 1

    wire.close()

    wait_for(lambda: _left_on(broker) == [], message="the listener's queue is still there")


def _left_on(broker: Broker) -> list[str]:
    """Return the queues of the broker; on Redis also the messages that wait to be acknowledged."""
    if broker.name == "rabbitmq":
        vhost = broker.url.rpartition("/")[2]
        return [queue["name"] for queue in broker.server.manage("GET", f"queues/{vhost}")]  # type: ignore[union-attr]
    with redis.Redis.from_url(broker.url) as client:
        keys = {key.decode() for key in client.scan_iter()}
        return sorted(keys - {"_kombu.binding_deadlines"})  # when kombu is to look for dead queues
