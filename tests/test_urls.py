"""What URLs say, what of them may be shown, and what Celery knows of a connection."""

from __future__ import annotations

import ssl
from typing import Any

import kombu
import pytest
from celery import Celery
from kombu.transport import TRANSPORT_ALIASES, resolve_transport

from celery_realtime import Realtime
from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.history.connection import RedisConnection
from celery_realtime.urls import (
    RedisAddress,
    at_node,
    celery_redis,
    check_history_address,
    is_cluster,
    is_plain_redis,
    is_redis,
    node_urls,
    redact,
    redis_address,
)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:pw@host/0", "redis://:**@host/0"),
        ("amqp://user:pw@host//", "amqp://user:**@host//"),
        ("amqp://user:p@w@host//", "amqp://user:**@host//"),
        ("amqp://user:p:w@host//", "amqp://user:**@host//"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert redact(url) == shown


def test_several_urls_are_shown_without_any_password() -> None:
    shown = redact("amqp://u:hunter2@a//;amqp://u:hunter3@b//;amqp://c//")
    assert "hunter" not in shown


@pytest.mark.parametrize("url", ["redis://h", "rediss://h", "redis+socket:///s", "unix:///s", "sentinel://h:26379"])
def test_a_redis_is_known_by_its_scheme(url: str) -> None:
    assert is_redis(url)
    assert is_plain_redis(url) == (not url.startswith("sentinel"))


@pytest.mark.parametrize("url", ["amqp://h", "memory://", "rpc://", "db+sqlite:///redis://", "", None, "redis"])
def test_what_is_no_redis_is_not_taken_for_one(url: str | None) -> None:
    assert not is_redis(url) or url == "redis"
    assert not is_plain_redis(url)


@pytest.mark.parametrize(
    ("url", "nodes"),
    [
        ("redis://h:1/0", ["redis://h:1/0"]),
        ("sentinel://a;sentinel://b", ["sentinel://a;sentinel://b"]),
        ("redis+cluster://", ["redis://"]),
        ("redis+cluster://a,b:2", ["redis://a", "redis://b:2"]),
        ("rediss+cluster://u:p%40@a:1,b:2/3?x=1", ["rediss://u:p%40@a:1/3?x=1", "rediss://u:p%40@b:2/3?x=1"]),
        ("redis+cluster://:p@a/1;redis+cluster://:q@b?x=%2F", ["redis://:p@a/1?x=%2F", "redis://:p@b/1?x=%2F"]),
        ("redis+cluster://[::1]:1,[::2]", ["redis://[::1]:1", "redis://[::2]"]),
    ],
)
def test_a_cluster_is_named_by_some_of_its_nodes(url: str, nodes: list[str]) -> None:
    assert node_urls(url) == nodes
    assert is_cluster(url) == ("cluster" in url)
    assert not (is_cluster(url) and is_plain_redis(url))


def test_other_nodes_are_reached_like_those_that_are_named() -> None:
    assert at_node("rediss+cluster://u:p%40@a:1,b/3?x=1", "c", 7) == "rediss://u:p%40@c:7/3?x=1"
    assert at_node("redis://:p@a/0", "::1", 7) == "redis://:p@[::1]:7/0"


def test_no_password_of_a_cluster_is_shown() -> None:
    shown = redact("redis+cluster://u:hunter2@a:1,b:2/0;redis+cluster://u:hunter3@c?ssl_password=hunt4")
    assert "hunt" not in shown


def test_no_password_of_a_sentinel_is_shown() -> None:
    shown = redact(
        "sentinel://u:hunter2@a:1/0;sentinel://b?master_name=m&sentinel_password=hunt@er3&ssl_password=hunt4"
    )
    assert "hunt" not in shown
    assert "er3" not in shown
    assert "master_name=m" in shown


# -- what Celery was told -------------------------------------------------------------------------------------------

MASTER = {"master_name": "m", "min_other_sentinels": 1, "visibility_timeout": 60}
TLS = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": "/our ca.pem", "ssl_keyfile": None}
GIVEN_TLS = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": "/our ca.pem"}
GIVEN_MASTER = {"master_name": "m", "min_other_sentinels": 1}
RETRY = object()
UNVERIFIED = {"ssl_cert_reqs": "CERT_NONE"}


@pytest.mark.parametrize(
    ("url", "tls", "transport", "address"),
    [
        ("redis://h/1", None, {}, RedisAddress("redis://h/1")),
        ("redis://h/1", None, MASTER, RedisAddress("redis://h/1")),
        ("redis://h/1", TLS, {}, RedisAddress("rediss://h/1", GIVEN_TLS)),
        ("redis://h/1", True, {}, RedisAddress("rediss://h/1")),
        ("rediss://h/1", UNVERIFIED, None, RedisAddress("rediss://h/1", UNVERIFIED)),
        ("rediss://h/1?ssl_ca_certs=/a", TLS, {}, RedisAddress("rediss://h/1?ssl_ca_certs=/a", GIVEN_TLS)),
        ("sentinel://a/1;sentinel://b", None, MASTER, RedisAddress("sentinel://a/1;sentinel://b", GIVEN_MASTER)),
        ("sentinel://a?master_name=x", None, {}, RedisAddress("sentinel://a?master_name=x")),
        (
            "sentinel://a",
            True,
            {"master_name": "m"},
            RedisAddress("sentinel://a", {"ssl_cert_reqs": ssl.CERT_REQUIRED, "master_name": "m"}),
        ),
        (
            "sentinel://a",
            None,
            {"master_name": "m", "sentinel_kwargs": {"password": "p&q", "retry": RETRY}},
            RedisAddress("sentinel://a", {"master_name": "m", "sentinel_kwargs": {"password": "p&q", "retry": RETRY}}),
        ),
        ("sentinel://a", None, {}, None),
        ("amqp://h//", TLS, MASTER, None),
        (None, None, None, None),
    ],
)
def test_what_celery_knows_of_a_redis_stands_beside_its_url(
    url: str | None, tls: Any, transport: Any, address: RedisAddress | None
) -> None:
    assert redis_address(url, tls, transport) == address
    if address is not None:
        RedisConnection(address)


def new_app(**conf: Any) -> Celery:
    app = Celery("app", set_as_current=False)
    app.conf.update(conf)
    return app


SHORT: list[dict[str, Any]] = [
    {"result_backend": "redis"},
    {"result_backend": "redis", "redis_host": "r", "redis_port": 7000, "redis_db": 3},
    {"result_backend": "redis", "redis_host": "r", "redis_username": "u", "redis_password": "p/ä@:"},
    {"result_backend": "celery.backends.redis:RedisBackend", "redis_host": "r"},
    {"result_backend": "redis://"},
    {"result_backend": "redis+redis://:secret@r:7000/2"},
    {"result_backend": "celery.backends.redis:RedisBackend+redis://r:7000/2"},
    # What a URL leaves out.
    {"result_backend": "redis://", "redis_host": "r", "redis_port": 7000, "redis_db": 3},
    {"result_backend": "redis://u@r", "redis_username": "x", "redis_password": "p/ä@:", "redis_port": 7000},
    {"result_backend": "redis://u:own@r:7000/2", "redis_host": "x", "redis_password": "p", "redis_port": 1},
    {"result_backend": "redis+socket:///s?virtual_host=2", "redis_password": "p", "redis_host": "r"},
]


@pytest.mark.parametrize("conf", SHORT)
def test_a_result_backend_that_is_not_all_in_its_url_is_read_as_celery_reads_it(conf: dict[str, Any]) -> None:
    app = new_app(broker_url="redis://b:1/9", **conf)
    address = celery_redis(app.conf, "redis://b:1/9", {})
    assert address is not None
    check_history_address(address, "realtime_history_url")
    celerys, ours = app.backend.connparams, RedisConnection(address).client.connection_pool.connection_kwargs
    for name, default in (("host", "localhost"), ("port", 6379), ("db", 0), ("username", None), ("password", None)):
        assert (ours.get(name) or default) == (celerys.get(name) or default), name


@pytest.mark.parametrize("name", ["rpc", "cache", "database", "file", "disabled", "db+sqlite:///r.db", "sentinel"])
def test_with_another_backend_the_history_is_at_the_broker(name: str) -> None:
    assert celery_redis(new_app(result_backend=name).conf, "redis://b:1/9", {}) == RedisAddress("redis://b:1/9")


def test_a_password_beside_the_url_is_for_the_master_behind_sentinels_too_and_a_provider_stands_alone() -> None:
    master = {"result_backend_transport_options": {"master_name": "m"}, "redis_password": "p"}
    address = celery_redis(new_app(result_backend="sentinel://a/1;sentinel://:q@b", **master).conf, None, {})
    assert address == RedisAddress("sentinel://a/1;sentinel://:q@b", {"password": "p", "master_name": "m"})
    provider = {"redis_backend_credential_provider": "m.C", "redis_password": "p", "redis_port": 7000}
    address = celery_redis(new_app(result_backend="redis://r/1", **provider).conf, None, {})
    assert address == RedisAddress("redis://r/1", {"credential_provider": "m.C", "port": 7000})


# -- brokers ----------------------------------------------------------------------------------------------------------

BESIDE: list[dict[str, Any]] = [
    {
        "broker_url": "amqp://b",
        "broker_user": "u@",
        "broker_password": "p/@:#ä",
        "broker_vhost": "a/b",
        "broker_port": 1,
    },
    {"broker_url": "amqp://u@b//", "broker_user": "x", "broker_password": "p", "broker_vhost": "x"},
    {
        "broker_url": "amqp://u:own@b:2/own",
        "broker_user": "x",
        "broker_password": "p",
        "broker_vhost": "x",
        "broker_port": 1,
    },
    {"broker_url": "amqp://", "broker_password": "p", "broker_port": 1},
    {"broker_url": "amqp://[::1]", "broker_password": "p", "broker_port": 1},
    {"broker_url": ["amqp://a", "amqp://u:own@b/own"], "broker_user": "x", "broker_password": "p"},
    {"broker_url": "redis://b", "broker_password": "p", "broker_vhost": "/3"},
    {"broker_url": "redis://b?ssl_ca_certs=/a", "broker_user": "u", "broker_password": "p", "broker_vhost": "3"},
    {"broker_url": "rabbit.internal"},
    {"broker_url": "b", "broker_transport": "redis", "broker_port": 1, "broker_vhost": "3"},
    {"broker_host": "b", "broker_transport": "kombu.transport.redis:Transport"},
    {"broker_transport": "redis"},
    {"broker_url": "amqp://b/3", "broker_transport": "redis"},
    {"broker_url": "REDIS://b/3"},
]


def places_of(connection: Any) -> list[tuple[Any, ...]]:
    """Return where a connection leads to, and where it leads to when that is away."""
    places = []
    for _ in range(2):
        host, database = connection.hostname or "localhost", str(connection.virtual_host).strip("/")
        login = (connection.userid, connection.password)
        places.append((resolve_transport(connection.transport_cls), host, connection.port, *login, database))
        connection.maybe_switch_next()
    return places


@pytest.mark.parametrize("conf", BESIDE)
def test_a_broker_that_is_not_all_in_its_url_is_where_celery_has_it(conf: dict[str, Any]) -> None:
    settings = Realtime(new_app(**conf)).settings
    assert settings.url is not None
    with new_app(**conf).connection_for_write() as celerys:
        expected = places_of(celerys)
    assert places_of(kombu.Connection(settings.url, **settings.connection_options)) == expected


def test_a_history_at_the_broker_has_the_password_beside_the_url() -> None:
    app = new_app(broker_url="redis://b/2", broker_password="p@")
    assert Realtime(app).settings.history_address == RedisAddress("redis://:p%40@b/2")


def test_what_the_environment_says_of_the_broker_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://env/0")
    app = Celery("app", broker="sqla+sqlite:///b.db", set_as_current=False)
    assert Realtime(app).settings.url == app.conf.broker_url == "redis://env/0"


#: Up to 5.3, kombu knows it by one name.
KAFKA = "kafka" if "kafka" in TRANSPORT_ALIASES else "confluentkafka"


@pytest.mark.parametrize(
    "url",
    ["sqla+sqlite:///b.db", "sqlalchemy+sqlite:///b.db", "sqs://key:secret@", "zookeeper://h", f"{KAFKA}://h"],
)
def test_a_broker_without_fan_out_is_refused_with_what_to_set(url: str) -> None:
    for read in (lambda: Realtime(new_app(broker_url=url)), lambda: Realtime(new_app(), url=url)):
        with pytest.raises(ImproperlyConfigured, match="set realtime_url to a Redis or RabbitMQ") as refusal:
            read()
        assert "secret" not in str(refusal.value)
    assert Realtime(new_app(broker_url=url), url="redis://r:1/0").settings.url == "redis://r:1/0"


@pytest.mark.parametrize(
    "conf",
    [{"broker_url": "nats://u:secret@h"}, {"broker_url": "secret@h", "broker_transport": "studio.queue:Transport"}],
)
def test_a_broker_that_kombu_does_not_know_by_name_is_called_what_it_is(conf: dict[str, Any]) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"^broker_url .* set realtime_url to one such as") as refusal:
        Realtime(new_app(**conf))
    assert "u:secret" not in str(refusal.value)
    assert Realtime(new_app(**conf), url="redis://r:1/0").settings.url == "redis://r:1/0"
    with pytest.raises(ImproperlyConfigured, match=r"^realtime_url 'nats://h' is not a broker URL; write one such as"):
        Realtime(new_app(**conf), url="nats://h")


@pytest.mark.parametrize("url", ["filesystem://", "memory://", "amqps://h", "sentinel://h", "qpid://h"])
def test_others_are_not(url: str) -> None:
    Realtime(new_app(broker_url=url))


def test_the_history_has_the_options_of_the_place_that_is_chosen() -> None:
    backend = {"result_backend": "redis://r/1", "redis_backend_use_ssl": {"ssl_ca_certs": "/r.pem"}}
    broker = {"broker_url": "rediss://b/0", "broker_use_ssl": {"ssl_ca_certs": "/b.pem"}}
    address = Realtime(new_app(**backend, **broker)).settings.history_address
    assert address == RedisAddress("rediss://r/1", {"ssl_ca_certs": "/r.pem"})
    address = Realtime(new_app(**broker)).settings.history_address
    assert address == RedisAddress("rediss://b/0", {"ssl_ca_certs": "/b.pem"})
    own = Realtime(new_app(**broker), url="rediss://own/0", connection_options={"ssl": {"ssl_ca_certs": "/own.pem"}})
    assert own.settings.history_address == RedisAddress("rediss://own/0", {"ssl_ca_certs": "/own.pem"})


def test_options_of_our_own_win_over_celery_s_and_stand_alone_with_a_url_of_our_own() -> None:
    broker = {"broker_url": "rediss://b/0", "broker_use_ssl": {"ssl_ca_certs": "/b.pem", "ssl_certfile": "/c.pem"}}
    ours = {"ssl_ca_certs": "/ours.pem"}
    both = Realtime(new_app(**broker), history_options=ours).settings.history_address
    assert both == RedisAddress("rediss://b/0", {**ours, "ssl_certfile": "/c.pem"})
    own = Realtime(new_app(**broker), history_url="rediss://own/0", history_options=ours).settings.history_address
    assert own == RedisAddress("rediss://own/0", ours)
    named = {"master_name": "m"}
    sentinels = Realtime(new_app(), history_url="sentinel://a", history_options=named).settings.history_address
    assert sentinels == RedisAddress("sentinel://a", named)


def test_sentinels_of_the_backend_or_the_broker_hold_the_history() -> None:
    backend = {"result_backend": "sentinel://r/1", "result_backend_transport_options": {"master_name": "results"}}
    broker = {"broker_url": "sentinel://b/0", "broker_transport_options": {"master_name": "tasks"}}
    address = Realtime(new_app(**backend, **broker)).settings.history_address
    assert address == RedisAddress("sentinel://r/1", {"master_name": "results"})
    address = Realtime(new_app(**broker)).settings.history_address
    assert address == RedisAddress("sentinel://b/0", {"master_name": "tasks"})
    nameless = {"result_backend": "sentinel://r/1", "broker_url": "redis://b/0"}
    assert Realtime(new_app(**nameless)).settings.history_address == RedisAddress("redis://b/0")
