"""A bounded queue in which a job's newest progress replaces older progress, and progress is dropped first."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from celery_realtime.clocks import time
from celery_realtime.events import RANK_OF_STATUS
from celery_realtime.sending.ledger import Ledger

#: Whose something is: a project, and the id of a job there. Jobs of several projects may have one id.
Owner = tuple[str, str]


class OfJob(Protocol):
    """What belongs to a job."""

    @property
    def project_id(self) -> str | None:
        """The project of the job."""

    @property
    def job_id(self) -> str | None:
        """The job."""


def owner_of(item: OfJob) -> Owner:
    """Return whose something is; of what has no project, or no job, the name of that is empty."""
    return item.project_id or "", item.job_id or ""


class Item(OfJob, Protocol):
    """What a queue has to know of what it holds."""

    @property
    def progress(self) -> bool:
        """Whether it is progress, which newer progress of the same job replaces."""

    @property
    def rank(self) -> int | None:
        """Not None for a status of a job."""


T = TypeVar("T", bound=Item)

QUEUED = RANK_OF_STATUS["queued"]

#: Items and their keys, which grow in the order in which the items came.
Batch = list[tuple[int, T]]


class HeldProgress(Generic[T]):
    """The newest progress of each job that may not leave yet. Not locked."""

    def __init__(self) -> None:
        self._held: dict[Owner, tuple[float, T]] = {}
        #: Due times and jobs; entries of jobs that are not held any more, or are due earlier, are passed over.
        self._schedule: list[tuple[float, Owner]] = []

    def __len__(self) -> int:
        return len(self._held)

    @property
    def scheduled(self) -> int:
        """How many due times are remembered, those of progress that is held no more among them."""
        return len(self._schedule)

    def get(self, job: Owner) -> tuple[float, T] | None:
        """Return when a job's progress may leave, of :func:`time.monotonic`, and the progress; None if none is held."""
        return self._held.get(job)

    def hold(self, job: Owner, item: T, due: float) -> bool:
        """Hold progress back until it is due; it replaces what is held of the job.

        Returns:
            Whether it is due before all else that is held.
        """
        held = self._held.get(job)
        if held is not None and due >= held[0]:
            self._held[job] = (held[0], item)
            return False
        is_first = due < self.next_due
        self._held[job] = (due, item)
        if due < math.inf:
            self._schedule_at(due, job)
        return is_first

    def hasten(self, job: Owner, due: float) -> bool:
        """Let what is held of a job leave at ``due``, if that is earlier; returns whether all else is held longer."""
        held = self._held.get(job)
        return held is not None and self.hold(job, held[1], due)

    def _schedule_at(self, due: float, job: Owner) -> None:
        if len(self._schedule) > 2 * len(self._held) + 64:
            self._schedule = [(due, job) for job, (due, _) in self._held.items()]
            heapq.heapify(self._schedule)
        heapq.heappush(self._schedule, (due, job))

    def pop(self, job: Owner) -> T | None:
        """Remove and return a job's progress, if any is held."""
        held = self._held.pop(job, None)
        return None if held is None else held[1]

    def pop_oldest(self) -> T:
        """Remove and return the progress of the job that has been held longest."""
        return self._held.pop(next(iter(self._held)))[1]

    def jobs_due(self, clock: float) -> list[Owner]:
        """Return the jobs whose progress is due at ``clock``."""
        jobs: dict[Owner, None] = {}
        while self.next_due <= clock:
            _, job = heapq.heappop(self._schedule)
            jobs[job] = None  # it may have been scheduled twice, for the same time
        return list(jobs)

    def jobs(self) -> list[Owner]:
        """Return all jobs whose progress is held."""
        return list(self._held)

    @property
    def next_due(self) -> float:
        """When the next progress is due; infinity for never."""
        while self._schedule:
            due, job = self._schedule[0]
            held = self._held.get(job)
            if held is not None and held[0] == due:
                return due
            heapq.heappop(self._schedule)
        return math.inf


class EventQueue(Generic[T]):
    """Events in the order in which they came, of which a limited number waits. Not locked.

    Of a job's progress only the newest waits, unless a status of the job has come in between; it may be held back until
    it is due, and a status of its job takes it along. For want of room progress is dropped first, that of jobs which
    have had a status since before other, and then the oldest.

    Args:
        size: How many events may wait, held-back progress among them.
        ledger: Counts what was dropped, and what newer progress has replaced.
        settled: Called with what is done with: with what was dropped too.
    """

    def __init__(self, size: int, ledger: Ledger, settled: Callable[[Batch[T]], None] = lambda _: None) -> None:
        #: Called with entries that were taken, when they have been sent or given up, and with those that are dropped.
        self.settle = settled
        self._size = size
        self._ledger = ledger
        self._counts = ledger.counts  # without its lock: nothing else counts these, and the queue's owner has one
        self._keys = itertools.count()
        #: The key of the entry that came last; -1 when there was none.
        self.last_key = -1
        self._entries: dict[int, T] = {}
        self._held: HeldProgress[T] = HeldProgress()
        #: By job, the key of the progress that newer progress replaces.
        self._latest: dict[Owner, int] = {}
        #: The keys of progress that a status of its job follows: nothing replaces it, and hardly anybody needs it.
        self._passed: dict[int, None] = {}
        #: By job, the key of its newest status.
        self._statuses: dict[Owner, int] = {}
        #: How many of the entries are neither progress nor say that a job is queued.
        self.urgent = 0
        #: How many say that a job is queued.
        self.queued = 0
        self._dropped_held = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def held(self) -> int:
        """How many events are held back."""
        return len(self._held)

    @property
    def accepted(self) -> int:
        """How many items have been put, whatever became of them."""
        # Each has a key, or is held, or has replaced one that has, or is: nothing is counted for it when it is put.
        return self.last_key + 1 + self._counts["coalesced"] + len(self._held) + self._dropped_held

    @property
    def next_due(self) -> float:
        """When the next held-back progress is due, of :func:`time.monotonic`; infinity for never."""
        return self._held.next_due

    @property
    def urgency(self) -> int:
        """How soon what waits is to leave: 2 if something is urgent, 1 if a job is said to be queued, else 0."""
        return 2 if self.urgent else 1 if self.queued else 0

    def has_status(self, job: Owner) -> bool:
        """Return whether a status of a job waits."""
        return job in self._statuses

    # -- putting ------------------------------------------------------------------------------------------------

    def put(self, item: T, due: float = 0.0) -> bool:
        """Add an item.

        Args:
            item: The item.
            due: For progress, the :func:`time.monotonic` time before which it is held back.

        Returns:
            Whether there is something to send, or something due, earlier than before.
        """
        if item.progress:
            # As owner_of does, without a call: each report of progress comes through here.
            return self._put_progress(item, (item.project_id or "", item.job_id or ""), due)
        if item.rank is not None and item.job_id is not None:
            self._put_status(item, owner_of(item))
        else:
            self._append(item)
        self._count(item, 1)
        return True

    def _count(self, item: T, change: int) -> None:
        if item.rank == QUEUED:
            self.queued += change
        else:
            self.urgent += change

    def _put_progress(self, item: T, job: Owner, due: float) -> bool:
        latest = self._latest.get(job)
        if latest is not None:
            self._entries[latest] = item
            self._counts["coalesced"] += 1
            return False
        held = self._held.get(job)
        if held is not None:
            self._counts["coalesced"] += 1
            # The time never moves later: of a job that reports more often than the sender looks, nothing would leave.
            due = min(due, held[0])
        if due > time.monotonic():
            if held is None:
                self._make_room()
            return self._held.hold(job, item, due)
        if held is not None:
            self._held.pop(job)
        self._latest[job] = self._append(item)
        return True

    def hasten(self, job: Owner, due: float) -> bool:
        """Let held-back progress of a job leave at ``due``, if that is earlier; returns as :meth:`put`."""
        return self._held.hasten(job, due)

    def _put_status(self, item: T, job: Owner) -> None:
        self._release(job)
        passed = self._latest.pop(job, None)
        if passed is not None:
            self._passed[passed] = None
        self._statuses[job] = self._append(item)

    def _append(self, item: T) -> int:
        self._make_room()
        key = self.last_key = next(self._keys)
        self._entries[key] = item
        return key

    # -- held-back progress -------------------------------------------------------------------------------------

    def release_due(self, clock: float) -> None:
        """Queue the held-back progress that is due at ``clock``."""
        for job in self._held.jobs_due(clock):
            self._release(job)

    def release_all(self) -> None:
        """Queue all held-back progress."""
        for job in self._held.jobs():
            self._release(job)

    def _release(self, job: Owner) -> None:
        item = self._held.pop(job)
        if item is not None:
            self._latest[job] = self._append(item)

    # -- the bound ----------------------------------------------------------------------------------------------

    def _make_room(self) -> None:
        while len(self._entries) + len(self._held) >= self._size:
            self._drop_least()

    def _drop_least(self) -> None:
        if self._passed:
            self._drop(next(iter(self._passed)))
        elif self._latest:
            self._drop(next(iter(self._latest.values())))
        elif self._held:
            self._held.pop_oldest()
            self._dropped_held += 1
        else:
            self._drop(next(iter(self._entries)))
            return self._ledger.dropped("lifecycle")
        return self._ledger.dropped("progress")

    def _drop(self, key: int) -> None:
        self.settle([(key, self._remove(key))])

    # -- looking ------------------------------------------------------------------------------------------------

    @property
    def newest(self) -> int:
        """The key of the entry that came last; -1 when there is none."""
        return next(reversed(self._entries), -1)

    @property
    def oldest(self) -> int | None:
        """The key of the entry that leaves first; None when there is none."""
        return next(iter(self._entries), None)

    def since(self, key: int) -> Batch[T]:
        """Return the entries that came after a key, in order."""
        newer = itertools.takewhile(lambda entry: entry[0] > key, reversed(self._entries.items()))
        return list(newer)[::-1]

    # -- taking -------------------------------------------------------------------------------------------------

    def take(self, most: int) -> Batch[T]:
        """Remove and return the first entries, at most so many."""
        return [(key, self._remove(key)) for key in list(itertools.islice(self._entries, most))]

    def _remove(self, key: int) -> T:
        item = self._entries.pop(key)
        job = owner_of(item)
        if not item.progress:
            self._count(item, -1)
            if item.rank is not None and self._statuses.get(job) == key:
                del self._statuses[job]
        elif self._latest.get(job) == key:
            del self._latest[job]
        else:
            self._passed.pop(key, None)
        return item

    def put_back(self, batch: Batch[T]) -> None:
        """Queue again, in front, what was taken and not sent, but for progress of which there is newer by now."""
        restored: Batch[T] = []
        for key, item in reversed(batch):
            remaining = self._restore(key, item)
            if remaining is None:
                self.settle([(key, item)])
            else:
                restored.append((key, remaining))
        self._entries = {**dict(reversed(restored)), **self._entries}

    def _restore(self, key: int, item: T) -> T | None:
        """Return what takes the place of an item that was not sent: itself, newer progress, or nothing."""
        job = owner_of(item)
        if not item.progress:
            self._count(item, 1)
            if item.rank is not None:
                self._statuses.setdefault(job, key)  # a newer one has been put, or put back, before
            return item
        if job in self._statuses:
            self._passed[key] = None
            return item
        if job in self._latest:
            self._counts["coalesced"] += 1
            return None
        self._latest[job] = key
        newer = self._held.pop(job)
        if newer is None:
            return item
        self._counts["coalesced"] += 1
        return newer


def items_of(batch: Iterable[tuple[int, T]]) -> list[T]:
    """Return the items of a batch."""
    return [item for _, item in batch]
