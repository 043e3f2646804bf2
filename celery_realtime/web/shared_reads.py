"""Single flight: clients that ask for the same project at the same time share one read of its history."""

from __future__ import annotations

import asyncio
import bisect
import functools
import threading
from collections.abc import Callable, Hashable
from typing import Any

import msgspec

from celery_realtime.web.answers import size_of
from celery_realtime.web.lanes import in_thread

Position = tuple[str, int]
Read = Callable[..., Any]

#: Locks of projects that are remembered; beyond, those that nobody waits for are forgotten.
MOST_TURNS = 1000


class Reading(msgspec.Struct, frozen=True):
    """A snapshot that was read, and about how many bytes it takes as JSON."""

    snapshot: Any
    size: int


class Round:
    """Callers that ask for one project, and are answered together.

    Attributes:
        positions: The last position that each of them has, as epoch and offset.
    """

    def __init__(self) -> None:
        self.positions: set[Position] = set()
        self._readings: dict[Position, Reading] = {}
        self._error: Exception | None = RuntimeError("the read that was shared was interrupted; try again")

    def run(self, read: Read, project_id: Hashable) -> None:
        """Read what answers all positions: a few times, however many epochs and offsets callers have made up."""
        try:
            self._read_all(read, project_id)
            self._error = None
        except Exception as error:  # noqa: BLE001 - it is raised again for each caller
            self._error = error

    def _read_all(self, read: Read, project_id: Hashable) -> None:
        first = min(self.positions)
        snapshot = read(project_id, *first)
        current = {position for position in self.positions if position[0] == snapshot.epoch}
        made_up = self.positions - current
        if made_up:  # none of these epochs is the project's, so that all are answered alike
            shared = snapshot if first in made_up else read(project_id, *min(made_up))
            self._readings.update(dict.fromkeys(made_up, Reading(shared, size_of(shared))))
        if current:
            known = {first[1]: snapshot} if first in current else {}
            self._read_epoch(functools.partial(read, project_id, snapshot.epoch), snapshot, current, known)

    def _read_epoch(
        self, read: Callable[[int], Any], latest: Any, positions: set[Position], known: dict[int, Any]
    ) -> None:
        """Read for positions in the project's epoch: from the first on to which the history reaches back."""
        offsets = sorted(offset for _, offset in positions if 0 <= offset <= latest.offset)
        reached = _first_reached(read, offsets, known)
        if reached < len(offsets):
            cutter = _Cutter(known[offsets[reached]])
            self._readings.update({(latest.epoch, offset): cutter.since(offset) for offset in offsets[reached:]})
        unreached = positions - set(self._readings)
        if unreached:
            shared = next((other for other in known.values() if not other.recovered), None)
            shared = shared or read(min(offset for _, offset in unreached))
            self._readings.update(dict.fromkeys(unreached, Reading(shared, size_of(shared))))

    def answer(self, epoch: str, offset: int) -> Reading:
        """Return the snapshot for one position.

        Raises:
            Exception: What the read raised.
        """
        if self._error is not None:
            raise self._error
        return self._readings[epoch, offset]


def _first_reached(read: Callable[[int], Any], offsets: list[int], known: dict[int, Any]) -> int:
    """Return the place of the first offset to which the history reaches back; what is read on the way is then known."""

    def is_reached(offset: int) -> bool:
        if offset not in known:
            known[offset] = read(offset)
        return bool(known[offset].recovered)

    if not offsets or is_reached(offsets[0]):
        return 0
    reached = bisect.bisect_left(offsets, True, lo=1, key=is_reached)
    if reached < len(offsets):
        is_reached(offsets[reached])
    return reached


class _Cutter:
    """Cuts a snapshot for later positions; each of its events is measured once, however many callers share it."""

    def __init__(self, snapshot: Any) -> None:
        self._snapshot = snapshot
        self._rest = size_of(msgspec.structs.replace(snapshot, events=[]))
        self._sizes = [size_of(event) + 1 for event in snapshot.events]
        self.size = self._rest + sum(self._sizes)

    def since(self, offset: int) -> Reading:
        missed = self._snapshot.offset - offset
        events = self._snapshot.events[-missed:] if missed else []
        size = self._rest + sum(self._sizes[-missed:] if missed else [])
        return Reading(msgspec.structs.replace(self._snapshot, events=events), size)


class SharedReads:
    """Reads snapshots in threads: of each project at most one at a time, for all that ask meanwhile.

    A caller never shares a read that started before its own call: it may have joined the project's room in between, and
    would miss events.

    Args:
        read: ``(project_id, epoch, offset) -> snapshot``; in place of a project it may be a page of one.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._next: dict[Hashable, tuple[Round, threading.Event]] = {}
        self._turns: dict[Hashable, threading.Lock] = {}

    def __call__(self, project_id: Hashable, epoch: str, offset: int) -> Reading:
        """Return a snapshot that was read after this call began, as ``History.read`` of the history does."""
        with self._lock:
            leads = project_id not in self._next
            round_, done = self._next.setdefault(project_id, (Round(), threading.Event()))
            round_.positions.add((epoch, offset))
            turn = self._turns.setdefault(project_id, threading.Lock())
        if leads:
            self._lead(project_id, turn)
        else:
            done.wait()
        return round_.answer(epoch, offset)

    def _lead(self, project_id: Hashable, turn: threading.Lock) -> None:
        """Read for all; whatever ends this thread meanwhile, those that wait for it are answered."""
        round_, done = self._next[project_id]
        try:
            with turn:
                self._close(project_id, round_)
                round_.run(self._read, project_id)
        finally:
            self._close(project_id, round_)
            done.set()

    def _close(self, project_id: Hashable, round_: Round) -> None:
        """Let callers from now on wait for the next round."""
        with self._lock:
            if self._next.get(project_id, (None,))[0] is round_:
                del self._next[project_id]
            if len(self._turns) > MOST_TURNS:
                self._turns = {name: turn for name, turn in self._turns.items() if turn.locked() or name in self._next}

    def waiting(self, project_id: Hashable) -> int:
        """Return how many positions of a project the next read is to answer."""
        with self._lock:
            return len(self._next[project_id][0].positions) if project_id in self._next else 0

    @property
    def remembered(self) -> int:
        """How many projects something is remembered of."""
        return len(self._turns)


class AsyncSharedReads:
    """The same for an event loop, which it does not block.

    Args:
        read: ``(project_id, epoch, offset) -> snapshot``; called in a thread.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._next: dict[Hashable, tuple[Round, asyncio.Event]] = {}
        #: By project; asyncio itself holds tasks weakly.
        self._reading: dict[Hashable, asyncio.Task[None]] = {}

    async def __call__(self, project_id: Hashable, epoch: str, offset: int) -> Reading:
        """Return a snapshot that was read after this call began, as ``History.read`` of the history does."""
        round_, done = self._next.setdefault(project_id, (Round(), asyncio.Event()))
        round_.positions.add((epoch, offset))
        if project_id not in self._reading:
            # Not by the caller that comes first: its end would be that of all who share the read.
            self._reading[project_id] = asyncio.create_task(self._read_rounds(project_id))
        await done.wait()
        return round_.answer(epoch, offset)

    async def _read_rounds(self, project_id: Hashable) -> None:
        try:
            while project_id in self._next:
                round_, done = self._next.pop(project_id)
                try:
                    await in_thread(round_.run, self._read, project_id)
                finally:
                    done.set()
        finally:
            del self._reading[project_id]
            if project_id in self._next:  # this task was cancelled
                self._next.pop(project_id)[1].set()

    @property
    def remembered(self) -> int:
        """How many projects something is remembered of."""
        return len({*self._next, *self._reading})
