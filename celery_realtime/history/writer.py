"""Number what a process writes into a history, and settle what became of a write that was not answered."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from celery_realtime.bounded import BoundedDict
from celery_realtime.events import Outgoing
from celery_realtime.forks import after_fork

#: Events of unanswered writes that are remembered until somebody asks for them; those that were dropped, nobody does.
REMEMBERED = 10000

#: Higher than the number of any write: what a dead process has written and what is still on its way is refused.
LAST_WRITE = 2**53


class Stored(NamedTuple):
    """What became of an event in a write.

    Attributes:
        epoch: The epoch that it was stored in.
        offset: Its offset; 0: it was not news.
        updates: What it led to, updates of workflows or of metadata: their JSON and their offsets; offset 0 has
            instead of that why a change of metadata was refused.
        is_new_run: Whether it is the first event of a newer run of its job.
    """

    epoch: str
    offset: int
    updates: list[tuple[bytes, int]]
    is_new_run: bool = False

    @classmethod
    def of_reply(cls, epoch: bytes, offsets: bytes, updates: list[tuple[int, bytes, int]]) -> list[Stored]:
        """Return what became of each event of a write."""
        name = epoch.decode(errors="replace")
        stored = [cls(name, abs(offset), [], offset < 0) for offset in map(int, offsets.split())]
        for index, payload, offset in updates:
            stored[index].updates.append((payload, offset))
        return stored

    @property
    def highest(self) -> int:
        """The highest offset that has been given away for it."""
        return max([self.offset, *(offset for _, offset in self.updates)])


class Doubt(NamedTuple):
    """Events of which it is not known whether they have been stored.

    Attributes:
        writer: Who may have stored them.
        project_id: Their project.
        write: The highest number of a write that may have stored them.
        numbers: By the number that the writer gave an event, its number in this process.
    """

    writer: str
    project_id: str
    write: int
    numbers: dict[int, int]


class Writer:
    """What a process has written into a history, as receipts.lua needs to know it.

    A child of a fork is a writer of its own.

    Attributes:
        id: Tells the writer from all others.
        lock: Held from a write until its answer: one write is in doubt at most.
    """

    def __init__(self) -> None:
        self._start_over()
        after_fork(self._start_over)

    def _start_over(self) -> None:
        self.id = secrets.token_hex(8)
        self.lock = threading.Lock()
        self._write = 0
        #: By project, the events of the latest write, until it is answered.
        self._unanswered: dict[str, list[int]] = {}
        self._stored: BoundedDict[int, Stored] = BoundedDict(REMEMBERED)

    def begin(self, events: Iterable[Outgoing]) -> int:
        """Note that events are about to be written, and return the number of the write; all doubts are settled."""
        self._write += 1
        for event in events:
            if event.number:
                self._unanswered.setdefault(event.project_id, []).append(event.number)
        return self._write

    def end(self, events: Iterable[Outgoing]) -> None:
        """Note that the answer has come, and that events are done with."""
        self._unanswered = {}
        for event in events:
            self._stored.pop(event.number)

    # -- doubt --------------------------------------------------------------------------------------------------

    def doubts(self, events: Sequence[Outgoing]) -> list[Doubt]:
        """Return what has to be settled before events are written: this writer's doubts, and those of dead ones."""
        doubts = [
            Doubt(self.id, project_id, self._write, {number: number for number in numbers})
            for project_id, numbers in self._unanswered.items()
        ]
        inherited: dict[tuple[str, str], dict[int, int]] = {}
        for event in events:
            if event.origin is not None:
                numbers = inherited.setdefault((event.origin.writer, event.project_id), {})
                numbers[event.origin.number] = event.number
        return doubts + [
            Doubt(writer, project, LAST_WRITE, numbers) for (writer, project), numbers in inherited.items()
        ]

    def settle(self, doubt: Doubt, reply: Any) -> list[Stored]:
        """Take over settle.lua's answer to a doubt, and return what has been stored."""
        epoch, numbers, offsets, updates, _ = reply
        stored = Stored.of_reply(epoch, offsets, updates)
        for number, of_event in zip(map(int, numbers.split()), stored, strict=True):
            if number in doubt.numbers:
                self._stored[doubt.numbers[number]] = of_event
        if doubt.writer == self.id:
            self._unanswered.pop(doubt.project_id, None)
        return stored

    def stored(self, event: Outgoing) -> Stored | None:
        """Return what became of an event in a write that was not answered; None if it has not been stored."""
        return self._stored.get(event.number)
