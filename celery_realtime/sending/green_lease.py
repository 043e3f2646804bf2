"""Renew the lease of a worker whose tasks may compute for longer than a lease lasts, from a process beside it.

In a gevent or eventlet worker all threads are greenlets, that of the keeper too. While a task computes without waiting
for anything, none of them runs, and the lease would lapse although the worker lives.

Why a process, and not a thread: a real thread runs beside the greenlets, but much of what computes is written in C and
holds the interpreter's lock for as long as it takes (``sum(range(10**10))``, a regular expression), and then no thread
runs either. And the locks in logging and redis-py are patched too, of which eventlet's break when two real threads meet
at one.

Why a new interpreter, and not a fork: a fork inherits greenlets of the application, sockets, and locks as they then
are; and since Python counts references inside of objects, it comes to cost as much memory again as the worker had when
it forked. The new one loads redis-py and nothing of the application: 20 MB for each gevent or eventlet worker, whatever
its concurrency.

It ends with its worker, whatever ends that one: the pipe that it reads ends then. Should another process hold the pipe
open (a fork of the worker that Python knows nothing of), it has another parent from then on, and looks at that before
each renewal. ``PR_SET_PDEATHSIG`` would add nothing, and take something away: it watches the thread that has started
the helper, which in an embedded worker may end while the process lives.

Some options of a connection cannot be copied into another process, such as an ``ssl.SSLContext``. They leave only a
real thread, with what it cannot do.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import pickle
import sys
import threading
from collections import deque
from pathlib import Path
from typing import Protocol

from celery_realtime.clocks import time
from celery_realtime.forks import after_fork
from celery_realtime.history.lease_helper import Renewal, Renewer
from celery_realtime.logs import RateLimitedLogger, describe
from celery_realtime.loops import BackgroundLoop, start_detached
from celery_realtime.sending.seams import start_real_thread

logger = logging.getLogger(__name__)

#: Seconds that the helper has to end when its worker does so in order.
FAREWELL = 1.0

#: What the new interpreter begins with. The package's own ``__init__`` would load Celery, which is not needed.
_BOOTSTRAP = """
import importlib.util, pickle, sys
package, folder, sys.path[:], module, order = pickle.load(sys.stdin.buffer)
spec = importlib.util.spec_from_file_location(package, folder + "/__init__.py", submodule_search_locations=[folder])
sys.modules[package] = importlib.util.module_from_spec(spec)
importlib.import_module(module).serve(*pickle.loads(order))
"""

_NO_COPY = (pickle.PicklingError, TypeError, AttributeError)


class HelperError(Exception):
    """The lease was not renewed from beside the worker."""


class Helper(Protocol):
    """Renews a lease beside a worker."""

    def outcomes(self) -> list[str] | None:
        """Return why renewals since the last call failed, an empty text for each that did not; None if it has ended."""

    def stop(self) -> None:
        """End it."""


class GreenLease:
    """Has the lease of a gevent or eventlet worker renewed beside it, and looks after what does so.

    Args:
        renewal: What renews the lease.

    Attributes:
        loop: The record of the renewals, for health checks.
    """

    def __init__(self, renewal: Renewal) -> None:
        self._renewal = renewal
        self._log = RateLimitedLogger(logger)
        self.loop = BackgroundLoop("lease helper", logger, longest=renewal.pause * 2 + 30.0)
        self._stopping = threading.Event()
        self._has_renewed = False
        self._helper: Helper | None = None

    def start(self) -> None:
        """Start the helper, and look after it until :meth:`stop`."""
        self._helper = self._new_helper()
        start_detached(threading.Thread(target=self._watch, name="celery-realtime-lease-helper", daemon=True))

    def stop(self) -> None:
        """End the helper."""
        self._stopping.set()
        helper, self._helper = self._helper, None
        if helper is not None:
            helper.stop()

    def _new_helper(self) -> Helper:
        try:
            return ProcessHelper(self._renewal)
        except (OSError, *_NO_COPY) as error:
            return self._new_thread(describe(error))

    def _new_thread(self, reason: str) -> Helper:
        self._log.warning(
            "no process can renew this worker's lease beside it (%s), so a thread does, and a task that computes in"
            " C code for longer than the lease lasts is reported as lost until it comes back; raise "
            "realtime_lost_after if there are such tasks",
            reason,
        )
        return ThreadHelper(self._renewal)

    def _watch(self) -> None:
        while not self._stopping.wait(self._renewal.pause):
            helper = self._helper
            outcomes = [] if helper is None else helper.outcomes()
            for outcome in ["the helper has ended, and is started again"] if outcomes is None else outcomes:
                self._note(outcome)
            if outcomes is None:
                self._replace()

    def _note(self, outcome: str) -> None:
        with self.loop.turn():
            if outcome:
                raise HelperError(outcome)
            self._has_renewed = True

    def _replace(self) -> None:
        ended, self._helper = self._helper, None
        if ended is not None:
            ended.stop()
        # One that has not come as far as a renewal would not the next time either: this may be no Python's executable.
        helper = self._new_helper() if self._has_renewed else self._new_thread("it ended at once")
        if self._stopping.is_set():
            helper.stop()
        else:
            self._helper = helper


class ProcessHelper:
    """A process that renews a lease for as long as this one lives.

    What gevent and eventlet patch in ``os`` is not used, since it would wait in the event loop.

    Args:
        renewal: What it does.

    Raises:
        OSError: It cannot be started.
        pickle.PicklingError, TypeError, AttributeError: An option of the connection cannot be copied.
    """

    def __init__(self, renewal: Renewal) -> None:
        order = _order(renewal)
        self._posix = importlib.import_module("posix")
        self._unread = b""
        read_here, write_there = os.pipe()
        read_there, self._to_helper = os.pipe()
        self._from_helper = read_here
        os.set_blocking(read_here, False)
        try:
            self.pid = self._spawn(read_there, write_there)
        except OSError:
            self._close()
            raise
        finally:
            self._posix.close(read_there)
            self._posix.close(write_there)
        after_fork(self._close)  # a child that holds the pipe open would keep the helper from noticing the end
        with contextlib.suppress(BrokenPipeError):
            self._posix.write(self._to_helper, order)

    def _spawn(self, read: int, write: int) -> int:
        arguments = [sys.executable, "-I", "-S", "-c", _BOOTSTRAP, "celery-realtime lease helper"]
        actions = [(os.POSIX_SPAWN_DUP2, read, 0), (os.POSIX_SPAWN_DUP2, write, 1)]
        return os.posix_spawn(sys.executable, arguments, os.environ, file_actions=actions)

    def outcomes(self) -> list[str] | None:
        """Return why renewals since the last call failed, an empty text for each that did not; None if it has ended."""
        try:
            read = self._posix.read(self._from_helper, 65536)
        except BlockingIOError:
            return []
        if not read:
            return None
        *lines, self._unread = (self._unread + read).split(b"\n")
        return [line.decode(errors="replace") for line in lines]

    def stop(self) -> None:
        """Let it end, and wait for that a moment, so that no zombie is left."""
        self._close()
        deadline = time.monotonic() + FAREWELL
        with contextlib.suppress(ChildProcessError):  # somebody else has waited for all children of this process
            while self._posix.waitpid(self.pid, os.WNOHANG) == (0, 0) and time.monotonic() < deadline:
                time.sleep(0.01)

    def _close(self) -> None:
        ends, self._to_helper, self._from_helper = (self._to_helper, self._from_helper), -1, -1
        for end in ends:
            if end >= 0:
                self._posix.close(end)


def _order(renewal: Renewal) -> bytes:
    """Return what the helper reads first: where its modules are, and what it is to do."""
    package = __name__.partition(".")[0]
    folder = str(Path(sys.modules[package].__path__[0]).resolve())
    # An editable installation may be found by other means than the path.
    homes = [str(Path(folder).parent), *(_home(name) for name in ("redis", "msgspec"))]
    order = pickle.dumps((renewal, os.getpid()))
    return pickle.dumps((package, folder, [*sys.path, *homes], Renewal.__module__, order))


def _home(name: str) -> str:
    file = importlib.import_module(name).__file__
    assert file is not None
    return str(Path(file).parents[1])


class ThreadHelper:
    """A real thread that renews a lease, where no process can.

    Args:
        renewal: What it does.
    """

    def __init__(self, renewal: Renewal) -> None:
        self._renewal = renewal
        self._is_stopped = False
        self._outcomes: deque[str] = deque(maxlen=1000)
        start_real_thread(self._run)

    def _run(self) -> None:
        renewer = Renewer(self._renewal)
        while not self._is_stopped:
            self._outcomes.append(renewer.renew())
            time.sleep(self._renewal.pause)
        renewer.close()

    def outcomes(self) -> list[str]:
        """Return why renewals since the last call failed, an empty text for each that did not."""
        return [self._outcomes.popleft() for _ in range(len(self._outcomes))]

    def stop(self) -> None:
        """End it after the present renewal."""
        self._is_stopped = True
