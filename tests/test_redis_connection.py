"""The URL of a history says how to connect, and Celery's own settings are put into it."""

from __future__ import annotations

import logging
import ssl
import tempfile
from typing import Any

import pytest
import redis
from celery import Celery

from celery_realtime import Realtime
from celery_realtime.connections import connection
from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.history import History
from celery_realtime.redis_connection import TIMEOUT, connect
from celery_realtime.settings import as_history_url, redact, resolve
from tests.launcher import Launcher
from tests.processes import HOST, free_port
from tests.services import RedisServer

SENTINELS = "sentinel://user:p%40ss@one:26380/3;sentinel://two"


def options(url: str) -> dict[str, Any]:
    """Return what the connections to the Redis of a URL are made with."""
    return dict(connect(url).connection_pool.connection_kwargs)


def sentinels(url: str) -> list[dict[str, Any]]:
    """Return what the connections to the Sentinels of a URL are made with."""
    pool: Any = connect(url).connection_pool
    return [sentinel.connection_pool.connection_kwargs for sentinel in pool.sentinel_manager.sentinels]


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
    made = connect(url).connection_pool.make_connection()
    assert isinstance(made, redis.SSLConnection)
    assert (made.cert_reqs, made.ca_certs) == (ssl.CERT_REQUIRED, "/our ca.pem")


def test_without_tls_options_a_certificate_is_verified_all_the_same() -> None:
    made = connect("rediss://host:7000/2").connection_pool.make_connection()
    assert isinstance(made, redis.SSLConnection)
    assert (made.cert_reqs, made.check_hostname) == (ssl.CERT_REQUIRED, True)


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
    assert connect(url).connection_pool.service_name == "m"  # type: ignore[attr-defined]


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
    client = connect(f"{SENTINELS}?master_name=m{query}")
    pool: Any = client.connection_pool
    [first, _] = pool.sentinel_manager.sentinels
    assert isinstance(pool.make_connection(), redis.SSLConnection) is to_master
    assert isinstance(first.connection_pool.make_connection(), redis.SSLConnection) is to_sentinel


def test_sentinels_that_are_away_are_an_outage_that_is_soon_noticed(caplog: pytest.LogCaptureFixture) -> None:
    url = f"sentinel://:secret@{HOST}:{free_port()}/0;sentinel://{HOST}:{free_port()}?master_name=m&sentinel_password=x"
    history = History(url, "away", size=10, ttl=60.0)
    caplog.set_level(logging.ERROR)
    assert history.position("p") is None
    history.close()
    assert "No master found for 'm'" in caplog.text
    assert "secret" not in caplog.text
    assert "sentinel_password=x" not in caplog.text


# -- what Celery was told -------------------------------------------------------------------------------------------

MASTER = {"master_name": "m", "min_other_sentinels": 1, "visibility_timeout": 60}
TLS = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": "/our ca.pem", "ssl_keyfile": None}


@pytest.mark.parametrize(
    ("url", "tls", "transport", "whole"),
    [
        ("redis://h/1", None, {}, "redis://h/1"),
        ("redis://h/1", None, MASTER, "redis://h/1"),
        ("redis://h/1", TLS, {}, "rediss://h/1?ssl_cert_reqs=required&ssl_ca_certs=/our%20ca.pem"),
        ("redis://h/1", True, {}, "rediss://h/1"),
        ("rediss://h/1", {"ssl_cert_reqs": "CERT_NONE"}, None, "rediss://h/1?ssl_cert_reqs=CERT_NONE"),
        ("rediss://h/1?ssl_ca_certs=/a", TLS, {}, "rediss://h/1?ssl_ca_certs=/a&ssl_cert_reqs=required"),
        ("rediss://h/1", {"ssl_cert_reqs": 0, "ssl_password": object()}, {}, "rediss://h/1?ssl_cert_reqs=none"),
        ("rediss://h/1", {"ssl_check_hostname": False}, {}, "rediss://h/1?ssl_check_hostname=False"),
        (
            "sentinel://a/1;sentinel://b",
            None,
            MASTER,
            "sentinel://a/1;sentinel://b?master_name=m&min_other_sentinels=1",
        ),
        ("sentinel://a?master_name=x", None, MASTER, "sentinel://a?master_name=x&min_other_sentinels=1"),
        ("sentinel://a", True, {"master_name": "m"}, "sentinel://a?ssl_cert_reqs=required&master_name=m"),
        (
            "sentinel://a",
            None,
            {"master_name": "m", "sentinel_kwargs": {"password": "p&q", "ssl": True, "retry": None}},
            "sentinel://a?master_name=m&sentinel_password=p%26q&sentinel_ssl=True",
        ),
        ("sentinel://a", None, {}, None),
        ("amqp://h//", TLS, MASTER, None),
        (None, None, None, None),
    ],
)
def test_what_celery_knows_of_a_redis_is_written_into_its_url(
    url: str | None, tls: Any, transport: Any, whole: str | None
) -> None:
    written = as_history_url(url, tls, transport)
    if whole is None or written is None:
        assert written is whole
    else:
        place, _, query = whole.partition("?")
        assert written.partition("?")[0] == place
        assert set(written.partition("?")[2].split("&")) == set(query.split("&"))
        connect(written)


def new_app(**conf: Any) -> Celery:
    app = Celery("app", set_as_current=False)
    app.conf.update(conf)
    return app


def test_the_history_has_the_options_of_the_place_that_is_chosen() -> None:
    backend = {"result_backend": "redis://r/1", "redis_backend_use_ssl": {"ssl_ca_certs": "/r.pem"}}
    broker = {"broker_url": "rediss://b/0", "broker_use_ssl": {"ssl_ca_certs": "/b.pem"}}
    assert Realtime(new_app(**backend, **broker)).settings.history_url == "rediss://r/1?ssl_ca_certs=/r.pem"
    assert Realtime(new_app(**broker)).settings.history_url == "rediss://b/0?ssl_ca_certs=/b.pem"
    own = Realtime(new_app(**broker), url="rediss://own/0", connection_options={"ssl": {"ssl_ca_certs": "/own.pem"}})
    assert own.settings.history_url == "rediss://own/0?ssl_ca_certs=/own.pem"


def test_sentinels_of_the_backend_or_the_broker_hold_the_history() -> None:
    backend = {"result_backend": "sentinel://r/1", "result_backend_transport_options": {"master_name": "results"}}
    broker = {"broker_url": "sentinel://b/0", "broker_transport_options": {"master_name": "tasks"}}
    assert Realtime(new_app(**backend, **broker)).settings.history_url == "sentinel://r/1?master_name=results"
    assert Realtime(new_app(**broker)).settings.history_url == "sentinel://b/0?master_name=tasks"
    nameless = {"result_backend": "sentinel://r/1", "broker_url": "redis://b/0"}
    assert Realtime(new_app(**nameless)).settings.history_url == "redis://b/0"


@pytest.mark.parametrize("url", ["sentinel://a:1;sentinel://b:2?master_name=m", "sentinel://a?master_name=m"])
def test_a_history_may_be_set_behind_sentinels(url: str) -> None:
    assert resolve({"history_url": url}, {}, "memory://").history_url == url


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("sentinel://a:1;sentinel://b:2", "which master"),
        ("sentinel://a:1;redis://b:2?master_name=m", "no URL of one Redis"),
        ("sentinel://a:1;sentinel://b:port?master_name=m", "no URL of one Redis"),
    ],
)
def test_sentinels_that_cannot_be_used_are_refused_at_start(url: str, why: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"realtime_history_url .*{why}"):
        resolve({"history_url": url}, {}, "memory://")


def test_no_password_of_a_sentinel_is_shown() -> None:
    shown = redact(
        "sentinel://u:hunter2@a:1/0;sentinel://b?master_name=m&sentinel_password=hunt@er3&ssl_password=hunt4"
    )
    assert "hunt" not in shown
    assert "er3" not in shown
    assert "master_name=m" in shown


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
def test_a_broker_shows_a_good_certificate_unless_it_is_told_that_it_need_not(url: str, given: Any, used: Any) -> None:
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
        place = history.position("p")
        history.close()
        with redis.Redis(HOST, server.port, db=1, decode_responses=True) as client:
            assert place == {"epoch": client.hget("celery-realtime:unix:{p}:meta", "epoch"), "offset": 0}
