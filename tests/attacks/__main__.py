"""Attack web servers, and print what it cost them: ``python -m tests.attacks [--hosts ...] [--attacks ...]``."""

from __future__ import annotations

import argparse
import json
import os
import statistics
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
from tests.attacks.attackers import ATTACKS
from tests.attacks.hosts import KINDS, PROJECT, SECRET, Attacked, is_missing
from tests.attacks.raw import Raw, Refused
from tests.launcher import Launcher
from tests.processes import python_path

if TYPE_CHECKING:
    from typing_extensions import Self

#: Bytes of a result that is asked for again and again.
LONG_RESULT = 20_000_000
#: Seconds that memory may take to come back.
CALM = 10.0


class Bystander:
    """Somebody who connects and subscribes ten times a second, and measures how long that takes."""

    def __init__(self, url: str, token: str) -> None:
        self.times: list[float] = []
        self.failures = 0
        self._url, self._token = url, token
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
                client = Raw(self._url, timeout=15).enter(self._token)
                client.ask("subscribe_project", {"project_id": PROJECT})
                client.close()
            except (OSError, Refused):
                self.failures += 1
            self.times.append(time.monotonic() - began)

    def summary(self) -> dict[str, Any]:
        if len(self.times) < 2:
            return {"median": None, "p99": None, "failed": self.failures}
        times = sorted(self.times)
        p99 = times[min(len(times) - 1, int(len(times) * 0.99))]
        return {"median": round(statistics.median(times), 3), "p99": round(p99, 3), "failed": self.failures}


def attacked(
    kind: str, name: str, seconds: float, launcher: Launcher, env: dict[str, str], token: str
) -> dict[str, Any]:
    """Attack a server of one kind, and return what was measured."""
    server = launcher.start(Attacked(kind, launcher.folder, env))
    try:
        with Bystander(server.url, token) as quiet:
            time.sleep(2)
        before, peak = server.memory(), 0.0
        with Bystander(server.url, token) as bystander:
            command = [sys.executable, "-m", "tests.attacks.attackers", name, server.url, str(seconds)]
            attacker = subprocess.Popen(
                command, env={**os.environ, **python_path(), "TOKEN": token}, stdout=subprocess.PIPE, text=True
            )
            threads, end = 0, time.monotonic() + seconds + 8
            while attacker.poll() is None and time.monotonic() < end:
                peak = max(peak, server.memory())
                threads = max(threads, server.threads())
                if peak - before > 1500:
                    break
                time.sleep(0.05)
            attacker.kill()
        seen = json.loads((attacker.communicate()[0] or "{}").strip() or "{}")
        calm = time.monotonic()
        while time.monotonic() - calm < CALM and server.memory() - before > 30:
            time.sleep(0.2)
        after = server.memory()
        return {
            "host": kind,
            "attack": name,
            "grew": round(peak - before),
            "after": round(after - before),
            "calm": round(time.monotonic() - calm, 1),
            "threads": threads,
            "quiet": quiet.summary()["p99"],
            **bystander.summary(),
            "seen": seen,
            "log": len(server.log),
        }
    finally:
        server.kill()


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
    parser.add_argument("--hosts", nargs="*", default=[kind for kind in KINDS if not is_missing(kind)])
    parser.add_argument("--attacks", nargs="*", default=list(ATTACKS))
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    print(
        f"{'host':10} {'attack':18} {'MB':>5} {'left':>5} {'s':>5} {'thr':>4} {'quiet':>6} {'p50':>6} {'p99':>6} fail"
    )
    with tempfile.TemporaryDirectory() as folder, Launcher(Path(folder)) as launcher:
        redis = launcher.redis()
        env = {
            "CELERY_BROKER_URL": redis.url(0),
            "RESULT_URL": redis.url(1),
            "HISTORY_URL": redis.url(2),
        }
        fill(env)
        issuer = Realtime(Celery("issuer", broker="memory://", set_as_current=False), secret_key=SECRET)
        token = issuer.issue_token("ada", projects=[PROJECT])
        for kind in options.hosts:
            for name in options.attacks:
                row = attacked(kind, name, options.seconds, launcher, env, token)
                print(
                    f"{row['host']:10} {row['attack']:18} {row['grew']:5} {row['after']:5} {row['calm']:5} "
                    f"{row['threads']:4} {row['quiet']!s:>6} {row['median']!s:>6} {row['p99']!s:>6} {row['failed']:4}  "
                    f"{row['seen']} log {row['log']}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
