"""See to it that each job which leaves this worker has its end on record, whatever became of its process."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from celery_realtime import events
from celery_realtime.clocks import time
from celery_realtime.events import Ending, Job
from celery_realtime.forks import after_fork, talking
from celery_realtime.jobs import endings
from celery_realtime.jobs.departures import GRACE, Departure, Departures
from celery_realtime.jobs.lineage import published_at
from celery_realtime.jobs.statuses import StatusReporter
from celery_realtime.jobs.stored_results import Meta, StoredResults
from celery_realtime.logs import RateLimitedLogger, describe
from celery_realtime.loops import BackgroundLoop, WakeUp, join, start_detached
from celery_realtime.sending.manager import SocketIOManager
from celery_realtime.settings import Settings

logger = logging.getLogger(__name__)

#: Jobs that are looked at in one turn, and of those, jobs whose result is looked up.
MOST, MOST_LOOKUPS = 1000, 100

#: Seconds that the look-ups of a turn may take.
LOOKUP_TIMEOUT = 2.0

#: Seconds after which the pool's word alone has to do, if the result backend does not answer.
LOOKUP_PATIENCE = 10.0

#: Seconds after which a job is looked at even though its child lives and has not sent all.
CHILD_PATIENCE = 30.0

#: Seconds after which the end of a killed process is reported even though its message is not acknowledged.
ACKNOWLEDGEMENT_PATIENCE = 30.0

#: Seconds between two turns while a message is to be acknowledged, which takes a moment.
SHORT_PAUSE = 0.05

#: Seconds between two turns: while jobs are to be looked at, and else.
PAUSE, IDLE_PAUSE = 1.0, 2.0

#: Seconds without a turn after which the loop counts as standing still.
LONGEST_TURN = 60.0


class Reconciler:
    """Compare what has left a worker with what is on record, and report the ends that are missing.

    First of all it sends what dead children had written into their spools. Then it reports which jobs are queued again,
    since their messages went back to the broker. Last, of each job that has left some seconds ago and has no end on
    record, it establishes the end: from the pool, else from the result backend.

    Args:
        departures: The jobs that have left.
        manager: Has the history and the spools, and publishes the ends.
        reporter: Knows what this process has reported, which has to do where there is no history.
        results: What the result backends have.
        settings: Returns the settings.
        failed: Called with each job that has not succeeded, its request, and its end: its later steps will not run.

    Attributes:
        loop: The record of the thread's loop.
        established: How many ends were not on record, and have been reported.
    """

    def __init__(
        self,
        departures: Departures,
        *,
        manager: SocketIOManager,
        reporter: StatusReporter,
        results: StoredResults,
        settings: Callable[[], Settings],
        failed: Callable[[Job, Any, Ending], None],
    ) -> None:
        self._departures = departures
        self._manager = manager
        self._reporter = reporter
        self._results = results
        self._settings = settings
        self._failed = failed
        self._log = RateLimitedLogger(logger)
        self.established = 0
        self.loop = BackgroundLoop("reconciler", logger, LONGEST_TURN)
        self._start_over()
        after_fork(self._start_over)
        departures.on_death(self._look_soon)

    def _start_over(self) -> None:
        self._wake = WakeUp()
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._is_ending = False
        self._pause = PAUSE

    @property
    def loops(self) -> list[BackgroundLoop]:
        """The loops that run in this process."""
        return [self.loop, *self._results.loops] if self._thread is not None else []

    def _look_soon(self) -> None:
        self._wake.call()

    def unsent(self) -> list[Departure]:
        """Return the jobs that have left, and of which their processes have perhaps not sent all, the oldest first."""
        since: dict[int | None, float] = dict(self._manager.spools.unsent_since().items())
        own = self._manager.outbox.waits.unsent_since
        # Of a job that no child ran, this process reports the end. Celery has greenlets' ids in place of its pid.
        of_others = math.inf if own is None else own
        oldest, children = min([of_others, *since.values()]), self._manager.spools.pids
        recent = self._departures.since(oldest) if oldest < math.inf else []
        return [
            departure
            for departure in recent
            if departure.left_clock >= since.get(departure.pid, math.inf if departure.pid in children else of_others)
        ]

    # -- the thread ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Look at what leaves from now on, in a thread of its own."""
        with self._lock:
            if self._thread is None:
                self._is_ending = False
                thread = threading.Thread(target=self._run, name="celery-realtime-reconciler", daemon=True)
                start_detached(thread)
                self._thread = thread

    def finish(self, timeout: float) -> None:
        """Look at all that has left, and at what leaves with the worker, at once, and then end: the worker ends.

        Args:
            timeout: Longest wait in seconds.
        """
        self._departures.close()
        with self._lock:
            thread, self._thread = self._thread, None
            self._is_ending = True
            self._wake.call()
        if thread is not None:
            join(thread, timeout)

    def _run(self) -> None:
        is_last = False
        while not is_last:
            self._wake.wait(self._pause if self._departures else IDLE_PAUSE)
            is_last = self._is_ending  # which may be said in the middle of a turn: then there is another one
            with self.loop.turn():
                self.look(math.inf if is_last else time.monotonic())

    # -- a turn ---------------------------------------------------------------------------------------------------

    def look(self, clock: float) -> None:
        """Look once at all that is due at ``clock`` of :func:`time.monotonic`.

        Raises:
            redis.RedisError: The history cannot be reached.
        """
        self._salvage()
        self._pause = PAUSE
        while due := self._departures.due(MOST, clock=clock):
            self._reconcile(due, clock)

    def _salvage(self) -> None:
        """Send what dead children had not sent."""
        salvaged = []
        for record in self._manager.spools.take_dead():
            try:
                salvaged.append(events.unpack(record))
            except msgspec.MsgspecError as error:
                self._log.error(
                    "an event that a dead process had not sent cannot be read, so it is dropped; the end of its job"
                    " is established without it: %s",
                    describe(error),
                )
        if salvaged:
            self._manager.outbox.put_all(salvaged)

    def _reconcile(self, due: list[Departure], clock: float) -> None:
        since = self._manager.spools.unsent_since()
        waiting = {departure for departure in due if _will_send(departure, since, clock)}
        self._departures.postpone(waiting, clock + PAUSE)
        unsure = {departure for departure in due if departure not in waiting and self._may_go_back(departure, clock)}
        if unsure:
            self._departures.postpone(unsure, clock + SHORT_PAUSE)
            self._pause = SHORT_PAUSE
        later = waiting | unsure
        looked_at = self._give_back([departure for departure in due if departure not in later])
        unsettled = self._unsettled(looked_at)
        missing = set(unsettled)
        self._departures.settle([departure for departure in looked_at if departure not in missing])
        self._establish(unsettled, clock)

    def _give_back(self, due: list[Departure]) -> list[Departure]:
        """Report the jobs whose messages went back to the broker, and return the others."""
        given_back = [departure for departure in due if departure.report.kind == "requeued"]
        for departure in given_back:
            self._manager.put(
                events.outgoing_given_back(departure.job, departure.when, incarnation=self._reporter.incarnation)
            )
        self._departures.settle(given_back)
        return [departure for departure in due if departure not in given_back]

    def _may_go_back(self, departure: Departure, clock: float) -> bool:
        """Tell whether the message of a job whose process was killed is going to be acknowledged, or to go back."""
        return clock < departure.due_first + ACKNOWLEDGEMENT_PATIENCE and departure.awaits_acknowledgement

    def _unsettled(self, due: list[Departure]) -> list[Departure]:
        """Return the jobs whose end is not on record."""
        history = self._manager.history
        if history is None:  # then only what the main process has to report itself can be missed
            return [
                departure
                for departure in due
                if (departure.was_killed or departure.report.kind in ("lost", "cut off", "abandoned"))
                and not self._reporter.has_ended(departure.job)
            ]
        # If it cannot be reached, children have something to send first when it can again.
        self._departures.postpone(due, time.monotonic() + GRACE)
        with talking:
            places = history.ends.unsettled([departure.job for departure in due])
        return [due[place] for place in places]

    # -- ends -----------------------------------------------------------------------------------------------------

    def _establish(self, unsettled: list[Departure], clock: float) -> None:
        """Report the ends of jobs that are not on record, or look again later."""
        lookups = [departure for departure in unsettled if not endings.is_known(departure.report)]
        later, asked = lookups[MOST_LOOKUPS:], lookups[:MOST_LOOKUPS]
        answers = self._results.ask([(one.job.job_id, one.job.task) for one in asked], LOOKUP_TIMEOUT)
        later += [
            departure
            for departure in asked
            if departure.job.job_id not in answers and clock < departure.due_first + LOOKUP_PATIENCE
        ]
        self._departures.postpone(later, clock + PAUSE)
        ended = [departure for departure in unsettled if departure not in later]
        for departure in ended:
            self._report(departure, self._ending(departure, answers))
        self._departures.settle(ended)

    def _ending(self, departure: Departure, answers: Mapping[str, Meta | None]) -> Ending:
        job, report = departure.job, departure.report
        stored = None
        if not endings.is_known(report):
            stored = endings.of_meta(answers.get(job.job_id), self._settings(), since=departure.started_at)
        return stored or endings.of_report(report)

    def _report(self, departure: Departure, ending: Ending) -> None:
        self.established += 1
        job = departure.job
        self._log.warning(
            "the end of job %s was not on record, so it has been established as %s; see whether its process was "
            "killed, for want of memory for instance",
            *(job.job_id, ending.state),
            job_id=job.job_id,
            project_id=job.project_id,
        )
        if ending.state == "RETRY":
            job = msgspec.structs.replace(job, attempt=job.attempt + 1)
        # It had started, even if its child could not send that any more.
        gate = "S" if ending.state == "LOST" and departure.report.kind == "abandoned" else ""
        since = departure.when if ending.died else departure.started_at if gate else None
        incarnation = self._reporter.incarnation
        self._manager.put(events.outgoing_end(job, ending, incarnation=incarnation, gate=gate, since=since))
        if ending.error is not None and ending.state != "RETRY":
            self._failed(job, departure.request, ending)


def _will_send(departure: Departure, unsent_since: Mapping[int, float], clock: float) -> bool:
    """Tell whether the child of a job lives and has not sent all yet that it said before the job left."""
    is_patient = clock < departure.due_first + CHILD_PATIENCE
    since = None if departure.pid is None else unsent_since.get(departure.pid)
    return is_patient and since is not None and departure.left_clock >= since


def ends_of_lost(
    jobs: Sequence[Any], results: StoredResults, settings: Settings, timeout: float
) -> dict[str, Ending | None]:
    """Return what result backends have of the jobs of a dead worker.

    Args:
        jobs: The jobs (:class:`~celery_realtime.history.leases.HeldJob`).
        results: The result backends.
        settings: The settings.
        timeout: Longest wait in seconds.

    Returns:
        By what :func:`~celery_realtime.events.name_of` returns for a job, its end, or None where none is stored. Jobs
        that could not be asked for are not in it.
    """
    answers = results.ask([(job.job_id, job.task) for job in jobs], timeout)
    return {
        events.name_of(job): _end_of_lost(job, answers[job.job_id], settings) for job in jobs if job.job_id in answers
    }


def _end_of_lost(job: Any, meta: Meta | None, settings: Settings) -> Ending | None:
    """Return the end of a job, or that of an earlier start in the same run: whoever asks the backend is told that."""
    end = endings.of_meta(meta, settings, since=_since(job))
    is_redelivered = job.running and job.execution is not None and job.execution.redelivered
    if end is not None or not is_redelivered or job.run is None:
        return end
    before = endings.of_meta(meta, settings, since=published_at(job.run) / 1000 + endings.CLOCK)
    return None if before is None else msgspec.structs.replace(before, died=False, earlier=True)


def _since(job: Any) -> float | None:
    """Return when the execution of a job of a dead worker began, as far as that is known."""
    since: float | None = job.since if job.execution is None else job.execution.started
    return since
