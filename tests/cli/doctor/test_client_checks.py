from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import socketio

import celery_realtime
from celery_realtime import Realtime
from celery_realtime.cli.doctor import client_checks
from tests.cli.doctor.looking import NOWHERE, SECRET, findings, names, new_realtime
from tests.cli.doctor.proxies import http_proxy
from tests.web_servers import Web

pytestmark = pytest.mark.service

Serve = Callable[..., Web]


@pytest.fixture
def serve(redis_url: str) -> Iterator[Serve]:
    """Start a web server whose broker and history are those of the test unless settings say otherwise."""
    with contextlib.ExitStack() as stack:

        def start(rules: dict[str, Any] | None = None, **settings: Any) -> Web:
            broker = settings.pop("broker", redis_url)
            made = Web("sync", broker, **{"history_url": redis_url, **settings})
            stack.callback(made.stop)
            return made.attach(**(rules or {})).start()

        yield start


@pytest.fixture
def here(redis_url: str) -> Realtime:
    """The side of the workers, which is well."""
    return new_realtime(redis_url, history_url=redis_url)


def test_an_event_comes_to_a_client_the_whole_way(serve: Serve, here: Realtime) -> None:
    assert names(here, "broker", "history", "channel", "http", "websocket", "client", url=serve().url) == []


def test_a_server_below_a_path_is_reached_there(serve: Serve, here: Realtime) -> None:
    web = serve()
    below = web.url + "/studio/app"
    with http_proxy(web.url, strip="/studio/app") as proxy:
        assert names(here, "http", "client", url=below.replace(web.url, proxy)) == []
        assert names(here, "http", "client", url=proxy) == ["web-not-socketio"]


def test_a_client_that_can_only_poll_gets_it_too(serve: Serve, here: Realtime) -> None:
    with http_proxy(serve().url) as url:
        assert names(here, "client", url=url) == []


def test_a_token_of_another_secret_is_refused(serve: Serve, here: Realtime) -> None:
    (found,) = findings(here, "client", url=serve(secret_key="another long and random string").url)
    assert found.name == "token-refused"
    assert "invalid or has expired" in found.text


def test_a_project_that_a_rule_refuses_is_found(serve: Serve, here: Realtime) -> None:
    rules = {"authorize": lambda _user, project: project == "apollo"}
    web = serve(rules)
    assert names(here, "client", url=web.url) == ["project-refused"]
    assert names(here, "client", url=web.url, project="apollo") == []


def test_a_rule_that_breaks_is_found(serve: Serve, here: Realtime) -> None:
    assert names(here, "client", url=serve({"authorize": breaks}).url) == ["web-unavailable"]


def breaks(_user: Any, _project: str) -> bool:
    raise RuntimeError("the database is away")


def test_another_namespace_is_found(serve: Serve, here: Realtime, redis_url: str) -> None:
    there = new_realtime(redis_url, namespace="/other")
    assert names(there, "client", url=serve().url) == ["web-namespace"]
    # python-socketio lets clients into the default namespace, whoever serves it.
    assert names(here, "client", url=serve(namespace="/other").url, patience=0.5) == ["web-not-ours"]


# -- the history ------------------------------------------------------------------------------------------------------


def test_a_server_without_a_history_is_found(serve: Serve, here: Realtime) -> None:
    assert names(here, "channel", "client", url=serve(history_url=None).url) == ["web-without-history"]


def test_a_server_with_another_history_is_found(serve: Serve, here: Realtime, results_server: Any) -> None:
    web = serve(history_url=results_server.fresh_url())
    assert names(here, "channel", "client", url=web.url) == ["web-history-elsewhere"]


def test_a_server_whose_history_is_away_is_found(serve: Serve, here: Realtime) -> None:
    assert names(here, "channel", "client", url=serve(history_url=NOWHERE).url) == ["web-unavailable"]


def test_a_server_of_another_version_is_found(monkeypatch: pytest.MonkeyPatch, serve: Serve, here: Realtime) -> None:
    web = serve()
    monkeypatch.setattr(client_checks, "VERSION", "9.9.9")
    (found,) = findings(here, "channel", "client", url=web.url)
    assert found.name == "web-version"
    assert found.text == f"the web server runs version {celery_realtime.__version__}; here is 9.9.9"


# -- the channel ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("elsewhere", ["channel", "broker"])
def test_a_server_that_listens_elsewhere_is_found(
    serve: Serve, redis_url: str, results_server: Any, elsewhere: str
) -> None:
    other = {"channel": "other"} if elsewhere == "channel" else {"broker": results_server.fresh_url()}
    here = new_realtime(redis_url)
    assert names(here, "client", url=serve(history_url=None, **other).url, echo_wait=0.5) == ["web-deaf"]


def test_pythonsocketios_own_manager_is_found(redis_url: str) -> None:
    web = Web("sync", redis_url, wire="stock")
    web.server = web.socketio = socketio.Server(async_mode="threading", client_manager=socketio.KombuManager(redis_url))
    web.manager = web.realtime.client_manager(write_only=True)
    web.handlers = web.realtime.init_socketio(web.server)
    web.start()
    here = new_realtime(redis_url, wire="stock")
    assert names(here, "client", url=web.url) == ["stock-manager"]
    web._stack.close()


def test_without_what_a_client_needs_nothing_is_known(
    monkeypatch: pytest.MonkeyPatch, serve: Serve, here: Realtime
) -> None:
    monkeypatch.setitem(sys.modules, "websocket", None)
    assert names(here, "client", url=serve().url) == ["client-missing"]


def test_without_a_secret_a_token_has_to_be_passed(serve: Serve, redis_url: str) -> None:
    web = serve()
    here = new_realtime(redis_url, history_url=redis_url, secret_key=None)
    assert names(here, "secrets", "client", url=web.url) == ["no-secret"]
    token = new_realtime(secret_key=SECRET).issue_token("ada", ["apollo"])
    assert names(here, "secrets", "client", url=web.url, token=token, project="apollo") == []
