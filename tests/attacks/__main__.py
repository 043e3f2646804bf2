"""Attack web servers, and print what it cost them: ``python -m tests.attacks [--hosts ...] [--attacks ...]``.

Each attack takes ``--seconds`` and 2 to 12 more. What grows with time is what connections and requests
leave behind: see ``GROWING``, which ``--growing`` chooses. What was measured is in a file for each host and attack:
after an interruption the same command goes on where it was, and ``--table`` prints what there is.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery import Celery

from celery_realtime import Realtime, events
from celery_realtime.events import Job
from tests.attacks.attackers import ATTACKS, GROWING
from tests.attacks.cells import Cells, table
from tests.attacks.hosts import KINDS, PROJECT, SECRET, Attacked, is_missing, token_of
from tests.attacks.raw import Raw, Refused
from tests.launcher import Launcher
from tests.processes import python_path

if TYPE_CHECKING:
    from typing_extensions import Self

#: Bytes of a result that is asked for again and again.
LONG_RESULT = 20_000_000
#: Seconds that memory may take to come back, to so many MB above what it was.
CALM, MOST_LEFT = 10.0, 20
#: MB after which an attack has shown enough.
TOO_MUCH = 1500
#: Seconds that an attack takes beyond those that it lasts: the server may have to be started, and comes back to rest.
OVERHEAD = 4.0
#: Users whose tokens an attacker has.
MOST_USERS = 50


#: Addresses of others: the attacker has that of the server.
ELSEWHERE, NEXT_DOOR = "127.0.0.2", "127.0.0.1"


class Bystander:
    """Somebody who connects and subscribes five times a second, and measures how long that takes."""

    def __init__(self, url: str, token: str, address: str) -> None:
        self.times: list[float] = []
        self.failures = 0
        self._url, self._token, self._address = url, token, address
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(2)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(20)

    def _run(self) -> None:
        while not self._stopped.wait(0.2):
            began = time.monotonic()
            try:
                client = Raw(self._url, timeout=15, address=self._address).enter(self._token)
                client.ask("subscribe_project", {"project_id": PROJECT})
                client.close()
            except (OSError, Refused):
                self.failures += 1
            self.times.append(time.monotonic() - began)

    def percentile(self, share: float) -> int | None:
        """Return how many milliseconds so large a share of the attempts took at most."""
        if len(self.times) < 2:
            return None
        return round(1000 * sorted(self.times)[min(len(self.times) - 1, int(len(self.times) * share))])


class Target:
    """A server of one kind, which is started anew if an attack has left much behind.

    Args:
        kind: The kind.
        launcher: Starts it.
        env: Of the server.
        tokens: By user.
    """

    def __init__(self, kind: str, launcher: Launcher, env: dict[str, str], tokens: dict[str, str]) -> None:
        self.kind = kind
        self._launcher, self._env, self._tokens = launcher, env, tokens
        self._server: Attacked | None = None
        #: The median, and the 99th percentile, of others' time before the first attack.
        self.quiet: tuple[int | None, int | None] = (None, None)

    def _running(self) -> Attacked:
        if self._server is None:
            self._server = self._launcher.start(Attacked(self.kind, self._launcher.folder, self._env))
            with self._bystander(ELSEWHERE) as bystander:
                time.sleep(2)
            self.quiet = bystander.percentile(0.5), bystander.percentile(0.99)
        return self._server

    def _bystander(self, address: str) -> Bystander:
        assert self._server is not None
        return Bystander(self._server.url, self._tokens["bob"], address)

    def stop(self) -> None:
        if self._server is not None:
            self._server.kill()
        self._server = None

    def attacked(self, name: str, seconds: float) -> dict[str, Any]:
        """Attack the server, and return what was measured."""
        server = self._running()
        before, logged = server.memory(), len(server.log)
        with self._bystander(ELSEWHERE) as others, self._bystander(NEXT_DOOR) as neighbours:
            peak, threads, seen = self._attack(server, name, seconds, before)
        calm = time.monotonic()
        while time.monotonic() - calm < CALM and server.memory() - before > MOST_LEFT:
            time.sleep(0.2)
        left = server.memory() - before
        row = {
            "grew": round(peak - before),
            "left": round(left),
            "calm": round(time.monotonic() - calm, 1),
            "threads": threads,
            "p50": others.percentile(0.5),
            "p99": others.percentile(0.99),
            "near": neighbours.percentile(0.99),
            "failed": others.failures + neighbours.failures,
            "seen": seen,
            "log": len(server.log) - logged,
            "quiet": self.quiet,
            "load": round(os.getloadavg()[0], 1),
        }
        if left > MOST_LEFT or row["failed"]:
            self.stop()
        return row

    def _attack(self, server: Attacked, name: str, seconds: float, before: float) -> tuple[float, int, dict[str, Any]]:
        """Attack, and return the most memory and threads, and what the attacker saw."""
        peak, threads = before, 0
        command = [sys.executable, "-m", "tests.attacks.attackers", name, server.url, str(seconds)]
        env = {**os.environ, **python_path(), "TOKENS": json.dumps(self._tokens)}
        attacker = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
        end = time.monotonic() + seconds + 8
        while attacker.poll() is None and time.monotonic() < end and peak - before < TOO_MUCH:
            peak = max(peak, server.memory())
            threads = max(threads, server.threads())
            time.sleep(0.05)
        attacker.kill()
        return peak, threads, json.loads((attacker.communicate()[0] or "{}").strip() or "{}")


def fill(env: dict[str, str]) -> None:
    """Make a project with jobs, one of which has a long result."""
    app = Celery("filler", broker=env["CELERY_BROKER_URL"], backend=env["RESULT_URL"], set_as_current=False)
    realtime = Realtime(app, history_url=env["HISTORY_URL"], secret_key=SECRET)
    for name in ("long", *(f"job-{number}" for number in range(200))):
        realtime.manager.put_status(events.status_change(Job(job_id=name, project_id=PROJECT), "PENDING"))
    realtime.flush(10)
    for number in range(600):
        realtime.manager.emit_to_project(PROJECT, "line", {"text": "x" * 1500, "number": number})
    realtime.flush(10)
    app.backend.store_result("long", "x" * LONG_RESULT, "SUCCESS")


def main() -> None:
    parser = argparse.ArgumentParser()
    # Daphne, where others wait for long, only if it is named.
    hosts = [kind for kind in KINDS if not is_missing(kind) and kind != "daphne"]
    parser.add_argument("--hosts", nargs="*", default=hosts)
    parser.add_argument("--attacks", nargs="*", default=list(ATTACKS))
    parser.add_argument("--seconds", type=float, default=3.0, help="of each attack")
    parser.add_argument("--growing", action="store_true", help="only the attacks whose cost grows with time")
    parser.add_argument("--results", type=Path, default=Path(".attacks"), help="the folder of what was measured")
    parser.add_argument("--again", action="store_true", help="measure also what has been measured")
    parser.add_argument("--table", action="store_true", help="attack nobody: print what has been measured")
    options = parser.parse_args()
    if options.growing:
        options.attacks = GROWING
    cells = Cells(options.results, options.seconds)
    wanted = [(kind, name) for kind in options.hosts for name in options.attacks]
    due = [cell for cell in wanted if options.again or cells.read(*cell) is None]
    try:
        if due and not options.table:
            measure(due, cells, options.seconds)
    finally:
        print(table({cell: row for cell in wanted if (row := cells.read(*cell)) is not None}))


def measure(due: list[tuple[str, str]], cells: Cells, seconds: float) -> None:
    """Attack hosts, and store what was measured of each."""
    minutes = len(due) * (seconds + OVERHEAD) / 60
    print(f"{len(due)} attacks: about {minutes:.0f} minutes; what is measured is in {cells.folder}/")
    print(
        "MB: memory at most and 10 s later; ms: others' time to connect and subscribe, next door: from the same address"
    )
    print(f"{'host':10} {'attack':20} {'MB':>5} {'left':>5} {'s':>5} {'thr':>4} {'p50':>6} {'p99':>6} {'near':>6} fail")
    with tempfile.TemporaryDirectory() as folder, Launcher(Path(folder)) as launcher:
        redis = launcher.redis()
        env = {
            "CELERY_BROKER_URL": redis.url(0),
            "RESULT_URL": redis.url(1),
            "HISTORY_URL": redis.url(2),
        }
        fill(env)
        users = ["ada", "bob", *(f"user-{number}" for number in range(MOST_USERS))]
        tokens = {user: token_of(user) for user in users}
        for kind in dict.fromkeys(kind for kind, _ in due):
            target = Target(kind, launcher, env, tokens)
            for name in [name for other, name in due if other == kind]:
                row = target.attacked(name, seconds)
                cells.write(kind, name, row)
                report(kind, name, row)
            target.stop()


def report(kind: str, name: str, row: dict[str, Any]) -> None:
    print(
        f"{kind:10} {name:20} {row['grew']:5} {row['left']:5} {row['calm']:5} {row['threads']:4} {row['p50']!s:>6} "
        f"{row['p99']!s:>6} {row['near']!s:>6} {row['failed']:4}  {row['seen']} log {row['log']}",
        flush=True,
    )


if __name__ == "__main__":
    main()
