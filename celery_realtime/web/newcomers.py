"""Keep what a client has subscribed to from coming before its snapshot, and what is older from coming after it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from celery_realtime.channel.wire import Heard
from celery_realtime.events import BATCH_EVENT, RESYNC_EVENT
from celery_realtime.web.delivery import Emit

#: Emits that are held for a client until it has its snapshot.
MOST_HELD = 1000

#: Seconds that emits are held for a client that heard the project before: the history may hang.
LONGEST_HOLD = 1.0

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

    Attributes:
        held: What waits.
        replaces: Whether the client is certain to take the snapshot, so that it needs nothing that is older. An
            acknowledgement may come too late for it, and be ignored; then it needs all that it would have got without.
    """

    def __init__(self, sid: str, project_id: str, room: str, *, others: Iterable[str], was_here: bool) -> None:
        self.sid = sid
        self.project_id = project_id
        self.held: deque[Emit] = deque()
        self.replaces = not was_here
        self._room = room
        self._rooms = frozenset([room, *others])
        self._was_here = was_here
        self._since = time.monotonic()
        self._is_answered = False
        self._position: tuple[str, int] | None = None
        self._older_epoch: str | None = None
        self._dropped_up_to: Heard | None = None

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

    @property
    def is_holding(self) -> bool:
        """Whether what is emitted for the client waits."""
        return not self._is_answered

    @property
    def is_over(self) -> bool:
        """Whether nothing has to be done for the client any more."""
        is_late = time.monotonic() - self._since > LONGEST_AFTERMATH
        return self._is_answered and (self._position is None or not self.replaces or is_late)

    def take(self, emit: Emit) -> list[Emit] | None:
        """Return what to emit for the client alone, now; None for what all in the room get."""
        if not self._is_answered:
            if not self._was_here or time.monotonic() - self._since < LONGEST_HOLD:
                self._hold(emit)
                return []
            self._is_answered = True
            held = [*self.held, emit]
            self.held.clear()
            return held
        rest = self.rest_of(emit)
        if rest is emit and emit.room in self._rooms:
            self._position = None  # whatever comes next is newer, too
            return None
        return None if rest is emit else [rest] if rest is not None else []

    def _hold(self, emit: Emit) -> None:
        self.held.append(emit)
        if len(self.held) > MOST_HELD:
            self._dropped_up_to = self.held.popleft().events[-1]

    def rest_of(self, emit: Emit) -> Emit | None:
        """Return what of an emit is not in the client's snapshot: the emit itself, less of it, or None."""
        if self._position is None or not self.replaces or emit.room not in self._rooms:
            return emit
        news = [not self._has(event) for event in emit.events]
        if all(news):
            return emit
        if emit.event != BATCH_EVENT or not any(news):
            return None
        pairs = [(item, event) for item, event, is_new in zip(emit.data, emit.events, news, strict=True) if is_new]
        return msgspec.structs.replace(
            emit, data=[item for item, _ in pairs], events=tuple(event for _, event in pairs)
        )

    def _has(self, event: Heard) -> bool:
        """Return whether the snapshot has an event, or goes beyond its epoch."""
        if self._position is None or event.offset is None:
            return False
        epoch, offset = self._position
        return event.offset <= offset if event.epoch == epoch else event.epoch == self._older_epoch

    def hand_over(self, other: Newcomer) -> None:
        """Let what is held wait until another subscription of the same client has been answered, too."""
        while (emit := self.next_held()) is not None:
            other.held.append(emit)

    def next_held(self) -> Emit | None:
        """Take the next of what was held; None, and from then on the client is answered, if nothing is."""
        if self._dropped_up_to is not None:
            dropped, self._dropped_up_to = self._dropped_up_to, None
            if not self._has(dropped):
                return self._resync(dropped)
        while self.held:
            rest = self.rest_of(self.held.popleft())
            if rest is not None:
                return rest
        self._is_answered = True
        return None

    def _resync(self, dropped: Heard) -> Emit:
        data = {"project_id": self.project_id, "epoch": dropped.epoch, "offset": dropped.offset}
        return Emit(RESYNC_EVENT, data, dropped.namespace, self._room, events=(dropped,))


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

    def hold(self, sid: str, project_id: str, room: str, others: Iterable[str], *, replays: bool) -> Newcomer:
        """Hold from now on what is emitted for a client that is about to enter a room.

        Args:
            sid: The client.
            project_id: The project.
            room: The room.
            others: Other rooms of the same subscription.
            replays: Whether the snapshot comes as events, and not in an acknowledgement.
        """
        alternatives = list(others)
        was_here = any(self._is_in_room(sid, self._namespace, earlier) for earlier in (room, *alternatives))
        newcomer = Newcomer(sid, project_id, room, others=alternatives, was_here=was_here)
        with self._lock:
            present = [other for other in self._newcomers.get(project_id, ()) if not other.is_over]
            for other in present if not replays else ():
                if other.sid == sid and other.is_holding:  # which of the answers it will take is not known
                    newcomer.replaces = other.replaces = False
            newcomer.replaces |= replays
            self._newcomers[project_id] = [*present, newcomer]
        return newcomer

    def split(self, emit: Emit) -> Iterator[Emit]:
        """Yield what to emit instead: it, without the clients that are being answered, and what they get of it."""
        if not self._newcomers or not emit.events:
            yield emit
            return
        skipped = emit.skip_sid if isinstance(emit.skip_sid, list) else [emit.skip_sid]
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
        taken: list[Emit] | None = None
        with self._lock:
            for newcomer in self._newcomers.get(emit.events[0].project_id, ()):
                if newcomer.sid == sid and taken is None:
                    taken = newcomer.take(emit)
        for one in [emit] if taken is None else taken:
            yield from self._for_client(sid, one)

    def _taken(self, emit: Emit, project_id: str, skipped: list[Any]) -> dict[str, list[Emit]]:
        """Return what clients get instead of an emit, by session id."""
        alone: dict[str, list[Emit]] = {}
        with self._lock:
            for newcomer in self._newcomers.get(project_id, ()):
                if newcomer.sid in (*alone, *skipped) or not self._is_in_room(newcomer.sid, emit.namespace, emit.room):
                    continue
                taken = newcomer.take(emit)
                if taken is not None:
                    alone[newcomer.sid] = taken
            self._forget_those_that_are_over(project_id)
        return alone

    def _for_client(self, sid: str, emit: Emit) -> Iterator[Emit]:
        # It may have left the room, or have been shown out of it, since.
        if self._is_in_room(sid, emit.namespace, emit.room):
            yield msgspec.structs.replace(emit, room=sid, skip_sid=None, events=())

    def release(self, newcomer: Newcomer) -> Iterator[Emit]:
        """Yield what was held for a client that has been answered; from then on it gets what others get."""
        while (emit := self._next(newcomer)) is not None:
            yield from self._for_client(newcomer.sid, emit)

    def _next(self, newcomer: Newcomer) -> Emit | None:
        with self._lock:
            for other in self._newcomers.get(newcomer.project_id, ()):
                if other is not newcomer and other.sid == newcomer.sid and other.is_holding:
                    newcomer.hand_over(other)
            emit = newcomer.next_held()
            if emit is None:
                self._forget_those_that_are_over(newcomer.project_id)
            return emit

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
