"""Eager tasks where there is no broker: no wait, and no word."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
from celery import Celery
from celery.app.trace import build_tracer

from celery_realtime import Realtime
from celery_realtime.sending.eager import Servers
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
