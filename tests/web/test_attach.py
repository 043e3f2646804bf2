"""A server is served when it can hear the workers and somebody says who may connect; any other is refused by name."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
import socketio
from celery import Celery
from flask import Flask, request
from flask_socketio import SocketIO

from celery_realtime import (
    AsyncSocketIOEventHandlers,
    ImproperlyConfigured,
    Realtime,
    SocketIOEventHandlers,
)
from celery_realtime.channel.kombu_manager import RealtimeKombuManager
from celery_realtime.web.client_manager import AsyncRealtimeClientManager, RealtimeClientManager
from tests.channels import client_manager
from tests.log_records import logged_by
from tests.waiting import wait_for
from tests.web_servers import SECRET, Web, steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.web_servers import Kind

URL = "redis://localhost:6379/0"  # nobody listens there, and nobody asks


@pytest.fixture
def make_realtime() -> Callable[..., Realtime]:
    def make(**settings: Any) -> Realtime:
        app = Celery("web", broker=URL, set_as_current=False)
        return Realtime(app, **{"history_url": None, "secret_key": SECRET, **settings})

    return make


@pytest.fixture
def realtime(make_realtime: Callable[..., Realtime]) -> Realtime:
    return make_realtime()


@pytest.fixture(autouse=True)
def _no_ears_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the servers that nobody talks to start no thread, which would ask for a broker until the end of the run."""
    for manager in (RealtimeClientManager, AsyncRealtimeClientManager):
        monkeypatch.setattr(manager, "start_listening", _unless_nobody_listens(manager.start_listening))


def _unless_nobody_listens(start: Callable[[Any], None]) -> Callable[[Any], None]:
    def start_listening(manager: Any) -> None:
        if manager.url != URL:
            start(manager)

    return start_listening


@pytest.fixture
def make_web(redis_url: str) -> Iterator[Callable[..., Web]]:
    """Make a web server that talks over a real broker, to be attached and started by the test."""
    made: list[Web] = []

    def make(kind: Kind, **settings: Any) -> Web:
        made.append(Web(kind, redis_url, **settings))
        return made[-1]

    yield make
    for web in made:
        web.stop()


def sync_server(realtime: Realtime) -> socketio.Server:
    return socketio.Server(async_mode="threading", client_manager=realtime.client_manager())


def async_server(realtime: Realtime) -> socketio.AsyncServer:
    return socketio.AsyncServer(async_mode="asgi", client_manager=realtime.async_client_manager())


def flask_server(realtime: Realtime) -> SocketIO:
    return SocketIO(Flask("web"), async_mode="threading", client_manager=realtime.client_manager())


MAKERS = pytest.mark.parametrize("make_server", [sync_server, async_server, flask_server])


def refused(realtime: Realtime, server: Any, **rules: Any) -> str:
    """Try to serve, and return why it is refused; nothing has been registered then."""
    with pytest.raises(ImproperlyConfigured) as caught:
        realtime.init_socketio(server, **rules)
    assert realtime.manager.sio is None
    inner = getattr(server, "server", server)
    assert not getattr(inner, "handlers", None)
    return str(caught.value)


# -- what is served -----------------------------------------------------------------------------------------------


@MAKERS
def test_a_server_that_hears_the_workers_is_served(realtime: Realtime, make_server: Callable[..., Any]) -> None:
    server = make_server(realtime)

    handlers = realtime.init_socketio(server)

    inner = getattr(server, "server", server)
    assert realtime.manager.sio is inner
    assert handlers.server is inner
    assert isinstance(handlers, AsyncSocketIOEventHandlers) == isinstance(inner, socketio.AsyncServer)
    assert {"connect", "disconnect", "subscribe_project", "unsubscribe_project"} <= set(inner.handlers["/"])


def test_a_flask_server_is_served_once_it_has_its_app(realtime: Realtime) -> None:
    server = SocketIO()
    server.init_app(Flask("web"), async_mode="threading", client_manager=realtime.client_manager())

    assert realtime.init_socketio(server).server is server.server


def test_the_handlers_are_registered_in_the_namespace_that_is_set(make_realtime: Callable[..., Realtime]) -> None:
    realtime = make_realtime(namespace="/jobs")
    server = sync_server(realtime)

    realtime.init_socketio(server)

    assert set(server.handlers) == {"/jobs"}


@pytest.mark.parametrize("make_manager", [socketio.KombuManager, client_manager])
def test_pythonsocketios_own_manager_will_do_when_the_wire_is_stock(
    make_realtime: Callable[..., Realtime], make_manager: Callable[[str], Any]
) -> None:
    realtime = make_realtime(wire="stock")

    assert realtime.init_socketio(socketio.Server(async_mode="threading", client_manager=make_manager(URL)))


@pytest.mark.parametrize(
    "rules",
    [
        {"authenticate": lambda token, environ: token, "authorize": lambda user_id, project_id: True},
        {"handlers": type("Handlers", (SocketIOEventHandlers,), {"_validate_token": lambda self, token: token})},
    ],
    ids=["callables", "methods"],
)
def test_own_rules_need_no_secret(make_realtime: Callable[..., Realtime], rules: dict[str, Any]) -> None:
    realtime = make_realtime(secret_key=None)

    assert realtime.init_socketio(sync_server(realtime), **rules)


@pytest.mark.parametrize("rules", [{"authenticate": lambda token, environ: token}], ids=["authenticate alone"])
def test_an_authenticator_without_an_authorizer_is_served_with_a_warning(
    realtime: Realtime, rules: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert realtime.init_socketio(sync_server(realtime), **rules)

    assert "pass authorize=" in caplog.text


@MAKERS
def test_signed_tokens_are_served_without_a_warning(
    realtime: Realtime, make_server: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    realtime.init_socketio(make_server(realtime))

    assert logged_by(caplog, "celery_realtime.web") == []


# -- what is not --------------------------------------------------------------------------------------------------


@MAKERS
def test_a_server_that_nobody_guards_is_refused(
    make_realtime: Callable[..., Realtime], make_server: Callable[..., Any]
) -> None:
    realtime = make_realtime(secret_key=None)

    why = refused(realtime, make_server(realtime))

    for fix in ("realtime_secret_key", "realtime.issue_token", "authenticate=", "handlers=", "_validate_token"):
        assert fix in why


@MAKERS
def test_an_authorizer_alone_guards_nothing(
    make_realtime: Callable[..., Realtime], make_server: Callable[..., Any]
) -> None:
    realtime = make_realtime(secret_key=None)

    assert "authenticate=" in refused(realtime, make_server(realtime), authorize=lambda user_id, project_id: True)


def test_an_access_method_alone_guards_nothing(make_realtime: Callable[..., Realtime]) -> None:
    realtime = make_realtime(secret_key=None)
    access = {"_validate_project_access": lambda self, user_id, project_id: True}
    handlers = type("Handlers", (SocketIOEventHandlers,), access)

    assert "_validate_token" in refused(realtime, sync_server(realtime), handlers=handlers)


DEAF = {
    "no manager of its own": lambda: socketio.Server(async_mode="threading"),
    "a plain Manager": lambda: socketio.Server(async_mode="threading", client_manager=socketio.Manager()),
    "a RedisManager": lambda: socketio.Server(async_mode="threading", client_manager=socketio.RedisManager(URL)),
    "a KombuManager on frames": lambda: socketio.Server(
        async_mode="threading", client_manager=socketio.KombuManager(URL)
    ),
    "Flask's message_queue": lambda: SocketIO(Flask("web"), async_mode="threading", message_queue=URL),
    "Flask without a manager": lambda: SocketIO(Flask("web"), async_mode="threading"),
}
ASYNC_DEAF = {
    "no manager of its own": lambda: socketio.AsyncServer(async_mode="asgi"),
    "a plain AsyncManager": lambda: socketio.AsyncServer(async_mode="asgi", client_manager=socketio.AsyncManager()),
    "an AsyncRedisManager": lambda: socketio.AsyncServer(
        async_mode="asgi", client_manager=socketio.AsyncRedisManager(URL)
    ),
}


@pytest.mark.parametrize("make_server", DEAF.values(), ids=DEAF.keys())
def test_a_server_that_hears_no_worker_is_refused(realtime: Realtime, make_server: Callable[[], Any]) -> None:
    why = refused(realtime, make_server())

    assert "client_manager=realtime.client_manager()" in why
    assert "without message_queue" in why


@pytest.mark.parametrize("make_server", ASYNC_DEAF.values(), ids=ASYNC_DEAF.keys())
def test_an_asyncio_server_that_hears_no_worker_is_refused(realtime: Realtime, make_server: Callable[[], Any]) -> None:
    assert "client_manager=realtime.async_client_manager()" in refused(realtime, make_server())


def test_an_asyncio_server_with_the_manager_of_a_synchronous_one_is_refused(realtime: Realtime) -> None:
    server = socketio.AsyncServer(async_mode="asgi", client_manager=realtime.client_manager())

    assert "client_manager=realtime.async_client_manager()" in refused(realtime, server)


def test_a_synchronous_server_with_the_manager_of_an_asyncio_one_is_refused(realtime: Realtime) -> None:
    server = socketio.Server(async_mode="threading", client_manager=realtime.async_client_manager())

    assert "client_manager=realtime.client_manager()" in refused(realtime, server)


def test_a_server_whose_manager_only_writes_is_refused(realtime: Realtime) -> None:
    server = socketio.Server(async_mode="threading", client_manager=RealtimeKombuManager(URL, write_only=True))

    assert "client_manager=realtime.client_manager()" in refused(realtime, server)


def test_a_flask_server_without_an_app_is_refused(realtime: Realtime) -> None:
    assert "socketio.init_app(app, client_manager=...) first" in refused(realtime, SocketIO())


@pytest.mark.parametrize("server", [None, object(), "a server", Flask("web"), socketio.Server, socketio.Client()])
def test_what_is_no_server_is_refused(realtime: Realtime, server: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"needs a socketio\.Server, socketio\.AsyncServer or flask_socket"):
        realtime.init_socketio(server)


@pytest.mark.parametrize(
    ("make_server", "handlers", "needed"),
    [
        (sync_server, AsyncSocketIOEventHandlers, "subclass of SocketIOEventHandlers"),
        (flask_server, AsyncSocketIOEventHandlers, "subclass of SocketIOEventHandlers"),
        (async_server, SocketIOEventHandlers, "subclass of AsyncSocketIOEventHandlers"),
        (sync_server, object, "subclass of SocketIOEventHandlers"),
        (sync_server, "Handlers", "subclass of SocketIOEventHandlers"),
        (async_server, 5, "subclass of AsyncSocketIOEventHandlers"),
    ],
)
def test_handlers_that_do_not_fit_the_server_are_refused(
    realtime: Realtime, make_server: Callable[..., Any], handlers: Any, needed: str
) -> None:
    assert needed in refused(realtime, make_server(realtime), handlers=handlers)


def test_handlers_that_are_made_already_are_refused(realtime: Realtime) -> None:
    server = sync_server(realtime)

    assert "subclass of SocketIOEventHandlers" in refused(realtime, server, handlers=SocketIOEventHandlers(server))


@MAKERS
@pytest.mark.parametrize("rule", ["authenticate", "authorize"])
@pytest.mark.parametrize("value", ["yes", True, 5, ["ada"], {"ada": "alpha"}])
def test_a_rule_that_cannot_be_called_is_refused(
    realtime: Realtime, make_server: Callable[..., Any], rule: str, value: Any
) -> None:
    assert f"{rule} must be callable" in refused(realtime, make_server(realtime), **{rule: value})


# -- Flask-SocketIO at work ---------------------------------------------------------------------------------------


def test_a_flask_server_serves_subscribers_and_refuses_others(make_web: Callable[..., Web]) -> None:
    web = make_web("flask").attach().start()
    client, stranger = web.subscriber("alpha"), web.client()

    web.emit("beta", 1)
    web.emit("alpha", 2)

    client.wait_for_event("step", number=2)
    assert steps(client) == [2]
    assert client.call("subscribe_project", {"project_id": "beta"})["error"]["code"] == "forbidden"
    with pytest.raises(socketio.exceptions.ConnectionError):
        stranger.connect(web.url, token="let me in", transports=["websocket"])
    assert stranger.refusals[0]["data"]["code"] == "unauthorized"


def test_flasks_own_connect_and_disconnect_handlers_get_what_flask_gives_them(make_web: Callable[..., Web]) -> None:
    web, seen = make_web("flask"), []

    @web.socketio.on("connect")
    def connect(auth: Any) -> None:
        seen.append(("connect", auth, request.sid in web.handlers.clients()))

    @web.socketio.on("disconnect")
    def disconnect(reason: Any) -> None:
        seen.append(("disconnect", bool(reason), request.sid in web.handlers.clients()))

    web.attach().start()
    token = web.token()
    web.connect(token).close()

    wait_for(lambda: len(seen) == 2)
    assert seen == [("connect", {"token": token}, True), ("disconnect", True, False)]


def test_flasks_older_handlers_without_arguments_run_too(make_web: Callable[..., Web]) -> None:
    web, seen = make_web("flask"), []

    @web.socketio.on("connect")
    def connect() -> None:
        seen.append(("connect", request.args["from"]))

    @web.socketio.on("disconnect")
    def disconnect() -> None:
        seen.append(("disconnect", request.args["from"]))

    web.attach().start()
    client = web.client()
    client.sio.connect(f"{web.url}?from=here", auth={"token": web.token()}, transports=["websocket"])
    assert client.subscribe("alpha")["ok"]
    client.close()

    wait_for(lambda: len(seen) == 2)
    assert seen == [("connect", "here"), ("disconnect", "here")]


def test_a_flask_connect_handler_may_refuse_too(make_web: Callable[..., Web]) -> None:
    web = make_web("flask")
    web.socketio.on("connect")(lambda: False)
    web.attach().start()
    client = web.client()

    with pytest.raises(socketio.exceptions.ConnectionError):
        client.connect(web.url, token=web.token(), transports=["websocket"])

    assert client.connects == 0


def test_a_flask_connect_handler_that_comes_after_ours_opens_nothing(make_web: Callable[..., Web]) -> None:
    web = make_web("flask").attach()
    web.socketio.on("connect")(lambda: None)
    web.start()

    with pytest.raises(socketio.exceptions.ConnectionError):
        web.connect("let me in")
    assert web.connect().subscribe("alpha")["ok"]


# -- a client that the web server vouches for ---------------------------------------------------------------------


KINDS = pytest.mark.parametrize("kind", ["sync", "flask", "asgi"])


@KINDS
def test_a_client_that_is_registered_for_a_project_hears_it_until_it_is_unregistered(
    make_web: Callable[..., Web], kind: Kind
) -> None:
    web = make_web(kind).attach().start()
    other, client = web.subscriber("gamma"), web.connect(web.token(projects=[]))
    sid = client.sio.get_sid()

    web.realtime.manager.register_client_for_project("alpha", sid)
    wait_for(lambda: web.emit("alpha", 1) or steps(client))
    web.realtime.manager.register_client_for_project("beta", sid)
    web.realtime.manager.unregister_client_for_project("alpha", sid)
    wait_for(lambda: web.emit("beta", 2) or 2 in steps(client))
    client.clear()
    web.emit("alpha", 3)
    web.emit("beta", 4)

    client.wait_for_event("step", number=4)
    assert 3 not in steps(client)
    assert other.events == []


def test_an_asyncio_handler_registers_its_client_inside_the_loop(make_web: Callable[..., Web]) -> None:
    web = make_web("asgi")

    async def join(sid: str, project_id: str) -> str:
        web.realtime.manager.register_client_for_project(project_id, sid)
        await asyncio.sleep(0)
        return "joined"

    web.server.on("join", join)
    web.attach().start()
    client = web.connect(web.token(projects=[]))

    assert client.call("join", "alpha") == "joined"
    wait_for(lambda: web.emit("alpha", 1) or steps(client))


def test_an_asyncio_handler_speaks_to_a_project(make_web: Callable[..., Web]) -> None:
    web = make_web("asgi")

    async def say(sid: str, number: int) -> str:
        await web.realtime.manager.emit_to_project_async("alpha", "step", {"number": number})
        return "said"

    web.server.on("say", say)
    web.attach().start()
    client, other = web.subscriber("alpha"), web.subscriber("beta")

    assert [client.call("say", number) for number in range(10)] == ["said"] * 10
    web.emit("beta", 10)

    client.wait_for_event("step", number=9)
    other.wait_for_event("step", number=10)
    assert steps(client) == list(range(10))
    assert steps(other) == [10]


@KINDS
def test_a_process_without_a_server_registers_a_client_over_the_broker(
    make_web: Callable[..., Web], redis_url: str, kind: Kind
) -> None:
    web = make_web(kind).attach().start()
    other, client = web.subscriber("gamma"), web.connect(web.token(projects=[]))
    sid = client.sio.get_sid()
    worker = Realtime(Celery("worker", broker=redis_url, set_as_current=False), history_url=None)

    worker.manager.register_client_for_project("alpha", sid)
    wait_for(lambda: web.emit("alpha", 1) or steps(client))
    worker.manager.unregister_client_for_project("alpha", sid)
    worker.manager.register_client_for_project("beta", sid)
    wait_for(lambda: web.emit("beta", 2) or 2 in steps(client))
    client.clear()
    web.emit("alpha", 3)
    web.emit("beta", 4)

    client.wait_for_event("step", number=4)
    worker.manager.publisher.close()
    assert 3 not in steps(client)
    assert other.events == []


@KINDS
def test_registering_a_client_that_is_not_there_harms_nobody(make_web: Callable[..., Web], kind: Kind) -> None:
    web = make_web(kind).attach().start()
    client = web.subscriber("alpha")

    web.realtime.manager.register_client_for_project("alpha", "nobody")
    web.realtime.manager.unregister_client_for_project("alpha", "nobody")
    web.emit("alpha", 1)

    client.wait_for_event("step", number=1)


@pytest.mark.parametrize("project_id", ["", None, 1.5, "x" * 300])
def test_a_client_is_registered_for_projects_only(realtime: Realtime, project_id: Any) -> None:
    for method in (realtime.manager.register_client_for_project, realtime.manager.unregister_client_for_project):
        with pytest.raises((TypeError, ValueError), match="project_id must"):
            method(project_id, "a-client")


@pytest.mark.parametrize("kind", ["sync", "flask", "asgi"])
def test_a_server_listens_from_its_start_and_not_from_its_first_client(
    make_web: Callable[..., Web], kind: Kind
) -> None:
    web = make_web(kind).attach()

    assert web.manager.reader.listener.wait(60)
    assert web.manager.generation == 1
    wait_for(lambda: web.manager.is_hearing)
    assert web.manager.last_heard is not None


@pytest.mark.parametrize("command", ["/usr/bin/celery", "/lib/python3/site-packages/celery/__main__.py"])
def test_a_celery_command_that_loads_a_web_server_does_not_listen(
    make_web: Callable[..., Web], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(sys, "argv", [command, "-A", "proj", "worker"])
    web = make_web("sync")
    threads = set(threading.enumerate())

    web.attach()

    assert set(threading.enumerate()) <= threads
    assert not web.server.manager_initialized
