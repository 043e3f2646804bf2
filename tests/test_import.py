from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = [
    "socketio",
    "engineio",
    "redis",
    "flask",
    "flask_socketio",
    "fastapi",
    "celery_realtime.contrib",
    "prometheus_client",
    "rich",
    "aiohttp",
    "anywidget",
    "eventlet",
    "gevent",
]

WATCH = """
import json, sys, threading
sockets = []
def watch(event, args):
    if event in ("socket.__new__", "socket.connect", "socket.bind", "socket.getaddrinfo"):
        sockets.append(event)
sys.addaudithook(watch)
"""
TELL = """
loaded = sorted(name for name in %r if name in sys.modules)
print(json.dumps([loaded, [thread.name for thread in threading.enumerate()][1:], sockets]))
"""


def look_at(code: str) -> Any:
    """Run code in a new interpreter, and return what it loaded, the threads it started and the sockets it opened."""
    script = WATCH + textwrap.dedent(code) + TELL % HEAVY
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=240, check=True, cwd=ROOT
    )
    return json.loads(done.stdout)


def test_the_watch_itself_sees_what_it_is_to_see() -> None:
    loaded, threads, sockets = look_at("""
        import redis, socket
        threading.Thread(target=threading.Event().wait, name="worker", daemon=True).start()
        socket.socket().close()
    """)
    assert "redis" in loaded
    assert threads == ["worker"]
    assert "socket.__new__" in sockets


def test_importing_the_package_loads_no_service_and_does_nothing() -> None:
    assert look_at("import celery_realtime") == [[], [], []]


@pytest.mark.parametrize(
    ("broker", "backend"),
    [
        ("redis://localhost:1/0", "redis://localhost:1/1"),
        ("amqp://guest:guest@localhost:1//", "rpc://"),
        ("sentinel://localhost:1;sentinel://localhost:2", None),
        ("memory://", "cache+memory://"),
        (None, None),
    ],
)
def test_making_a_realtime_loads_no_service_and_opens_nothing(broker: str | None, backend: str | None) -> None:
    seen = look_at(f"""
        from celery import Celery
        from celery_realtime import Realtime
        app = Celery("studio", broker={broker!r}, backend={backend!r})
        Realtime(app, secret_key="a secret", project_resolver=lambda *call: None)

        @app.task(bind=True)
        def transcribe(self):
            self.update_progress(5)
    """)
    assert seen == [[], [], []]


def test_attaching_later_loads_no_service_and_opens_nothing_either() -> None:
    seen = look_at("""
        from celery import Celery
        from celery_realtime import Realtime, get_progress_tracker, get_socketio_manager
        realtime = Realtime()
        app = Celery("studio", broker="redis://localhost:1/0")
        app.config_from_object({"realtime_progress_interval": 1})
        realtime.init_app(app)
        get_socketio_manager().track_job_for_project("job_123", "project_456")
        get_progress_tracker("job_123")
        realtime.issue_token
        with realtime.project("project_456"):
            pass
        realtime.flush(0)
    """)
    assert seen == [[], [], []]


def test_the_handlers_are_there_when_they_are_asked_for() -> None:
    loaded, threads, _ = look_at("from celery_realtime import AsyncSocketIOEventHandlers, SocketIOEventHandlers")
    assert "socketio" in loaded
    assert "flask" not in loaded
    assert threads == []


def test_all_that_the_package_promises_is_there_and_nothing_else() -> None:
    import celery_realtime

    for name in celery_realtime.__all__:
        assert getattr(celery_realtime, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        celery_realtime.Nonsense  # noqa: B018 - reading it is the test
