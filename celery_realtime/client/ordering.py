"""Put a project's events in the order of their offsets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from celery_realtime.bounded import BoundedDict
from celery_realtime.client.messages import Item

#: Events held above a hole, and events held until the next answer.
MAX_HELD = 2000
MAX_FOREIGN_EPOCHS = 100


class EventOrder:
    """The position in a project's history, and the events that cannot be passed on yet.

    Args:
        since: The position to begin at, with ``epoch`` and ``offset``; None for that of the first answer.

    Attributes:
        epoch: Of the history; None without one.
        offset: Everything up to it has been passed on; None without a history.
    """

    def __init__(self, since: Mapping[str, Any] | None = None) -> None:
        self.epoch: str | None = since["epoch"] if since else None
        self.offset: int | None = since["offset"] if since else None
        #: Events above a hole, by offset.
        self._above_hole: dict[int, Item] = {}
        self._until_answer: list[Item] = []
        #: Epochs that have been asked about, or are over.
        self._foreign_epochs: BoundedDict[str | None, bool] = BoundedDict(MAX_FOREIGN_EPOCHS)

    @property
    def held_offsets(self) -> list[int]:
        """The offsets of the events that wait for an earlier one."""
        return list(self._above_hole)

    @property
    def foreign_epochs(self) -> list[str | None]:
        """The epochs that are remembered as asked about, or over."""
        return self._foreign_epochs.names()

    def insert(self, item: Item) -> Iterator[Item]:
        """Take an event of this epoch, and yield each event whose turn has come.

        The position has moved to an event before that event is yielded.
        """
        if item.offset is None or item.offset <= (self.offset or 0):
            return
        self._above_hole[item.offset] = item
        while self.offset is not None and self.offset + 1 in self._above_hole:
            self.offset += 1
            yield self._above_hole.pop(self.offset)

    def drop_overflow(self) -> bool:
        """Drop what waits above a hole if it is too much; returns whether it was."""
        if len(self._above_hole) <= MAX_HELD:
            return False
        self._above_hole.clear()
        return True

    def hold_until_answer(self, item: Item) -> None:
        """Hold an event that only the next answer can place; beyond a bound the oldest is dropped."""
        self._until_answer.append(item)
        del self._until_answer[:-MAX_HELD]

    def take_held(self) -> list[Item]:
        """Return, once, the events that were held until an answer."""
        items, self._until_answer = self._until_answer, []
        return items

    def restart(self, epoch: str | None, offset: int | None) -> None:
        """Go on from another position; what waited above a hole is held until it can be placed anew."""
        self._until_answer += self._above_hole.values()
        self._above_hole.clear()
        self._foreign_epochs[self.epoch] = True
        self.epoch, self.offset = epoch, offset

    def is_first_of_epoch(self, epoch: str | None) -> bool:
        """Return whether an epoch that is not the current one is seen for the first time, and remember it."""
        first = not self._foreign_epochs.get(epoch, False)
        self._foreign_epochs[epoch] = True
        return first
