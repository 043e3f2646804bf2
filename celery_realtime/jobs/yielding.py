"""Let this package's threads run where they are greenlets, and tasks that compute let nobody else run.

The greenlet that sends gets its turn only when another one waits for something. So in such a process a job waits a
moment itself: when it has started, until that is on record, and now and then when it reports.
"""

from __future__ import annotations

import threading

from celery_realtime.bounded import BoundedDict
from celery_realtime.clocks import time
from celery_realtime.events import Job, name_of
from celery_realtime.sending.manager import SocketIOManager
from celery_realtime.sending.seams import is_event_loop, threads_are_greenlets

#: Longest wait, in seconds, until the start of a job is on record.
START_TIMEOUT = 0.25

#: Shortest time, in seconds, between two waits of a job that reports, and the longest wait. Sending rests for up to
#: 0.05 s between two batches, so this is twice what it takes to send one.
REPORT_PAUSE = 0.25
REPORT_TIMEOUT = 0.1

REMEMBERED = 10000


class Yielding:
    """Waits in the name of jobs, in processes whose threads are greenlets; in others it does nothing.

    Args:
        manager: Sends events.
    """

    def __init__(self, manager: SocketIOManager) -> None:
        self._manager = manager
        #: The thread of the operating system in which the greenlets run, once a job has started there.
        self._thread: int | None = None
        self._waited_at: BoundedDict[str, float] = BoundedDict(REMEMBERED)

    def after_start(self, job: Job) -> None:
        """Wait until the start of a job is on record: if its worker is killed while it computes, it is found lost."""
        if threads_are_greenlets():
            self._thread = threading.get_native_id()
            if not is_event_loop():
                self._manager.wait_until_sent(job, START_TIMEOUT)

    def after_report(self, job: Job) -> None:
        """Wait until what a job has reported has left, if something may leave and it has not waited a moment ago.

        In a real thread, to which code of greenlets hands what computes, there is no need to wait.
        """
        if self._thread is None or self._thread != threading.get_native_id():
            return
        clock = time.monotonic()
        name = name_of(job)
        if clock - self._waited_at.get(name, -REPORT_PAUSE) < REPORT_PAUSE or is_event_loop():
            return
        if self._manager.outbox.waits.has_ready:
            self._manager.outbox.waits.until_drained(REPORT_TIMEOUT)
            self._waited_at[name] = time.monotonic()

    def forget(self, job: Job) -> None:
        """Forget when a job has waited: it has ended."""
        self._waited_at.pop(name_of(job))
