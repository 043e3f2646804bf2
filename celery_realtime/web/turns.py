"""Let requests that take time wait for their turn: addresses in turn, of each its users, and of each their clients."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

T = TypeVar("T")

Start = Callable[[], Any]

#: What a request that waits takes of the memory, about, by itself and for each byte of it that was sent.
WEIGHT, WEIGHT_OF_BYTE = 1000, 20

#: How much may wait of all clients together; beyond, nothing does of clients of which something waits already.
MOST_WEIGHT = 32 * 1024 * 1024


class Owner(NamedTuple):
    """Whose a request is.

    Attributes:
        peer: The address that it comes from.
        user: The user.
        client: The client.
    """

    peer: str
    user: str
    client: str


class Kind(msgspec.Struct, frozen=True):
    """How many requests of a kind are answered at once, and how many wait.

    Attributes:
        at_once: Of all clients together; None for as many as there are.
        of_peer: Of one address; None for as many as there are. Behind a proxy all clients have one.
        of_user: Of one user, whatever addresses and connections that has.
        of_one: Of one client.
        most_waiting: How many of one client may wait.
        most_weight: How much of one user may wait, as ``WEIGHT`` counts it.
    """

    at_once: int | None = None
    of_peer: int | None = None
    of_user: int | None = None
    of_one: int = 1
    most_waiting: int = 200
    most_weight: int = 4 * 1024 * 1024

    def limit_at(self, level: int) -> int | None:
        """Return the limit at a place in the names of an owner."""
        return (self.of_peer, self.of_user, self.of_one)[level]

    def has_room(self, running: int) -> bool:
        """Tell whether one more may begin while so many of all clients are being answered."""
        return self.at_once is None or running < self.at_once


class Turn:
    """One request's turn, from its arrival until it has been answered.

    Attributes:
        owner: Whose it is.
        kind: Of which kind the request is.
        has_begun: Whether somebody answers it, and will say when that is done.
    """

    def __init__(self, owner: Owner, kind: str) -> None:
        self.owner = owner
        self.kind = kind
        self.has_begun = False


class Waiting(NamedTuple):
    """One request that waits: its turn, what begins it, and how much it takes."""

    turn: Turn
    start: Start
    weight: int


class Rotation(Generic[T]):
    """What waits, taken in turn: each time of the next address, there of the next user, and of that of the next client.

    Args:
        depth: How many of the names of an owner, the last ones, it has from here on.
    """

    def __init__(self, depth: int = len(Owner._fields)) -> None:
        self._depth = depth
        #: By the name at this place, the one whose turn is next first.
        self._branches: dict[str, Any] = {}

    def __bool__(self) -> bool:
        return bool(self._branches)

    def put(self, names: tuple[str, ...], item: T) -> None:
        """Add what waits of an owner."""
        if self._depth == 1:
            self._branches.setdefault(names[0], deque()).append(item)
            return
        if names[0] not in self._branches:
            self._branches[names[0]] = Rotation(self._depth - 1)
        self._branches[names[0]].put(names[1:], item)

    def of(self, names: tuple[str, ...]) -> deque[T]:
        """Return what waits of an owner."""
        branch = self._branches.get(names[0])
        if branch is None:
            return deque()
        return branch if self._depth == 1 else branch.of(names[1:])  # type: ignore[no-any-return]

    def take(self, has_room: Callable[[int, str], bool]) -> T | None:
        """Take what comes next of those that ``(place, name) -> bool`` has room for, or None."""
        for name, branch in self._branches.items():
            if not has_room(len(Owner._fields) - self._depth, name):
                continue
            item: T | None = branch.popleft() if self._depth == 1 else branch.take(has_room)
            if item is not None:
                del self._branches[name]
                if branch:
                    self._branches[name] = branch  # behind all others
                return item
        return None

    def drop(self, names: tuple[str, ...]) -> None:
        """Drop all that waits of an owner."""
        branch = self._branches.get(names[0])
        if branch is None:
            return
        if self._depth > 1:
            branch.drop(names[1:])
        if self._depth == 1 or not branch:
            del self._branches[names[0]]


class Turns:
    """Says when the requests of clients are answered.

    Args:
        kinds: The kinds of requests, by name.
    """

    def __init__(self, kinds: dict[str, Kind]) -> None:
        self._kinds = kinds
        self._lock = threading.Lock()
        self._running: set[Turn] = set()
        self._of_kind: Counter[str] = Counter()
        #: By kind, place and name, how many are being answered.
        self._of_name: Counter[tuple[str, int, str]] = Counter()
        self._waiting: dict[str, Rotation[Waiting]] = {kind: Rotation() for kind in kinds}
        #: By kind and user, how much waits; and of all.
        self._weights: Counter[tuple[str, str]] = Counter()
        self._weight = 0

    def enter(self, turn: Turn, start: Start, size: int = 0) -> bool | None:
        """Ask for a turn.

        Args:
            turn: The turn.
            start: Called, in whatever thread or task ends the turn before, when it has come, if that is not now.
            size: Bytes of the request.

        Returns:
            Whether it has come; None if too many requests of the client, or of the user, wait already.
        """
        with self._lock:
            waiting = self._waiting[turn.kind].of(turn.owner)
            if not waiting and self._may_begin(turn):
                self._begin(turn)
                return True
            weight = WEIGHT + WEIGHT_OF_BYTE * size
            if not self._may_wait(turn, len(waiting), weight):
                return None
            self._waiting[turn.kind].put(turn.owner, Waiting(turn, start, weight))
            self._change_weight(turn, weight)
            return False

    def _may_begin(self, turn: Turn) -> bool:
        kind = turn.kind
        return self._kinds[kind].has_room(self._of_kind[kind]) and all(
            self._has_room(kind, level, name) for level, name in enumerate(turn.owner)
        )

    def _has_room(self, kind: str, level: int, name: str) -> bool:
        limit = self._kinds[kind].limit_at(level)
        return limit is None or self._of_name[kind, level, name] < limit

    def _may_wait(self, turn: Turn, waiting: int, weight: int) -> bool:
        kind, of_user = self._kinds[turn.kind], self._weights[turn.kind, turn.owner.user]
        is_little = weight <= MOST_WEIGHT - self._weight or not waiting
        return waiting < kind.most_waiting and of_user + weight <= kind.most_weight and is_little

    def is_waiting(self, owner: Owner, kind: str) -> bool:
        """Tell whether requests of a client wait for their turn."""
        with self._lock:
            return bool(self._waiting[kind].of(owner))

    def leave(self, turn: Turn) -> list[Start]:
        """End a turn, and return what has to be called to begin others."""
        with self._lock:
            if turn in self._running:
                self._running.discard(turn)
                _change(self._of_kind, turn.kind, -1)
                for level, name in enumerate(turn.owner):
                    _change(self._of_name, (turn.kind, level, name), -1)
            return self._next(turn.kind)

    def forget(self, owner: Owner) -> list[Start]:
        """Drop what waits of a client that has gone; return what has to be called to begin others' turns."""
        with self._lock:
            for rotation in self._waiting.values():
                for item in rotation.of(owner):
                    self._change_weight(item.turn, -item.weight)
                rotation.drop(owner)
            lost = [turn for turn in self._running if turn.owner == owner and not turn.has_begun]
        return [start for turn in lost for start in self.leave(turn)]

    def _begin(self, turn: Turn) -> None:
        self._running.add(turn)
        self._of_kind[turn.kind] += 1
        for level, name in enumerate(turn.owner):
            self._of_name[turn.kind, level, name] += 1

    def _next(self, kind: str) -> list[Start]:
        """Begin what may begin now."""
        starts: list[Start] = []
        while self._kinds[kind].has_room(self._of_kind[kind]):
            item = self._waiting[kind].take(lambda level, name: self._has_room(kind, level, name))
            if item is None:
                break
            self._change_weight(item.turn, -item.weight)
            self._begin(item.turn)
            starts.append(item.start)
        return starts

    def _change_weight(self, turn: Turn, weight: int) -> None:
        self._weight += weight
        _change(self._weights, (turn.kind, turn.owner.user), weight)


def _change(counter: Counter[Any], name: Any, difference: int) -> None:
    counter[name] += difference
    if not counter[name]:
        del counter[name]
