"""Put the events of one project in the order of their offsets before they are emitted.

Without input, output, locks and time of its own: :class:`~celery_realtime.web.catchup.CatchUp` brings events, the
history's answers and the clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from celery_realtime.bounded import BoundedDict
from celery_realtime.channel.wire import Heard, heard
from celery_realtime.events import METADATA_EVENT, PROGRESS_EVENT, RESYNC_EVENT, STATUS_EVENT, WORKFLOW_EVENT
from celery_realtime.web.history_reader import Missing

#: Seconds that an event waits for one that is missing before it, until the history is asked.
PATIENCE = 0.1

#: Events of one project that wait; the history returns no more at once.
MOST_WAITING = 1000

#: Past epochs that are remembered: an event of such a one comes too late.
MOST_PAST = 100

#: Holes that are remembered after they were given up, because the history could not be read, and jobs and workflows of
#: which something was emitted behind them.
MOST_LOST, MOST_EMITTED = 100, 10_000

#: Events that bring something up to date, and the field that names it.
SUBJECTS = {STATUS_EVENT: "job_id", PROGRESS_EVENT: "job_id", WORKFLOW_EVENT: "root_id"}


class Waiting(NamedTuple):
    """An event that cannot be emitted yet.

    Attributes:
        event: The event.
        since: When it came.
        requests: How many times the history had been asked by then.
    """

    event: Heard
    since: float
    requests: int

    @property
    def offset(self) -> int:
        """The event's place in its epoch."""
        return self.event.offset or 0


class Announced(NamedTuple):
    """Up to where the history is known to go; the other attributes are those of :class:`Waiting`."""

    epoch: str
    offset: int
    since: float
    requests: int


class ProjectOrder:
    """How far a server has emitted one project's events, and those that cannot be emitted yet.

    What is next by its offset is emitted at once. What is ahead of a hole waits until the hole is filled, by the
    channel or by an answer of the history. Methods that return events return them in the order in which they have to
    be emitted; one whose offset says nothing any more has lost it, and counts as one that never had one.

    Args:
        project_id: The project.
        namespace: The namespace of the project.
        requests: How many times the history has been asked for the project before, for those that are forgotten.

    Attributes:
        requests: How many times the history has been asked.
        epoch: Of the offsets; None before the first snapshot.
        emitted: Every offset up to it has been emitted, was in the snapshots of all subscribers, or was given up.
        is_behind: Whether events may have been missed that nothing on the channel shows.
        lost: What was given up.
    """

    def __init__(self, project_id: str, namespace: str = "/", requests: int = 0) -> None:
        self.project_id = project_id
        self.requests = self._first_request = requests
        self.epoch: str | None = None
        self.emitted = 0
        self.is_behind = False
        self.lost = Lost()
        self._source = Source(project_id, namespace)
        self._behind_since = 0
        self._waiting = Ahead()
        self._others = OtherEpochs()
        self._announced: Announced | None = None
        self._has_unnumbered = False
        #: What comes of offsets up to it was never emitted, though it is behind.
        self._start = 0
        #: Nothing up to it was emitted in this epoch: the first snapshot had it.
        self._first = 0

    # -- the channel --------------------------------------------------------------------------------------------

    def take(self, event: Heard, clock: float) -> Iterable[Heard]:
        """Take an event with an offset from the channel, and return what has to be emitted now."""
        offset = event.offset or 0
        if event.epoch != self.epoch:
            return self._others.take(Waiting(event, clock, self.requests))
        if offset == self.emitted + 1:
            self.emitted = offset
            due = (event, *self._contiguous()) if self._waiting else (event,)
            return self.lost.emitting(due) if self.lost else due
        if offset > self.emitted:
            self._waiting.add(Waiting(event, clock, self.requests))
            if len(self._waiting) > MOST_WAITING:
                self.drop_waiting()
        return (_without_offset(event),) if offset <= self._start else ()

    def take_unnumbered(self) -> None:
        """Note that an event without an offset was emitted, which may have one in the history."""
        self._has_unnumbered = True

    def drop_waiting(self) -> None:
        """Forget what waits, which is too much: it is in the history, which is asked at once."""
        if not self._waiting:
            return
        self._announced = Announced(self.epoch or "", self._waiting.last, -math.inf, self.requests)
        self._waiting.take_all()

    def _contiguous(self) -> Iterator[Heard]:
        while (event := self._waiting.take(self.emitted + 1)) is not None:
            self.emitted += 1
            yield event

    @property
    def waiting(self) -> int:
        """How many events wait."""
        return len(self._waiting) + len(self._others.waiting)

    @property
    def waits_until(self) -> float:
        """Until when the first of the events that wait does so, or what is announced is awaited; infinity if none."""
        announced, others = self._missing_announced(), self._others.waiting
        since = [first.since for first in (self._waiting.oldest, others[0] if others else None, announced) if first]
        return min(since, default=math.inf) + PATIENCE

    @property
    def overdue_at(self) -> float:
        """When the history has to be asked for what is missing; infinity if nothing is."""
        if self.is_behind or self.lost or (self._others.waiting and self.epoch is not None):
            return -math.inf
        return self.waits_until

    def fall_behind(self) -> None:
        """Note that events may have been missed."""
        self.is_behind, self._behind_since = True, self.requests

    def announce(self, epoch: str, offset: int, clock: float) -> None:
        """Note the history's epoch and newest offset: what of it does not come is missing."""
        if self.epoch is not None and not self._others.is_past(epoch) and self._missing_announced() is None:
            self._announced = Announced(epoch, offset, clock, self.requests)

    def _missing_announced(self) -> Announced | None:
        announced = self._announced
        if announced is None or (announced.epoch == self.epoch and announced.offset <= self.emitted):
            return None
        return announced

    def start(self, event: Heard) -> None:
        """Begin with an event, for a client that was placed in the room without a snapshot."""
        self.epoch, self._start = event.epoch, (event.offset or 0) - 1
        self.emitted = self._first = self._start

    def seed(self, epoch: str, offset: int, clock: float) -> list[Heard]:
        """Note a snapshot that a client of this server was given, and return what has to be emitted now."""
        if self.epoch is None:
            return self._begin(epoch, offset, clock)
        if epoch == self.epoch and offset < self._first:
            self._reach_back(offset)
        else:
            self.announce(epoch, offset, clock)
        return []

    def _reach_back(self, offset: int) -> None:
        """Have what comes after an older snapshot emitted, too, than that with which this server has begun."""
        if self.emitted > self._first:
            self.lost.add(range(offset + 1, self._first + 1), self.requests)
        else:
            self._announced = Announced(str(self.epoch), self.emitted, -math.inf, self.requests)
            self.emitted = offset
        self._first, self._start = offset, min(self._start, offset)

    def older_epoch(self, epoch: str) -> str | None:
        """Return the epoch that this server is still in, if it is older than that of a snapshot; else None."""
        return None if self.epoch == epoch or self._others.is_past(epoch) else self.epoch

    def _begin(self, epoch: str, offset: int, clock: float) -> list[Heard]:
        """Go on in another epoch; what waits of this one is emitted before, since nothing will fill its holes."""
        due = self._rest()
        if self.epoch is not None:
            self._others.end(self.epoch, self.emitted)
        self.epoch, self.emitted, self._first, self._start = epoch, offset, offset, 0
        self.lost, self._announced = Lost(), None
        for waiting in self._others.take_all():
            due += self.take(waiting.event, min(waiting.since, clock))
        return due

    def _rest(self) -> list[Heard]:
        self.emitted = max(self.emitted, self._waiting.last)
        return self._waiting.take_all()

    def _refute(self, epoch: str) -> None:
        self._others.refute(epoch)
        if self._announced is not None and self._announced.epoch == epoch:
            self._announced = None

    # -- the history --------------------------------------------------------------------------------------------

    def request(self) -> Missing | None:
        """Return what has to be read; None while no client has a snapshot."""
        if self.epoch is None:
            return None
        self.requests += 1
        announced = self._missing_announced()
        epoch = self._others.latest or (announced.epoch if announced is not None else self.epoch)
        return Missing(self.project_id, epoch, self._place_in(epoch), self.requests)

    def _place_in(self, epoch: str) -> int:
        """Return up to where nothing is missing of an epoch."""
        return int(min(self.emitted, self.lost.start)) if epoch == self.epoch else 0

    def answer(self, missing: Missing, snapshot: Any, clock: float) -> list[Heard]:
        """Take the history's answer to what was asked for, and return what has to be emitted now."""
        if missing.serial <= self._first_request or missing.offset > self._place_in(missing.epoch):
            return []  # clients had left, or one has come since that needs more: it is asked for again
        if self._behind_since < missing.serial:
            self.is_behind = False
        if snapshot.epoch != self.epoch:
            return self._changed(missing, snapshot, clock)
        if missing.epoch != self.epoch:
            self._refute(missing.epoch)
            return []
        if snapshot.recovered and not self.lost.is_too_much:
            return self._filled(missing, snapshot)
        return self._jumped(missing, snapshot)

    def _changed(self, missing: Missing, snapshot: Any, clock: float) -> list[Heard]:
        """The history has begun anew, or counts on after its server has lost the end of it."""
        if self._others.is_past(snapshot.epoch):
            return []  # the answer is older than what has come since
        if missing.epoch != snapshot.epoch:
            if missing.epoch != self.epoch:
                self._refute(missing.epoch)
            self._announced = Announced(snapshot.epoch, snapshot.offset, -math.inf, self.requests)
            return []
        if snapshot.recovered:
            return [*self._begin(snapshot.epoch, 0, clock), *self._filled(missing, snapshot)]
        due, known = self._rest(), self._others.of(snapshot.epoch)
        rest = self._begin(snapshot.epoch, snapshot.offset, clock)
        known_events = [known[offset].event for offset in sorted(known) if offset <= snapshot.offset]
        return [*due, self._source.resync(snapshot), *known_events, *rest]

    def _filled(self, missing: Missing, snapshot: Any) -> list[Heard]:
        first = snapshot.offset - len(snapshot.events) + 1
        entries = dict(enumerate(snapshot.events, first))
        recovered = self.lost.recovered(entries, snapshot.offset, missing.serial)
        due = [self._source.event(entries[offset], str(self.epoch), offset) for offset in recovered]
        for offset in range(self.emitted + 1, snapshot.offset + 1):
            due += self._next(entries[offset], offset)
        return [*due, *self._contiguous(), *self._forged(missing, snapshot.offset)]

    def _next(self, entry: dict[str, Any], offset: int) -> Iterator[Heard]:
        self.emitted = offset
        event = self._waiting.take(offset)
        if event is not None:
            yield event
        # One that cannot hold its offset came without, if later ones have come.
        elif not (self._has_unnumbered and "offset" in entry and self._waiting):
            yield self._source.event(entry, str(self.epoch), offset)

    def _forged(self, missing: Missing, newest: int) -> Iterator[Heard]:
        """Yield what was there before the history was asked, and is not in it: its offset says nothing."""
        if self._announced is not None and self._announced.requests < missing.serial:
            self._announced = None
        yield from map(_without_offset, self._waiting.take_refuted(missing.serial, newest))

    def _jumped(self, missing: Missing, snapshot: Any) -> list[Heard]:
        """Give up what is missing: it is not in the history any more, or is too much."""
        if snapshot.offset <= self.emitted and not self.lost:  # it came meanwhile, or the server has lost it
            return list(self._forged(missing, self.emitted))
        known = self._waiting.take_up_to(snapshot.offset)
        self.emitted, self.lost, self._announced = max(self.emitted, snapshot.offset), Lost(), None
        return [self._source.resync(snapshot), *known, *self._contiguous()]

    def give_up(self, clock: float) -> list[Heard]:
        """Go on without what is missing, since the history cannot be read; return what has to be emitted now."""
        due: list[Heard] = []
        epoch = self._others.latest
        if epoch is not None:
            first, begins_late = min(self._others.of(epoch)), self.epoch is not None
            due = self._begin(epoch, first - 1, clock)
            if begins_late:
                self.lost.add(range(1, first), self.requests)
        if self._waiting:
            first = self._waiting.first
            self.lost.add(range(self.emitted + 1, first), self.requests)
            self.emitted = first - 1
            due += self._contiguous()
        return [*self.lost.emitting(due)]


class Ahead:
    """Events of a project's epoch that are ahead of a hole, by offset."""

    def __init__(self) -> None:
        #: In the order of arrival.
        self._events: dict[int, Waiting] = {}

    def __len__(self) -> int:
        return len(self._events)

    @property
    def oldest(self) -> Waiting | None:
        """The one that has waited longest; None if there is none."""
        return next(iter(self._events.values()), None)

    @property
    def first(self) -> int:
        """The lowest offset; 0 if there is none."""
        return min(self._events, default=0)

    @property
    def last(self) -> int:
        """The highest offset; 0 if there is none."""
        return max(self._events, default=0)

    def add(self, waiting: Waiting) -> None:
        """Let one wait, unless it does."""
        self._events.setdefault(waiting.offset, waiting)

    def take(self, offset: int) -> Heard | None:
        """Return the event with an offset, once; None if it does not wait."""
        waiting = self._events.pop(offset, None)
        return None if waiting is None else waiting.event

    def take_up_to(self, offset: float) -> list[Heard]:
        """Return those up to an offset, once, in their order."""
        return [self._events.pop(place).event for place in sorted(self._events) if place <= offset]

    def take_all(self) -> list[Heard]:
        """Return all, once, in their order."""
        return self.take_up_to(math.inf)

    def take_refuted(self, serial: int, newest: int) -> list[Heard]:
        """Return, once, those beyond the history's newest offset that came before it was asked, as they came."""
        early = [place for place, waiting in self._events.items() if waiting.requests < serial and place > newest]
        return [self._events.pop(place).event for place in early]


class Source(NamedTuple):
    """Makes events of what the history says of a project."""

    project_id: str
    namespace: str

    def event(self, entry: dict[str, Any], epoch: str, offset: int) -> Heard:
        """Return the event of an entry."""
        place: dict[str, Any] = {name: entry[name] for name in ("epoch", "offset") if name in entry}
        mark = {**place, "project_id": self.project_id} if place else None
        event = heard(self.project_id, entry["event"], entry["data"], mark=mark, namespace=self.namespace)
        return msgspec.structs.replace(event, epoch=epoch, offset=offset)

    def resync(self, snapshot: Any) -> Heard:
        """Return the event that has clients subscribe again."""
        data = {"project_id": self.project_id, "epoch": snapshot.epoch, "offset": snapshot.offset}
        return Heard(self.project_id, None, RESYNC_EVENT, data, namespace=self.namespace)


class OtherEpochs:
    """What a project is not in the epoch of: epochs that are over, and events of those that are not confirmed yet.

    Attributes:
        waiting: The events, in the order of arrival.
    """

    def __init__(self) -> None:
        self.waiting: list[Waiting] = []
        #: Up to where past epochs were emitted; infinity for those that never were the history's.
        self._past: BoundedDict[str, float] = BoundedDict(MOST_PAST)

    @property
    def past(self) -> int:
        """How many past epochs are remembered."""
        return len(self._past)

    @property
    def latest(self) -> str | None:
        """The epoch of the last event; None if there is none."""
        return self.waiting[-1].event.epoch if self.waiting else None

    def is_past(self, epoch: str) -> bool:
        """Return whether an epoch is over."""
        return self._past.get(epoch) is not None

    def of(self, epoch: str) -> dict[int, Waiting]:
        """Return the events of an epoch, by offset."""
        return {waiting.offset: waiting for waiting in self.waiting if waiting.event.epoch == epoch}

    def take(self, waiting: Waiting) -> Iterable[Heard]:
        """Take an event, and return it if it is to be emitted now: it comes too late to have a place."""
        past = self._past.get(waiting.event.epoch or "")
        if past is not None:
            return (_without_offset(waiting.event),) if waiting.offset > past else ()
        self.waiting.append(waiting)
        del self.waiting[:-MOST_WAITING]
        return ()

    def take_all(self) -> list[Waiting]:
        """Return all events, once."""
        waiting, self.waiting = self.waiting, []
        return waiting

    def end(self, epoch: str, emitted: float) -> None:
        """Note that an epoch is over."""
        self._past[epoch] = emitted

    def refute(self, epoch: str) -> None:
        """Forget an epoch that is not the history's: somebody has made it up, or its history is lost by now."""
        self.end(epoch, math.inf)
        self.waiting = [waiting for waiting in self.waiting if waiting.event.epoch != epoch]


class Lost:
    """The holes that were given up, because the history could not be read; it is asked for them when it can be.

    Attributes:
        is_too_much: Whether there was more than is remembered.
    """

    def __init__(self) -> None:
        self.is_too_much = False
        #: Each with how many times the history had been asked by then.
        self._holes: list[tuple[range, int]] = []
        #: By the kind of event and what it is about, the offset of the latest that was emitted behind a hole.
        self._emitted: dict[tuple[str, Any], int] = {}

    def __bool__(self) -> bool:
        return bool(self._holes)

    @property
    def start(self) -> float:
        """The offset before the first hole; infinity if there is none."""
        return self._holes[0][0].start - 1 if self._holes else math.inf

    def add(self, hole: range, requests: int) -> None:
        """Note a hole that was given up when the history had been asked so many times."""
        if hole:
            self.is_too_much |= len(self._holes) >= MOST_LOST
            self._holes = [*self._holes, (hole, requests)][-MOST_LOST:]

    def emitting(self, events: Iterable[Heard]) -> Iterable[Heard]:
        """Note what is emitted, which is behind all holes, and return it; the history's answer may be older."""
        if self._holes:
            places = {(event.event, _subject(event.event, event.data)): event.offset or 0 for event in events}
            self._emitted.update((subject, place) for subject, place in places.items() if subject[1] is not None)
            self.is_too_much |= len(self._emitted) > MOST_EMITTED
        return events

    def recovered(self, entries: dict[int, dict[str, Any]], newest: int, serial: int) -> list[int]:
        """Return, once, the offsets in holes that may be emitted late.

        Not those of a status or of progress of which a newer one was emitted meanwhile: their jobs would go backwards.
        A hole stays as far as the answer does not reach, if the history was asked before the hole was given up.

        Args:
            entries: The events of the history, by offset.
            newest: Up to where the answer goes.
            serial: The number of the request that it answers.
        """
        holes, emitted = self._holes, self._emitted
        rests = [
            (range(max(hole.start, newest + 1), hole.stop), requests) for hole, requests in holes if requests >= serial
        ]
        self._holes = [(rest, requests) for rest, requests in rests if rest]
        if not self._holes:
            self._emitted = {}
        lost = [offset for offset in sorted(entries) if any(offset in hole for hole, _ in holes)]
        return [offset for offset in lost if not _is_superseded(offset, entries[offset], emitted)]


def _is_superseded(offset: int, entry: dict[str, Any], emitted: dict[tuple[str, Any], int]) -> bool:
    name = entry["event"]
    subject = _subject(name, entry["data"])
    newer = (STATUS_EVENT, PROGRESS_EVENT) if name == PROGRESS_EVENT else (name,)
    return any(emitted.get((later, subject), 0) > offset for later in newer)


def _subject(name: str, data: Any) -> str | None:
    """Return which job or workflow an event brings up to date; None for one that stands for itself."""
    if name == METADATA_EVENT and isinstance(data, dict):
        return _changed_key(data)
    key = SUBJECTS.get(name)
    subject = data.get(key) if key is not None and isinstance(data, dict) else None
    return subject if isinstance(subject, str) else None


def _changed_key(data: dict[str, Any]) -> str | None:
    """Return which key of which job's metadata an event is about: each changes one."""
    changed = (part for part in (data.get("set"), data.get("deleted")) if isinstance(part, (dict, list)))
    key = next((key for part in changed for key in part), None)
    return None if key is None else f"{data.get('job_id')}\n{key}"


def _without_offset(event: Heard) -> Heard:
    return msgspec.structs.replace(event, epoch=None, offset=None)
