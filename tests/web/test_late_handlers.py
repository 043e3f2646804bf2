"""Whatever handlers the user registers, before or after ours, nobody comes in unasked, and each of theirs is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import flask_socketio
import pytest
import socketio

from celery_realtime import ImproperlyConfigured
from tests.waiting import wait_for
from tests.web_servers import Web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.client_recorder import Recorder
    from tests.web_servers import Kind


@pytest.fixture
def make_web(redis_url: str) -> Iterator[Callable[..., Web]]:
    """Make a web server that talks over a real broker, to be attached and started by the test."""
    made: list[Web] = []

    def make(kind: Kind = "sync", **settings: Any) -> Web:
        made.append(Web(kind, redis_url, **settings))
        return made[-1]

    yield make
    for web in made:
        web.stop()


KINDS = pytest.mark.parametrize("kind", ["sync", "asgi"])


def refused(web: Web, token: str) -> Recorder:
    """Try to connect with a token that does not let in, and return the client."""
    client = web.client(namespace=web.realtime.settings.namespace)
    with pytest.raises(socketio.exceptions.ConnectionError):
        client.connect(web.url, token=token, transports=["websocket"])
    assert client.connects == 0
    return client


def served(web: Web) -> None:
    """See that a client which may is let in, hears what it asked for, and says goodbye."""
    client = web.subscriber("alpha")
    web.emit("alpha", 1)
    client.wait_for_event("step", number=1)
    client.close()
    wait_for(lambda: web.handlers.clients() == {})


# -- functions ----------------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("form", ["on", "decorator", "event", "event with a namespace"])
def test_late_connect_and_disconnect_handlers_run_after_ours(
    make_web: Callable[..., Web], kind: Kind, form: str
) -> None:
    web, seen = make_web(kind).attach(), []

    def connect(sid: str, environ: dict[str, Any], auth: Any) -> None:
        seen.append(("connect", web.handlers.clients()[sid].user, bool(auth["token"])))

    def disconnect(sid: str, reason: str) -> None:
        seen.append(("disconnect", sid in web.handlers.clients(), bool(reason)))

    for handler in (connect, disconnect):
        if form == "on":
            assert web.server.on(handler.__name__, handler) is None
        elif form == "decorator":
            assert web.server.on(handler.__name__)(handler) is handler
        elif form == "event":
            assert web.server.event(handler) is handler
        else:
            assert web.server.event(namespace="/")(handler) is handler
    web.start()

    refused(web, "let me in")
    served(web)

    wait_for(lambda: len(seen) == 2)
    assert seen == [("connect", "ada", True), ("disconnect", False, True)]


@KINDS
def test_late_handlers_may_take_fewer_arguments(make_web: Callable[..., Web], kind: Kind) -> None:
    web, seen = make_web(kind).attach(), []
    web.server.on("connect", lambda sid, environ: seen.append("connect"))
    web.server.on("disconnect", lambda sid: seen.append("disconnect"))
    web.start()

    served(web)

    wait_for(lambda: seen == ["connect", "disconnect"])


def test_late_handlers_may_be_coroutines(make_web: Callable[..., Web]) -> None:
    web, seen = make_web("asgi").attach(), []

    @web.server.event
    async def connect(sid: str, environ: dict[str, Any], auth: Any) -> None:
        seen.append("connect")

    @web.server.event
    async def disconnect(sid: str, reason: str) -> None:
        seen.append("disconnect")

    web.start()

    served(web)

    wait_for(lambda: seen == ["connect", "disconnect"])


@KINDS
def test_a_late_connect_handler_may_refuse_too(make_web: Callable[..., Web], kind: Kind) -> None:
    web = make_web(kind).attach()
    web.server.on("connect", lambda sid, environ: False)
    web.start()

    refused(web, web.token())

    wait_for(lambda: web.handlers.clients() == {})


@KINDS
def test_of_several_connect_handlers_the_last_one_counts(make_web: Callable[..., Web], kind: Kind) -> None:
    web, seen = make_web(kind), []
    web.server.on("connect", lambda sid, environ: seen.append("early"))
    web.attach()
    web.server.on("connect", lambda sid, environ: seen.append("late"))
    web.server.on("connect", lambda sid, environ: seen.append("latest"))
    web.start()

    refused(web, "let me in")
    served(web)

    assert seen == ["latest"]


def test_a_connect_handler_may_come_while_clients_are_there(make_web: Callable[..., Web]) -> None:
    web, seen = make_web().attach().start(), []
    client = web.subscriber("alpha")
    web.server.on("connect", lambda sid, environ: seen.append("connect"))

    refused(web, "let me in")
    web.connect()
    web.emit("alpha", 1)

    client.wait_for_event("step", number=1)
    assert seen == ["connect"]


@KINDS
@pytest.mark.undescribed
def test_late_handlers_of_other_events_and_namespaces_are_left_alone(make_web: Callable[..., Web], kind: Kind) -> None:
    web, seen = make_web(kind).attach(), []
    web.server.on("ping_me", lambda sid, data: {"pong": data})
    web.server.on("connect", lambda sid, environ: seen.append("elsewhere"), namespace="/chat")
    web.server.on("subscribe_project", lambda sid, data: {"chat": data}, namespace="/chat")
    web.start()

    stranger = web.client(namespace="/chat").connect(web.url, transports=["websocket"])

    assert stranger.call("subscribe_project", 1) == {"chat": 1}
    assert seen == ["elsewhere"]
    assert web.connect().call("ping_me", 5) == {"pong": 5}
    refused(web, "let me in")


@KINDS
def test_another_namespace_than_the_first_is_guarded_too(make_web: Callable[..., Web], kind: Kind) -> None:
    web, seen = make_web(kind, namespace="/jobs").attach(), []
    web.server.on("connect", lambda sid, environ: seen.append("/"))
    web.server.on("connect", lambda sid, environ: seen.append("/jobs"), namespace="/jobs")
    web.start()

    refused(web, "let me in")
    served(web)

    assert seen == ["/jobs"]


@KINDS
def test_a_handler_that_is_put_around_us_opens_nothing(make_web: Callable[..., Web], kind: Kind) -> None:
    web = make_web(kind).attach()
    web.server.handlers["/"]["connect"] = lambda sid, environ, auth=None: None
    web.start()
    client = web.connect("let me in")

    for event in ("subscribe_project", "unsubscribe_project"):
        assert client.call(event, {"project_id": "alpha"})["error"]["code"] == "unauthorized"


# -- Flask --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["on", "event", "on_event"])
def test_late_flask_handlers_run_after_ours(make_web: Callable[..., Web], form: str) -> None:
    web, seen = make_web("flask").attach(), []

    def connect(auth: Any) -> None:
        seen.append(("connect", bool(auth["token"]), len(web.handlers.clients())))

    def disconnect(reason: Any) -> None:
        seen.append(("disconnect", bool(reason), len(web.handlers.clients())))

    for handler in (connect, disconnect):
        if form == "on":
            assert web.socketio.on(handler.__name__)(handler) is handler
        elif form == "event":
            assert web.socketio.event(handler) is handler
        else:
            web.socketio.on_event(handler.__name__, handler)
    web.start()

    refused(web, "let me in")
    served(web)

    wait_for(lambda: len(seen) == 2)
    assert seen == [("connect", True, 1), ("disconnect", True, 0)]


def test_a_late_flask_handler_may_take_no_argument_and_refuse(make_web: Callable[..., Web]) -> None:
    web = make_web("flask").attach()
    web.socketio.on("connect")(lambda: False)
    web.start()

    refused(web, web.token())

    wait_for(lambda: web.handlers.clients() == {})


# -- classes ------------------------------------------------------------------------------------------------------


class Chat(socketio.Namespace):
    """What a user writes for the namespace that is ours too."""

    def __init__(self, namespace: str = "/") -> None:
        super().__init__(namespace)
        self.seen: list[str] = []

    def on_connect(self, sid: str, environ: dict[str, Any], auth: Any) -> None:
        self.seen.append("connect")

    def on_disconnect(self, sid: str, reason: str) -> None:
        self.seen.append("disconnect")

    def on_ping_me(self, sid: str, data: Any) -> Any:
        return {"pong": data}


class OldChat(Chat):
    """With the arguments of older days."""

    def on_connect(self, sid: str, environ: dict[str, Any]) -> None:  # type: ignore[override]
        self.seen.append("connect")

    def on_disconnect(self, sid: str) -> None:  # type: ignore[override]
        self.seen.append("disconnect")


class AsyncChat(socketio.AsyncNamespace):
    """The same for asyncio."""

    def __init__(self) -> None:
        super().__init__("/")
        self.seen: list[str] = []

    async def on_connect(self, sid: str, environ: dict[str, Any]) -> None:
        self.seen.append("connect")

    def on_disconnect(self, sid: str, reason: str) -> None:
        self.seen.append("disconnect")

    async def on_ping_me(self, sid: str, data: Any) -> Any:
        return {"pong": data}


class OwnWay(Chat):
    """Finds its methods in its own way."""

    def trigger_event(self, event: str, *args: Any) -> Any:
        return super().trigger_event(event.lower(), *args)


class FlaskChat(flask_socketio.Namespace):
    """The same for Flask-SocketIO, whose handlers are told less."""

    def __init__(self) -> None:
        super().__init__("/")
        self.seen: list[str] = []

    def on_connect(self) -> None:
        self.seen.append("connect")

    def on_disconnect(self, reason: str) -> None:
        self.seen.append("disconnect")

    def on_ping_me(self, data: Any) -> Any:
        return {"pong": data}


def register(web: Web, chat: Any) -> None:
    if web.kind == "flask":
        web.socketio.on_namespace(chat)
    else:
        web.server.register_namespace(chat)


CLASSES = pytest.mark.parametrize(
    ("kind", "chat_class"),
    [("sync", Chat), ("sync", OldChat), ("sync", OwnWay), ("asgi", AsyncChat), ("flask", FlaskChat)],
)


@CLASSES
@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
def test_a_class_hears_of_clients_after_us_and_of_its_own_events(
    make_web: Callable[..., Web], kind: Kind, chat_class: Any, late: bool
) -> None:
    web, chat = make_web(kind), chat_class()
    if late:
        web.attach()
        register(web, chat)
    else:
        register(web, chat)
        web.attach()
    web.start()

    refused(web, "let me in")
    assert chat.seen == []
    served(web)
    wait_for(lambda: chat.seen == ["connect", "disconnect"])
    assert web.connect().call("ping_me", 5) == {"pong": 5}


def test_a_class_may_refuse_a_client(make_web: Callable[..., Web]) -> None:
    web = make_web().attach()
    web.server.register_namespace(type("Closed", (Chat,), {"on_connect": lambda self, sid, environ: False})("/"))
    web.start()

    refused(web, web.token())

    wait_for(lambda: web.handlers.clients() == {})


@pytest.mark.parametrize("function_first", [True, False])
def test_a_function_goes_before_a_class(make_web: Callable[..., Web], function_first: bool) -> None:
    web, chat, seen = make_web().attach(), Chat(), []
    steps_of_it = [
        lambda: web.server.on("connect", lambda sid, environ: seen.append("function")),
        lambda: web.server.register_namespace(chat),
    ]
    for step in steps_of_it if function_first else reversed(steps_of_it):
        step()
    web.start()

    served(web)

    wait_for(lambda: chat.seen == ["disconnect"])
    assert seen == ["function"]


def test_a_class_that_another_one_replaces_hears_no_more(make_web: Callable[..., Web]) -> None:
    web, first, second = make_web().attach(), Chat(), socketio.Namespace("/")
    web.server.register_namespace(first)
    web.server.register_namespace(second)
    web.start()

    refused(web, "let me in")
    served(web)

    assert first.seen == []


def test_a_class_of_another_namespace_is_left_alone(make_web: Callable[..., Web]) -> None:
    web, chat = make_web().attach(), Chat("/chat")
    web.server.register_namespace(chat)
    web.start()

    web.client(namespace="/chat").connect(web.url, transports=["websocket"])

    wait_for(lambda: chat.seen == ["connect"])
    refused(web, "let me in")


# -- our own events -----------------------------------------------------------------------------------------------

OURS = pytest.mark.parametrize("event", ["subscribe_project", "unsubscribe_project"])


@OURS
@pytest.mark.parametrize("kind", ["sync", "asgi", "flask"])
def test_a_late_handler_of_an_event_of_ours_is_refused_and_changes_nothing(
    make_web: Callable[..., Web], kind: Kind, event: str
) -> None:
    web = make_web(kind).attach()

    with pytest.raises(ImproperlyConfigured, match=rf"'{event}' .* override on_{event} in a subclass of \w+Handlers"):
        web.socketio.on(event)(lambda *args: {"ok": True})

    web.start()
    client = web.subscriber("alpha")
    assert client.call("unsubscribe_project", {"project_id": "alpha"}) == {"ok": True}
    assert client.call("subscribe_project", {"project_id": "beta"})["error"]["code"] == "forbidden"


@OURS
def test_an_early_handler_of_an_event_of_ours_is_refused(make_web: Callable[..., Web], event: str) -> None:
    web = make_web()
    web.server.on(event, lambda sid, data: {"ok": True})

    with pytest.raises(ImproperlyConfigured, match=f"'{event}' is answered by what init_socketio"):
        web.attach()


@OURS
@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
def test_a_class_with_a_method_for_an_event_of_ours_is_refused(
    make_web: Callable[..., Web], event: str, late: bool
) -> None:
    web = make_web()
    chat = type("Chat", (Chat,), {f"on_{event}": lambda self, sid, data: {"ok": True}})("/")
    if late:
        web.attach()
    else:
        web.server.register_namespace(chat)

    with pytest.raises(ImproperlyConfigured, match=f"'{event}' is answered by what init_socketio"):
        web.server.register_namespace(chat) if late else web.attach()


def test_a_server_that_is_given_twice_is_refused(make_web: Callable[..., Web]) -> None:
    web = make_web().attach()

    with pytest.raises(ImproperlyConfigured, match="once for each server"):
        web.realtime.init_socketio(web.server)
