"""What we use of the inside of python-socketio, Engine.IO and web servers is there, and does what we think."""

from __future__ import annotations

import asyncio
import inspect
import queue
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import engineio
import pytest
import socketio
from engineio.async_socket import AsyncSocket
from engineio.packet import MESSAGE, Packet
from engineio.socket import Socket

from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.settings import Settings
from celery_realtime.web import seams
from celery_realtime.web.budgets import Allowance, Budget
from celery_realtime.web.decisions import call, wait
from celery_realtime.web.metering import MeteredSocket
from celery_realtime.web.seams import SEAMS, ClientBacklogs, EngineSockets
from celery_realtime.web.sessions import Limits
from tests.log_records import logged_by


def sync_server() -> socketio.Server:
    return socketio.Server(async_mode="threading")


def async_server() -> socketio.AsyncServer:
    return socketio.AsyncServer(async_mode="asgi")


SERVERS = pytest.mark.parametrize("make_server", [sync_server, async_server], ids=["sync", "asyncio"])
MakeServer = Callable[[], Any]


def settle(outcome: Any) -> Any:
    async def settled() -> Any:
        return await outcome

    return asyncio.run(settled()) if inspect.isawaitable(outcome) else outcome


# -- start-up -----------------------------------------------------------------------------------------------------


@SERVERS
def test_the_installed_versions_have_every_part(make_server: MakeServer, caplog: pytest.LogCaptureFixture) -> None:
    seams.check(make_server())
    assert logged_by(caplog, "celery_realtime.web") == []


class Without:
    """A server that lacks a part.

    Args:
        server: The server.
        path: The part.
    """

    def __init__(self, server: Any, path: str) -> None:
        self._server = server
        self._hidden, _, self._deeper = path.partition(".")

    def __getattr__(self, name: str) -> Any:
        if name == self._hidden and not self._deeper:
            raise AttributeError(name)
        inner = getattr(self._server, name)
        return Without(inner, self._deeper) if name == self._hidden else inner


@pytest.mark.parametrize("seam", SEAMS, ids=[seam.path for seam in SEAMS])
def test_a_server_without_a_part_is_refused_or_served_with_a_warning(
    seam: seams.Seam, caplog: pytest.LogCaptureFixture
) -> None:
    server = Without(sync_server(), seam.path)
    if seam.is_required:
        with pytest.raises(ImproperlyConfigured, match=seam.path) as caught:
            seams.check(server)
        assert "python-engineio" in str(caught.value)
        assert seam.reason in str(caught.value)
    else:
        seams.check(server)
        [record] = caplog.records
        assert seam.reason in record.getMessage()


# -- python-socketio ----------------------------------------------------------------------------------------------


@SERVERS
def test_events_of_clients_pass_through_the_interceptor(make_server: MakeServer) -> None:
    server, handled = make_server(), []
    asynchronous = seams.is_asyncio(server)
    assert asynchronous == isinstance(server, socketio.AsyncServer)
    parameters = list(inspect.signature(server._handle_event).parameters)
    assert parameters == ["eio_sid", "namespace", "id", "data"]

    def handle(*packet: Any) -> Any:
        handled.append(packet)

    async def handle_async(*packet: Any) -> None:
        handled.append(packet)

    server._handle_event = handle_async if asynchronous else handle
    seams.intercept_events(server, lambda *packet: [*packet[:2], *packet[2]] if packet[2] else None)
    settle(server._handle_event("eio", None, 1, ["event"]))
    settle(server._handle_event("eio", "/jobs", None, []))
    assert handled == [("eio", None, 1, ["/", 1, "event"])]


@SERVERS
def test_what_follows_an_event_comes_after_its_acknowledgement(make_server: MakeServer) -> None:
    server = make_server()
    happened: list[Any] = []
    asynchronous = seams.is_asyncio(server)
    parameters = list(inspect.signature(server._handle_event_internal).parameters)
    assert parameters[seams.FOLLOWED_UP] == "data"

    async def answer(_sid: str, data: Any) -> str:
        return str(data)

    async def follow(data: Any) -> None:
        happened.append(data)

    async def send(_eio_sid: str, packet: Any) -> None:
        happened.append(packet.encode())

    def note(data: Any) -> None:
        settle(follow(data))

    server.on("ask", answer if asynchronous else lambda sid, data: data)
    server._send_packet = send if asynchronous else lambda *sent: settle(send(*sent))
    assert seams.follow_up_events(server, follow if asynchronous else note)
    settle(server._handle_event_internal(server, "sid", "eio", ["ask", "x"], "/", 1))
    settle(server._handle_event_internal(server, "sid", "eio", ["unknown", "y"], "/", 2))

    assert happened == ['31["x"]', ["ask", "x"], ["unknown", "y"]]


@SERVERS
def test_an_event_is_followed_up_though_its_handler_fails(make_server: MakeServer) -> None:
    server = make_server()
    happened: list[Any] = []

    def fail(*_: Any) -> Any:
        raise KeyError("x")

    async def fail_async(*_: Any) -> Any:
        raise KeyError("x")

    server.on("ask", fail_async if seams.is_asyncio(server) else fail)
    seams.follow_up_events(server, happened.append)
    with pytest.raises(KeyError):
        settle(server._handle_event_internal(server, "sid", "eio", ["ask"], "/", None))

    assert happened == [["ask"]]


def test_where_nothing_can_follow_that_is_said() -> None:
    assert not seams.follow_up_events(object(), print)


@SERVERS
def test_a_packet_of_a_client_comes_to_the_interceptor(make_server: MakeServer) -> None:
    """As python-socketio decodes it."""
    server, seen = make_server(), []
    server.on("ping_me", lambda sid, data=None: None)
    seams.intercept_events(server, lambda *packet: seen.append(packet))
    server.environ["eio"] = {}
    settle(server._handle_eio_message("eio", '25["ping_me",{"a":1}]'))
    settle(server._handle_eio_message("eio", '2/jobs,["connect",{}]'))
    assert seen == [("/", 5, ["ping_me", {"a": 1}]), ("/jobs", None, ["connect", {}])]


@SERVERS
def test_registered_handlers_and_classes_can_be_seen_and_later_ones_intercepted(make_server: MakeServer) -> None:
    server, registered = make_server(), []
    assert seams.handlers_of(server, "/") == {}
    assert seams.class_of(server, "/") is None

    def handler(sid: str) -> None: ...

    base = socketio.AsyncNamespace if seams.is_asyncio(server) else socketio.Namespace
    namespace = base("/")
    server.on("first", handler)
    server.register_namespace(namespace)
    assert seams.handlers_of(server, "/") == {"first": handler}
    assert seams.class_of(server, "/") is namespace

    seams.replace_registration(
        server, lambda event, *rest: registered.append(event) or (lambda function: function), registered.append
    )
    server.on("second", handler)

    @server.event
    def third(sid: str) -> None: ...

    server.register_namespace(namespace)
    assert registered == ["second", "third", namespace]


@SERVERS
def test_a_client_manager_is_started_once_and_again_in_a_child(make_server: MakeServer) -> None:
    server, started = make_server(), []
    server.manager.initialize = lambda: started.append(True)
    seams.initialize_manager(server)
    seams.initialize_manager(server)
    server.environ["eio"] = {}
    settle(server._handle_eio_connect("eio", {}))
    assert started == [True]
    seams.forget_initialization(server)
    settle(server._handle_eio_connect("eio", {}))
    assert started == [True, True]


def test_open_origins_are_seen() -> None:
    assert seams.allows_every_origin(socketio.Server(async_mode="threading", cors_allowed_origins="*"))
    assert not seams.allows_every_origin(sync_server())


@SERVERS
def test_clients_of_a_room_are_listed_in_the_public_way(make_server: MakeServer) -> None:
    manager = make_server().manager
    settle(manager.pre_connect("eio", "/"))
    assert [eio_sid for _, eio_sid in manager.get_participants("/", None)] == ["eio"]
    assert list(manager.get_namespaces()) == ["/"]


# -- Engine.IO ----------------------------------------------------------------------------------------------------


def connection(server: Any, eio_sid: str = "eio") -> Any:
    """Add an Engine.IO connection to a server, as Engine.IO would, and return it."""
    if seams.is_asyncio(server):

        async def made() -> Any:
            return AsyncSocket(server.eio, eio_sid)

        held = asyncio.run(made())
    else:
        held = Socket(server.eio, eio_sid)
    server.eio.sockets[eio_sid] = held
    return held


@SERVERS
def test_a_new_connection_is_noted_before_pythonsocketio_is_told(make_server: MakeServer) -> None:
    server, noted = make_server(), []
    connection(server)
    EngineSockets(server).watch(lambda eio_sid, _: noted.append((eio_sid, dict(server.environ))))
    assert server.eio.is_asyncio_based() == inspect.iscoroutinefunction(server.eio.handlers["connect"])
    settle(server.eio.handlers["connect"]("eio", {"a": 1}))
    assert noted == [("eio", {})]
    assert server.environ == {"eio": {"a": 1}}


@SERVERS
def test_the_request_of_a_websocket_leads_to_its_socket(make_server: MakeServer) -> None:
    server = make_server()
    sockets, held = EngineSockets(server), connection(server)
    sockets.watch(lambda eio_sid, _: None)
    here, there = socket.socketpair()
    seen = []

    def upgrade(environ: dict[str, Any], *rest: Any) -> str:
        sockets.drop("eio")
        seen.append(there.recv(1))
        return "upgraded"

    async def upgrade_async(environ: dict[str, Any]) -> str:
        return upgrade(environ)

    assert inspect.iscoroutinefunction(held._upgrade_websocket) == seams.is_asyncio(server)
    held._upgrade_websocket = upgrade_async if seams.is_asyncio(server) else upgrade
    settle(server.eio.handlers["connect"]("eio", {}))
    rest = () if seams.is_asyncio(server) else (None,)
    assert settle(held._upgrade_websocket({"werkzeug.socket": here}, *rest)) == "upgraded"
    assert seen == [b""]  # it was shut down
    assert "eio" not in sockets
    here.close()
    there.close()


@pytest.mark.parametrize("is_metered", [False, True])
def test_a_websocket_of_gevent_is_sent_whole_frames(is_metered: bool) -> None:
    """A frame that does not fit is not cut off, and two do not mix."""
    gevent, green = pytest.importorskip("gevent"), pytest.importorskip("gevent.socket")
    server = sync_server()
    sockets, held = EngineSockets(server), connection(server)
    here, there = green.socketpair()
    budget = Budget(Allowance.before_token(Limits.of(Settings())), "peer", lambda _: None)
    websocket = SimpleNamespace(ws=SimpleNamespace(sock=MeteredSocket(here, budget) if is_metered else here))

    def write(handled: Any) -> None:
        frames = [bytes([number]) * 1_000_000 for number in range(3)]
        writers = [gevent.spawn(handled.ws.sock.send, frame) for frame in frames]
        read = bytearray()
        while len(read) < 3_000_000:
            read += there.recv(100_000)
        assert [writer.get() for writer in writers] == [1_000_000] * 3
        assert read == b"".join(frames)

    held._websocket_handler = write
    sockets.watch(lambda eio_sid, _: None)
    settle(server.eio.handlers["connect"]("eio", {}))
    held._websocket_handler(websocket)
    assert websocket.ws.sock.fileno() == here.fileno()
    here.close()
    there.close()


@pytest.mark.parametrize(
    "websocket", [SimpleNamespace(), SimpleNamespace(ws=None), SimpleNamespace(ws=SimpleNamespace())]
)
def test_other_websockets_are_left_as_they_are(websocket: Any) -> None:
    server, handled = sync_server(), []
    held = connection(server)
    held._websocket_handler = handled.append
    EngineSockets(server).watch(lambda eio_sid, _: None)
    settle(server.eio.handlers["connect"]("eio", {}))
    held._websocket_handler(websocket)
    assert handled == [websocket]


@SERVERS
def test_a_connection_without_an_upgrade_to_watch_is_served_and_logged_once(
    make_server: MakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    server = make_server()
    for eio_sid in ("one", "two"):
        server.eio.sockets[eio_sid] = SimpleNamespace()
    EngineSockets(server).watch(lambda eio_sid, _: None)
    for eio_sid in ("one", "two"):
        settle(server.eio.handlers["connect"](eio_sid, {}))
    [record] = caplog.records
    assert "slow clients are not cut" in record.getMessage()


@SERVERS
def test_what_waits_for_a_client_is_counted_and_discarded(make_server: MakeServer) -> None:
    server = make_server()
    sockets, held = EngineSockets(server), connection(server)
    for number in range(5):
        held.queue.put_nowait(Packet(MESSAGE, data=str(number)))
    assert sockets.waiting("eio") == 5
    assert sockets.discard("eio") == 5
    assert (sockets.waiting("eio"), sockets.discard("eio")) == (0, 0)
    for item in ("late", None):  # the second ends the writer, which may not have begun yet
        held.queue.put_nowait(item)
    assert sockets.discard("eio") == 1
    assert held.queue.get_nowait() is None
    held.queue.task_done()
    assert (sockets.waiting("nobody"), sockets.discard("nobody")) == (0, 0)
    assert held.queue._unfinished_tasks == 0 if seams.is_asyncio(server) else held.queue.unfinished_tasks == 0


@SERVERS
def test_a_packet_that_another_thread_takes_first_is_no_error(make_server: MakeServer) -> None:
    server = make_server()
    sockets, held = EngineSockets(server), connection(server)
    empty = asyncio.QueueEmpty if seams.is_asyncio(server) else queue.Empty

    def taken() -> None:
        raise empty

    held.queue = SimpleNamespace(qsize=lambda: 1, get_nowait=taken)
    assert sockets.discard("eio") == 0


@SERVERS
def test_open_connections_are_those_that_are_not_closed(make_server: MakeServer) -> None:
    server = make_server()
    sockets = EngineSockets(server)
    assert not sockets.are_open()
    held = connection(server)
    assert sockets.are_open()
    assert "eio" in sockets
    settle(held.close(wait=False, abort=True))
    assert not sockets.are_open()


@SERVERS
def test_closing_a_connection_sends_a_close_packet_and_aborting_sends_none(make_server: MakeServer) -> None:
    server = make_server()
    sockets, closed, aborted = EngineSockets(server), connection(server), connection(server, "other")
    settle(sockets.close("eio"))

    def abort() -> Any:
        yield from sockets.abort("other")

    settle(wait(abort()) if seams.is_asyncio(server) else call(abort()))
    assert (closed.closed, aborted.closed) == (True, True)
    assert closed.queue.get_nowait().packet_type == engineio.packet.CLOSE
    assert aborted.queue.get_nowait() is None  # the writer's end
    assert aborted.queue.empty()
    assert sockets.close("nobody") is None


# -- web servers --------------------------------------------------------------------------------------------------


class Transport:
    """As an ASGI server's."""

    def __init__(self) -> None:
        self.is_aborted = False

    def abort(self) -> None:
        self.is_aborted = True


class Protocol:
    """As uvicorn's, whose methods are the ``receive`` and ``send`` of a request."""

    def __init__(self) -> None:
        self.transport = Transport()

    async def receive(self) -> None: ...


def environs(connection: Any) -> dict[str, dict[str, Any]]:
    """Return a request of each WSGI server, with this connection."""
    return {
        "werkzeug": {"werkzeug.socket": connection},
        "gunicorn": {"gunicorn.socket": connection},
        "eventlet": {"eventlet.input": SimpleNamespace(get_socket=lambda: connection)},
        "gevent": {"wsgi.input": SimpleNamespace(rfile=SimpleNamespace(raw=SimpleNamespace(_sock=connection)))},
    }


@pytest.mark.parametrize("server", environs(None))
def test_the_connection_of_a_wsgi_request_is_shut_down(server: str) -> None:
    here, there = socket.socketpair()
    sockets = EngineSockets(sync_server())
    assert sockets.cut(environs(here)[server])
    assert there.recv(1) == b""
    here.close()
    assert sockets.cut(environs(here)[server])  # closed by now, which is as well
    there.close()


def test_the_transport_of_an_asgi_request_is_aborted() -> None:
    protocol = Protocol()
    assert EngineSockets(async_server()).cut({"asgi.receive": protocol.receive, "asgi.send": None})
    assert protocol.transport.is_aborted


def test_a_web_server_that_shows_no_connection_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    sockets = EngineSockets(sync_server())
    assert [sockets.cut({"SERVER_SOFTWARE": "Other/1.0"}) for _ in range(3)] == [False] * 3
    [record] = caplog.records
    assert "Other/1.0" in record.getMessage()


def test_a_connection_that_cannot_be_cut_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    sockets = EngineSockets(sync_server())
    assert [sockets.cut({"eventlet.input": object()}) for _ in range(3)] == [False] * 3
    [record] = caplog.records
    assert "cannot cut the connection" in record.getMessage()


# -- what waits for clients ---------------------------------------------------------------------------------------


class Backlogged:
    """A server of Engine.IO's own sockets, with one client."""

    def __init__(self, held: Any) -> None:
        self.manager = socketio.Manager()
        self.server = socketio.Server(client_manager=self.manager, async_mode="threading")
        self.server.eio.sockets["eio"] = held
        self.manager.basic_enter_room("sid", "/", None, "eio")
        self.manager.basic_enter_room("sid", "/", "project:alpha", "eio")
        self.backlogs = ClientBacklogs(self.manager, "/")


def fill(held: Any) -> None:
    for text in ("twelve bytes", "six..."):
        held.queue.put_nowait(Packet(MESSAGE, text))
    held.queue.put_nowait(None)  # the writer's end


def threaded_socket() -> Any:
    return Socket(engineio.Server(async_mode="threading"), "eio")


async def asyncio_socket() -> Any:
    return AsyncSocket(engineio.AsyncServer(async_mode="asgi"), "eio")


@pytest.mark.parametrize("make", [threaded_socket, asyncio_socket])
def test_it_is_known_how_much_waits_for_a_client(make: Any) -> None:
    held = make()
    held = asyncio.run(held) if asyncio.iscoroutine(held) else held
    server = Backlogged(held)
    assert server.backlogs.backlog("eio") == (0, 0)

    fill(held)

    assert server.backlogs.packets_waiting("eio") == 3
    assert server.backlogs.backlog("eio") == (3, 18)


@pytest.mark.parametrize("kind", ["eventlet.queue", "gevent.queue"])
def test_it_is_known_how_much_waits_in_the_queues_of_green_threads(kind: str) -> None:
    module = pytest.importorskip(kind)
    held = threaded_socket()
    held.queue = module.Queue()

    fill(held)

    assert Backlogged(held).backlogs.backlog("eio") == (3, 18)


def test_of_a_queue_that_shows_nothing_only_the_packets_are_counted_which_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    held = threaded_socket()
    held.queue = queue.SimpleQueue()
    held.queue.put("packet")
    server = Backlogged(held)

    for _ in range(3):
        assert server.backlogs.backlog("eio") == (1, 0)

    assert len(logged_by(caplog, "celery_realtime.web")) == 1
    assert "only the packets" in caplog.text


def test_of_a_client_that_is_gone_nothing_waits() -> None:
    backlogs = Backlogged(threaded_socket()).backlogs

    assert backlogs.backlog(None) == (0, 0)
    assert backlogs.packets_waiting("another") == 0
    assert not backlogs.is_open("another")
    assert backlogs.is_open("eio")
    assert backlogs.eio_sid_of("another") is None
    assert backlogs.close("another") is None


def test_it_is_known_who_is_in_a_room() -> None:
    backlogs = Backlogged(threaded_socket()).backlogs

    assert backlogs.participants("/", "project:alpha") == [("sid", "eio")]
    assert backlogs.participants("/", None) == [("sid", "eio")]
    assert backlogs.participants("/", "project:beta") == []
    assert backlogs.is_in_room("sid", "/", "project:alpha")
    assert not backlogs.is_in_room("sid", "/", "project:beta")
    assert not backlogs.is_in_room("sid", "/jobs", "project:alpha")
    assert backlogs.eio_sid_of("sid") == "eio"


def test_a_socket_is_closed_without_a_farewell() -> None:
    server = Backlogged(threaded_socket())
    held = server.server.eio.sockets["eio"]

    server.backlogs.close("eio")

    assert held.closed
    assert held.queue.get_nowait() is None


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("unix:", "unix:"),
    ],
)
def test_whoever_has_a_network_of_version_6_is_one_peer(address: str, peer: str) -> None:
    assert seams.peer_of({"REMOTE_ADDR": address}) == peer
    assert seams.peer_of({"asgi.scope": {"client": (address, 1234)}}) == peer
