"""What others on the same Redis notice while many processes return from a hiccup of it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from benchmarks.figures import Figure, Goal, percentile
from benchmarks.stage import Stage
from tests.processes import HOST
from tests.services import RedisServer

if TYPE_CHECKING:
    from typing_extensions import Self

ROW = "storm"
EVENTS = 100
#: Seconds that Redis does not answer. Its clients give up after one.
HICCUP = 2.0
#: Seconds between two questions of the bystander.
PAUSE = 0.01
#: Seconds after which a storm is given up.
LONGEST = 120.0

CROWD = Path(__file__).with_name("storm_crowd.py")
OURS = Path(__file__).resolve().parents[1]


class Storm(NamedTuple):
    """What came of one storm, in seconds.

    Attributes:
        pings: How long the bystander waited for each answer, from the end of the hiccup until all had been sent.
        work: How long Redis worked for others while the bystander waited, for each answer. Unlike the wait it does not
            depend on what else the machine does.
        done: How long after the hiccup each process had sent all.
        server: How much of the processor Redis took.
    """

    pings: list[float]
    work: list[float]
    done: list[float]
    server: float


def measure(stage: Stage) -> Iterator[Figure]:
    """Let many processes return at once, by this version and by an earlier one."""
    processes = stage.count(stage.processes)
    ours, base = [], []
    for _ in range(stage.few):
        ours.append(_storm(OURS, processes))
        if stage.base is not None:
            base.append(_storm(stage.base, processes))
    what = f"{processes} processes with {EVENTS} events each return from a hiccup of {HICCUP:g} s"
    for percent, goal in ((50, None), (99, Goal(0.02, is_ratio=False))):
        stock = [percentile(storm.pings, percent) for storm in base]
        values = [percentile(storm.pings, percent) for storm in ours]
        yield Figure(ROW, f"{what}: PING of a bystander, p{percent}; stock: before", "redis", "s", stock, values, goal)
    totals: dict[str, Callable[[Storm], float]] = {
        "longest PING": lambda storm: max(storm.pings),
        "work of Redis ahead of a PING, p99": lambda storm: percentile(storm.work, 99),
        "all sent": lambda storm: max(storm.done),
        "processor time of Redis": lambda storm: storm.server,
    }
    for label, pick in totals.items():
        yield Figure(ROW, f"{what}: {label}; stock: before", "redis", "s", [*map(pick, base)], [*map(pick, ours)])


def _storm(tree: Path, processes: int) -> Storm:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        server = RedisServer(Path(folder)).start()
        stack.callback(server.kill)
        # On a machine of its own Redis would not wait for a processor, nor would the bystander.
        _prefer(server.pid)
        crowd = _start_crowd(tree, server.url(), processes)
        stack.callback(crowd.kill)
        assert crowd.stdout is not None
        assert crowd.stdin is not None
        assert crowd.stdout.readline() == "ready\n", "the processes could not send their first event"
        server.pause()
        crowd.stdin.write("go\n")
        crowd.stdin.flush()
        time.sleep(HICCUP)
        before = _processor_time(server.pid)
        with _Bystander(server) as bystander:
            resumed = time.monotonic()
            server.resume()
            done = _times(crowd.stdout, processes, resumed)
        return Storm(bystander.pings, bystander.work, done, _processor_time(server.pid) - before)


def _start_crowd(tree: Path, url: str, processes: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(CROWD), url, "storm", str(processes), str(EVENTS)],
        env={**os.environ, "PYTHONPATH": str(tree)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _prefer(pid: int) -> None:
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, pid, -10)


def _times(lines: IO[str], processes: int, start: float) -> list[float]:
    times: list[float] = []
    while len(times) < processes:
        assert lines.readline() == "done\n", f"only {len(times)} of {processes} processes are done"
        times.append(time.monotonic() - start)
    return times


def _processor_time(pid: int) -> float:
    """Return how long a process has worked, to the microsecond."""
    # The clock of another process, as clock_getcpuclockid(3) makes it on Linux.
    return time.clock_gettime((~pid << 3) | 2)


class _Bystander:
    """Asks a Redis again and again, from a thread, and notes how long each answer takes.

    Args:
        server: The Redis.
    """

    def __init__(self, server: RedisServer) -> None:
        self.pings: list[float] = []
        self.work: list[float] = []
        self._pid = server.pid
        address = urlsplit(server.url())
        self._socket = socket.create_connection((address.hostname or HOST, address.port or 6379), timeout=LONGEST)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -10)
        while not self._stopping.wait(PAUSE):
            asked, worked = time.perf_counter(), _processor_time(self._pid)
            self._socket.sendall(b"PING\r\n")
            self._socket.recv(64)
            self.work.append(_processor_time(self._pid) - worked)
            self.pings.append(time.perf_counter() - asked)
