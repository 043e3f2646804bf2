"""Single flight: clients that ask for the same project at the same time share one read of its history."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from celery_realtime.web.answers import size_of

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

    def run(self, read: Read, project_id: str) -> None:
        """Read what answers all positions: once for each epoch, if the history reaches back far enough."""
        try:
            for epoch in {epoch for epoch, _ in self.positions}:
                offsets = sorted(offset for named, offset in self.positions if named == epoch)
                self._run_epoch(read, project_id, epoch, offsets)
            self._error = None
        except Exception as error:  # noqa: BLE001 - it is raised again for each caller
            self._error = error

    def _run_epoch(self, read: Read, project_id: str, epoch: str, offsets: list[int]) -> None:
        longest = read(project_id, epoch, offsets[0])
        cutter = _Cutter(longest)
        for offset in offsets:
            if longest.recovered and offset <= longest.offset:
                self._readings[epoch, offset] = cutter.since(offset)
            elif offset == offsets[0]:
                self._readings[epoch, offset] = Reading(longest, cutter.size)
            else:
                snapshot = read(project_id, epoch, offset)
                self._readings[epoch, offset] = Reading(snapshot, size_of(snapshot))

    def answer(self, epoch: str, offset: int) -> Reading:
        """Return the snapshot for one position.

        Raises:
            Exception: What the read raised.
        """
        if self._error is not None:
            raise self._error
        return self._readings[epoch, offset]


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
        read: ``(project_id, epoch, offset) -> snapshot``.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._next: dict[str, tuple[Round, threading.Event]] = {}
        self._turns: dict[str, threading.Lock] = {}

    def __call__(self, project_id: str, epoch: str, offset: int) -> Reading:
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

    def _lead(self, project_id: str, turn: threading.Lock) -> None:
        """Read for all; whatever ends this thread meanwhile, those that wait for it are answered."""
        round_, done = self._next[project_id]
        try:
            with turn:
                self._close(project_id, round_)
                round_.run(self._read, project_id)
        finally:
            self._close(project_id, round_)
            done.set()

    def _close(self, project_id: str, round_: Round) -> None:
        """Let callers from now on wait for the next round."""
        with self._lock:
            if self._next.get(project_id, (None,))[0] is round_:
                del self._next[project_id]
            if len(self._turns) > MOST_TURNS:
                self._turns = {name: turn for name, turn in self._turns.items() if turn.locked() or name in self._next}

    def waiting(self, project_id: str) -> int:
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
        self._next: dict[str, tuple[Round, asyncio.Event]] = {}
        #: By project; asyncio itself holds tasks weakly.
        self._reading: dict[str, asyncio.Task[None]] = {}

    async def __call__(self, project_id: str, epoch: str, offset: int) -> Reading:
        """Return a snapshot that was read after this call began, as ``History.read`` of the history does."""
        round_, done = self._next.setdefault(project_id, (Round(), asyncio.Event()))
        round_.positions.add((epoch, offset))
        if project_id not in self._reading:
            # Not by the caller that comes first: its end would be that of all who share the read.
            self._reading[project_id] = asyncio.create_task(self._read_rounds(project_id))
        await done.wait()
        return round_.answer(epoch, offset)

    async def _read_rounds(self, project_id: str) -> None:
        try:
            while project_id in self._next:
                round_, done = self._next.pop(project_id)
                try:
                    await asyncio.to_thread(round_.run, self._read, project_id)
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
