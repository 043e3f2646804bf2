"""The address of a history says how to connect."""

from __future__ import annotations

import logging
import ssl
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.credentials import UsernamePasswordCredentialProvider
from redis.retry import Retry

from celery_realtime.channel.connections import connection
from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.history import seams
from celery_realtime.history.connection import TIMEOUT, RedisConnection
from celery_realtime.history.store import History
from celery_realtime.settings import resolve
from celery_realtime.urls import RedisAddress
from tests.appended import append, status
from tests.launcher import Launcher
from tests.processes import HOST, free_port
from tests.services import TAKING, RedisServer
from tests.waiting import wait_for

SENTINELS = "sentinel://user:p%40ss@one:26380/3;sentinel://two"


def connect(url: str, **options: Any) -> RedisConnection:
    return RedisConnection(RedisAddress(url, options))


def options(url: str, **more: Any) -> dict[str, Any]:
    """Return what the connections to the Redis of an address are made with."""
    return dict(connect(url, **more).client.connection_pool.connection_kwargs)


def sentinels(url: str, **more: Any) -> list[dict[str, Any]]:
    """Return what the connections to the Sentinels of an address are made with."""
    return [client.connection_pool.connection_kwargs for client in connect(url, **more).sentinels]


def made(connection: RedisConnection | redis.Redis) -> Any:
    """Return a connection of the kind that a client makes, not connected yet."""
    client: Any = connection.client if isinstance(connection, RedisConnection) else connection
    pool = client.connection_pool
    return pool.connection_class(**pool.connection_kwargs)


# -- one server -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["redis://host:7000/2", "rediss://host:7000/2", f"{SENTINELS}?master_name=m"])
def test_nothing_waits_long_on_the_network(url: str) -> None:
    given = options(url)
    assert (given["socket_timeout"], given["socket_connect_timeout"]) == (TIMEOUT, TIMEOUT)
    assert given["socket_keepalive"] is True


def test_a_url_names_host_port_database_and_login() -> None:
    given = options("redis://user:p%40ss@host:7000/2")
    assert [given[name] for name in ("host", "port", "db", "username", "password")] == ["host", 7000, 2, "user", "p@ss"]


@pytest.mark.parametrize("word", ["required", "CERT_REQUIRED"])
def test_tls_options_are_read_in_the_words_of_celery_and_of_redis_py(word: str) -> None:
    url = f"rediss://host:7000/2?ssl_cert_reqs={word}&ssl_ca_certs=/our%20ca.pem"
    connection = made(connect(url))
    assert isinstance(connection, redis.SSLConnection)
    assert (connection.cert_reqs, connection.ca_certs) == (ssl.CERT_REQUIRED, "/our ca.pem")


@pytest.mark.parametrize("value", [ssl.CERT_NONE, 0, "none", "CERT_NONE"])
@pytest.mark.parametrize("url", ["rediss://host", "sentinel://host?master_name=m"])
def test_tls_options_beside_a_url_are_read_in_the_words_of_celery_and_of_redis_py(url: str, value: Any) -> None:
    given = {"ssl_cert_reqs": value, "ssl_ca_certs": "/ca.pem", "ssl_keyfile": None}
    connection = made(connect(url, **given))
    assert isinstance(connection, redis.SSLConnection)
    assert (connection.cert_reqs, connection.ca_certs) == (ssl.CERT_NONE, "/ca.pem")


@pytest.mark.parametrize("url", ["redis://host", "rediss://host", "sentinel://host?master_name=m"])
def test_options_that_are_objects_arrive_as_they_are(url: str) -> None:
    retry, provider = Retry(NoBackoff(), 3), UsernamePasswordCredentialProvider("user", "word")
    given = options(url, retry=retry, credential_provider=provider)
    assert given["retry"] is retry
    assert given["credential_provider"] is provider


def test_the_options_in_a_url_win_over_those_beside_it() -> None:
    assert options("redis://host/2", db=3)["db"] == 2
    assert options("sentinel://host?master_name=m&ssl_ca_certs=/url.pem", ssl_ca_certs="/o.pem")["ssl_ca_certs"] == (
        "/url.pem"
    )


def test_without_tls_options_a_certificate_is_verified_all_the_same() -> None:
    connection = made(connect("rediss://host:7000/2"))
    assert isinstance(connection, redis.SSLConnection)
    assert (connection.cert_reqs, connection.check_hostname) == (ssl.CERT_REQUIRED, True)


@pytest.mark.parametrize("url", ["rediss://host", "sentinel://host?master_name=m&ssl_ca_certs=/ca.pem"])
@pytest.mark.parametrize(
    ("given", "checked"),
    [
        ({}, True),
        ({"ssl_cert_reqs": "CERT_NONE"}, False),
        ({"ssl_cert_reqs": ssl.CERT_NONE}, False),
        ({"ssl_check_hostname": False}, False),
    ],
)
def test_a_certificate_has_to_be_that_of_the_name_unless_that_is_turned_off(
    url: str, given: dict[str, Any], checked: bool
) -> None:
    assert made(connect(url, **given)).check_hostname is checked


def test_sentinels_certificates_have_to_be_those_of_their_names() -> None:
    [sentinel] = connect("sentinel://host?master_name=m&sentinel_ssl=true").sentinels
    assert made(sentinel).check_hostname is True


@pytest.mark.parametrize(
    "url",
    [
        *("redis://host:port/0", "rediss://host?ssl_cert_reqs=maybe", "http://host"),
        *("sentinel://host/x?master_name=m", "sentinel://host?master_name=m&ssl_cert_reqs=maybe"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_before_anybody_connects(url: str) -> None:
    with pytest.raises((ValueError, redis.RedisError)):
        connect(url)
    with pytest.raises(ImproperlyConfigured, match="realtime_history_url"):
        History(url, "x", size=1, ttl=1.0)


# -- behind Sentinels -----------------------------------------------------------------------------------------------


def test_the_first_sentinels_url_has_the_login_and_the_database_of_the_master() -> None:
    url = f"{SENTINELS}?master_name=m"
    given = options(url)
    assert [given[name] for name in ("db", "username", "password")] == [3, "user", "p@ss"]
    assert [(one["host"], one["port"]) for one in sentinels(url)] == [("one", 26380), ("two", 26379)]
    assert connect(url).client.connection_pool.service_name == "m"  # type: ignore[attr-defined]


def test_sentinels_have_options_of_their_own() -> None:
    [first, _] = sentinels(f"{SENTINELS}?master_name=m&sentinel_username=guard&sentinel_password=w%26rd")
    assert (first["username"], first["password"], first["socket_timeout"]) == ("guard", "w&rd", TIMEOUT)
    [bare, _] = sentinels(f"{SENTINELS}?master_name=m")
    assert bare.get("password") is None


@pytest.mark.parametrize(
    ("query", "to_master", "to_sentinel"),
    [
        ("", False, False),
        ("&ssl_ca_certs=/ca.pem", True, False),
        ("&sentinel_ssl=true", False, True),
        ("&ssl_cert_reqs=CERT_NONE&sentinel_ssl_ca_certs=/ca.pem", True, True),
        ("&sentinel_ssl=false", False, False),
    ],
)
def test_tls_is_asked_for_by_the_server_and_by_sentinels_apart(query: str, to_master: bool, to_sentinel: bool) -> None:
    connection = connect(f"{SENTINELS}?master_name=m{query}")
    assert isinstance(made(connection), redis.SSLConnection) is to_master
    assert isinstance(made(connection.sentinels[0]), redis.SSLConnection) is to_sentinel


def test_what_sentinels_need_may_stand_beside_the_url() -> None:
    retry = Retry(NoBackoff(), 2)
    given = {
        "master_name": "m",
        "min_other_sentinels": 1,
        "sentinel_kwargs": {"password": "w", "ssl": True, "retry": retry, "username": None},
    }
    connection = connect(SENTINELS, **given)
    assert connection.client.connection_pool.service_name == "m"  # type: ignore[attr-defined]
    assert isinstance(made(connection.sentinels[0]), redis.SSLConnection)
    assert not isinstance(made(connection), redis.SSLConnection)
    [first, _] = sentinels(SENTINELS, **given)
    assert (first["password"], first["socket_timeout"]) == ("w", TIMEOUT)
    assert first["retry"]._retries == 2  # redis-py copies it


def test_sentinels_that_are_away_are_an_outage_that_is_soon_noticed(caplog: pytest.LogCaptureFixture) -> None:
    url = f"sentinel://:secret@{HOST}:{free_port()}/0;sentinel://{HOST}:{free_port()}?master_name=m&sentinel_password=x"
    history = History(url, "away", size=10, ttl=60.0)
    caplog.set_level(logging.ERROR)
    assert history.position("p") is None
    history.close()
    assert "No master found for 'm'" in caplog.text
    assert "secret" not in caplog.text
    assert "sentinel_password=x" not in caplog.text


# -- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["sentinel://a:1;sentinel://b:2?master_name=m", "sentinel://a?master_name=m"])
def test_a_history_may_be_set_behind_sentinels(url: str) -> None:
    assert resolve({"history_url": url}, {}, "memory://").history_url == url


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("sentinel://a:1;sentinel://b:2", "which master"),
        ("sentinel://a:1;redis://b:2?master_name=m", "not the URL of one Redis"),
        ("sentinel://a:1;sentinel://b:port?master_name=m", "not the URL of one Redis"),
    ],
)
def test_sentinels_that_cannot_be_used_are_refused_at_start(url: str, why: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"realtime_history_url .*{why}"):
        resolve({"history_url": url}, {}, "memory://")


# -- the broker -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "given", "used"),
    [
        ("redis://h", {}, False),
        ("amqp://h", {}, False),
        ("rediss://h", {}, {"ssl_cert_reqs": ssl.CERT_REQUIRED}),
        ("redis://h", {"ssl": True}, {"ssl_cert_reqs": ssl.CERT_REQUIRED}),
        ("rediss://h", {"ssl": {"ssl_cert_reqs": ssl.CERT_NONE}}, {"ssl_cert_reqs": ssl.CERT_NONE}),
        ("rediss://h?ssl_cert_reqs=none", {}, {"ssl_cert_reqs": ssl.CERT_NONE}),
        ("rediss://h?ssl_ca_certs=/ca.pem", {}, {"ssl_ca_certs": "/ca.pem"}),
        ("amqps://h", {}, {"server_hostname": None}),
        ("amqp://h", {"ssl": True}, {"server_hostname": None}),
        ("amqps://h", {"ssl": {"cert_reqs": ssl.CERT_NONE}}, {"cert_reqs": ssl.CERT_NONE}),
    ],
)
def test_a_broker_shows_a_good_certificate_unless_the_settings_say_that_it_need_not(
    url: str, given: Any, used: Any
) -> None:
    assert connection(url, given).ssl == used


def test_a_sentinel_that_is_away_keeps_nobody_waiting() -> None:
    made = connection("sentinel://a;sentinel://b", {"transport_options": {"sentinel_kwargs": {"password": "p"}}})
    bounds = made.transport_options["sentinel_kwargs"]
    assert (bounds["password"], bounds["socket_timeout"], bounds["retry"]) == ("p", 1.0, None)


# -- a unix socket --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["unix://{}?db=1", "redis+socket://{}?virtual_host=1"])
def test_a_history_is_kept_over_a_unix_socket(launcher: Launcher, url: str) -> None:
    with tempfile.TemporaryDirectory() as short:  # a socket's path has about a hundred characters at most
        path = f"{short}/redis.sock"
        server = launcher.start(RedisServer(launcher.folder / "redis", options=["--unixsocket", path]))
        history = History(url.format(path), "unix", size=10, ttl=60.0)
        append(history, status("PENDING"))
        place = history.position("p")
        history.close()
        with redis.Redis(HOST, server.port, db=1, decode_responses=True) as client:
            assert place == {"epoch": client.hget("celery-realtime:unix:{p}:meta", "epoch"), "offset": 1}


# -- how many connections ---------------------------------------------------------------------------------------------


def open_connections(url: str, name: str) -> int:
    with redis.Redis.from_url(url) as look:
        return sum(client["name"] == name for client in look.client_list())


def use_at_once(client: redis.Redis, count: int) -> None:
    """Have so many connections in use at the same time."""
    pool: Any = client.connection_pool
    for taken in [pool.get_connection(*TAKING) for _ in range(count)]:
        pool.release(taken)


def test_of_connections_that_were_needed_at_once_one_is_kept(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seams, "SURPLUS", 0.0)
    few = connect(redis_url, client_name="few")
    use_at_once(few.client, 5)
    few.client.ping()
    wait_for(lambda: open_connections(redis_url, "few") == 1, timeout=30)
    few.close_free()
    wait_for(lambda: open_connections(redis_url, "few") == 0, timeout=30)
    assert few.client.ping()
    few.close()


def test_a_connection_in_use_is_not_closed_under_its_user(redis_url: str) -> None:
    used = connect(redis_url, client_name="used")
    pool: Any = used.client.connection_pool
    taken = pool.get_connection(*TAKING)
    used.close_free()
    taken.send_command("PING")
    assert taken.read_response() == b"PONG"
    pool.release(taken)
    used.close()


def test_a_confined_process_makes_do_with_one_connection_for_which_threads_wait(redis_url: str) -> None:
    one = connect(redis_url, client_name="one")
    one.confine()
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(lambda _: one.client.ping(), range(40)))
    assert open_connections(redis_url, "one") == 1
    one.close()


@pytest.mark.parametrize(
    ("given", "is_there"),
    [
        ({"host": "h", "port": 6379, "db": 2}, True),
        ({"host": "h", "db": "2"}, True),
        ({"host": "h", "db": 3}, False),
        ({"host": "other", "db": 2}, False),
        ({"host": "h", "port": 1, "db": 2}, False),
        ({"host": "h", "db": 2, "username": "u"}, False),
        ({"path": "/h.sock", "db": 2}, False),
        ({"service_name": "m", "host": "h", "db": 2}, False),
    ],
)
def test_a_client_is_lent_to_those_who_want_the_same_data(given: dict[str, Any], is_there: bool) -> None:
    lender = connect("redis://h/2")
    assert lender.client_at(given) is (lender.client if is_there else None)
    assert connect(f"{SENTINELS}?master_name=m").client_at({"db": 3}) is None


@pytest.mark.long
def test_hiredis_is_used_where_it_is_installed(redis_url: str) -> None:
    pytest.importorskip("hiredis", reason="needs: pip install hiredis")
    history = History(redis_url, "hiredis", size=1000, ttl=60)
    for number in range(200):
        append(history, status("STARTED", job=f"job-{number}"))
    snapshot = history.read("p", history.read("p").epoch, 0)
    assert (snapshot.offset, snapshot.jobs_total, len(snapshot.jobs), len(snapshot.events)) == (200, 200, 200, 200)
    reader = history.connection.client.connection_pool.get_connection(*TAKING)
    assert "hiredis" in type(reader._parser).__name__.lower()
    history.close()
