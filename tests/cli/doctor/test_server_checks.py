from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from celery_realtime import Realtime
from celery_realtime.clocks import time
from celery_realtime.history import inspection
from tests.cli.doctor.looking import NOWHERE, findings, names, new_realtime
from tests.cli.doctor.proxies import rewriting
from tests.processes import HOST
from tests.services import RedisServer
from tests.waiting import wait_for

pytestmark = pytest.mark.service

NewServer = Callable[..., RedisServer]


@pytest.fixture
def new_server(tmp_path: Path) -> Iterator[NewServer]:
    """Start Redis servers with options of the test's own."""
    with ExitStack() as stack:

        def start(*options: str) -> RedisServer:
            folder = tmp_path / str(len(list(tmp_path.iterdir())))
            folder.mkdir()
            server = RedisServer(folder, options=options).start()
            stack.callback(server.kill)
            return server

        yield start


def on(url: str, **settings: Any) -> Realtime:
    """Make a Realtime with all on one Redis."""
    return new_realtime(url, **{"history_url": url, **settings})


@pytest.mark.parametrize("settings", [{}, {"shards": 4}, {"wire": "stock"}, {"event_filter": lambda *_: None}])
def test_nothing_is_found_where_nothing_is_wrong(redis_url: str, settings: dict[str, Any]) -> None:
    assert names(on(redis_url, **settings), "broker", "history", "channel") == []


@pytest.mark.parametrize("kind", ["redis", pytest.param("rabbitmq", marks=pytest.mark.long)])
def test_nothing_is_found_of_a_good_broker_either(brokers: Any, kind: str) -> None:
    broker = brokers.make(kind)
    realtime = new_realtime(broker.url, history_url=broker.backend_url)
    assert names(realtime, "broker", "history", "channel") == []


@pytest.mark.parametrize("url", [NOWHERE, "amqp://guest:s3cret@127.0.0.1:1//"])
def test_a_broker_that_is_away_is_found_and_its_password_is_not_shown(url: str) -> None:
    (found,) = findings(new_realtime(url), "broker", "channel", "workers")
    assert found.name == "broker-unreachable"
    assert "s3cret" not in found.text


def test_a_history_that_is_away_is_found(redis_url: str) -> None:
    assert names(new_realtime(redis_url, history_url=NOWHERE), "broker", "history") == ["history-unreachable"]


@pytest.mark.long
def test_a_redis_that_hangs_hangs_no_check(new_server: NewServer) -> None:
    server = new_server()
    server.send_signal(signal.SIGSTOP)
    try:
        assert names(on(server.url()), "broker", "history", "channel") == ["broker-unreachable", "history-unreachable"]
    finally:
        server.send_signal(signal.SIGCONT)


# -- what a Redis says of itself --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "found"),
    [
        ("allkeys-lru", ["broker-evicts", "history-evicts"]),
        ("volatile-ttl", ["history-evicts"]),  # queues do not expire
        ("noeviction", []),
    ],
)
def test_a_redis_that_evicts_keys_is_found(new_server: NewServer, policy: str, found: list[str]) -> None:
    url = new_server("--maxmemory", "100mb", "--maxmemory-policy", policy).url()
    assert names(on(url), "broker", "history") == found


def test_a_policy_without_a_limit_evicts_nothing(new_server: NewServer) -> None:
    assert names(on(new_server("--maxmemory-policy", "allkeys-lru").url()), "broker", "history") == []


def test_a_redis_that_is_full_is_found(new_server: NewServer) -> None:
    assert names(on(new_server("--maxmemory", "1mb").url()), "broker") == ["memory-full"]


def test_a_redis_that_is_nearly_full_is_found(new_server: NewServer) -> None:
    server = new_server()
    with redis.Redis.from_url(server.url()) as client:
        client.setrange("ballast", 64 << 20, b"x")  # beside which what a connection takes is nothing
        client.config_set("maxmemory", int(client.info("memory")["used_memory"] / 0.945))
        assert names(on(server.url()), "broker") == ["memory-short"]


@contextlib.contextmanager
def connections(server: RedisServer, count: int) -> Iterator[None]:
    """Have that many connections to a Redis."""
    with ExitStack() as stack, redis.Redis.from_url(server.url()) as client:
        for _ in range(count):
            stack.enter_context(socket.create_connection((HOST, server.port)))
        wait_for(lambda: client.info("clients")["connected_clients"] >= count)
        yield


@pytest.mark.parametrize(("count", "name"), [(20, None), (60, "maxclients-near"), (92, "maxclients-reached")])
def test_a_redis_without_room_for_more_connections_is_found(
    new_server: NewServer, count: int, name: str | None
) -> None:
    server = new_server("--maxclients", "100")
    with connections(server, count):
        assert names(on(server.url()), "broker", "history") == ([] if name is None else [name, name])


def test_a_redis_that_takes_no_connection_at_all_is_found(new_server: NewServer) -> None:
    server = new_server("--maxclients", "20")
    with connections(server, 18), redis.Redis.from_url(server.url()) as last:
        last.ping()
        assert names(on(server.url()), "broker", "history", "channel") == ["maxclients-reached", "maxclients-reached"]


def test_a_replica_is_found(new_server: NewServer) -> None:
    master = new_server()
    replica = new_server("--replicaof", HOST, str(master.port))
    assert names(on(replica.url()), "broker", "history") == ["redis-read-only", "redis-read-only"]


def test_a_redis_that_is_too_old_is_found(new_server: NewServer) -> None:
    with rewriting(new_server().port, rb"redis_version:\d\.", b"redis_version:4.") as port:
        history = f"redis://{HOST}:{port}/0"
        assert names(new_realtime(history_url=history), "history") == ["redis-too-old"]


@pytest.mark.parametrize(("ahead", "word"), [(90.0, "behind"), (-90.0, "ahead of")])
def test_a_clock_that_is_off_is_found(monkeypatch: pytest.MonkeyPatch, redis_url: str, ahead: float, word: str) -> None:
    monkeypatch.setattr(inspection, "time", SimpleNamespace(time=lambda: time.time() + ahead))
    (found,) = findings(new_realtime(redis_url), "broker")
    assert found.name == "clock-skew"
    assert f"{word} that of this machine" in found.text


# -- rights -----------------------------------------------------------------------------------------------------------


def limited(server: RedisServer, *rights: str) -> str:
    """Make a user with these rights, and return the address with it."""
    with redis.Redis.from_url(server.url()) as client:
        client.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">s3cret", *rights)
    return server.url().replace("redis://", "redis://limited:s3cret@")


def test_a_user_that_may_do_nothing_is_found(new_server: NewServer) -> None:
    (found,) = findings(new_realtime(limited(new_server(), "~*", "&*", "-@all")), "broker", "channel")
    assert found.name == "broker-forbids"
    assert "s3cret" not in found.text


def test_a_redis_that_says_nothing_of_itself_is_none_that_is_wrong(new_server: NewServer) -> None:
    url = limited(new_server(), "~*", "&*", "+@all", "-info", "-config")
    assert names(on(url), "broker", "history", "channel") == []


def test_a_user_that_may_not_listen_is_found(new_server: NewServer) -> None:
    url = limited(new_server(), "~*", "resetchannels", "+@all")
    assert names(new_realtime(url), "channel", patience=0.5) == ["no-fanout"]


def test_a_user_that_may_not_publish_is_found(new_server: NewServer) -> None:
    url = limited(new_server(), "~*", "&*", "+@all", "-publish")
    assert names(new_realtime(url), "broker", "channel", echo_wait=0.5) == ["not-sent"]


def test_a_history_that_refuses_to_store_is_found(new_server: NewServer) -> None:
    server = new_server()
    history = limited(server, "~*", "&*", "+@all", "-@scripting")
    assert names(new_realtime(server.url(), history_url=history), "broker", "history", "channel") == ["history-refuses"]
