"""A server that could never work is refused when it starts, in words that say what to write instead."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import HOST, free_port, python_path

#: A broker that nobody listens at, and nobody has to: what is refused is refused before.
TASKS = """
from celery import Celery
from celery_realtime import ImproperlyConfigured, Realtime

app = Celery("web", broker="redis://127.0.0.1:1/0")
realtime = Realtime(app, history_url=None, secret_key="a secret of the tests")
"""
SERVE = """
import socketio

server = socketio.Server(async_mode={mode!r}, client_manager=realtime.client_manager())
realtime.init_socketio(server)
print("served")
"""
FLASK = """
from flask import Flask
from flask_socketio import SocketIO
"""
PATCHES = {
    "eventlet": "import eventlet; eventlet.monkey_patch({})\n",
    "gevent": "from gevent import monkey; monkey.patch_all({})\n",
}
SAYS = {mode: patch.format("").strip() for mode, patch in PATCHES.items()}
MODES = pytest.mark.parametrize("mode", ["eventlet", "gevent"])


def run(program: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a program in an interpreter of its own, and return how it ended."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", *(arguments or ("-c", program))],
        env={**os.environ, **python_path(), **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refused(program: str) -> str:
    """Run a program that is refused, and return why."""
    ended = run(program)
    assert "served" not in ended.stdout
    assert ended.returncode == 1
    kind, _, why = ended.stderr.strip().splitlines()[-1].partition(": ")
    assert kind == "celery_realtime.exceptions.ImproperlyConfigured", ended.stderr
    return why


def served(program: str) -> bool:
    ended = run(program)
    assert (ended.returncode, ended.stdout) == (0, "served\n"), ended.stderr
    return True


# -- green threads ------------------------------------------------------------------------------------------------


@MODES
def test_green_threads_in_a_patched_process_are_served(mode: str) -> None:
    assert served(PATCHES[mode].format("") + TASKS + SERVE.format(mode=mode))


@MODES
def test_green_threads_may_be_patched_after_the_tasks_have_been_imported(mode: str) -> None:
    assert served(TASKS + PATCHES[mode].format("") + SERVE.format(mode=mode))


@MODES
def test_green_threads_without_patches_are_refused(mode: str) -> None:
    why = refused(TASKS + SERVE.format(mode=mode))

    assert "select, socket, threading, time" in why
    assert f"Begin the program with `{SAYS[mode]}`" in why
    assert "async_mode='threading'" in why


@MODES
@pytest.mark.parametrize("missing", ["select", "socket", "thread", "time"])
def test_green_threads_with_a_patch_left_out_are_refused(mode: str, missing: str) -> None:
    patch = PATCHES[mode].format(f"{missing}=False")

    why = refused(patch + TASKS + SERVE.format(mode=mode))

    assert f"are not patched: {missing.replace('thread', 'threading')}. Begin" in why
    assert SAYS[mode] in why


@pytest.mark.parametrize(
    ("mode", "patch"),
    [
        ("eventlet", "import eventlet; eventlet.monkey_patch(socket=True, select=True)\n"),
        ("gevent", "from gevent import monkey; monkey.patch_socket(); monkey.patch_select()\n"),
    ],
)
def test_green_threads_with_patched_sockets_alone_are_refused(mode: str, patch: str) -> None:
    assert "are not patched: threading, time." in refused(patch + TASKS + SERVE.format(mode=mode))


@MODES
def test_a_client_manager_that_is_older_than_the_patches_is_refused(mode: str) -> None:
    early = "manager = realtime.client_manager()\n"
    serve = SERVE.format(mode=mode).replace("realtime.client_manager()", "manager")

    why = refused(TASKS + early + PATCHES[mode].format("") + serve)

    assert "made before the standard library was patched" in why
    assert SAYS[mode] in why


def test_the_patches_of_another_kind_do_not_count() -> None:
    why = refused(PATCHES["gevent"].format("") + TASKS + SERVE.format(mode="eventlet"))

    assert SAYS["eventlet"] in why


def test_a_mode_that_pythonsocketio_chose_by_itself_is_refused_with_the_one_to_ask_for() -> None:
    why = refused(TASKS + SERVE.format(mode=None))

    assert "async_mode='eventlet'" in why  # it is installed
    assert "make the server with async_mode='threading'" in why


def test_threads_need_no_patches_and_may_have_them() -> None:
    serve = SERVE.format(mode="threading")

    assert served(TASKS + serve)
    assert served(PATCHES["gevent"].format("") + TASKS + serve)


@MODES
def test_a_worker_that_imports_the_web_server_is_not_refused(mode: str) -> None:
    worker = 'import sys; sys.argv[0] = "/usr/bin/celery"\n'

    assert served(worker + TASKS + SERVE.format(mode=mode))


# -- client managers that hear nothing ----------------------------------------------------------------------------

QUEUE = "redis://127.0.0.1:1/0"
SYNC = "client_manager=realtime.client_manager()"
ASYNC = "client_manager=realtime.async_client_manager()"
DEAF = {
    "message_queue": (
        FLASK + f"server = SocketIO(Flask('web'), message_queue={QUEUE!r}, async_mode='threading')",
        SYNC,
    ),
    "no manager": (FLASK + "server = SocketIO(Flask('web'), async_mode='threading')", SYNC),
    "RedisManager": (
        f"server = socketio.Server(client_manager=socketio.RedisManager({QUEUE!r}), async_mode='threading')",
        SYNC,
    ),
    "KombuManager": (
        f"server = socketio.Server(client_manager=socketio.KombuManager({QUEUE!r}), async_mode='threading')",
        SYNC,
    ),
    "async manager": (
        "server = socketio.Server(client_manager=realtime.async_client_manager(), async_mode='threading')",
        SYNC,
    ),
    "asyncio, no manager": ("server = socketio.AsyncServer(async_mode='asgi')", ASYNC),
    "asyncio, AsyncRedisManager": (
        f"server = socketio.AsyncServer(client_manager=socketio.AsyncRedisManager({QUEUE!r}), async_mode='asgi')",
        ASYNC,
    ),
    "asyncio, KombuManager": (
        f"server = socketio.AsyncServer(client_manager=socketio.KombuManager({QUEUE!r}), async_mode='asgi')",
        ASYNC,
    ),
    "asyncio, sync manager": (
        "server = socketio.AsyncServer(client_manager=realtime.client_manager(), async_mode='asgi')",
        ASYNC,
    ),
}


@pytest.mark.parametrize(("server", "wanted"), DEAF.values(), ids=DEAF)
def test_a_server_that_would_never_hear_a_worker_is_refused(server: str, wanted: str) -> None:
    why = refused(TASKS + f"import socketio\n{server}\nrealtime.init_socketio(server)\nprint('served')\n")

    assert "receives no events from workers" in why
    assert f"make it with {wanted}" in why


@pytest.mark.parametrize(("channel", "fits"), [("flask-socketio", False), ("socketio", True)])
def test_a_stock_manager_on_another_channel_than_the_workers_is_refused(channel: str, fits: bool) -> None:
    program = (
        TASKS.replace("history_url=None", "history_url=None, wire='stock'")
        + FLASK
        + f"server = SocketIO(Flask('web'), message_queue='amqp://127.0.0.1:1//', channel={channel!r}, "
        + "async_mode='threading')\nrealtime.init_socketio(server)\nprint('served')\n"
    )
    if fits:
        assert served(program)
    else:
        why = refused(program)
        assert "listens to the channel 'flask-socketio', and the workers publish on 'socketio'" in why
        assert SYNC in why


# -- gunicorn -----------------------------------------------------------------------------------------------------

ASGI = """
import socketio

server = socketio.AsyncServer(async_mode="asgi", client_manager=realtime.async_client_manager())
realtime.init_socketio(server)
print("served")
"""
THREADS = "a socketio.Server with async_mode='threading'"
MISFITS = {
    "threads in sync": ("sync", SERVE.format(mode="threading"), "--worker-class gthread --threads 100, or make "),
    "eventlet in gthread": ("gthread", PATCHES["eventlet"].format("") + SERVE.format(mode="eventlet"), THREADS),
    "eventlet in gevent": ("gevent", SERVE.format(mode="eventlet"), THREADS.replace("threading", "gevent")),
    "gevent in gthread": (
        "gthread",
        PATCHES["gevent"].format("") + SERVE.format(mode="gevent"),
        f"start gunicorn with --worker-class gevent, or make {THREADS}",
    ),
    "gevent in sync": ("sync", PATCHES["gevent"].format("") + SERVE.format(mode="gevent"), "--worker-class gevent, or"),
    "asyncio in gthread": ("gthread", ASGI, f"--worker-class asgi, or make {THREADS}"),
    "threads in asgi": ("asgi", SERVE.format(mode="threading"), "100, or make a socketio.AsyncServer"),
}


@pytest.mark.parametrize(("worker", "program", "instead"), MISFITS.values(), ids=MISFITS)
def test_a_worker_class_of_gunicorn_that_does_not_fit_is_refused(
    tmp_path: Path, worker: str, program: str, instead: str
) -> None:
    (tmp_path / "tasks.py").write_text(TASKS)
    (tmp_path / "misfit.py").write_text(f"from tasks import realtime\n{program}\napplication = None\n")

    ended = gunicorn(tmp_path, worker)

    assert "served" not in ended.stdout
    assert ended.returncode == 3, ended.stderr
    assert f"celery_realtime.exceptions.ImproperlyConfigured: gunicorn's {worker} worker cannot serve" in ended.stderr
    assert instead in ended.stderr


def gunicorn(folder: Path, worker: str) -> subprocess.CompletedProcess[str]:
    """Let gunicorn load a program that is refused, and return how it ended."""
    command = f"-m gunicorn --worker-class {worker} --bind {HOST}:{free_port()} --chdir {folder} misfit:application"
    return run("", *command.split(), XDG_RUNTIME_DIR=str(folder))  # there gunicorn has its control socket
