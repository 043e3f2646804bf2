"""Eager tasks where there is no broker: no wait, and no word."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.app.trace import build_tracer

from celery_realtime import Realtime
from celery_realtime.events import outgoing_custom
from celery_realtime.sending.eager import Road, Servers
from celery_realtime.sending.ledger import Counts
from tests.recording import record

NOWHERE = ["redis://127.0.0.1:1/0", "amqp://127.0.0.1:1//", "amqp://127.0.0.1:1//;amqp://127.0.0.1:2//"]

PROGRAM = """
import sys
from celery import Celery
from celery_realtime import Realtime

app = Celery("studio", broker=sys.argv[1], backend="cache+memory://")
realtime = Realtime(app, flush_timeout=3600)

@app.task(bind=True)
def transcribe(self):
    self.update_progress(25, "Downloading")
    self.emit("line", {})

{call}
"""

#: Ways in which tests have their jobs run where they are called.
CALLS = {
    "always eager": 'app.conf.task_always_eager = True; transcribe.delay(project_id="p")',
    "eager for a while": """
app.conf.task_always_eager = True
transcribe.delay(project_id="p")
app.conf.task_always_eager = False
realtime.manager.emit_to_project("p", "notice", {})
""",
    "applied": 'transcribe.apply(headers={"project_id": "p"})',
}


def eager_app() -> Celery:
    app = Celery("studio", broker=NOWHERE[1], set_as_current=False)
    app.conf.task_always_eager = True
    return app


def noop() -> None: ...


@pytest.mark.parametrize(
    ("url", "call"), [*((url, "always eager") for url in NOWHERE), *((NOWHERE[0], call) for call in [*CALLS][1:])]
)
def test_a_program_ends_without_a_wait_or_a_line(url: str, call: str) -> None:
    command = [sys.executable, "-c", PROGRAM.replace("{call}", CALLS[call]), url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("how", ["delay", "apply"])
def test_all_is_dropped_and_counted(how: str) -> None:
    app = eager_app()
    app.conf.task_always_eager = how == "delay"
    realtime = Realtime(app)
    task = app.task(noop, name="noop", shared=False)
    task.delay(project_id="p") if how == "delay" else task.apply(headers={"project_id": "p"})
    assert realtime.flush(60)
    assert realtime.manager.counts["unreachable"] == 2


@pytest.mark.parametrize("first", ["a job", "a message"])
def test_where_jobs_come_and_go_by_messages_nothing_is_dropped(first: str) -> None:
    """A broker that is not there now may be back, and a job that applies another one is no test."""
    app = eager_app()
    app.conf.update(task_always_eager=False, broker_url="memory://")
    realtime = Realtime(app, url=NOWHERE[0])
    task = app.task(noop, name="noop", shared=False)
    if first == "a message":
        task.delay()
    else:
        build_tracer(task.name, task, app=app)("id", (), {}, {"id": "id", "task": task.name})
    task.apply(headers={"project_id": "p"})
    assert not realtime.flush(0.5)
    assert realtime.manager.counts["unreachable"] == 0
    realtime.manager.start_over()


def test_a_recorder_in_place_of_the_broker_gets_all() -> None:
    app = eager_app()
    realtime = Realtime(app)
    wire = record(realtime)
    app.task(noop, name="noop", shared=False).delay(project_id="p")
    assert realtime.flush(60)
    assert [sent.data["state"] for sent in wire.sent] == ["STARTED", "SUCCESS"]


@pytest.mark.parametrize(("urls", "there"), [([], True), (["memory://"], True), (NOWHERE[:1], False), (NOWHERE, False)])
def test_servers_are_asked_for_by_their_addresses(urls: list[str], there: bool) -> None:
    assert Servers(urls).are_there() is there


def test_of_several_addresses_one_is_enough() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert Servers([f"{NOWHERE[0]};redis://127.0.0.1:{server.getsockname()[1]}/0"]).are_there()
        assert Servers([f"redis+cluster://:p@127.0.0.1:1,127.0.0.1:{server.getsockname()[1]}/0"]).are_there()
    assert not Servers(["redis+cluster://127.0.0.1:1,127.0.0.1:2"]).are_there()


@pytest.mark.parametrize("scheme", ["redis+socket", "unix"])
def test_a_server_on_a_unix_socket_is_asked_there(tmp_path: Path, scheme: str) -> None:
    url = f"{scheme}://:p@{tmp_path}/a%20b?virtual_host=1"
    assert not Servers([url]).are_there()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{tmp_path}/a b")
        assert not Servers([url]).are_there()
        server.listen()
        assert Servers([url]).are_there()
    assert not Servers([url]).are_there()


@pytest.mark.parametrize(("host", "beside"), [("127.0.0.1", ("redis_port",)), ("", ("redis_host", "redis_port"))])
def test_a_history_that_is_not_all_in_its_url_is_asked_where_celery_has_it(host: str, beside: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = dict(zip(("redis_host", "redis_port"), server.getsockname(), strict=True))
        conf = {name: place[name] for name in beside}
        assert append_there(host, conf) == EVENTS
    assert append_there(host, conf) == []


def append_there(host: str, conf: dict[str, Any]) -> Any:
    """Append events of eager tasks to a history that takes all, at that host, if it is there."""
    app = Celery("studio", broker="memory://", backend=f"redis://{host}", set_as_current=False)
    app.conf.update(conf)
    realtime = Realtime(app)
    _, append = Road(lambda: realtime.settings, lambda: True).guard(len, lambda events: events, Counts())
    assert append is not None
    return append(EVENTS)


EVENTS = [outgoing_custom("line", {}, "p", None, 100)]
