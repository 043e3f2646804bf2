"""The browser's token helper keeps a connection while tokens expire, and reconnects when one has expired."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.node_client import NodeClient, run_node
from tests.programs import CLIENT
from tests.web_servers import Web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.launcher import Launcher


def test_its_pauses_grow_up_to_a_bound() -> None:
    run_node("--test", str(CLIENT / "token.test.mjs"))


@pytest.fixture
def web(redis_url: str) -> Iterator[Web]:
    web = Web("sync", redis_url).attach().start()
    yield web
    web.stop()


@pytest.fixture
def page(launcher: Launcher, web: Web) -> Callable[..., NodeClient]:
    def open_page(*tokens: Any) -> NodeClient:
        options = {"folder": launcher.folder, "script": "token.mjs", "name": "token"}
        return launcher.start(NodeClient(web.url, json.dumps(tokens), "alpha", **options))

    return open_page


def names(page: NodeClient) -> list[str]:
    return [event for event, _ in page.events]


def test_a_page_that_renews_its_token_stays_connected(page: Callable[..., NodeClient], web: Web) -> None:
    first_expires_at = time.monotonic() + 10
    client = page(web.token(expires_in=10), web.token(expires_in=1000))
    client.wait(lambda events: names(client).count("fetched") == 2)
    client.wait(lambda events: time.monotonic() > first_expires_at + 2)
    web.emit("alpha", 1)
    client.wait(lambda events: "step" in names(client))
    assert "disconnect" not in names(client)


def test_a_page_that_cannot_get_a_token_in_time_comes_back_with_the_next(
    page: Callable[..., NodeClient], web: Web
) -> None:
    client = page(web.token(expires_in=10), None, None, None, None, None, web.token(expires_in=1000))
    client.wait(lambda events: names(client).count("connect") == 2)
    client.wait(lambda events: [data for event, data in events if event == "state"][-1] == "subscribed")
    web.emit("alpha", 1)
    client.wait(lambda events: "step" in names(client))


def test_a_page_whose_first_token_is_refused_tries_again(page: Callable[..., NodeClient], web: Web) -> None:
    client = page("ada:nonsense", None, web.token())
    client.wait(lambda events: "connect" in names(client))
    assert names(client).count("connect_error") == 2
