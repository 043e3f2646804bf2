"""What is used of redis-py beyond its documentation is still there, and does what it is used for."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.sentinel import Sentinel

from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.history.connection import RedisConnection
from celery_realtime.history.seams import BlockingSentinelPool, close_sentinels, parse_options
from celery_realtime.history.store import History
from celery_realtime.urls import RedisAddress
from tests.processes import HOST
from tests.services import TAKING
from tests.tls import TlsProxy, make_certificate
from tests.waiting import wait_for


class OneMaster(Sentinel):
    """Sentinels that have agreed on a master, without a Sentinel."""

    def __init__(self, port: int) -> None:
        super().__init__([(HOST, 1)])  # type: ignore[no-untyped-call]
        self.port = port

    def discover_master(self, service_name: str) -> tuple[str, int]:
        return HOST, self.port


@pytest.fixture
def secure_port(redis_url: str, certificate: tuple[Path, Path]) -> Iterator[int]:
    with TlsProxy(redis_url, certificate) as proxy:
        yield proxy.port


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    return make_certificate(tmp_path, "ours")


@pytest.fixture
def context(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate[0]))


def test_a_thread_that_finds_all_connections_in_use_waits_for_one(redis_url: str) -> None:
    master = OneMaster(int(redis_url.rpartition(":")[2].partition("/")[0]))
    client: Any = master.master_for("m", connection_pool_class=BlockingSentinelPool, max_connections=1, timeout=10)
    pool = client.connection_pool
    taken = pool.get_connection(*TAKING)
    answers: list[bool] = []
    waiting = threading.Thread(target=lambda: answers.append(client.ping()))
    waiting.start()
    waiting.join(0.2)
    assert (answers, taken.port) == ([], master.port)
    pool.release(taken)
    waiting.join(60)
    assert answers == [True]
    pool.disconnect()


def test_a_context_of_the_application_s_is_what_a_server_is_verified_by(
    secure_port: int, context: ssl.SSLContext
) -> None:
    """The option travels from the address to the socket: the context alone knows the authority."""
    address = RedisAddress(f"rediss://{HOST}:{secure_port}/0", {"ssl_context": context})
    history = History(address, "tls", size=10, ttl=60.0)
    assert history.ping()
    history.close()
    without = RedisConnection(RedisAddress(address.url))
    with pytest.raises(redis.ConnectionError, match="certificate verify failed"):
        without.client.ping()


def test_a_context_is_used_for_a_master_that_sentinels_name(secure_port: int, context: ssl.SSLContext) -> None:
    address = RedisAddress("sentinel://nobody", {"master_name": "m", "ssl_context": context})
    pool: Any = RedisConnection(address).client.connection_pool
    options = {**pool.connection_kwargs, "connection_pool": _Proxy(secure_port)}
    connection = pool.connection_class(**options)
    connection.connect()
    connection.send_command("PING")
    assert connection.read_response() == b"PONG"
    connection.disconnect()


class _Proxy:
    """Stands where a pool names the master."""

    is_master, check_connection = True, False

    def __init__(self, port: int) -> None:
        self._port = port

    def get_master_address(self) -> tuple[str, int]:
        return HOST, self._port


def test_a_context_with_a_plain_url_is_refused(context: ssl.SSLContext) -> None:
    address = RedisAddress(f"unix://{HOST}", {"ssl_context": context, "path": 5, "nonsense": 1})
    with pytest.raises(ImproperlyConfigured, match="cannot be used"):
        History(address, "x", size=1, ttl=1.0)


def test_options_in_a_query_have_the_right_types() -> None:
    text = {"socket_timeout": "2.5", "ssl_check_hostname": "False", "client_name": "a b&c"}
    assert parse_options(text) == {"socket_timeout": 2.5, "ssl_check_hostname": False, "client_name": "a b&c"}


def test_the_connections_to_sentinels_are_closed(redis_url: str) -> None:
    port = int(redis_url.rpartition(":")[2].partition("/")[0])
    sentinel = Sentinel([(HOST, port)], sentinel_kwargs={"client_name": "to-a-sentinel"})  # type: ignore[no-untyped-call]
    sentinel.sentinels[0].ping()
    with redis.Redis.from_url(redis_url) as look:

        def is_connected() -> bool:
            return any(client["name"] == "to-a-sentinel" for client in look.client_list())

        assert is_connected()
        close_sentinels(sentinel)
        wait_for(lambda: not is_connected())
