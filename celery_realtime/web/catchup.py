"""Track how far a web server has emitted each project's events, and recover those that it has missed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from celery_realtime.bounded import BoundedDict
from celery_realtime.channel.wire import Heard, heard
from celery_realtime.events import RESYNC_EVENT
from celery_realtime.loops import BackgroundLoop
from celery_realtime.web.history_reader import HistoryReader, Missing, Read

#: Seconds after which an event that is missing between two others counts as lost: its sender was killed, say.
HOLE_TIMEOUT = 2.0

#: Offsets above a hole that are remembered.
MOST_ABOVE = 5000

#: Past epochs that are remembered: a client whose position was never reached begins a new one.
MOST_PAST = 100

#: Seconds that the listening thread waits, at most, for the history to answer: so that after a short outage events
#: are emitted in order. A history that has not answered in time is not waited for again until it has.
RECOVERY_WAIT = 0.5


class Position:
    """How far a server has emitted one project's events.

    Every offset up to ``floor`` has been emitted, or was in the snapshots of all subscribers. Events arrive in another
    order than they happened, so some above it have been emitted too, with holes between them.

    Attributes:
        epoch: Of the offsets; None before the first event or snapshot.
        floor: None before the first snapshot.
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
        """Note an event, and return whether this server has not emitted it yet."""
        if self._past_epochs.get(epoch):
            return True  # too late to be counted; no client has seen it
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
        """The highest offset that has been emitted."""
        return max(self._above, default=self.floor or 0)

    @property
    def held(self) -> int:
        """How many offsets above the floor are remembered."""
        return len(self._above)

    @property
    def past(self) -> int:
        """How many past epochs are remembered."""
        return len(self._past_epochs)

    def has_old_hole(self) -> bool:
        """Return whether an event has been missing for longer than it takes to arrive."""
        return self.hole_since is not None and time.monotonic() - self.hole_since > HOLE_TIMEOUT


class CatchUp:
    """Recovers from the history what a server has missed, for all clients that were connected meanwhile.

    The history is read in a thread of its own: while it does not answer, live events are emitted as ever.

    Args:
        read: ``(project_id, epoch, offset, most_jobs) -> snapshot``; None where there is no history.
        is_watched: ``(namespace, project_id) -> bool``, whether any client of this server follows a project.
        namespace: The namespace of the projects.
    """

    def __init__(self, read: Read | None, is_watched: Callable[[str, str], bool], namespace: str) -> None:
        self._reader = None if read is None else HistoryReader(read)
        self._is_watched = is_watched
        self._namespace = namespace
        self._positions: dict[str, Position] = {}
        #: By project that is behind, which time it was that it fell behind.
        self._behind: dict[str, int] = {}
        self._serial = 0
        self._lock = threading.Lock()

    @property
    def loops(self) -> list[BackgroundLoop]:
        """The background loop that reads the history; none where there is no history."""
        return [] if self._reader is None else [self._reader.loop]

    def after_fork(self) -> None:
        """Start over in a child process, which has no clients and not the thread that read the history."""
        self._lock = threading.Lock()
        self._positions, self._behind = {}, {}
        if self._reader is not None:
            self._reader.after_fork()

    def close(self) -> None:
        """Stop reading the history."""
        if self._reader is not None:
            self._reader.close()

    def expect(self, project_id: str) -> None:
        """Track a project's events from now on: a client is in its room, and about to read its snapshot."""
        if self._reader is not None:
            with self._lock:
                self._positions.setdefault(project_id, Position())

    def seed(self, project_id: str, epoch: str, offset: int) -> None:
        """Note that a client has read a snapshot."""
        if self._reader is not None:
            with self._lock:
                self._positions.setdefault(project_id, Position()).seed(epoch, offset)

    def is_news(self, event: Heard) -> bool:
        """Note an event from the channel, and return whether it has to be emitted."""
        position = self._positions.get(event.project_id)
        if position is None:
            return True
        with self._lock:
            if event.epoch is None or event.offset is None:
                position.has_unnumbered = True
                return True
            return position.note(event.epoch, event.offset)

    # -- what was missed ----------------------------------------------------------------------------------------

    def fall_behind(self, project_ids: Iterable[str] | None = None) -> None:
        """Note that events may have been missed.

        Args:
            project_ids: Of which projects; None for all that are tracked, such as after an outage of the broker.
        """
        with self._lock:
            self._mark_behind(self._positions if project_ids is None else self._positions.keys() & set(project_ids))

    def _mark_behind(self, project_ids: Iterable[str]) -> None:
        self._serial += 1
        self._behind.update(dict.fromkeys(project_ids, self._serial))

    def missed(self) -> Iterator[list[Heard]]:
        """Yield, project by project, what has been recovered by now of what was missed.

        What is not taken is yielded by the next call.
        """
        if self._reader is None:
            return
        for missing in self._missing():
            self._reader.request(missing)
        for missing, snapshot in self._reader.answers(RECOVERY_WAIT):
            yield self._recovered(missing, snapshot)

    def _missing(self) -> list[Missing]:
        """Return what has to be read: of every project that is behind, except where no client has a snapshot yet."""
        with self._lock:
            self._forget_unwatched()
            up_to_date = (name for name in self._positions if name not in self._behind)
            self._mark_behind([name for name in up_to_date if self._positions[name].has_old_hole()])
            places = ((name, self._positions[name], serial) for name, serial in self._behind.items())
            return [
                Missing(name, position.epoch, position.floor, serial)
                for name, position, serial in places
                if position.epoch is not None and position.floor is not None
            ]

    def _forget_unwatched(self) -> None:
        for project_id in [name for name in self._positions if not self._is_watched(self._namespace, name)]:
            del self._positions[project_id]
            self._behind.pop(project_id, None)

    def _recovered(self, missing: Missing, snapshot: Any) -> list[Heard]:
        with self._lock:
            position = self._positions.get(missing.project_id)
            if position is None or position.epoch != missing.epoch:
                return []  # every client has left, or the epoch has changed meanwhile and it is read again
            if self._behind.get(missing.project_id) == missing.serial:
                del self._behind[missing.project_id]
            if snapshot.recovered:
                return list(self._news_in(missing.project_id, position, snapshot))
            position.jump(snapshot.epoch, snapshot.offset)
        data = {"project_id": missing.project_id, "epoch": snapshot.epoch, "offset": snapshot.offset}
        return [Heard(missing.project_id, None, RESYNC_EVENT, data, namespace=self._namespace)]

    def _news_in(self, project_id: str, position: Position, snapshot: Any) -> Iterator[Heard]:
        first = snapshot.offset - len(snapshot.events) + 1
        highest = position.highest
        for offset, entry in enumerate(snapshot.events, first):
            is_news = position.note(snapshot.epoch, offset)
            unnumbered = "offset" in entry and position.has_unnumbered and offset < highest
            if is_news and not unnumbered:
                place = {name: entry[name] for name in ("epoch", "offset") if name in entry}
                mark = {**place, "project_id": project_id} if place else None
                yield heard(project_id, entry["event"], entry["data"], mark=mark, namespace=self._namespace)
