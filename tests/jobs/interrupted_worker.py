"""What a worker's main process does for its jobs, interrupted by very many signals: ``python -m ...``.

Python calls the handlers of signals between any two bytecodes of the main thread, which goes on when they return.
Celery shuts a worker down in such a handler, and so ends jobs there, while the main thread may be about to note another
one.
"""

from __future__ import annotations

import faulthandler
import itertools
import logging
import os
import signal
import time
from types import SimpleNamespace
from typing import Any

from celery_realtime.bounded import BoundedDict
from celery_realtime.events import Job
from celery_realtime.jobs.cancelling import Cancellations
from celery_realtime.jobs.departures import Departures
from celery_realtime.jobs.incarnation import Incarnation
from celery_realtime.jobs.reconciler import Reconciler
from celery_realtime.jobs.statuses import StatusReporter
from celery_realtime.jobs.trackers import Trackers
from celery_realtime.loops import BackgroundLoop, PeriodicLoop
from celery_realtime.sending.ledger import Counts
from tests.recording import Studio

#: Seconds between two signals, and how many are handled.
PAUSE, SIGNALS = 0.0002, 1500
#: Seconds after which it is taken for standing still, and says where.
PATIENCE = 60.0


class Request:
    """What a worker makes of a message."""

    def __init__(self) -> None:
        self.time_start = 1.0
        self.worker_pid = None
        self.acknowledged = False
        self.message = SimpleNamespace(acknowledged=True)
        self.on_success = self.on_failure = self.on_timeout = self.reject = self.revoked = lambda *_, **__: None


class MainProcess:
    """What a worker's main process does for its jobs, all in one thread, but for the loops that it wakes."""

    def __init__(self) -> None:
        self.manager = Studio(history_url=None).realtime.manager
        self.departures = Departures()
        settings: Any = lambda: SimpleNamespace(history_url=None)  # noqa: E731
        self.reporter = StatusReporter(Incarnation(), settings)
        self.reporter.report_to(self.manager)
        self.trackers = Trackers()
        self.reporter.on_end(lambda job, _state: self.trackers.pop(job))
        results: Any = SimpleNamespace(loops=[], ask=lambda *_: {})
        history: Any = SimpleNamespace(marks=SimpleNamespace(cancelled=lambda _: {}))
        self.cancellations = Cancellations(lambda: history)
        self.counts = Counts()
        self.recent: BoundedDict[str, Job] = BoundedDict(2)
        self.keeper = PeriodicLoop(BackgroundLoop("keeper", logging.getLogger(__name__), 60.0), int, 600.0)
        self.keeper.start()
        self.departures.on_change(self.keeper.wake)
        reconciler = Reconciler(
            self.departures,
            manager=self.manager,
            reporter=self.reporter,
            results=results,
            settings=settings,
            failed=lambda *_: None,
        )
        reconciler.start()
        self._names = itertools.count()

    def receive(self) -> None:
        """Receive a message whose job runs."""
        job = self._new_job()
        self.departures.watch(job, Request())
        self.cancellations.has(job.job_id, None)
        tracker: Any = SimpleNamespace(job=job)
        self.trackers.add(job, tracker)
        self.counts.add("jobs")
        self.recent[job.job_id] = job
        self.reporter.report(job, "STARTED")

    def shut_down(self) -> None:
        """Give a job back, and lose another, as a soft shutdown does."""
        given_back, request = self._new_job(), Request()
        self.departures.watch(given_back, request)
        self.departures.give_back(given_back, request)
        lost = self._new_job()
        self.recent[lost.job_id] = lost
        self.cancellations.has(lost.job_id, None)
        self.counts.add("jobs")
        self.reporter.report(lost, "LOST", error="the worker was shut down")
        self.cancellations.forget(lost.job_id)
        self.manager.flush(0.0)

    def _new_job(self) -> Job:
        return Job(job_id=str(next(self._names)), project_id="p")


def run() -> None:
    """Receive jobs until enough signals have been handled in the middle of it."""
    main = MainProcess()
    handled, is_busy = 0, False

    def handle(*_: Any) -> None:
        nonlocal handled, is_busy
        if not is_busy:
            is_busy = True
            main.shut_down()
            handled += 1
            is_busy = False

    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, PAUSE, PAUSE)
    ends_at = time.monotonic() + PATIENCE
    while handled < SIGNALS and time.monotonic() < ends_at:
        main.receive()
    signal.setitimer(signal.ITIMER_REAL, 0)
    print(f"{handled} signals", flush=True)  # noqa: T201


if __name__ == "__main__":
    faulthandler.dump_traceback_later(PATIENCE * 2, exit=True)
    run()
    os._exit(0)
