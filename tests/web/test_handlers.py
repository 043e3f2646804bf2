"""A subclass of the handlers decides with its methods, and the application's own handlers run beside ours."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

import pytest
import socketio

from celery_realtime import AsyncSocketIOEventHandlers, SocketIOEventHandlers
from tests.waiting import wait_for
from tests.web_rules import FORBIDDEN, error_of, members, refusal, refusal_of_second
from tests.web_servers import Web

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.web_servers import Kind


# -- a subclass of the handlers -----------------------------------------------------------------------------------


class SyncRules:
    def _validate_token(self, token: Any) -> Any:
        return token.removeprefix("t-") if token.startswith("t-") else None

    def _validate_project_access(self, user_id: Any, project_id: str) -> Any:
        return project_id == f"{user_id}'s"


class AsyncRules:
    async def _validate_token(self, token: Any) -> Any:
        await asyncio.sleep(0)
        return token.removeprefix("t-") if token.startswith("t-") else None

    async def _validate_project_access(self, user_id: Any, project_id: str) -> Any:
        await asyncio.sleep(0)
        return project_id == f"{user_id}'s"


@pytest.mark.parametrize("rules", [SyncRules, AsyncRules], ids=["sync", "async"])
def test_a_subclass_decides_with_methods(serve: Callable[..., Web], kind: Kind, rules: type) -> None:
    base = AsyncSocketIOEventHandlers if kind == "asgi" else SocketIOEventHandlers
    handlers = type("Handlers", (rules, base), {})

    web = serve(handlers=handlers)

    assert isinstance(web.handlers, handlers)
    assert refusal(web.client(), web, token="eve")["data"]["code"] == "unauthorized"
    client = web.connect("t-ada")
    assert client.subscribe("ada's")["ok"]
    assert error_of(client, "subscribe_project", {"project_id": "bob's"}) == FORBIDDEN


def test_a_subclass_may_decide_on_projects_alone(serve: Callable[..., Web], kind: Kind) -> None:
    base = AsyncSocketIOEventHandlers if kind == "asgi" else SocketIOEventHandlers
    access = {"_validate_project_access": SyncRules._validate_project_access}

    web = serve(handlers=type("Handlers", (base,), access))
    client = web.connect(web.token("ada", projects=["alpha"]))

    assert client.subscribe("ada's")["ok"]
    assert error_of(client, "subscribe_project", {"project_id": "alpha"}) == FORBIDDEN


def test_a_method_that_raises_is_a_rule_that_raises(serve: Callable[..., Web], kind: Kind) -> None:
    base = AsyncSocketIOEventHandlers if kind == "asgi" else SocketIOEventHandlers

    def access(self: Any, user_id: Any, project_id: str) -> bool:
        raise KeyError("hunter2")

    web = serve(handlers=type("Handlers", (base,), {"_validate_project_access": access}))

    error = error_of(web.connect(), "subscribe_project", {"project_id": "alpha"})
    assert error["code"] == "unavailable"
    assert "hunter2" not in str(error)


# -- beside the user's own handlers -------------------------------------------------------------------------------


HANDLER_FORMS = pytest.mark.parametrize("newer", [True, False], ids=["newer", "older"])


@HANDLER_FORMS
def test_the_users_own_connect_and_disconnect_handlers_run_after_ours(
    make_web: Callable[..., Web], newer: bool
) -> None:
    web, seen = make_web(), []

    def connect_with_auth(sid: str, environ: dict[str, Any], auth: Any) -> None:
        seen.append(("connect", web.handlers.clients()[sid].user, auth["token"]))

    def connect_without_auth(sid: str, environ: dict[str, Any]) -> None:
        seen.append(("connect", web.handlers.clients()[sid].user, token))

    def disconnect_with_reason(sid: str, reason: str) -> None:
        seen.append(("disconnect", reason in ("client disconnect", "transport close")))

    def disconnect_without_reason(sid: str) -> None:
        seen.append(("disconnect", True))

    web.server.on("connect", connect_with_auth if newer else connect_without_auth)
    web.server.on("disconnect", disconnect_with_reason if newer else disconnect_without_reason)
    web.attach().start()
    token = web.token("ada")
    client = web.connect(token)
    assert client.subscribe("alpha")["ok"]
    client.close()

    wait_for(lambda: len(seen) == 2)
    assert seen == [("connect", "ada", token), ("disconnect", True)]
    assert web.handlers.clients() == {}


@pytest.mark.parametrize("kind", ["asgi"], indirect=True)
def test_the_users_own_handlers_may_be_coroutines(make_web: Callable[..., Web]) -> None:
    web, seen = make_web(), []

    async def connect(sid: str, environ: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        seen.append("connect")

    async def disconnect(sid: str) -> None:
        await asyncio.sleep(0)
        seen.append("disconnect")

    web.server.on("connect", connect)
    web.server.on("disconnect", disconnect)
    web.attach().start()
    web.connect().close()

    wait_for(lambda: seen == ["connect", "disconnect"])


def test_the_users_own_connect_handler_is_not_bothered_with_refused_clients(make_web: Callable[..., Web]) -> None:
    web, seen = make_web(), []
    web.server.on("connect", lambda sid, environ: seen.append(sid))
    web.attach().start()

    refusal(web.client(), web, token="let me in")

    assert seen == []


def refuse_by_exception(sid: str, environ: dict[str, Any]) -> None:
    raise socketio.exceptions.ConnectionRefusedError("closed on Sundays")


def refuse_by_false(sid: str, environ: dict[str, Any]) -> bool:
    return False


@pytest.mark.parametrize("connect", [refuse_by_exception, refuse_by_false])
def test_the_users_own_connect_handler_may_refuse_too(
    make_web: Callable[..., Web], connect: Callable[..., Any]
) -> None:
    web = make_web()
    web.server.on("connect", connect)
    web.attach().start()
    client = web.client()

    with pytest.raises(socketio.exceptions.ConnectionError):
        client.connect(web.url, token=web.token(), transports=["websocket"])

    assert client.connects == 0
    wait_for(
        lambda: web.handlers.clients() == {}, timeout=3, message="a client that was refused is remembered for ever"
    )


def test_a_client_that_our_connect_handler_never_saw_is_refused(make_web: Callable[..., Web]) -> None:
    web = make_web().attach()
    web.server.handlers["/"]["connect"] = lambda sid, environ, auth=None: None
    web.start()
    client = web.connect()

    error = error_of(client, "subscribe_project", {"project_id": "alpha"})

    assert error == {"code": "unauthorized", "message": "connect with a token first"}
    assert error_of(client, "unsubscribe_project", {"project_id": "alpha"})["code"] == "unauthorized"
    assert members(web, "alpha") == 0


def test_the_users_own_events_go_on_beside_ours(make_web: Callable[..., Web]) -> None:
    web = make_web()
    web.server.on("ping_me", lambda sid, data: {"pong": data})
    web.attach().start()

    assert web.connect().call("ping_me", 5) == {"pong": 5}


def test_another_namespace_is_served_when_it_is_set(make_web: Callable[..., Web]) -> None:
    web = make_web(namespace="/jobs").attach().start()
    client = web.subscriber("alpha")

    web.emit("alpha", 1)

    client.wait_for_event("step", number=1)


def test_a_quiet_server_logs_no_error(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    client = web.subscriber("alpha")
    client.call("subscribe_project", {"project_id": "beta"})
    client.call("subscribe_project", ["alpha"])
    refusal_of_second(web, "let me in")
    client.close()
    wait_for(lambda: not web.handlers.clients())

    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_what_begins_with_the_first_client_begins_with_the_next_if_that_fails(serve: Callable[..., Web]) -> None:
    calls: list[int] = []

    def begin() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("can't start new thread")

    web = serve()
    web.handlers.on_first_client(begin)

    def connect() -> Any:
        with contextlib.suppress(socketio.exceptions.ConnectionError):
            return web.connect(web.token("ada", ["alpha"]), timeout=5.0)
        return None

    assert wait_for(connect).subscribe("alpha")["ok"]
    count = len(calls)
    assert count >= 2
    assert wait_for(connect).subscribe("alpha")["ok"]
    assert len(calls) == count
