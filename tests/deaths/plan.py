"""The jobs of a cell: which there are, and what each of them is to do."""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.deaths.cells import Cell

SLOTS = {"prefork": 3, "threads": 3, "solo": 1, "gevent": 3, "eventlet": 3}
#: The task and the end of a job; a cell begins somewhere in this list.
KINDS = (
    ("early", "success"),
    ("late", "error"),
    ("late", "success"),
    ("named", "success"),
    ("again", "success"),
    ("early", "error"),
    ("named", "error"),
)
#: Jobs that wait in the worker behind those that run.
RESERVED = 4


@dataclass
class PlannedJob:
    """A job and what it is to do.

    Args:
        job_id: Its id.
        task: The second half of its task's name.
        end: "success" or "error".
        folder: Where it writes down what becomes of it, and looks for its gates.
        gated: Whether it waits for its gate before its end.
        hooked: Whether it waits for its other gate between its end and its report.
        seconds: How long it takes.
        suicide: Whether it kills its own process then, which is at once if it takes no time.
        published_at: When, in seconds since the epoch.
    """

    job_id: str
    task: str
    end: str
    folder: Path
    gated: bool = False
    hooked: bool = False
    seconds: float = 0.0
    suicide: bool = False
    published_at: float = field(default_factory=time.time)

    @property
    def part(self) -> dict[str, Any]:
        """What its task is told to do."""
        return {
            "folder": str(self.folder),
            "end": self.end,
            "gate": str(self.gate) if self.gated else None,
            "hook": str(self.hook) if self.hooked else None,
            "seconds": self.seconds,
            "suicide": self.suicide,
        }

    @property
    def gate(self) -> Path:
        return self.folder / f"{self.job_id}.gate"

    @property
    def hook(self) -> Path:
        return self.folder / f"{self.job_id}.hook"

    @property
    def answer(self) -> str:
        """What a page shows of it when it has ended as it should."""
        return "success" if self.end == "success" else "error:FAILURE"

    def release(self) -> None:
        """Open its gates."""
        self.gate.touch()
        self.hook.touch()


@dataclass(frozen=True)
class Plan:
    """The jobs of a cell.

    Args:
        before: Ends before the death.
        parked: Waits in a queue that nobody reads.
        holders: Run through the death, and end when all is over; in the way of those behind.
        targets: Are at the cell's moment when the death comes.
        followers: Run in the targets' processes after them.
        steady: Runs until after the verdict.
    """

    before: PlannedJob
    parked: PlannedJob
    holders: tuple[PlannedJob, ...] = ()
    targets: tuple[PlannedJob, ...] = ()
    followers: tuple[PlannedJob, ...] = ()
    steady: PlannedJob | None = None

    @property
    def doomed(self) -> tuple[PlannedJob, ...]:
        """The jobs whose child is killed where a child is to die."""
        return self.followers or self.holders or self.targets

    @property
    def jobs(self) -> list[PlannedJob]:
        alone = [self.before, self.parked, *([self.steady] if self.steady else [])]
        return [*alone, *self.holders, *self.targets, *self.followers]


def kinds(cell: Cell, count: int) -> list[tuple[str, str]]:
    """Return so many kinds, beginning anywhere, but always there for one cell."""
    start = zlib.crc32(str(cell).encode())
    return [KINDS[(start + number) % len(KINDS)] for number in range(count)]


def plan_jobs(cell: Cell, project: str, folder: Path) -> Plan:
    """Choose the jobs of a cell."""

    def job(name: str, task: str = "early", end: str = "success", **more: Any) -> PlannedJob:
        return PlannedJob(f"{project}-{name}-{task}-{end}", task, end, folder, **more)

    steady = job("steady", gated=True) if cell.spares_worker and SLOTS[cell.pool] > 1 else None
    slots = SLOTS[cell.pool] - (1 if steady else 0)
    reserved = cell.moment == "reserved"
    hooked = cell.moment == "returned"
    gated = cell.moment in ("running", "reported", "stored")
    targets = [
        job(f"target{number}", *kind, gated=gated, hooked=hooked)
        for number, kind in enumerate(kinds(cell, RESERVED if reserved else slots))
    ]
    return Plan(
        before=job("before"),
        parked=job("parked", "late"),
        steady=steady,
        holders=tuple(job(f"holder{number}", gated=True) for number in range(slots)) if reserved else (),
        targets=tuple(targets),
        followers=_followers(cell, job, slots),
    )


def _followers(cell: Cell, job: Any, slots: int) -> tuple[PlannedJob, ...]:
    """A child that dies after its job has been handed over dies in the next one."""
    if cell.victim != "child" or cell.moment not in ("reported", "stored"):
        return ()
    suicide = cell.moment == "reported"
    return tuple(job(f"follower{number}", gated=True, suicide=suicide) for number in range(slots))
