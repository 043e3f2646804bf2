"""What a report makes of what is known of a job: the rules of append.lua, said once more and independently."""

from __future__ import annotations

from typing import NamedTuple

from celery_realtime.events import Outgoing

SOFT = ("L", "E")


class Known(NamedTuple):
    """What is known of a job.

    Attributes:
        run: The mark of its publication; None without one.
        began: When the run began, if it has no mark and is not the job's first.
        attempt: Its attempt.
        rank: 0 queued, 1 running, 2 ended, ``L`` lost, ``E`` expired.
        percent: Its progress.
        incarnation: Which worker's process reported it last.
        execution: The start of its task, if that is known.
        started: When that was.
        ended: When it ended.
        has_status: Whether more is known of the attempt than progress.
    """

    run: str | None = None
    began: float | None = None
    attempt: int = 0
    rank: str = "0"
    percent: float = 0
    incarnation: str = ""
    execution: str | None = None
    started: float = 0.0
    ended: float | None = None
    has_status: bool = True


class Report(NamedTuple):
    """A report of a job, when it is stored."""

    run: str | None
    attempt: int
    rank: str
    percent: float
    incarnation: str
    execution: str | None
    started: float
    redelivered: bool

    @classmethod
    def of(cls, event: Outgoing, now: float, started: float) -> Report:
        """Return what an event reports."""
        standing, execution = event.standing, event.standing.execution
        return cls(
            run=standing.run or None,
            attempt=event.attempt,
            rank=standing.gate or ("p" if event.progress else str(event.rank)),
            percent=standing.percent,
            incarnation=standing.incarnation,
            execution=None if execution is None else execution.id,
            started=now if execution is None else started,
            redelivered=execution is not None and execution.redelivered,
        )


def run_order(report: Report, known: Known) -> int:
    """Return whether a report is of an earlier (-1), the same (0) or a later (1) run than what is known."""
    if report.run and known.run:
        return (report.run > known.run) - (report.run < known.run)
    if report.run:
        return int(known.ended is not None)
    if report.execution is None or report.execution == known.execution:
        return 0
    if known.began is not None and report.started < known.began:
        return -1
    return int(known.ended is not None and report.started > known.ended and not report.redelivered)


def is_news(report: Report, known: Known | None) -> bool:
    """Return whether a report of the present run, or of one of which nothing is known, is news."""
    if known is None:
        return report.rank not in ("E", "L", "s")
    if report.rank in ("E", "L", "S"):
        return _is_news_of_reaper(report, known)
    if report.attempt != known.attempt:
        return report.attempt > known.attempt and report.rank != "s"
    if report.rank in ("p", "s"):
        return _is_progress(report, known)
    if known.rank in SOFT:
        return report.rank != "0"
    if report.rank == known.rank == "1":
        return _starts_again(report, known)
    return report.rank > known.rank


def _is_news_of_reaper(report: Report, known: Known) -> bool:
    is_same = report.attempt == known.attempt
    is_own = not report.incarnation or not known.incarnation or report.incarnation == known.incarnation
    if report.rank == "E":
        return is_same and known.rank == "0"
    if report.rank == "S" and (report.attempt > known.attempt or (is_same and known.rank == "0")):
        return True
    return is_same and known.rank == "1" and is_own


def _is_progress(report: Report, known: Known) -> bool:
    is_of_start = not report.execution or not known.execution or report.execution == known.execution
    is_possible = known.ended is None and (report.rank == "p" or known.rank == "1")
    return is_possible and is_of_start and report.percent >= known.percent


def _starts_again(report: Report, known: Known) -> bool:
    if report.execution and known.execution:
        return report.execution != known.execution and report.started >= known.started
    return report.incarnation != known.incarnation


def apply(report: Report, known: Known | None, now: float) -> Known | None:
    """Return what is known after a report, or None if it is no news."""
    order = 0 if known is None else run_order(report, known)
    if order < 0:
        return None
    before = known if order == 0 else None
    if not is_news(report, before):
        return None
    same = before if before is not None and before.attempt == report.attempt else None
    began = before.began if before else (report.started if order > 0 and not report.run else None)
    run = report.run or (before.run if before else None)
    if report.rank in ("p", "s"):
        base = same or Known(attempt=report.attempt, rank="1", has_status=False)
        if base.incarnation == "" and same is None and before is not None:
            base = base._replace(incarnation=before.incarnation)
        execution = (base.execution, base.started) if base.execution else (report.execution, report.started)
        return base._replace(run=run, began=began, percent=report.percent, execution=execution[0], started=execution[1])
    goes_on = same is not None and (report.rank != "1" or same.rank == "0" or not same.has_status)
    keeps = (
        same is not None and report.execution is None and (report.rank != "1" or same.incarnation == report.incarnation)
    )
    rank = "L" if report.rank == "S" else report.rank
    return Known(
        run=run,
        began=began,
        attempt=report.attempt,
        rank=rank,
        percent=same.percent if same is not None and goes_on else 0,
        incarnation=report.incarnation,
        execution=same.execution if same is not None and keeps else report.execution,
        started=same.started if same is not None and keeps else report.started,
        ended=now if rank in ("2", "L", "E") else None,
    )
