"""A process with a lease that is renewed beside it: ``python -m tests.sending.lease_holder URL KEY [fork | exec]``.

Says the process id of its helper, and waits. With ``fork``, a process that it has forked behind Python's back holds all
its pipes open, and outlives it. With ``exec`` it becomes another program after a line of input.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from celery_realtime.history.lease_helper import Renewal
from celery_realtime.sending.green_lease import ProcessHelper
from celery_realtime.urls import RedisAddress


def main() -> None:
    url, key, *how = sys.argv[1:]
    helper = ProcessHelper(Renewal(RedisAddress(url), "return redis.call('INCR', KEYS[1])", [key], [], 0.2))
    other = ctypes.CDLL(None).fork() if how == ["fork"] else -1
    if other != 0:
        sys.stdout.write(f"{helper.pid} {other}\n")
        sys.stdout.flush()
    if how == ["exec"]:
        sys.stdin.readline()
        os.execv("/bin/sleep", ["sleep", "60"])
    signal.pause()
    os._exit(0)


if __name__ == "__main__":
    main()
