"""The same story on every host that a user may choose, in every pool, and in each wire format."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import sys
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration import jobs
from tests.integration.scenario import Scene, a_job_is_heard_from_beginning_to_end, play
from tests.integration.stage import Stage, new_project, producing
from tests.launcher import Launcher
from tests.processes import HOST, ROOT, ManagedProcess, accepts_connections, free_port, python_path
from tests.services import BROKERS, Broker
from tests.variants import any_broker, long_unless

PROGRAMS = Path(__file__).parent / "hosts"
POOLS = ["prefork", "threads", "solo", "eventlet", "gevent"]


@dataclass(frozen=True)
class Host:
    """How a user starts a web server, in the folder of its program.

    Args:
        command: What the documentation says.
        port: How the command is told where to listen, if not by the environment.
        page: Whether a web framework serves a page beside the socket.
    """

    command: str
    port: str = ""
    page: bool = False


GUNICORN, UVICORN = f" --bind {HOST}:", " --port "
HOSTS = {
    "flask-threading": Host("flask --app flask_threading run", " --port ", page=True),
    "flask-eventlet": Host("python flask_eventlet.py", page=True),
    "flask-gevent": Host("python flask_gevent.py", page=True),
    "gunicorn-gthread": Host("gunicorn --worker-class gthread --threads 100 wsgi_gthread:application", GUNICORN),
    "gunicorn-eventlet": Host("gunicorn --worker-class eventlet wsgi_eventlet:application", GUNICORN),
    "gunicorn-gevent": Host("gunicorn --worker-class gevent wsgi_gevent:application", GUNICORN),
    "gunicorn-asgi": Host("gunicorn --worker-class asgi asgi_plain:application", GUNICORN),
    "uvicorn": Host("uvicorn asgi_plain:application", UVICORN),
    "fastapi": Host("uvicorn asgi_fastapi:app", UVICORN, page=True),
    "starlette": Host("uvicorn asgi_starlette:app", UVICORN, page=True),
    "django": Host("uvicorn mysite.asgi:application", UVICORN, page=True),
}


class HostProcess(ManagedProcess):
    """A web server as a user starts it.

    Args:
        name: Which of ``HOSTS``.
        folder: Where its log goes.
        env: Added to this process's environment.
        options: More of the command.
    """

    def __init__(self, name: str, *, folder: Path, env: dict[str, str], options: str = "") -> None:
        host, port = HOSTS[name], free_port()
        self.url = f"http://{HOST}:{port}"
        where = f"{host.port}{port}" if host.port else ""
        program, *rest = f"{host.command}{where} {options}".split()
        start = [str(PROGRAMS / rest.pop(0))] if program == "python" else ["-m", program]
        own = {
            "PYTHONPATH": os.pathsep.join([str(PROGRAMS), python_path()["PYTHONPATH"]]),
            "PORT": str(port),
            "XDG_RUNTIME_DIR": str(folder),  # gunicorn makes a socket there, else in the user's home
        }
        super().__init__(
            [sys.executable, *start, *rest],
            folder=folder,
            name=f"{name}-{port}",
            env={**own, **env},
            cwd=folder,
            ready=lambda: accepts_connections(port),
        )


def is_missing(name: str) -> bool:
    """Tell whether this gunicorn lacks the worker class: eventlet's is gone from version 26 on."""
    return name == "gunicorn-eventlet" and importlib.util.find_spec("gunicorn.workers.geventlet") is None


def on_brokers(names: Iterable[str], wanted: Iterable[tuple[str, str]]) -> list[Any]:
    """Return each of the names with each kind of broker; those that are not wanted are left to ``make long``."""
    return long_unless(wanted, itertools.product(names, BROKERS))


#: Each kind of concurrency once on either broker: no host has a code path of its own for a broker. The sites of the
#: examples and tests/attacks run on further hosts, and test_missed_orders.py on eventlet.
HOSTS_ON = [
    *[("flask-threading", "redis"), ("gunicorn-gthread", "rabbitmq"), ("gunicorn-gevent", "redis")],
    *[("uvicorn", "rabbitmq"), ("gunicorn-asgi", "redis")],
]


@pytest.mark.parametrize(("name", "kind"), on_brokers([name for name in HOSTS if not is_missing(name)], HOSTS_ON))
def test_the_story_is_the_same_on_every_host(
    launcher: Launcher, shared_stage: Callable[..., Stage], name: str, kind: str
) -> None:
    web = launcher.start(HostProcess(name, folder=launcher.folder, env=shared_stage(kind).broker.env))

    play(Scene(launcher, web.url))

    if HOSTS[name].page:
        with urllib.request.urlopen(web.url, timeout=60) as page:
            assert b"hello" in page.read()


SEVERAL_ON = [("gunicorn-gevent", "redis"), ("uvicorn", "rabbitmq")]


@pytest.mark.parametrize(("name", "kind"), on_brokers(["gunicorn-gthread", "gunicorn-gevent", "uvicorn"], SEVERAL_ON))
def test_several_processes_serve_clients_that_never_poll(
    launcher: Launcher, shared_stage: Callable[..., Stage], name: str, kind: str
) -> None:
    env = shared_stage(kind).broker.env
    web = launcher.start(HostProcess(name, folder=launcher.folder, env=env, options="--workers 2"))
    scene, project = Scene(launcher, web.url), new_project()

    with contextlib.ExitStack() as stack:
        watchers = [stack.enter_context(scene.watcher(project, transports=["websocket"])) for _ in range(8)]
        job = scene.start(project, jobs.count, 3)
        assert [client.wait_for_end(job)["result"] for client in watchers] == [{"counted": 3}] * 8


#: Each kind of pool once: no pool has a code path of its own for a broker. On eventlet, test_shutdowns.py and
#: test_forked_workers.py run jobs.
POOLS_ON = [("prefork", "rabbitmq"), ("threads", "redis"), ("solo", "redis"), ("gevent", "redis")]


@pytest.mark.parametrize(("pool", "kind"), on_brokers(POOLS, POOLS_ON))
def test_the_story_is_the_same_in_every_pool(
    launcher: Launcher, shared_stage: Callable[..., Stage], pool: str, kind: str
) -> None:
    stage = shared_stage(kind, pool=pool)

    play(Scene(launcher, stage.web.url))


def test_the_documentation_shows_the_programs_and_the_commands_that_are_tested() -> None:
    page = (ROOT / "docs" / "servers.md").read_text()
    programs = [path for path in PROGRAMS.rglob("*.py") if "init_socketio" in path.read_text()]
    assert len(programs) == len(HOSTS) - 1  # gunicorn and uvicorn serve the same one
    assert [path.name for path in programs if f"```python\n{path.read_text()}```\n" not in page] == []
    assert [host.command for host in HOSTS.values() if host.command not in page.splitlines()] == []


# -- other ways to run a worker -----------------------------------------------------------------------------------


def test_without_history_events_carry_neither_epoch_nor_offset(launcher: Launcher, rabbitmq_broker: Broker) -> None:
    project = new_project()
    with producing(rabbitmq_broker, history_url=None):
        stage = Stage(launcher, rabbitmq_broker, env={"HISTORY": "off"})
        with stage.watch(project) as client, stage.connect("p") as other:
            job = jobs.count.apply_async((4, 0.05), headers={"project_id": project}).id
            assert client.wait_for_end(job)["result"] == {"counted": 4}
            client.wait_for_event("agent_progress", job_id=job, progress=100)
            assert not {"epoch", "offset"} & set().union(*(data for _, data in client.for_job(job)))
            assert other.subscribe("p") == {
                "ok": True,
                "project_id": "p",
                "epoch": None,
                "offset": None,
                "recovered": False,
                "jobs": [],
                "events": [],
                "jobs_total": 0,
                "workflows": [],
            }


@any_broker
def test_the_stock_wire_carries_the_same(launcher: Launcher, broker: Broker) -> None:
    with producing(broker):
        stage = Stage(launcher, broker, env={"WIRE": "stock"})
        a_job_is_heard_from_beginning_to_end(Scene(launcher, stage.web.url))


@any_broker  # in test_farewell.py, children end on both
def test_a_recycled_child_loses_nothing(launcher: Launcher, broker: Broker) -> None:
    project = new_project()
    with producing(broker):
        stage = Stage(launcher, broker, options=("--max-tasks-per-child", "2"))
        with stage.watch(project) as client:
            started = [jobs.count.apply_async((1, 0), headers={"project_id": project}).id for _ in range(20)]
            for job in started:  # Celery's pool takes most of a second to replace a child
                assert client.wait_for_end(job)["status"] == "success"


@any_broker  # in test_farewell.py, workers end on both
def test_a_warm_shutdown_loses_nothing(launcher: Launcher, broker: Broker) -> None:
    project = new_project()
    with producing(broker):
        stage = Stage(launcher, broker)
        with stage.watch(project) as client:
            job = jobs.count.apply_async((10, 0.05), headers={"project_id": project}).id
            client.wait_for_event("agent_status", job_id=job, status="running")
            stage.worker.stop()
            assert client.wait_for_end(job)["status"] == "success"
