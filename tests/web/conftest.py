"""Web servers of each kind in turn: one that the tests of a module share, and others with rules of a test's own."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.web_servers import Web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.services import RedisServer
    from tests.web_servers import Kind


@pytest.fixture(params=["sync", "asgi"], scope="module")
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    return chosen


@pytest.fixture(scope="module")
def shared_web(kind: Kind, results_server: RedisServer) -> Iterator[Web]:
    web = Web(kind, results_server.fresh_url()).attach().start()
    yield web
    web.stop()


@pytest.fixture
def web(shared_web: Web) -> Iterator[Web]:
    """A web server that lets in everybody who has a signed token."""
    yield shared_web
    shared_web.reset()


@pytest.fixture
def web_settings() -> dict[str, Any]:
    """The settings that the web servers of a module have beside those of ``Web``."""
    return {}


@pytest.fixture
def make_web(kind: Kind, redis_url: str, web_settings: dict[str, Any]) -> Iterator[Callable[..., Web]]:
    """Make web servers of the test's own on one broker, to be attached and started by the test."""
    with ExitStack() as made:

        def make(**settings: Any) -> Web:
            web = Web(kind, redis_url, **{**web_settings, **settings})
            made.callback(web.stop)
            return web

        yield make


@pytest.fixture
def serve(make_web: Callable[..., Web]) -> Callable[..., Web]:
    """Start a web server with rules."""

    def serve(**rules: Any) -> Web:
        return make_web().attach(**rules).start()

    return serve
