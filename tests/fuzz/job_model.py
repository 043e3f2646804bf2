"""What a report makes of what is known of a job: the rules of append.lua, said once more and independently."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from celery_realtime.events import Outgoing

SOFT = ("L", "E")


class Known(NamedTuple):
    """What is known of a job.

    Attributes:
        run: The mark of its publication; None without one.
        began: When the run began, if it has no mark and is not the job's first.
        attempt: Its attempt.
        rank: 0 queued, 1 running, 2 ended, ``L`` lost, ``E`` expired or not reached, ``D`` killed.
        percent: Its progress.
        incarnation: Which worker's process reported it last.
        execution: The start of its task, if that is known.
        started: When that was.
        ended: When it ended.
        has_status: Whether more is known of the attempt than progress.
        gone_back: Whether the message of its latest start is with the broker again.
        handed_on: Whether it goes on in a message that it has published, and ``incarnation`` does not have it any more.
        handed_at: When that was.
        former: Who has had this attempt before ``incarnation``.
        says: What its latest status says to the user.
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
    gone_back: bool = False
    handed_on: bool = False
    handed_at: float = 0.0
    former: tuple[str, ...] = ()
    says: tuple[str, str | None] = ("", None)

    @property
    def kind(self) -> str:
        """What a workflow counts it as."""
        if self.rank in ("0", "1"):
            return "running" if self.rank == "1" else "queued"
        return "done" if self.says[0] == "SUCCESS" else "failed"

    def former_to(self, incarnation: str) -> tuple[str, ...]:
        """Return who has had the attempt before an incarnation that has it next."""
        is_other = self.incarnation not in ("", incarnation)
        return (self.incarnation, *self.former) if is_other else self.former


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
    says: tuple[str, str | None] = ("", None)

    @classmethod
    def of(cls, event: Outgoing, now: float, started: float) -> Report:
        """Return what an event reports."""
        standing, execution = event.standing, event.standing.execution
        rank = standing.gate or ("p" if event.progress else str(event.rank))
        # Whoever waits in a queue has not started; what goes back has a time, and does not know of which start.
        is_of_start = execution is not None and bool(execution.id) and rank != "0"
        said = msgspec.json.decode(event.payload or b"{}")
        return cls(
            run=standing.run or None,
            attempt=event.attempt,
            rank=rank,
            percent=standing.percent,
            incarnation=standing.incarnation,
            execution=execution.id if execution is not None and is_of_start else None,
            started=now if execution is None else started,
            redelivered=execution is not None and execution.redelivered,
            says=(said.get("state", ""), said.get("error")),
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
        return report.rank not in ("E", "H", "L", "N", "s")
    if report.rank in ("B", "E", "H", "L", "N", "S", "U"):
        return _is_inferred_rightly(report, known)
    if report.attempt != known.attempt:
        return report.attempt > known.attempt and report.rank != "s"
    if report.rank == "D":
        return _is_news_of_death(report, known)
    if known.gone_back and _is_of_start_before(report, known):
        return False
    if report.rank in ("p", "s"):
        return _is_progress(report, known)
    return _is_status(report, known)


def _is_status(report: Report, known: Known) -> bool:
    """Return whether a status is news that a job's own process, or its publisher, reports."""
    if known.rank in SOFT:
        return report.rank != "0"
    if known.rank == "D":
        return report.rank != "0" and _is_of_start_after(report, known)
    if report.rank == "2" and report.says[0] != "SUCCESS" and _is_of_start_of_former(report, known):
        return False
    if report.rank == known.rank == "1":
        return _starts_again(report, known)
    return report.rank > known.rank


def _is_inferred_rightly(report: Report, known: Known) -> bool:
    if report.rank in ("H", "U"):
        return False
    return _goes_back(report, known) if report.rank == "B" else _is_news_of_reaper(report, known)


def _goes_back(report: Report, known: Known) -> bool:
    """Return whether what goes back is the message of the start that is known, and not of one before it."""
    is_its_workers = known.handed_on or known.incarnation in ("", report.incarnation)
    is_in_time = known.execution is None or known.started <= report.started
    is_present = (
        report.attempt == known.attempt and known.rank in ("1", "L", "E", "D") and is_its_workers and is_in_time
    )
    return report.attempt > known.attempt or is_present


def _is_news_of_death(report: Report, known: Known) -> bool:
    if known.rank in ("2", "D"):
        return False
    if known.rank == "0":
        return not _is_of_start_that_is_over(report, known)
    if known.rank != "1" or known.handed_on:
        return True
    if report.execution and known.execution:
        return not _is_of_start_of_former(report, known)
    late = 1.0 if report.incarnation in (known.incarnation, *known.former) else 0.0
    if report.incarnation == known.incarnation:
        return known.started <= report.started + late
    return known.started + late <= report.started


def _is_of_start_of_former(report: Report, known: Known) -> bool:
    """Return whether another start of the job runs by now than the one that has failed."""
    if known.rank != "1" or known.handed_on:
        return False
    if report.execution and known.execution:
        return report.execution != known.execution and report.started < known.started
    return report.incarnation != known.incarnation and report.incarnation in known.former


def _is_of_start_after(report: Report, known: Known) -> bool:
    """Return whether a report is of a start after that whose process was killed."""
    if report.execution is None:
        return False
    if known.execution is None:
        return report.redelivered and report.started > known.started
    return report.execution != known.execution and report.started >= known.started


def _is_of_start_before(report: Report, known: Known) -> bool:
    """Return whether a report is of the start whose message is with the broker again."""
    if report.rank in ("p", "s"):
        return True  # the start after it comes before its progress
    if report.rank != "1" or report.execution is None:
        return False
    if known.execution is not None:
        return report.execution == known.execution
    is_its_workers = report.incarnation == known.incarnation
    return is_its_workers and report.started <= known.started and not report.redelivered


def _is_news_of_reaper(report: Report, known: Known) -> bool:
    is_same = report.attempt == known.attempt
    is_own = not report.incarnation or not known.incarnation or report.incarnation == known.incarnation
    if report.rank in ("E", "N"):
        was_handed_on = known.rank == "1" and known.handed_on and known.handed_at <= report.started
        return is_same and (known.rank == "0" or (report.rank == "N" and was_handed_on))
    is_start = report.rank == "S" and not (is_same and _is_of_start_that_is_over(report, known))
    if is_start and (report.attempt > known.attempt or (is_same and known.rank == "0")):
        return True
    if known.handed_on:  # whoever has started it since can lose it, and whoever says that of all
        is_own = not report.incarnation or is_start
    return is_same and known.rank == "1" and is_own


def _is_of_start_that_is_over(report: Report, known: Known) -> bool:
    """Return whether a worker is only known to have had a job before it was handed on, or its message went back."""
    over = known.handed_at if known.handed_on else known.started
    has_had = report.incarnation in (known.incarnation, *known.former)
    return (known.handed_on or known.gone_back) and has_had and report.started <= over + 1.0


def _is_progress(report: Report, known: Known) -> bool:
    is_of_start = not report.execution or not known.execution or report.execution == known.execution
    is_possible = known.ended is None and (report.rank == "p" or known.rank == "1")
    return is_possible and is_of_start and report.percent >= known.percent


def _starts_again(report: Report, known: Known) -> bool:
    if report.execution and known.execution:
        return report.execution != known.execution and report.started >= known.started
    return known.handed_on or report.incarnation != known.incarnation


def note(report: Report, known: Known | None) -> Known | None:
    """Return what is known after a report that nobody needs to see, or None if it is none of those."""
    if known is None or run_order(report, known) != 0 or report.attempt != known.attempt:
        return None
    if report.rank == "2" and known.rank in SOFT and report.says == known.says:
        return known._replace(rank="2")  # somebody who knows says what was only inferred
    if report.rank == "1" and _goes_on(report, known):
        former = known.former_to(report.incarnation)
        return known._replace(incarnation=report.incarnation, started=report.started, handed_on=False, former=former)
    if report.rank == "H" and known.rank == "1" and _has_it(report, known):
        return known._replace(incarnation=report.incarnation, handed_on=True, handed_at=report.started)
    if report.rank == "B" and known.rank == "0" and not known.gone_back:  # the start itself has not been heard of
        return known._replace(incarnation=report.incarnation, started=report.started, gone_back=True)
    return None


def _goes_on(report: Report, known: Known) -> bool:
    """Return whether a job that has handed itself on is started where it goes on."""
    is_same = known.rank == "1" and report.execution is not None and report.execution == known.execution
    is_elsewhere = report.incarnation != known.incarnation and report.started >= known.started
    return is_same and (known.handed_on or is_elsewhere)


def _has_it(report: Report, known: Known) -> bool:
    """Return whether a job is handed on by the worker that is known to have it, and has not begun it once more."""
    is_execution = not report.execution or not known.execution or report.execution == known.execution
    is_its_own = not known.handed_on and known.incarnation in ("", report.incarnation)
    return is_execution and is_its_own and known.started <= report.started + 1.0


def apply(report: Report, known: Known | None, now: float) -> Known | None:
    """Return what is known after a report, or None if it is no news."""
    order = 0 if known is None else run_order(report, known)
    if order < 0 or note(report, known) is not None:
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
    if report.rank == "B":
        over = Known(run, began, report.attempt, incarnation=report.incarnation, gone_back=True, says=report.says)
        is_start_known = same is not None and same.execution is not None
        start = (same.execution, same.started) if same is not None and is_start_known else (None, report.started)
        former = () if same is None else same.former_to(report.incarnation)
        return over._replace(execution=start[0], started=start[1], former=former)
    goes_on = same is not None and (report.rank != "1" or same.rank == "0" or not same.has_status)
    owners = {"1": (report.incarnation,), "D": (report.incarnation, "")}
    keeps = same is not None and report.execution is None
    keeps = keeps and same is not None and same.incarnation in owners.get(report.rank, (same.incarnation,))
    keeps = keeps and (report.rank != "D" or (same is not None and same.execution is not None))
    rank = {"S": "L", "U": "E", "N": "E"}.get(report.rank, report.rank)
    return Known(
        run=run,
        began=began,
        attempt=report.attempt,
        rank=rank,
        percent=same.percent if same is not None and goes_on else 0,
        incarnation=report.incarnation,
        former=() if same is None else same.former_to(report.incarnation),
        execution=same.execution if same is not None and keeps else report.execution,
        started=same.started if same is not None and keeps else report.started,
        ended=now if rank in ("2", "L", "E", "D") else None,
        says=report.says,
    )
