"""A process that has imported what workers need but this package, and forks: ``python -m tests.deaths.zygote POOL``.

It reads a JSON object a line, and answers with a line: ``{"start": {"args": ..., "env": ..., "log": ...}}`` with the
pid of a child that has become ``celery`` with these arguments, ``{"reap": pid}`` with its exit code, or null while it
runs.
"""

from __future__ import annotations

# Those of the standard library, whatever the pool's library puts in their places later.
import ctypes
import gc
import json
import os
import signal
import sys
from os import fork, read, waitpid, write
from typing import Any

from celery import maybe_patch_concurrency

PR_SET_PDEATHSIG = 1


def warm_up(pool: str) -> None:
    """Import in the order of ``celery worker``: what a green pool patches comes first."""
    maybe_patch_concurrency(["celery", "--pool", pool])
    import celery.apps.worker
    import celery.backends.database
    import celery.backends.redis
    import celery.bin.celery
    import celery.bin.worker
    import celery.concurrency
    import celery.worker.autoscale
    import celery.worker.components
    import celery.worker.consumer
    import kombu.transport.pyamqp
    import kombu.transport.redis
    import msgspec
    import psutil
    import socketio

    celery.concurrency.get_implementation(pool)
    del msgspec, psutil, socketio, kombu


def serve() -> dict[str, Any] | None:
    """Do what is asked for until nobody asks any more; return in a child what it is to be."""
    waiting = b""
    while chunk := read(0, 65536):
        *lines, waiting = (waiting + chunk).split(b"\n")
        for line in lines:
            request = json.loads(line)
            if "reap" in request:
                answer(exit_code(request["reap"]))
            elif fork() == 0:
                start: dict[str, Any] = request["start"]
                return start
    return None


def answer(value: int | None) -> None:
    write(1, json.dumps(value).encode() + b"\n")


def exit_code(pid: int) -> int | None:
    ended, status = waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def become(start: dict[str, Any]) -> None:
    """Be a program in a session of its own: once it has answered, its group can be killed."""
    os.setsid()
    answer(os.getpid())
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    log = os.open(start["log"], os.O_WRONLY | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, place in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, place)
    os.close(log)
    os.close(nothing)
    os.environ.update(start["env"])
    sys.argv[:] = ["celery", *start["args"]]


def main() -> None:
    warm_up(sys.argv[1])
    gc.freeze()
    answer(None)
    start = serve()
    if start is None:
        return
    become(start)
    from celery.bin.celery import main as celery

    sys.exit(celery())


if __name__ == "__main__":
    main()
