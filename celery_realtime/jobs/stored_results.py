"""Ask an app's result backends what they have of jobs, in a thread that may hang without anything else hanging."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from celery import Celery

from celery_realtime import databases
from celery_realtime.forks import after_fork, talking
from celery_realtime.jobs.seams import stored_meta
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.loops import BackgroundLoop, start_detached
from celery_realtime.stored import backend_of

logger = logging.getLogger(__name__)

#: Seconds without a question after which the thread ends.
IDLE = 30.0

#: Seconds after which a backend that has not answered counts as hanging.
LONGEST = 60.0

Meta = Mapping[str, Any]


class Question:
    """Jobs that a backend is asked for.

    Args:
        jobs: Pairs of a job's id and the name of its task.
    """

    def __init__(self, jobs: Sequence[tuple[str, str | None]]) -> None:
        self.jobs = jobs
        #: By job id, what is stored, or None where nothing is kept; a job that could not be asked for is not in it.
        self.answers: dict[str, Meta | None] = {}
        self.is_over = threading.Event()


class StoredResults:
    """What the result backends of an app have of its jobs.

    The app's backend is one for each thread (celery/app/base.py), so one thread asks for all; a backend that does not
    answer holds up nobody but the next question.

    Args:
        app: The Celery app. Of a task that this process knows, the task's own backend is asked.
        is_shared: Tells of a job's id whether several projects have a job of it. A backend has one place for an id, and
            what is there may be of any of them.

    Attributes:
        loop: The record of the thread's loop.
    """

    def __init__(self, app: Celery, is_shared: Callable[[str], bool] = lambda _: False) -> None:
        self._app = app
        self._is_shared = is_shared
        self._log = RateLimitedLogger(logger)
        self.loop = BackgroundLoop("results", logger, LONGEST)
        self._start_over()
        after_fork(self._start_over)

    def _start_over(self) -> None:
        self._changed = threading.Condition()
        self._question: Question | None = None
        self._thread: threading.Thread | None = None

    @property
    def loops(self) -> list[BackgroundLoop]:
        """The loop, while it has something to do."""
        return [self.loop] if self._question is not None else []

    def ask(self, jobs: Sequence[tuple[str, str | None]], timeout: float) -> dict[str, Meta | None]:
        """Return what is stored of jobs, as far as it could be read in time.

        Args:
            jobs: Pairs of a job's id and the name of its task.
            timeout: Longest wait in seconds.

        Returns:
            By job id, what ``Backend.get_task_meta`` returns, or None where no results are kept, reading one would
            consume it, or it may be of another project's job. Jobs that could not be asked for are not in it.
        """
        question = Question(jobs)
        if not jobs or not self._put(question):
            return {}
        if not question.is_over.wait(timeout):
            question.is_over.set()  # the rest need not be asked for any more
            self._log.warning(
                "the result backend did not answer within %g s, so the ends of %d jobs are not looked up now; they "
                "are looked up again, or told without it",
                *(timeout, len(jobs) - len(question.answers)),
            )
        return dict(question.answers)

    def _put(self, question: Question) -> bool:
        with self._changed:
            if self._question is not None:  # the backend hangs
                return False
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="celery-realtime-results", daemon=True)
                try:
                    start_detached(thread)
                except RuntimeError as error:  # too many threads, or the interpreter ends
                    self._log.warning(
                        "no thread can be started, so the ends of jobs are not looked up now; the next look tries "
                        "again: %s",
                        error,
                    )
                    return False
                self._thread = thread
            self._question = question
            self._changed.notify_all()
            return True

    # -- in the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (question := self._next()) is not None:
            with self.loop.turn(), databases.in_own_thread():
                self._answer(question)
            self.loop.rest()
            with self._changed:
                self._question = None
            question.is_over.set()

    def _next(self) -> Question | None:
        with self._changed:
            self._changed.wait_for(lambda: self._question is not None, IDLE)
            if self._question is None:
                self._thread = None
            return self._question

    def _answer(self, question: Question) -> None:
        for job_id, task in question.jobs:
            if question.is_over.is_set():
                return
            # Backends raise what their libraries raise, and results may be of classes that this process lacks.
            with (
                self._log.suppressing(
                    "cannot read the result of a job, so its end is told without it; see whether the result backend "
                    "answers",
                    job_id=job_id,
                ),
                talking,
            ):
                meta = stored_meta(backend_of(self._app, task), job_id)
                # Asked last: a job is on record before its result is stored.
                question.answers[job_id] = None if meta is None or self._is_shared(job_id) else meta
