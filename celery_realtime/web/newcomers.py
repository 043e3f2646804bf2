"""Keep what a client has subscribed to from coming before its snapshot, and what is older from coming after it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from celery_realtime.channel.wire import Heard
from celery_realtime.clocks import time
from celery_realtime.events import BATCH_EVENT, RESYNC_EVENT
from celery_realtime.stream_parts import STREAM_EVENT
from celery_realtime.web.delivery import Emit
from celery_realtime.web.several import skipped_by

#: Emits that are held for a client until it has its snapshot.
MOST_HELD = 1000

#: Seconds that emits are held for a client that heard the project before: the history may hang.
LONGEST_HOLD = 1.0

#: The same where the answer comes as events: newer ones that went before it would be taken back by it.
LONGEST_HOLD_FOR_REPLAY = 10.0

#: Beyond the end of any stream: of one that has begun anew, what was before is known.
LAST_POSITION = 2**62

#: Seconds after a snapshot in which what is older than it may still come.
LONGEST_AFTERMATH = 10.0


class Newcomer:
    """One client that subscribes: what is emitted for it waits until it has been answered.

    Args:
        sid: The client.
        project_id: The project.
        room: The room that it enters.
        others: Other rooms of the same subscription. What is emitted in further rooms of the project waits as well.
        was_here: Whether the client has been in one of the rooms before.
        replays: Whether its answer comes as events.

    Attributes:
        held: What waits.
        replaces: Whether the client is certain to take the snapshot, so that it needs nothing that is older. An
            acknowledgement may come too late for it, and be ignored; then it needs all that it would have got without.
        was_here: As given.
        dropped_up_to: The last of what was dropped since too much waited; None if nothing was.
        is_outrun: Whether the client was given events, since the answer took long, that its snapshot has not.
    """

    def __init__(
        self,
        sid: str,
        project_id: str,
        room: str,
        *,
        others: Iterable[str],
        was_here: bool,
        replays: bool = False,
    ) -> None:
        self.sid = sid
        self.project_id = project_id
        self.held: deque[Emit] = deque()
        self.replaces = replays or not was_here
        self._replays = replays
        self.is_outrun = False
        self._room = room
        self._rooms = frozenset([room, *others])
        self.was_here = was_here
        self._since = time.monotonic()
        self._is_answered = False
        self._has_given_up = False
        self._position: tuple[str, int] | None = None
        self._older_epoch: str | None = None
        self._outran: Heard | None = None
        #: By job and name of the streams that the client was given: which start of it, and up to where.
        self._streams: dict[tuple[str, str], tuple[int, int]] = {}
        self.dropped_up_to: Heard | None = None

    def place(self, epoch: str | None, offset: int | None, older_epoch: str | None = None) -> None:
        """Note the position of the client's snapshot.

        Args:
            epoch: The epoch; None without a history.
            offset: The offset; None without a history.
            older_epoch: The epoch that this server is still in, if that is another, which the snapshot has gone beyond.
        """
        if epoch is not None and offset is not None:
            self._position, self._older_epoch = (epoch, offset), older_epoch
            self._since = time.monotonic()
            last = self._outran
            self.is_outrun = last is not None and last.epoch == epoch and (last.offset or 0) > offset

    def place_streams(self, positions: dict[tuple[str, str], tuple[int, int]]) -> None:
        """Note what the client is given of streams: by job and name which start of it, and up to where."""
        self._streams = positions
        self._since = time.monotonic()

    def known_of(self, chunk: Heard) -> int:
        """Return up to where the client knows a stream that a chunk is of, from its answer, which it takes for it."""
        data = chunk.data
        generation, position = self._streams.get((str(chunk.job_id), data["stream"]), (0, 0))
        if not self.replaces or generation < data["generation"]:
            return 0
        return position if generation == data["generation"] else LAST_POSITION

    @property
    def is_holding(self) -> bool:
        """Whether what is emitted for the client waits."""
        return not self._is_answered and not self._has_given_up

    @property
    def is_over(self) -> bool:
        """Whether nothing has to be done for the client any more."""
        is_late = time.monotonic() - self._since > LONGEST_AFTERMATH
        knows_nothing = self._position is None and not self._streams
        return self._is_answered and (knows_nothing or not self.replaces or is_late)

    @property
    def is_late(self) -> bool:
        """Whether the answer takes too long for a client that heard the project before to go without its events.

        Not when it comes as events, and is about to: newer ones must not come in between.
        """
        is_coming = self._replays and self._position is not None
        longest = LONGEST_HOLD_FOR_REPLAY if self._replays else LONGEST_HOLD
        return self.was_here and not is_coming and time.monotonic() - self._since >= longest

    def hold(self, emit: Emit) -> None:
        """Let an emit wait until the client has been answered."""
        self.held.append(emit)
        if len(self.held) > MOST_HELD:
            self.dropped_up_to = self.held.popleft().events[-1]

    def give_up(self) -> None:
        """Hold nothing any more, though the client has not been answered."""
        self._has_given_up = True

    def end(self) -> None:
        """Note that the client has been answered, and given all that was held for it."""
        self._is_answered = True

    def note_emitted(self, emit: Emit) -> None:
        """Note that the client has been given something of its rooms: whatever comes next is newer, too."""
        if self._rooms.isdisjoint(emit.rooms) or not emit.events:
            return
        if self._position is None:
            self._outran = emit.events[-1]
        elif not self._has(emit.events[-1]):
            self._position = None

    def covers(self, event: Heard, room: str) -> bool:
        """Return whether an event that is emitted in a room is in the client's snapshot, which it takes for it."""
        return self._position is not None and self.replaces and room in self._rooms and self._has(event)

    def _has(self, event: Heard) -> bool:
        """Return whether the snapshot has an event, or goes beyond its epoch."""
        if self._position is None or event.offset is None:
            return False
        epoch, offset = self._position
        return event.offset <= offset if event.epoch == epoch else event.epoch == self._older_epoch

    def hand_over(self, other: Newcomer) -> None:
        """Let what is held wait until another subscription of the same client has been answered, too."""
        other.dropped_up_to = other.dropped_up_to or self.dropped_up_to
        while self.held:
            other.hold(self.held.popleft())

    def next_held(self) -> Emit | None:
        """Take the next of what was held; None if nothing is."""
        dropped, self.dropped_up_to = self.dropped_up_to, None
        if dropped is not None and not self._has(dropped):
            return self._resync(dropped)
        if self.held:
            return self.held.popleft()
        return None

    def _resync(self, dropped: Heard) -> Emit:
        data = {"project_id": self.project_id, "epoch": dropped.epoch, "offset": dropped.offset}
        return Emit(RESYNC_EVENT, data, dropped.namespace, self._room, events=(dropped,))


def _rest_for(newcomers: list[Newcomer], emit: Emit) -> Emit | None:
    """Return what of an emit one client needs, which has been given the snapshots of these subscriptions.

    That is the emit itself, less of it, or None. A client that gets it by several subscriptions needs what one of them
    has not.
    """
    rests = [_rest_of(newcomers, event, emit.rooms) for event in emit.events]
    if all(rest is event for rest, event in zip(rests, emit.events, strict=True)):
        return emit
    left = tuple(rest for rest in rests if rest is not None)
    if emit.event != BATCH_EVENT:
        return msgspec.structs.replace(emit, data=left[0].data, events=left) if left else None
    items = [
        item if rest is event else {**item, "data": rest.data}
        for item, rest, event in zip(emit.data, rests, emit.events, strict=True)
        if rest is not None
    ]
    return msgspec.structs.replace(emit, data=items, events=left) if left else None


def _rest_of(newcomers: list[Newcomer], event: Heard, rooms: tuple[str, ...]) -> Heard | None:
    """Return what of an event a client needs: the event itself, less of it, or None."""
    if event.event != STREAM_EVENT or not newcomers:  # none is left of a client that has gone meanwhile
        is_new = any(not any(newcomer.covers(event, room) for newcomer in newcomers) for room in rooms)
        return event if is_new else None
    data = event.data
    known, position = max(newcomer.known_of(event) for newcomer in newcomers), data["position"]
    if position >= known:
        return event
    if data.get("end", position + len(data["chunk"])) <= known:
        return None
    if "end" in data:  # it is not shown as it is, and cannot be cut
        return event
    rest = {**data, "position": known, "chunk": data["chunk"][known - position :]}
    return msgspec.structs.replace(event, data=rest)


def _take(newcomers: list[Newcomer], emit: Emit) -> list[Emit] | None:
    """Return what to emit to one client alone, now; None for what all in the room get.

    Args:
        newcomers: The subscriptions of the client.
        emit: What is emitted in a room that it is in.
    """
    holding = [newcomer for newcomer in newcomers if newcomer.is_holding]
    if holding:
        holding[0].hold(emit)
        return _given_up(newcomers, holding) if all(newcomer.is_late for newcomer in holding) else []
    rest = _rest_for(newcomers, emit)
    if rest is None:
        return []
    for newcomer in newcomers:
        newcomer.note_emitted(rest)
    return None if rest is emit else [rest]


def _given_up(newcomers: list[Newcomer], holding: list[Newcomer]) -> list[Emit]:
    """Return what was held for a client that is to wait for its answer no longer."""
    due = [rest for emit in iter(holding[0].next_held, None) if (rest := _rest_for(newcomers, emit)) is not None]
    for newcomer in holding:
        newcomer.give_up()
        for emit in due:
            newcomer.note_emitted(emit)
    return due


class Newcomers:
    """All clients of a server that are being answered, or have just been.

    Args:
        is_in_room: ``(sid, namespace, room) -> bool``.
        namespace: The namespace of the projects.
    """

    def __init__(self, is_in_room: Callable[[str, str, str], bool], namespace: str) -> None:
        self._is_in_room = is_in_room
        self._namespace = namespace
        self._lock = threading.Lock()
        #: By project. The lists are replaced, never changed.
        self._newcomers: dict[str, list[Newcomer]] = {}

    def __len__(self) -> int:
        return sum(map(len, list(self._newcomers.values())))

    @property
    def holding(self) -> int:
        """For how many subscriptions emits are held."""
        with self._lock:
            return sum(newcomer.is_holding for newcomers in self._newcomers.values() for newcomer in newcomers)

    def hold(
        self,
        sid: str,
        project_id: str,
        room: str,
        others: Iterable[str],
        *,
        replays: bool,
        earlier: Newcomer | None = None,
    ) -> Newcomer:
        """Hold from now on what is emitted for a client that is about to enter a room.

        Args:
            sid: The client.
            project_id: The project.
            room: The room.
            others: Other rooms of the same subscription.
            replays: Whether the snapshot comes as events, and not in an acknowledgement.
            earlier: What was held by for the same request, whose access was decided again after it had joined.
        """
        alternatives = list(others)
        was_here = any(self._is_in_room(sid, self._namespace, name) for name in (room, *alternatives))
        was_here = was_here if earlier is None else earlier.was_here
        newcomer = Newcomer(sid, project_id, room, others=alternatives, was_here=was_here, replays=replays)
        with self._lock:
            present = [other for other in self._newcomers.get(project_id, ()) if not other.is_over]
            for other in present if not replays else ():
                # Which of the answers it will take is not known.
                if other.sid == sid and other.is_holding and other is not earlier:
                    newcomer.replaces = other.replaces = False
            self._newcomers[project_id] = [*present, newcomer]
        return newcomer

    def split(self, emit: Emit) -> Iterator[Emit]:
        """Yield what to emit instead: it, without the clients that are being answered, and what they get of it."""
        if emit.only is not None:
            if emit.is_for(emit.only):
                yield from self.alone(emit.only, emit)
            return
        if not self._newcomers or not emit.events:
            yield emit
            return
        skipped = skipped_by(emit.skip_sid)
        alone = self._taken(emit, emit.events[0].project_id, skipped)
        if not alone:
            yield emit
            return
        yield msgspec.structs.replace(emit, skip_sid=[*skipped, *alone])
        for sid, emits in alone.items():
            for one in emits:
                yield from self._for_client(sid, one)

    def alone(self, sid: str, emit: Emit) -> Iterator[Emit]:
        """Yield what to emit to one client of a room that gets an emit later than the others."""
        with self._lock:
            newcomers = self._of(sid, emit.events[0].project_id)
            taken = _take(newcomers, emit) if newcomers else None
        for one in [emit] if taken is None else taken:
            yield from self._for_client(sid, one)

    def _of(self, sid: str, project_id: str) -> list[Newcomer]:
        return [newcomer for newcomer in self._newcomers.get(project_id, ()) if newcomer.sid == sid]

    def _taken(self, emit: Emit, project_id: str, skipped: list[Any]) -> dict[str, list[Emit]]:
        """Return what clients get instead of an emit, by session id."""
        alone: dict[str, list[Emit]] = {}
        with self._lock:
            by_client: dict[str, list[Newcomer]] = {}
            for newcomer in self._newcomers.get(project_id, ()):
                by_client.setdefault(newcomer.sid, []).append(newcomer)
            for sid, newcomers in by_client.items():
                if sid in skipped or not self._is_in_room(sid, emit.namespace, emit.room):
                    continue
                taken = _take(newcomers, emit)
                if taken is not None:
                    alone[sid] = taken
            self._forget_those_that_are_over(project_id)
        return alone

    def _for_client(self, sid: str, emit: Emit) -> Iterator[Emit]:
        # It may have left the room, or have been shown out of it, since.
        if any(self._is_in_room(sid, emit.namespace, room) for room in emit.rooms):
            yield msgspec.structs.replace(emit, room=sid, skip_sid=None, events=(), only=None, also=())

    def release(self, newcomer: Newcomer) -> Iterator[Emit]:
        """Yield what was held for a client that has been answered; from then on it gets what others get."""
        while (emit := self._next(newcomer)) is not None:
            yield from self._for_client(newcomer.sid, emit)

    def _next(self, newcomer: Newcomer) -> Emit | None:
        with self._lock:
            newcomers = self._of(newcomer.sid, newcomer.project_id)
            for other in newcomers:
                if other is not newcomer and other.is_holding and newcomer.is_holding:
                    newcomer.hand_over(other)
            while (emit := newcomer.next_held()) is not None:
                rest = _rest_for(newcomers, emit)
                if rest is not None:
                    return rest
            newcomer.end()
            self._forget_those_that_are_over(newcomer.project_id)
            return None

    def _forget_those_that_are_over(self, project_id: str) -> None:
        still = [newcomer for newcomer in self._newcomers.get(project_id, ()) if not newcomer.is_over]
        if still:
            self._newcomers[project_id] = still
        else:
            self._newcomers.pop(project_id, None)

    def forget(self, sid: str) -> None:
        """Forget a client that has disconnected."""
        with self._lock:
            for project_id, newcomers in list(self._newcomers.items()):
                if any(newcomer.sid == sid for newcomer in newcomers):
                    self._newcomers[project_id] = [newcomer for newcomer in newcomers if newcomer.sid != sid]
                    self._forget_those_that_are_over(project_id)
