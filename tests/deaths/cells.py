"""The death matrix: its dimensions, which combinations mean anything, and how to draw a few of them."""

from __future__ import annotations

import fnmatch
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

#: Who dies. "redis" holds the history, and the results of that backend; "-empty" comes back without its data.
VICTIMS = ("child", "main", "group", "host", "web", "broker", "broker-empty", "redis", "redis-empty")
#: In which state the jobs are then.
MOMENTS = ("reserved", "running", "returned", "reported", "stored")
#: What follows.
SEQUELS = ("nothing", "at-once", "later", "other")
POOLS = ("prefork", "threads", "solo", "gevent", "eventlet")
GREEN_POOLS = ("gevent", "eventlet")
BROKERS = ("redis", "rabbitmq")
BACKENDS = ("redis", "database", "none")

#: Victims that all cells of a stage share: one death serves several cells.
SHARED = ("host", "web", "broker", "broker-empty", "redis", "redis-empty")
WORKER_VICTIMS = ("child", "main", "group", "host")
EMPTIED = ("broker-empty", "redis-empty")


@dataclass(frozen=True)
class Cell:
    """One combination.

    Args:
        victim: One of VICTIMS.
        moment: One of MOMENTS.
        sequel: One of SEQUELS.
        pool: The worker's pool.
        broker: The kind of broker.
        backend: The kind of result backend.
    """

    victim: str
    moment: str
    sequel: str
    pool: str
    broker: str
    backend: str

    def __str__(self) -> str:
        return f"{self.victim}.{self.moment}.{self.sequel}.{self.pool}.{self.broker}.{self.backend}"

    @property
    def stage(self) -> tuple[str, str]:
        """The servers that it needs: its kind of broker and of result backend."""
        return self.broker, self.backend

    @property
    def spares_worker(self) -> bool:
        """Whether the worker's main process outlives the death."""
        return self.victim not in ("main", "group", "host")

    @property
    def fate(self) -> tuple[str, ...]:
        """What cells must have in common to share a stage at one time; those that wait the same time do so together."""
        if self.victim in SHARED:
            return self.victim, self.sequel
        return "worker", "later" if self.sequel == "later" else "soon"


Reason = tuple[str, Callable[[Cell], bool]]

#: Why a combination is left out. A cell is in the matrix when none of these applies.
REASONS: tuple[Reason, ...] = (
    (
        "only prefork has children: in the other pools the main process runs the jobs",
        lambda cell: cell.pool != "prefork" and cell.victim in ("child", "main"),
    ),
    (
        "solo receives a job only when it is about to run it, so nothing is reserved",
        lambda cell: cell.pool == "solo" and cell.moment == "reserved",
    ),
    (
        "the pool replaces its child by itself",
        lambda cell: cell.victim == "child" and cell.sequel != "nothing",
    ),
    (
        "without web server, broker or Redis no client hears or asks anything, so there is nothing to judge",
        lambda cell: cell.victim not in WORKER_VICTIMS and cell.sequel == "nothing",
    ),
    (
        "only a worker has a node name; another address of a server is another configuration",
        lambda cell: cell.victim not in WORKER_VICTIMS and cell.sequel == "other",
    ),
    (
        "RabbitMQ keeps durable queues: to lose them is to lose the disk",
        lambda cell: cell.victim == "broker-empty" and cell.broker != "redis",
    ),
)


def reason_against(cell: Cell) -> str | None:
    """Return why a combination is not in the matrix; None for one that is."""
    return next((reason for reason, applies in REASONS if applies(cell)), None)


def combinations() -> Iterator[Cell]:
    """Make every combination, meaningful or not."""
    for parts in itertools.product(VICTIMS, MOMENTS, SEQUELS, POOLS, BROKERS, BACKENDS):
        yield Cell(*parts)


def matrix(pattern: str = "*") -> list[Cell]:
    """Return the cells of the matrix.

    Args:
        pattern: Of their names, as in the shell: ``main.*.at-once.prefork.*``; several stand side by side.
    """
    return [cell for cell in combinations() if reason_against(cell) is None and _fits(cell, pattern)]


def _fits(cell: Cell, patterns: str) -> bool:
    return any(fnmatch.fnmatchcase(str(cell), pattern) for pattern in patterns.split())


@dataclass(frozen=True)
class Flight:
    """Cells that are run at the same time on one stage.

    Args:
        cells: At least one, all of the same stage and fate.
        number: Which one of its kind.
    """

    cells: tuple[Cell, ...]
    number: int = 0

    @property
    def stage(self) -> tuple[str, str]:
        return self.cells[0].stage

    def __str__(self) -> str:
        first = self.cells[0]
        if len(self.cells) == 1:
            return str(first)
        return ".".join((*first.fate, *first.stage, str(self.number)))


def flights(cells: Iterable[Cell], size: int) -> list[Flight]:
    """Put cells that can share a stage together, at most ``size`` at a time; those of a stage come in a row."""
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: (cell.stage, cell.fate)):
        groups.setdefault((*cell.stage, *cell.fate), []).append(cell)
    return [
        Flight(tuple(group[start : start + size]), start // size)
        for group in groups.values()
        for start in range(0, len(group), size)
    ]


def draw(seed: int, count: int, cells: Sequence[Cell]) -> Flight | None:
    """Draw some cells that can share a stage; None for none.

    Args:
        seed: The same seed draws the same cells.
        count: How many at most.
        cells: What to draw from.
    """
    if not count or not cells:
        return None
    chance = random.Random(seed)
    first = chance.choice(cells)
    others = [cell for cell in cells if (cell.stage, cell.fate) == (first.stage, first.fate) and cell != first]
    return Flight((first, *chance.sample(others, min(count - 1, len(others)))))
