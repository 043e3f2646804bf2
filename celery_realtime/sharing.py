"""Let readers of the same thing at the same time share what is read, so that a thousand cost little more than one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import msgspec

Place = tuple[str, int]
Read = Callable[..., Any]


class Round:
    """Readers of one project who are answered together.

    Attributes:
        wishes: Where each of them stopped hearing the project, as epoch and offset.
    """

    def __init__(self) -> None:
        self.wishes: set[Place] = set()
        self._answers: dict[Place, Any] = {}
        self._error: Exception | None = None

    def run(self, read: Read, project_id: str) -> None:
        """Read what answers all wishes: once for each epoch, if the history reaches back far enough."""
        try:
            for epoch in {epoch for epoch, _ in self.wishes}:
                self._run_epoch(
                    read, project_id, epoch, sorted(offset for named, offset in self.wishes if named == epoch)
                )
        except Exception as error:
            self._error = error

    def _run_epoch(self, read: Read, project_id: str, epoch: str, offsets: list[int]) -> None:
        longest = read(project_id, epoch, offsets[0])
        for offset in offsets:
            if longest.recovered and offset <= longest.offset:
                self._answers[epoch, offset] = _later(longest, offset)
            elif offset == offsets[0]:
                self._answers[epoch, offset] = longest
            else:
                self._answers[epoch, offset] = read(project_id, epoch, offset)

    def answer(self, epoch: str, offset: int) -> Any:
        """Return the snapshot for one wish.

        Raises:
            Exception: What the reading raised.
        """
        if self._error is not None:
            raise self._error
        return self._answers[epoch, offset]


def _later(snapshot: Any, offset: int) -> Any:
    """Return a complete snapshot as who is at a later offset needs it."""
    missed = snapshot.offset - offset
    return msgspec.structs.replace(snapshot, events=snapshot.events[-missed:] if missed else [])


class SharedReads:
    """Reads snapshots; of a project at most one at a time, for all who ask meanwhile.

    Nobody is given what was read before he asked: he may have entered the project's room since, and would miss what was
    told in between.

    Args:
        read: ``(project_id, epoch, offset) -> snapshot``.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._next: dict[str, tuple[Round, threading.Event]] = {}
        self._turns: dict[str, threading.Lock] = {}

    def __call__(self, project_id: str, epoch: str, offset: int) -> Any:
        """Return a snapshot that was read after this call began; see :meth:`celery_realtime.store.History.read`."""
        with self._lock:
            leads = project_id not in self._next
            round_, done = self._next.setdefault(project_id, (Round(), threading.Event()))
            round_.wishes.add((epoch, offset))
            turn = self._turns.setdefault(project_id, threading.Lock())
        if leads:
            with turn:
                self._close(project_id)
                round_.run(self._read, project_id)
            done.set()
        else:
            done.wait()
        return round_.answer(epoch, offset)

    def _close(self, project_id: str) -> None:
        """Let who asks from now on wait for the next round."""
        with self._lock:
            del self._next[project_id]
            if len(self._turns) > 1000:
                self._turns = {name: turn for name, turn in self._turns.items() if turn.locked() or name in self._next}


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

    async def __call__(self, project_id: str, epoch: str, offset: int) -> Any:
        """Return a snapshot that was read after this call began; see :meth:`celery_realtime.store.History.read`."""
        round_, done = self._next.setdefault(project_id, (Round(), asyncio.Event()))
        round_.wishes.add((epoch, offset))
        if project_id not in self._reading:
            # Not by whoever comes first: he would answer for all who come after him.
            self._reading[project_id] = asyncio.create_task(self._read_rounds(project_id))
        await done.wait()
        return round_.answer(epoch, offset)

    async def _read_rounds(self, project_id: str) -> None:
        while project_id in self._next:
            round_, done = self._next.pop(project_id)
            await asyncio.to_thread(round_.run, self._read, project_id)
            done.set()
        del self._reading[project_id]
