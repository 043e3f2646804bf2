"""What shares a broker or a Redis is kept apart by what Celery and kombu keep it apart by."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from celery_realtime import Realtime
from celery_realtime.environments import (
    in_environment,
    name_in_history,
    plain_address,
    prefix_of,
    with_transport_options,
)
from celery_realtime.urls import RedisAddress


def places(settings: dict[str, Any] | None = None, **conf: Any) -> tuple[str, str]:
    """Return what the keys of a broker begin with, and a key of the history."""
    app = Celery("app", set_as_current=False)
    app.conf.update({"broker_url": "redis://b/0", "result_backend": "redis://r/1", **conf})
    realtime = Realtime(app, **(settings or {}))
    history = realtime.manager.history
    assert history is not None
    transport = realtime.settings.connection_options.get("transport_options", {})
    return transport.get("global_keyprefix", ""), history.keys.begun


BROKER = {"broker_transport_options": {"global_keyprefix": "staging:"}}
BACKEND = {"result_backend_transport_options": {"global_keyprefix": "staging:"}}
NO_PREFIX = {"transport_options": {"global_keyprefix": ""}}
PLAIN = "celery-realtime:socketio:begun"


@pytest.mark.parametrize(
    ("conf", "settings", "broker", "key"),
    [
        ({}, {}, "", PLAIN),
        (BROKER, {}, "staging:", f"staging:{PLAIN}"),
        (BACKEND, {}, "", f"staging:{PLAIN}"),
        (BROKER | BACKEND, {}, "staging:", f"staging:{PLAIN}"),
        (BROKER | {"result_backend": "rpc://"}, {}, "staging:", f"staging:{PLAIN}"),
        (BROKER, {"history_url": "redis://h/2"}, "staging:", f"staging:{PLAIN}"),
        (BROKER, {"url": "redis://u/0"}, "staging:", f"staging:{PLAIN}"),
        (BROKER, {"url": "redis://u/0", "connection_options": NO_PREFIX}, "", PLAIN),
        ({}, {"url": "redis://u/0?global_keyprefix=own:"}, "own:", f"own:{PLAIN}"),
        ({}, {"history_url": "redis://h/2?global_keyprefix=own:"}, "", f"own:{PLAIN}"),
        ({}, {"history_url": "redis://h/2", "history_options": {"global_keyprefix": "own:"}}, "", f"own:{PLAIN}"),
        # Celery ends the prefix of its results so.
        (
            {name: {"global_keyprefix": "staging"} for name in (*BROKER, *BACKEND)},
            {},
            "staging",
            f"staging_{PLAIN}",
        ),
    ],
)
def test_all_keys_begin_with_the_prefix_of_the_environment(
    conf: dict[str, Any], settings: dict[str, Any], broker: str, key: str
) -> None:
    assert places(settings, **conf) == (broker, key)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"broker_url": "redis://b/0"}, {"broker_url": "redis://b/2"}),
        ({"broker_url": "redis://b/2"}, {"broker_url": "redis://b/3"}),
        ({"broker_url": "redis+socket:///b.sock?virtual_host=2"}, {"broker_url": "redis+socket:///b.sock"}),
        ({"broker_url": "amqp://b/prod"}, {"broker_url": "amqp://b/staging"}),
        ({"broker_url": "amqp://b//"}, {"broker_url": "amqp://b/staging"}),
        # A prefix of results that both have, and of tasks that each has for itself.
        ({**BACKEND, "broker_transport_options": {"global_keyprefix": "a:"}}, BACKEND),
        # For results, Celery makes one of these two.
        (
            {name: {"global_keyprefix": "live"} for name in (*BROKER, *BACKEND)},
            {name: {"global_keyprefix": "live_"} for name in (*BROKER, *BACKEND)},
        ),
    ],
)
def test_what_celery_keeps_apart_has_no_history_in_common(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert places(**one)[1] != places(**other)[1]


@pytest.mark.parametrize("urls", [("redis://b", "redis://c:1/0"), ("amqp://b", "amqp://c/%2F", "amqp://d//")])
def test_one_place_is_the_same_however_it_is_written(urls: tuple[str, ...]) -> None:
    assert {name_in_history("socketio", url, {}, None) for url in urls} == {"socketio"}


def test_a_virtual_host_may_stand_beside_the_url() -> None:
    assert name_in_history("socketio", "amqp://b", {"virtual_host": "prod"}, None) == "prod/socketio"
    assert name_in_history("socketio", "amqp://b/live", {"virtual_host": "prod"}, None) == "live/socketio"


def test_names_of_different_parts_are_never_the_same() -> None:
    assert name_in_history("b", "amqp://h/a", {}, None) != name_in_history("a/b", "amqp://h//", {}, None)
    assert name_in_history("c", "amqp://h/a%2Fb", {}, None) != name_in_history("b/c", "amqp://h/a", {}, None)


def test_redis_py_is_given_no_prefix_and_a_credential_provider_beside_the_url() -> None:
    address = RedisAddress("redis://h/1?a=%2Fb&global_keyprefix=p:&credential_provider=m:C", {"global_keyprefix": "q:"})
    assert prefix_of(address) == "p:"
    assert plain_address(address) == RedisAddress("redis://h/1?a=/b", {"credential_provider": "m:C"})
    untouched = RedisAddress("sentinel://a/1?x=%2F;sentinel://b", {"master_name": "m"})
    assert plain_address(untouched) == untouched


def test_options_of_a_connection_may_stand_in_the_url_of_a_redis_broker() -> None:
    given = {"ssl": True, "transport_options": {"socket_timeout": 1, "sep": "|"}}
    url = "redis://h/1?ssl_ca_certs=/a.pem&socket_timeout=2.5&client_name=us"
    assert with_transport_options(url, given) == (
        "redis://h/1?ssl_ca_certs=/a.pem",
        {"ssl": True, "transport_options": {"socket_timeout": 2.5, "sep": "|", "client_name": "us"}},
    )
    assert with_transport_options("amqp://h/?client_name=us", {}) == ("amqp://h/?client_name=us", {})


def test_a_broker_of_our_own_has_the_prefix_of_celery_s_unless_it_says_another() -> None:
    assert in_environment("redis://h", {}, "p:") == {"transport_options": {"global_keyprefix": "p:"}}
    own = {"transport_options": {"global_keyprefix": ""}}
    assert in_environment("redis://h", own, "p:") == own
    assert in_environment("amqp://h", {}, "p:") == {}
