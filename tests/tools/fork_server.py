"""Run Python modules in forks of one interpreter, which has imported what they import from other packages.

That takes most of the second that a worker or a web server needs to start. Of this package nothing is imported before
the fork. ``tests/forks.py`` starts a server and talks to it: a line of JSON for each request and for each answer.

``python -m tests.tools.fork_server gevent``, or ``eventlet``, patches the standard library first, as Celery does.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import sys
from os import close, fork, read, waitpid  # before gevent puts its own in their places, which need its loop
from typing import Any

# Not celery.worker.autoscale, which reads the environment when it is imported.
MODULES = (
    "amqp",
    "billiard.pool",
    "celery.apps.worker",
    "celery.backends.database",
    "celery.backends.redis",
    "celery.bin.celery",
    "celery.concurrency.prefork",
    "celery.concurrency.solo",
    "celery.concurrency.thread",
    "celery.fixups.django",
    "celery.loaders.app",
    "celery.worker.components",
    "celery.worker.consumer",
    "celery.worker.strategy",
    "flask_socketio",
    "itsdangerous",
    "kombu.transport.pyamqp",
    "kombu.transport.redis",
    "msgspec.json",
    "redis.asyncio",
    "simple_websocket",
    "starlette.applications",
    "starlette.responses",
    "starlette.routing",
    "uvicorn.lifespan.on",
    "uvicorn.protocols.http.auto",
    "uvicorn.protocols.websockets.auto",
)
PR_SET_PDEATHSIG = 1


def serve() -> dict[str, Any] | None:
    """Answer requests until there are no more. In the child of a fork, return what it is to run."""
    children: dict[int, int | None] = {}
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        if "poll" in request:
            _answer(_poll(children, request["poll"]))
            continue
        child = _fork(request)
        if child == 0:
            return request
        children[child] = None
        _answer(child)
    return None


def _answer(value: int | None) -> None:
    print(json.dumps(value), flush=True)


def _poll(children: dict[int, int | None], child: int) -> int | None:
    """Return how a child has ended, as ``subprocess.Popen`` does; None while it runs."""
    if children[child] is None:
        pid, status = waitpid(child, os.WNOHANG)
        children[child] = os.waitstatus_to_exitcode(status) if pid else None
    return children[child]


def _fork(request: dict[str, Any]) -> int:
    server, (is_ready, ready) = os.getpid(), os.pipe()
    child = fork()
    if child == 0:
        _become(request, server)
        close(is_ready)
        close(ready)  # which the server waits for
        return 0
    close(ready)
    read(is_ready, 1)
    close(is_ready)
    return child


def _become(request: dict[str, Any], server: int) -> None:
    """Make this process look like one that was started by itself, in a session of its own."""
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != server:
            sys.exit("the fork server has ended")
    for number, path, flags in ((0, os.devnull, os.O_RDONLY), *_outputs(request)):
        file = os.open(path, flags, 0o600)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.path[0] = request["cwd"]
    sys.path[1:1] = [path for path in request["env"].get("PYTHONPATH", "").split(os.pathsep) if path]


def _outputs(request: dict[str, Any]) -> list[tuple[int, str, int]]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return [(1, request["stdout"], flags), (2, request["stderr"], flags)]


def _run(arguments: list[str]) -> None:
    option, program, *rest = arguments
    sys.argv = [option, *rest]
    if option == "-c":
        exec(program, {"__name__": "__main__"})
    else:
        runpy._run_module_as_main(program)  # type: ignore[attr-defined]  # what `python -m` does itself


def _patch(pool: str) -> None:
    from celery import maybe_patch_concurrency

    maybe_patch_concurrency(["celery", "--pool", pool])


if __name__ == "__main__":
    _patch(sys.argv[1])
    for module in MODULES:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    request = serve()
    if request is not None:
        _run(request["arguments"])
