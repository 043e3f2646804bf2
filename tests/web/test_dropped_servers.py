"""Test that a server that nobody uses any more leaves nothing behind, and that one that somebody uses goes on."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import socketio
from celery import Celery

from celery_realtime import Realtime
from tests.processes import python_path
from tests.variants import long_unless
from tests.waiting import wait_for
from tests.web_servers import SECRET

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Brokers

NOTHING: dict[str, Any] = {"objects": [], "threads": [], "connections": 0}

#: How many apps are made in a process.
COUNT = 20


def stays_of(mode: str, broker: str, history: str, *, client: bool, count: int = COUNT) -> tuple[dict[str, Any], str]:
    """Return what stays of apps that were made and dropped, and what was said of it on standard error."""
    arguments = (mode, broker, history, str(count), "client" if client else "")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.web.dropped_servers", *arguments],
        env=python_path(),
        timeout=400,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


# Those that have had a client have had all that the others have.
@pytest.mark.parametrize(
    "client", [pytest.param(False, id="unused", marks=pytest.mark.long), pytest.param(True, id="used")]
)
# On threads, the test on a RabbitMQ shows it.
@pytest.mark.parametrize("mode", long_unless(["gevent", "asyncio"], ["threading", "gevent", "asyncio"]))
def test_a_factory_that_is_called_again_and_again_leaves_nothing_behind(
    mode: str, redis_url: str, *, client: bool
) -> None:
    if mode == "gevent":
        pytest.importorskip("gevent")
    left, said = stays_of(mode, redis_url, redis_url, client=client)

    assert left == {**NOTHING, **({"tasks": []} if mode == "asyncio" else {})}
    assert "Task was destroyed" not in said


@pytest.mark.parametrize("mode", long_unless(["threading"], ["threading", "gevent", "asyncio"]))
def test_so_it_does_on_a_rabbitmq(mode: str, brokers: Brokers, redis_url: str) -> None:
    if mode == "gevent":
        pytest.importorskip("gevent")
    left, _ = stays_of(mode, brokers.make("rabbitmq").url, redis_url, client=True)

    assert left == {**NOTHING, **({"tasks": []} if mode == "asyncio" else {})}


# -- what is used -------------------------------------------------------------------------------------------------


def serve(realtime: Realtime, *, is_asyncio: bool) -> Any:
    """Return the app that serves a server, which nobody else has."""
    if is_asyncio:
        server = socketio.AsyncServer(async_mode="asgi", client_manager=realtime.async_client_manager())
        realtime.init_socketio(server)
        return socketio.ASGIApp(server)
    server = socketio.Server(async_mode="threading", client_manager=realtime.client_manager())
    realtime.init_socketio(server)
    return socketio.WSGIApp(server)


def server_of(app: Any) -> Any:
    return app.engineio_server if isinstance(app, socketio.ASGIApp) else app.engineio_app


def manager_of(app: Any) -> Any:
    return server_of(app).manager


def hears_more(app: Any, publish: Callable[[], None]) -> None:
    """Check that an app that only the caller has hears what is published."""
    wait_for(lambda: gc.collect() is not None and manager_of(app).is_hearing)
    heard = manager_of(app).reader.messages
    publish()
    wait_for(lambda: gc.collect() is not None and manager_of(app).reader.messages > heard)


@pytest.fixture
def publish(redis_url: str) -> Callable[[], None]:
    realtime = Realtime(Celery("worker", broker=redis_url, set_as_current=False), history_url=None, secret_key=SECRET)
    return lambda: realtime.manager.emit_to_project("alpha", "line", {})


@pytest.mark.parametrize("is_asyncio", [False, True])
def test_a_server_that_only_its_web_app_has_goes_on_hearing(
    redis_url: str, publish: Callable[[], None], *, is_asyncio: bool
) -> None:
    def make() -> Any:
        celery = Celery("web", broker=redis_url, set_as_current=False)
        return serve(Realtime(celery, history_url=None, secret_key=SECRET), is_asyncio=is_asyncio)

    app = make()
    for _ in range(3):
        hears_more(app, publish)
    left = weakref.ref(server_of(app))
    del app
    wait_for(lambda: gc.collect() is not None and left() is None)


@pytest.mark.parametrize("is_asyncio", [False, True])
def test_of_one_realtime_with_many_servers_those_go_that_nobody_uses(
    redis_url: str, publish: Callable[[], None], *, is_asyncio: bool
) -> None:
    celery = Celery("web", broker=redis_url, set_as_current=False)
    realtime = Realtime(celery, history_url=redis_url, secret_key=SECRET)
    kept = serve(realtime, is_asyncio=is_asyncio)
    gone = [weakref.ref(manager_of(serve(realtime, is_asyncio=is_asyncio))) for _ in range(5)]

    wait_for(lambda: gc.collect() is not None and not any(one() for one in gone))
    hears_more(kept, publish)
