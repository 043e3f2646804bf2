"""A server that could never work is refused when it starts, in words that say what to write instead."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.forks import fork_server
from tests.processes import HOST, ROOT, free_port, python_path
from tests.variants import long_unless

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
#: What is refused is found in the same way for both; the hosts of tests/integration show eventlet served.
MODES = pytest.mark.parametrize("mode", long_unless(["gevent"], ["eventlet", "gevent"]))


class Ended(NamedTuple):
    """How a program ended."""

    returncode: int
    stdout: str
    stderr: str

    def refusal(self) -> str:
        """Check that it was refused, and return why."""
        assert "served" not in self.stdout
        assert self.returncode == 1
        kind, _, why = self.stderr.strip().splitlines()[-1].partition(": ")
        assert kind == "celery_realtime.exceptions.ImproperlyConfigured", self.stderr
        return why

    @property
    def served(self) -> bool:
        """Whether it was not refused."""
        assert (self.returncode, self.stdout) == (0, "served\n"), self.stderr
        return True


Run = Callable[[str], Ended]


def run(*arguments: str, **env: str) -> Ended:
    """Run an interpreter of its own, and return how it ended."""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        env={**os.environ, **python_path(), **env},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


@pytest.fixture
def in_fork(tmp_path: Path) -> Run:
    """Run a program in a fork of an interpreter that has imported what it imports, and return how it ended."""

    def run(program: str) -> Ended:
        stdout, stderr = tmp_path / "stdout", tmp_path / "stderr"
        env = {**os.environ, **python_path()}
        arguments = ["-c", "import warnings; warnings.simplefilter('ignore')\n" + program]
        returncode = fork_server().run(arguments, env=env, cwd=ROOT, stdout=stdout, stderr=stderr).wait(240)
        ended = Ended(returncode, stdout.read_text(), stderr.read_text())
        stdout.unlink()
        stderr.unlink()
        return ended

    return run


# -- green threads ------------------------------------------------------------------------------------------------


@MODES
def test_green_threads_in_a_patched_process_are_served(mode: str) -> None:
    assert run("-c", PATCHES[mode].format("") + TASKS + SERVE.format(mode=mode)).served


@MODES
def test_green_threads_may_be_patched_after_the_tasks_have_been_imported(mode: str) -> None:
    assert run("-c", TASKS + PATCHES[mode].format("") + SERVE.format(mode=mode)).served


@MODES
def test_green_threads_without_patches_are_refused(mode: str) -> None:
    why = run("-c", TASKS + SERVE.format(mode=mode)).refusal()

    assert "select, socket, threading, time" in why
    assert f"Begin the program with `{SAYS[mode]}`" in why
    assert "async_mode='threading'" in why


@MODES
@pytest.mark.parametrize("missing", long_unless(["thread"], ["select", "socket", "thread", "time"]))
def test_green_threads_with_a_patch_left_out_are_refused(in_fork: Run, mode: str, missing: str) -> None:
    patch = PATCHES[mode].format(f"{missing}=False")

    why = in_fork(patch + TASKS + SERVE.format(mode=mode)).refusal()

    assert f"are not patched: {missing.replace('thread', 'threading')}. Begin" in why
    assert SAYS[mode] in why


@pytest.mark.parametrize(
    ("mode", "patch"),
    [
        ("eventlet", "import eventlet; eventlet.monkey_patch(socket=True, select=True)\n"),
        ("gevent", "from gevent import monkey; monkey.patch_socket(); monkey.patch_select()\n"),
    ],
)
def test_green_threads_with_patched_sockets_alone_are_refused(in_fork: Run, mode: str, patch: str) -> None:
    assert "are not patched: threading, time." in in_fork(patch + TASKS + SERVE.format(mode=mode)).refusal()


@MODES
def test_a_client_manager_that_is_older_than_the_patches_is_refused(in_fork: Run, mode: str) -> None:
    early = "manager = realtime.client_manager()\n"
    serve = SERVE.format(mode=mode).replace("realtime.client_manager()", "manager")

    why = in_fork(TASKS + early + PATCHES[mode].format("") + serve).refusal()

    assert "made before the standard library was patched" in why
    assert SAYS[mode] in why


def test_the_patches_of_another_kind_do_not_count(in_fork: Run) -> None:
    why = in_fork(PATCHES["gevent"].format("") + TASKS + SERVE.format(mode="eventlet")).refusal()

    assert SAYS["eventlet"] in why


def test_a_mode_that_pythonsocketio_chose_by_itself_is_refused_with_the_one_to_ask_for(in_fork: Run) -> None:
    why = in_fork(TASKS + SERVE.format(mode=None)).refusal()

    assert "async_mode='eventlet'" in why  # it is installed
    assert "make the server with async_mode='threading'" in why


def test_threads_need_no_patches_and_may_have_them(in_fork: Run) -> None:
    serve = SERVE.format(mode="threading")

    assert in_fork(TASKS + serve).served
    assert in_fork(PATCHES["gevent"].format("") + TASKS + serve).served


@MODES
def test_a_worker_that_imports_the_web_server_is_not_refused(in_fork: Run, mode: str) -> None:
    worker = 'import sys; sys.argv[0] = "/usr/bin/celery"\n'

    assert in_fork(worker + TASKS + SERVE.format(mode=mode)).served


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
def test_a_server_that_would_never_hear_a_worker_is_refused(in_fork: Run, server: str, wanted: str) -> None:
    why = in_fork(TASKS + f"import socketio\n{server}\nrealtime.init_socketio(server)\nprint('served')\n").refusal()

    assert "receives no events from workers" in why
    assert f"make it with {wanted}" in why


@pytest.mark.parametrize(("channel", "fits"), [("flask-socketio", False), ("socketio", True)])
def test_a_stock_manager_on_another_channel_than_the_workers_is_refused(in_fork: Run, channel: str, fits: bool) -> None:
    program = (
        TASKS.replace("history_url=None", "history_url=None, wire='stock'")
        + FLASK
        + f"server = SocketIO(Flask('web'), message_queue='amqp://127.0.0.1:1//', channel={channel!r}, "
        + "async_mode='threading')\nrealtime.init_socketio(server)\nprint('served')\n"
    )
    if fits:
        assert in_fork(program).served
    else:
        why = in_fork(program).refusal()
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


#: One for each way in which a worker class can be wrong: too little for greenlets, for threads, and for asyncio.
MISFITS_SHOWN = ["eventlet in gthread", "threads in sync", "asyncio in gthread"]


@pytest.mark.parametrize("misfit", long_unless(MISFITS_SHOWN, MISFITS))
def test_a_worker_class_of_gunicorn_that_does_not_fit_is_refused(tmp_path: Path, misfit: str) -> None:
    worker, program, instead = MISFITS[misfit]
    (tmp_path / "tasks.py").write_text(TASKS)
    (tmp_path / "misfit.py").write_text(f"from tasks import realtime\n{program}\napplication = None\n")

    ended = gunicorn(tmp_path, worker)

    assert "served" not in ended.stdout
    assert ended.returncode == 3, ended.stderr
    assert f"celery_realtime.exceptions.ImproperlyConfigured: gunicorn's {worker} worker cannot serve" in ended.stderr
    assert instead in ended.stderr


def gunicorn(folder: Path, worker: str) -> Ended:
    """Let gunicorn load a program that is refused, and return how it ended."""
    command = f"-m gunicorn --worker-class {worker} --bind {HOST}:{free_port()} --chdir {folder} misfit:application"
    return run(*command.split(), XDG_RUNTIME_DIR=str(folder))  # there gunicorn has its control socket
