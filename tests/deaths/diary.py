"""What the tasks write down themselves: the oracle's own source, independent of the package, Celery and Redis."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

#: The notes of a delivery, by the worker's main process: it has the message, and its pool has accepted the job.
RECEIVED, ACCEPTED = "received", "accepted"
#: The notes of a run, in the order in which they are written.
BEGIN, END, STORED, REPORTED = "begin", "end", "stored", "reported"
#: Instead of an end: the run is about to kill its own process.
SUICIDE = "suicide"
#: Clocks of processes and of the file agree this well, in seconds.
CLOCK = 1.0


@dataclass(frozen=True)
class Run:
    """One time that a job ran.

    Args:
        pid: The process that ran it.
        main_pid: The main process of its worker.
        begun_at: When, in seconds since the epoch.
        end: "success" or "error" once its body ended by itself.
        stored: Whether Celery has stored that end (where results are stored), and called the task's hook.
        stored_at: When that was.
        reported: Whether Celery has sent its signals of that end.
        noted_at: When the last of these was written.
        alive: Whether its process lives.
        handed_over: Whether the same process has begun another job later, so that the pool has had this one's result.
        main_alive: Whether the main process lives.
        suicide: Whether it has killed its own process.
    """

    pid: int
    main_pid: int
    begun_at: float
    end: str | None = None
    stored: bool = False
    stored_at: float = 0.0
    reported: bool = False
    noted_at: float = 0.0
    alive: bool = False
    handed_over: bool = False
    main_alive: bool = False
    suicide: bool = False

    @property
    def running(self) -> bool:
        """Whether it runs now."""
        return self.alive and self.end is None

    @property
    def knowable(self) -> bool:
        """Whether somebody alive saw how it ended, even where no result is stored."""
        return self.reported and (self.alive or (self.handed_over and self.main_alive))


@dataclass(frozen=True)
class Delivery:
    """One time that a worker received the message of a job.

    Args:
        main_pid: The main process of the worker.
        received_at: When, in seconds since the epoch.
        accepted_at: When its pool had accepted the job, before it acknowledged the message; None if it has not.
    """

    main_pid: int
    received_at: float
    accepted_at: float | None = None

    @property
    def waits(self) -> bool:
        """Whether the job waits in the worker, if that lives."""
        return self.accepted_at is None

    @property
    def receiver(self) -> tuple[int, float]:
        """The process that received it, and when; see :func:`lives`."""
        return self.main_pid, self.received_at


def write(folder: Path, job: str, what: str, *, main_pid: int, end: str | None = None) -> None:
    """Add a note on a job, in one write that no other process can tear apart."""
    note = {"what": what, "pid": os.getpid(), "main_pid": main_pid, "at": time.time(), "end": end}
    descriptor = os.open(folder / f"{job}.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, json.dumps(note).encode() + b"\n")
    finally:
        os.close(descriptor)


def lives(pid: int, since: float) -> bool:
    """Tell whether a process that existed at a time still lives, and is not another of the same number."""
    try:
        process = psutil.Process(pid)
        return bool(process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= since + CLOCK)
    except psutil.NoSuchProcess:
        return False


def read(folder: Path, jobs: Iterable[str], *, lives: Callable[[int, float], bool] = lives) -> dict[str, list[Run]]:
    """Return the runs of each job, in the order in which they began.

    Args:
        folder: Where the tasks write.
        jobs: Their ids.
        lives: Tells whether a process that existed at a time still lives.
    """
    runs = {job: runs_of(notes_of(folder / f"{job}.log")) for job in jobs}
    latest: dict[int, float] = {}
    for run in (run for job_runs in runs.values() for run in job_runs):
        latest[run.pid] = max(latest.get(run.pid, 0.0), run.begun_at)
    return {job: [_with_fate(run, latest, lives) for run in job_runs] for job, job_runs in runs.items()}


def _with_fate(run: Run, latest: dict[int, float], lives: Callable[[int, float], bool]) -> Run:
    return replace(
        run,
        alive=lives(run.pid, run.begun_at),
        main_alive=lives(run.main_pid, run.begun_at),
        handed_over=latest[run.pid] > run.noted_at,
    )


def notes_of(path: Path) -> list[dict[str, Any]]:
    """Return the notes on a job."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def story(folder: Path, job: str, since: float) -> str:
    """Return the notes on a job in one line, each with the seconds since a time."""
    notes = notes_of(folder / f"{job}.log")
    return f"{job}: " + ", ".join(f"{note['what']} {note['at'] - since:+.3f} in {note['pid']}" for note in notes)


def runs_of(notes: Iterable[dict[str, Any]]) -> list[Run]:
    """Put notes together to runs: a note belongs to the latest run of its process."""
    runs: list[Run] = []
    for note in notes:
        if note["what"] in (RECEIVED, ACCEPTED):
            continue
        if note["what"] == BEGIN:
            runs.append(Run(note["pid"], note["main_pid"], note["at"], noted_at=note["at"]))
            continue
        place = max(place for place, run in enumerate(runs) if run.pid == note["pid"])
        runs[place] = _noted(runs[place], note)
    return runs


def _noted(run: Run, note: dict[str, Any]) -> Run:
    said: dict[str, Any] = {END: note["end"]} if note["what"] == END else {note["what"]: True}
    if note["what"] == STORED:
        said["stored_at"] = note["at"]
    return replace(run, noted_at=note["at"], **said)


def deliveries(folder: Path, job: str) -> tuple[Delivery, ...]:
    """Return the deliveries of a job's message, in the order in which they came."""
    found: list[Delivery] = []
    for note in notes_of(folder / f"{job}.log"):
        if note["what"] == RECEIVED:
            found.append(Delivery(note["main_pid"], note["at"]))
        elif note["what"] == ACCEPTED:
            place = max(place for place, delivery in enumerate(found) if delivery.main_pid == note["main_pid"])
            found[place] = replace(found[place], accepted_at=note["at"])
    return tuple(found)
