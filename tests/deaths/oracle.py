"""What is true of a job, and what may therefore be shown of it.

An answer is what a page shows of a job: ``absent``, ``queued``, ``running``, ``success``, or ``error:`` and the state.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.deaths.diary import Run

ABSENT, QUEUED, RUNNING, SUCCESS = "absent", "queued", "running", "success"
LOST, FAILURE = "error:LOST", "error:FAILURE"
#: The ends of a job that nobody can run any more, since its message is gone.
GONE = frozenset({LOST, "error:REJECTED", "error:REVOKED", FAILURE})
#: In what a backend says of a job that it has no end of.
NO_END = ("PENDING", "RECEIVED", "STARTED", "RETRY", "PROGRESS")


@dataclass(frozen=True)
class Truth:
    """All that is known of a job from outside.

    Args:
        published_at: When, in seconds since the epoch.
        runs: From the files that it wrote.
        stored: The state in the result backend; None where it keeps none.
        waiting: Whether its message is in the broker, to be delivered or delivered again.
        forgot_at: When the history lost all its data; None if it did not.
        results_forgot_at: When the result backend did.
        spoke: Whether it emits an event of its own before it ends.
        unannounced: Whether it was published by an application without the extension.
        accepted: Whether a worker's pool has accepted it, as the worker's main process knows.
        unknowable: Why nobody can know that it has begun, or that its message is gone; None if somebody can.
    """

    published_at: float
    runs: tuple[Run, ...] = ()
    stored: str | None = None
    waiting: bool = False
    forgot_at: float | None = None
    results_forgot_at: float | None = None
    spoke: bool = False
    unannounced: bool = False
    accepted: bool = False
    unknowable: str | None = None

    @property
    def running(self) -> bool:
        return any(run.running for run in self.runs)

    @property
    def changed_at(self) -> float:
        """When something last became of it."""
        return max((run.noted_at for run in self.runs), default=self.published_at)

    @property
    def forgettable(self) -> bool:
        """Whether all that was published of it went with the history, or nothing was published yet."""
        if self.unannounced and not self.runs:
            return True
        return self.forgot_at is not None and not self.running and self.changed_at < self.forgot_at


def acceptable(truth: Truth) -> frozenset[str]:
    """Return the answers that are true.

    There is mostly one. There are several where the truth cannot be had by anybody who is left: a job that returned in
    a process that died before it could say so, and whose result is stored nowhere.
    """
    if truth.unknowable is None:
        return strictly_acceptable(truth)
    return strictly_acceptable(truth) | ({QUEUED, ABSENT} if truth.unannounced else {QUEUED})


def strictly_acceptable(truth: Truth) -> frozenset[str]:
    """Return the answers that are true, as if all could be known that the oracle knows."""
    answers = _answers(truth)
    return answers | {ABSENT} if truth.forgettable else answers


def _answers(truth: Truth) -> frozenset[str]:
    if not truth.runs and truth.accepted:
        return _unfinished(truth)
    if not truth.runs:
        return frozenset({QUEUED}) if truth.waiting else GONE
    if truth.running:  # delivered again, it may run although it is over
        return frozenset({RUNNING}) | _ends(truth)
    stored = stored_end(truth.stored)
    if stored is not None:
        return frozenset({stored})
    if any(run.knowable for run in truth.runs):
        return _ends(truth)
    return _ends(truth) | _unfinished(truth)


def _ends(truth: Truth) -> frozenset[str]:
    """Return the ends that the job's own files tell of."""
    return frozenset(SUCCESS if run.end == "success" else FAILURE for run in truth.runs if run.end)


def _unfinished(truth: Truth) -> frozenset[str]:
    """Return what may be shown of a job that died before its end was handed to anybody.

    A child's death is a failure to Celery (WorkerLostError); a main process' is told by nobody but us.
    """
    return frozenset({LOST, FAILURE, QUEUED} if truth.waiting else {LOST, FAILURE})


def stored_end(state: str | None) -> str | None:
    """Return what a page shows of a job that the result backend has an end of; None if it has none."""
    if state is None or state in NO_END:
        return None
    return SUCCESS if state == "SUCCESS" else f"error:{state}"


def must_be_heard(truth: Truth) -> bool:
    """Tell whether the job's own event has to reach its project: it was emitted by a run whose end is known."""
    return truth.spoke and truth.forgot_at is None and any(run.knowable for run in truth.runs)


def overwritten(truth: Truth) -> bool:
    """Tell whether the result backend has progress where Celery has stored an end, and that was not lost since."""
    has_end = any(run.stored and run.stored_at >= (truth.results_forgot_at or 0.0) for run in truth.runs)
    return truth.stored == "PROGRESS" and has_end and not truth.running
