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
class Role:
    """A job and what it is to do.

    Args:
        job: Its id.
        task: The second half of its task's name.
        end: "success" or "error".
        folder: Where it writes down what becomes of it, and looks for its gates.
        gated: Whether it waits for its gate before its end.
        hooked: Whether it waits for its other gate between its end and its report.
        seconds: How long it takes.
        suicide: Whether it kills its own process at once.
        published_at: When, in seconds since the epoch.
    """

    job: str
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
        return self.folder / f"{self.job}.gate"

    @property
    def hook(self) -> Path:
        return self.folder / f"{self.job}.hook"

    @property
    def answer(self) -> str:
        """What a page shows of it when it has ended as it should."""
        return "success" if self.end == "success" else "error:FAILURE"

    def release(self) -> None:
        """Open its gates."""
        self.gate.touch()
        self.hook.touch()


@dataclass(frozen=True)
class Cast:
    """The jobs of a cell.

    Args:
        before: Ends before the death.
        parked: Waits in a queue that nobody reads.
        holders: Run through the death, and end when all is over; in the way of those behind.
        targets: Are at the cell's moment when the death comes.
        followers: Run in the targets' processes after them.
        steady: Runs until after the verdict.
    """

    before: Role
    parked: Role
    holders: tuple[Role, ...] = ()
    targets: tuple[Role, ...] = ()
    followers: tuple[Role, ...] = ()
    steady: Role | None = None

    @property
    def doomed(self) -> tuple[Role, ...]:
        """The jobs whose child is killed where a child is to die."""
        return self.followers or self.holders or self.targets

    @property
    def roles(self) -> list[Role]:
        alone = [self.before, self.parked, *([self.steady] if self.steady else [])]
        return [*alone, *self.holders, *self.targets, *self.followers]


def kinds(cell: Cell, count: int) -> list[tuple[str, str]]:
    """Return so many kinds, beginning anywhere, but always there for one cell."""
    start = zlib.crc32(str(cell).encode())
    return [KINDS[(start + number) % len(KINDS)] for number in range(count)]


def cast(cell: Cell, project: str, folder: Path) -> Cast:
    """Choose the jobs of a cell."""

    def role(name: str, task: str = "early", end: str = "success", **more: Any) -> Role:
        return Role(f"{project}-{name}-{task}-{end}", task, end, folder, **more)

    steady = role("steady", gated=True) if cell.spares_worker and SLOTS[cell.pool] > 1 else None
    slots = SLOTS[cell.pool] - (1 if steady else 0)
    reserved = cell.moment == "reserved"
    hooked = cell.moment == "returned"
    gated = cell.moment in ("running", "reported", "stored")
    targets = [
        role(f"target{number}", *kind, gated=gated, hooked=hooked)
        for number, kind in enumerate(kinds(cell, RESERVED if reserved else slots))
    ]
    return Cast(
        before=role("before"),
        parked=role("parked", "late"),
        steady=steady,
        holders=tuple(role(f"holder{number}", gated=True) for number in range(slots)) if reserved else (),
        targets=tuple(targets),
        followers=_followers(cell, role, slots),
    )


def _followers(cell: Cell, role: Any, slots: int) -> tuple[Role, ...]:
    """A child that dies after its job has been handed over dies in the next one."""
    if cell.victim != "child" or cell.moment not in ("reported", "stored"):
        return ()
    suicide = cell.moment == "reported"
    return tuple(role(f"follower{number}", gated=True, suicide=suicide) for number in range(slots))
