"""Know what a web server has passed on of each project that it serves, and find what it has missed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from celery_realtime.bounded import BoundedDict
from celery_realtime.events import RESYNC_EVENT
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.rooms import project_of_room, project_room, rooms_of
from celery_realtime.wire import place_of

logger = logging.getLogger(__name__)

#: Seconds after which what is missing between two events counts as lost: its sender was killed, say.
PATIENCE = 2.0

#: Offsets above a hole that are remembered.
MOST_ABOVE = 5000

#: Epochs that are remembered to be over. A client that says it has seen what was never told begins a new one.
MOST_PAST = 100

Message = dict[str, Any]
Read = Callable[..., Any]


class Position:
    """How far a server has passed on one project's events.

    Every offset up to ``floor`` has been passed on, or was in the snapshots of all who listen. Events arrive in another
    order than they happened, so there are some above it, and holes between them.

    Attributes:
        epoch: Of the offsets; None while nobody has said.
        floor: None while nobody has read a snapshot.
        hole_since: When the present hole was seen first, of :func:`time.monotonic`.
        has_unnumbered: Whether events came without an offset, so that some holes are none.
    """

    def __init__(self) -> None:
        self.epoch: str | None = None
        self.floor: int | None = None
        self.hole_since: float | None = None
        self.has_unnumbered = False
        self._above: set[int] = set()
        self._past_epochs: BoundedDict[str, bool] = BoundedDict(MOST_PAST)

    def seed(self, epoch: str, offset: int) -> None:
        """Note the first snapshot that a client of this server was given."""
        if self.floor is None or epoch != self.epoch:
            self._begin(epoch, offset)

    def jump(self, epoch: str, offset: int) -> None:
        """Give up what is missing up to an offset."""
        self._begin(epoch, max(offset, self.floor or 0) if epoch == self.epoch else offset)

    def _begin(self, epoch: str, floor: int) -> None:
        if self.epoch not in (None, epoch):
            self._past_epochs[str(self.epoch)] = True
            self._above.clear()
        self.epoch, self.floor, self.hole_since = epoch, floor, None
        self._settle()

    def note(self, epoch: str, offset: int) -> bool:
        """Note an event, and return whether it is news to the clients of this server."""
        if self._past_epochs.get(epoch):
            return True  # too late to be counted; nobody has heard it
        if self.epoch is None:
            self.epoch = epoch
        elif epoch != self.epoch:
            self._begin(epoch, 0)
        if offset in self._above or (self.floor is not None and offset <= self.floor):
            return False
        self._above.add(offset)
        self._settle()
        return True

    def _settle(self) -> None:
        if self.floor is None:
            return
        while self.floor + 1 in self._above:
            self.floor += 1
            self._above.discard(self.floor)
        if len(self._above) > MOST_ABOVE:
            self.floor = min(self._above) - 1  # what is missing below has been missing for long
            self._settle()
        self._above = {offset for offset in self._above if offset > self.floor}
        if not self._above:
            self.hole_since = None
        elif self.hole_since is None:
            self.hole_since = time.monotonic()

    @property
    def highest(self) -> int:
        """The highest offset that has been passed on."""
        return max(self._above, default=self.floor or 0)

    def has_old_hole(self) -> bool:
        """Tell whether something has been missing for longer than it takes to arrive."""
        return self.hole_since is not None and time.monotonic() - self.hole_since > PATIENCE


class CatchUp:
    """Passes on what a server has missed, from the history, to all clients who were connected meanwhile.

    Args:
        is_occupied: ``(namespace, room) -> bool``, whether any client of this server is in a room.
        namespace: The namespace of the projects.
        is_watched: Tells whether a project is heard in other rooms than its own.
    """

    def __init__(
        self,
        is_occupied: Callable[[str, str], bool],
        namespace: str,
        is_watched: Callable[[str, str], bool] = lambda _namespace, _project: False,
    ) -> None:
        self._is_occupied = is_occupied
        self._is_watched_elsewhere = is_watched
        self._namespace = namespace
        self._read: Read | None = None
        self._positions: dict[str, Position] = {}
        self._behind: set[str] = set()
        self._lock = threading.Lock()
        self._failures = RateLimitedLogger(logger)

    def read_with(self, read: Read) -> None:
        """Use a history: ``(project_id, epoch, offset, most_jobs) -> snapshot``."""
        self._read = read

    def expect(self, project_id: str) -> None:
        """Take note of a project's events from now on: a client is in its room, and about to read its snapshot."""
        if self._read is not None:
            with self._lock:
                self._positions.setdefault(project_id, Position())

    def seed(self, project_id: str, epoch: str, offset: int) -> None:
        """Note that a client has read a snapshot."""
        if self._read is not None:
            with self._lock:
                self._positions.setdefault(project_id, Position()).seed(epoch, offset)

    def is_news(self, message: Message) -> bool:
        """Note a message from the broker, and return whether it has to be passed on."""
        project_id = project_of_room(message.get("room")) if self._positions else None
        position = None if project_id is None else self._positions.get(project_id)
        if position is None:
            return True
        place = place_of(message)
        with self._lock:
            if place is None:
                position.has_unnumbered = True
                return True
            return position.note(*place)

    # -- what was missed ----------------------------------------------------------------------------------------

    def fall_behind(self) -> None:
        """Note that the broker was not heard for a while: whatever is watched may have been missed."""
        with self._lock:
            self._behind.update(self._positions)

    def missed(self) -> Iterator[Message]:
        """Yield what has been missed, as emits to the clients of this server."""
        if self._read is None:
            return
        for project_id in self._lagging():
            yield from self._missed_of(project_id, self._read)

    def _lagging(self) -> list[str]:
        with self._lock:
            idle = [project_id for project_id in self._positions if not self._is_watched(project_id)]
            for project_id in idle:
                del self._positions[project_id]
            self._behind.difference_update(idle)
            self._behind.update(name for name, position in self._positions.items() if position.has_old_hole())
            return list(self._behind)

    def _is_watched(self, project_id: str) -> bool:
        rooms = rooms_of(project_id)
        return any(self._is_occupied(self._namespace, room) for room in rooms) or self._is_watched_elsewhere(
            self._namespace, project_id
        )

    def _missed_of(self, project_id: str, read: Read) -> Iterator[Message]:
        position = self._positions.get(project_id)
        if position is None or position.floor is None or position.epoch is None:
            return  # its first client reads its snapshot only now
        try:
            snapshot = read(project_id, position.epoch, position.floor, 0)
        except Exception as error:
            self._failures.error("what was missed of a project cannot be read now; trying again: %r", error)
            return
        with self._lock:
            self._behind.discard(project_id)
            if not snapshot.recovered:
                position.jump(snapshot.epoch, snapshot.offset)
        if snapshot.recovered:
            yield from self._news_of(project_id, position, snapshot)
        else:
            data = {"project_id": project_id, "epoch": snapshot.epoch, "offset": snapshot.offset}
            yield self._emit(project_id, RESYNC_EVENT, data)

    def _news_of(self, project_id: str, position: Position, snapshot: Any) -> Iterator[Message]:
        first = snapshot.offset - len(snapshot.events) + 1
        highest = position.highest
        for offset, missed in enumerate(snapshot.events, first):
            with self._lock:
                is_news = position.note(snapshot.epoch, offset)
            unnumbered = "offset" in missed and position.has_unnumbered and offset < highest
            if is_news and not unnumbered:
                mark = {name: missed[name] for name in ("epoch", "offset") if name in missed}
                yield self._emit(project_id, missed["event"], missed["data"], mark)

    def _emit(self, project_id: str, event: str, data: Any, mark: dict[str, Any] | None = None) -> Message:
        message = {
            "method": "emit",
            "event": event,
            "room": project_room(project_id),
            "data": [data],
            "namespace": self._namespace,
        }
        return {**message, "mark": {**mark, "project_id": project_id}} if mark else message
