"""All clients of a server are pinged from one place, as Engine.IO would."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.attacks.raw import Raw, handshake
from tests.waiting import wait_for

if TYPE_CHECKING:
    from tests.web_servers import Web


def quickly(web: Web) -> Web:
    web.server.eio.ping_interval = 0.3
    web.server.eio.ping_timeout = 1.0
    return web


def test_clients_are_pinged_again_and_again_and_answer(make_web: Callable[..., Web]) -> None:
    web = quickly(make_web().attach()).start()
    clients = [Raw(web.url).enter(web.token()) for _ in range(2)]
    for client in clients:
        for _ in range(3):
            client.wait_for("2")
    assert '"ok":true' in clients[0].ask("subscribe_project", {"project_id": "alpha"})
    for client in clients:
        client.close()


def test_a_client_that_answers_no_ping_is_closed(make_web: Callable[..., Web]) -> None:
    web = quickly(make_web().attach()).start()
    client = Raw(web.url).enter(web.token())
    for message in client.messages():
        assert message != "hello"  # pings are not answered
    wait_for(lambda: not web.handlers.clients())


def test_connections_that_have_gone_keep_no_thread_and_are_forgotten(make_web: Callable[..., Web]) -> None:
    web = make_web(connect_timeout=1).attach()
    web.server.eio.ping_interval = 3.0
    web.start()
    before = threading.active_count()
    for _ in range(40):
        handshake(web.url)
    assert web.handlers.housekeeper.pings.waiting == 40
    assert sum("_send_ping" in thread.name for thread in threading.enumerate()) == 0
    assert threading.active_count() < before + 20
    wait_for(lambda: not web.server.eio.sockets, timeout=20)
    gc.collect()
    wait_for(lambda: not web.handlers.housekeeper.pings.waiting, timeout=20)
