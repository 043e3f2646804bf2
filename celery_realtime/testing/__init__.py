"""pytest fixtures for projects that use celery_realtime; pytest finds them by itself.

Nothing is loaded before a test asks for a fixture: neither Celery nor what the fixtures need.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from celery_realtime.testing.lossy_proxy import LossyProxy
    from celery_realtime.testing.recorded import RecordedEvent, RecordedEvents
    from celery_realtime.testing.redis_server import EmbeddedRedis
    from celery_realtime.testing.server import RealtimeServer

__all__ = ["LossyProxy", "RealtimeServer", "RecordedEvent", "RecordedEvents"]

#: Where each public name is.
_HOMES = {
    "LossyProxy": "lossy_proxy",
    "RealtimeServer": "server",
    "RecordedEvent": "recorded",
    "RecordedEvents": "recorded",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


@pytest.fixture
def realtime_events(request: pytest.FixtureRequest) -> Iterator[RecordedEvents]:
    """Record what every Realtime of this process reports, in place of sending it: no broker, no Redis, no thread."""
    if "realtime_server" in request.fixturenames:
        raise pytest.UsageError("realtime_events takes the events that realtime_server is to send: use one of them")
    from celery_realtime.testing.recorded import RecordedEvents
    from celery_realtime.testing.recording import recording

    events = RecordedEvents()
    with recording(events):
        yield events


@pytest.fixture(scope="session")
def _realtime_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    from celery_realtime.testing.redis_server import EmbeddedRedis

    with EmbeddedRedis(tmp_path_factory.mktemp("realtime-redis")) as redis:
        yield redis


@pytest.fixture
def realtime_server(_realtime_redis: EmbeddedRedis) -> Iterator[RealtimeServer]:
    """Serve what every Realtime of this process reports, with a history, on a web server and a Redis of the tests'."""
    from celery_realtime.testing.server import RealtimeServer

    with RealtimeServer(_realtime_redis.fresh_url()) as server:
        yield server


@pytest.fixture
def lossy() -> Iterator[Callable[..., LossyProxy]]:
    """Return what makes a :class:`LossyProxy` in front of a web server; it ends with the test."""
    from celery_realtime.testing.lossy_proxy import LossyProxy

    with contextlib.ExitStack() as stack:

        def make(url: str, **chances: Any) -> LossyProxy:
            return stack.enter_context(LossyProxy(url, **chances))

        yield make
