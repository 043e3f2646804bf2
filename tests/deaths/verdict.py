"""Compare what is shown of each job with what is true, and say what is wrong."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.deaths.oracle import (
    ABSENT,
    LOST,
    QUEUED,
    RUNNING,
    SUCCESS,
    Truth,
    acceptable,
    must_be_heard,
    overwritten,
)

Answers = Mapping[str, str]


@dataclass(frozen=True)
class Change:
    """A job as a client shows it from some moment on.

    Args:
        job: Its id.
        answer: See :mod:`tests.deaths.oracle`.
        attempt: Of the job.
        timestamp: Of the status that it shows.
        offset: Of the event that it came with; None for one without, as in a snapshot.
        killed: Whether it is the end of a process that was killed, which its worker's main process tells.
    """

    job: str
    answer: str
    attempt: int = 0
    timestamp: str = ""
    offset: int | None = None
    killed: bool = False

    def __str__(self) -> str:
        return self.answer if self.offset is None else f"{self.answer} @{self.offset}"


@dataclass(frozen=True)
class View:
    """What one client shows.

    Args:
        name: Of the client.
        answers: What it shows of each job now.
        changes: How it came to that; empty for one that has only just asked.
        spoken: The jobs whose own event it heard; None for a client that need not hear them all.
    """

    name: str
    answers: Answers
    changes: tuple[Change, ...] = ()
    spoken: Collection[str] | None = None

    def path(self, job: str) -> str:
        """Return all that it has shown of a job, one after the other."""
        return " > ".join(str(change) for change in self.changes if change.job == job)


@dataclass(frozen=True)
class Fault:
    """Something that is shown wrongly.

    Args:
        kind: ``wrong``, ``disagree``, ``reopened``, ``backwards``, ``unheard`` or ``overwritten``; ``missed`` for a
            cell that could not be judged, since its jobs did not come to its moment.
        job: Its id.
        view: Who shows it.
        shown: What is shown.
        right: What would be right.
        path: What was shown before.
    """

    kind: str
    job: str
    view: str
    shown: str
    right: str = field(default="", compare=False)
    path: str = field(default="", compare=False)

    def __str__(self) -> str:
        right = f", not {self.right}" if self.right else ""
        path = f" ({self.path})" if self.path else ""
        return f"{self.kind}: {self.view} shows {self.job} as {self.shown}{right}{path}"


def answer_of(status: Mapping[str, Any]) -> str:
    """Return what a page shows of a job, from a status event or an entry of a snapshot."""
    return f"error:{status['state']}" if status["status"] == "error" else str(status["status"])


def is_killed(status: Mapping[str, Any]) -> bool:
    """Tell whether a status, or an entry of a snapshot, is the end of a process that was killed."""
    return str(status.get("error") or "").startswith("WorkerLostError: ")


def judge(truths: Mapping[str, Truth], views: Iterable[View]) -> list[Fault]:
    """Return all that is wrong."""
    views = list(views)
    faults = [
        Fault("overwritten", job, "the result backend", "PROGRESS")
        for job, truth in truths.items()
        if overwritten(truth)
    ]
    for view in views:
        faults += _wrong(truths, view)
        faults += _unheard(truths, view)
        faults += turns(view)
    return faults + _disagreements(truths, views)


def _wrong(truths: Mapping[str, Truth], view: View) -> list[Fault]:
    faults = []
    for job, truth in truths.items():
        shown, right = view.answers.get(job, ABSENT), acceptable(truth)
        if shown not in right:
            faults.append(Fault("wrong", job, view.name, shown, " or ".join(sorted(right)), view.path(job)))
    return faults


def _unheard(truths: Mapping[str, Truth], view: View) -> list[Fault]:
    if view.spoken is None:
        return []
    missing = [job for job, truth in truths.items() if must_be_heard(truth) and job not in view.spoken]
    return [Fault("unheard", job, view.name, "one that said nothing") for job in missing]


def turns(view: View) -> list[Fault]:
    """Return where a client saw a job come back from its end, or go backwards, within an attempt."""
    faults = []
    last: dict[str, Change] = {}
    for change in view.changes:
        before = last.get(change.job)
        last[change.job] = change
        if before is not None and before.answer != change.answer and before.attempt == change.attempt:
            kind = _turn(before, change)
            if kind is not None:
                shown = f"{before.answer} and then {change.answer}"
                faults.append(Fault(kind, change.job, view.name, shown, path=view.path(change.job)))
    return faults


def _turn(before: Change, after: Change) -> str | None:
    if _is_end(before.answer) and before.answer != LOST:
        # A broker that dies delivers again what it was told, or was to be told, that it need not.
        return None if before.killed and after.answer == RUNNING else "reopened"
    # A job whose message went back to the broker is queued again; its publication is older than its start.
    is_late = after.timestamp <= before.timestamp
    return "backwards" if (before.answer, after.answer) == (RUNNING, QUEUED) and is_late else None


def _is_end(answer: str) -> bool:
    return answer == SUCCESS or answer.startswith("error:")


def _disagreements(truths: Mapping[str, Truth], views: list[View]) -> list[Fault]:
    """Return the jobs of which clients show different things, each of which might be true."""
    faults = []
    for job in truths:
        shown = {view.name: view.answers.get(job, ABSENT) for view in views}
        if len(set(shown.values()) - {ABSENT}) > 1:
            faults.append(Fault("disagree", job, " / ".join(shown), " / ".join(shown.values())))
    return faults
