"""What is heavy is loaded once before a worker forks, and in a producer by the thread that sends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from celery_realtime import Realtime
from celery_realtime.exceptions import ImproperlyConfigured
from tests.recording import new_app

if TYPE_CHECKING:
    from tests.services import Broker

ROOT = Path(__file__).parents[2]

#: Records which thread loads each module that is heavy.
WATCH = """
import importlib.abc, json, os, sys, threading

HEAVY = ("socketio", "engineio", "redis", "celery_realtime.channel.kombu_manager", "celery_realtime.history.store")
loaded = {}

class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in HEAVY:
            loaded.setdefault(name, threading.current_thread().name)

sys.meta_path.insert(0, Watch())

from celery import Celery
from celery_realtime import Realtime
from celery_realtime.events import Outgoing
"""


def run(script: str, *arguments: str) -> Any:
    code = WATCH + textwrap.dedent(script)
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True, cwd=ROOT)
    return json.loads(done.stdout)


def test_the_thread_that_publishes_a_job_loads_no_pythonsocketio(rabbitmq_broker: Broker, redis_url: str) -> None:
    loaded = run(
        """
        app = Celery("studio", broker=sys.argv[1])
        realtime = Realtime(app, history_url=sys.argv[2])

        @app.task
        def transcribe():
            pass

        for _ in range(2):
            transcribe.apply_async(headers={"project_id": "alpha"})
        realtime.manager.emit_to_project("alpha", "line", {"text": "..."})
        assert realtime.flush(30)
        print(json.dumps(loaded))
        """,
        rabbitmq_broker.url,
        redis_url,
    )
    assert "socketio" in loaded
    assert "redis" in loaded
    assert set(loaded.values()) == {"celery-realtime-outbox"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_child_of_a_process_that_has_preloaded_loads_nothing_more(redis_broker: Broker, redis_url: str) -> None:
    before, new = run(
        """
        app = Celery("studio", broker=sys.argv[1])
        realtime = Realtime(app, history_url=sys.argv[2])
        realtime.manager.preload()
        before = [threading.active_count(), sorted(loaded)]
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            there = set(sys.modules)
            realtime.manager.emit_to_project("alpha", "line", {"text": "..."})
            assert realtime.flush(30)
            os.write(write, json.dumps(sorted(set(sys.modules) - there)).encode())
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        print(json.dumps([before, json.loads(os.read(read, 65536))]))
        """,
        redis_broker.url,
        redis_url,
    )
    assert before == [
        1,
        ["celery_realtime.channel.kombu_manager", "celery_realtime.history.store", "engineio", "redis", "socketio"],
    ]
    places = {name.partition(".")[0] for name in new}
    assert not places & {"socketio", "engineio", "redis", "kombu", "celery_realtime", "amqp"}, new


def test_a_child_that_was_not_forked_loads_nothing_of_it_before_it_is_up() -> None:
    names = run("""
        import pickle
        from celery import signals
        app = Celery("studio", broker="memory://")
        realtime = Realtime(app, history_url="redis://localhost:1/0")
        copy = pickle.loads(pickle.dumps(app))
        signals.worker_process_init.send(sender="w")
        assert copy.realtime is realtime and realtime.app is copy
        print(json.dumps(sorted(loaded)))
        """)
    assert names == []


def test_a_history_without_the_redis_client_is_refused_before_the_worker_starts() -> None:
    refusal = run("""
        sys.modules["redis"] = None
        app = Celery("studio", broker="memory://")
        realtime = Realtime(app, history_url="redis://localhost:1/0")
        try:
            realtime.manager.preload()
        except Exception as error:
            print(json.dumps([type(error).__name__, str(error)]))
        """)
    assert refusal[0] == "ImproperlyConfigured"
    assert "pip install celery-realtime[redis]" in refusal[1]


def test_preloading_opens_no_connection() -> None:
    realtime = Realtime(new_app(), url="amqp://localhost:1//", history_url="redis://localhost:1/0")
    realtime.manager.preload()
    realtime.manager.preload()


def test_preloading_names_a_history_that_cannot_be_used() -> None:
    realtime = Realtime(new_app(), url="memory://", history_url="redis://localhost:1/0?socket_timeout=soon")
    with pytest.raises(ImproperlyConfigured, match="realtime_history_url"):
        realtime.manager.preload()
