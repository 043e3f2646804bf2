"""Let requests that take time wait for their turn: one of a client at a time, and clients one after the other."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import msgspec

Start = Callable[[], Any]


class Kind(msgspec.Struct, frozen=True):
    """How many requests of a kind are answered at once.

    Attributes:
        at_once: Of all clients together; None for as many as there are.
        of_one: Of one client.
        most_waiting: How many of one client may wait.
    """

    at_once: int | None = None
    of_one: int = 1
    most_waiting: int = 200

    def has_room(self, running: int) -> bool:
        """Tell whether one more may begin while so many of all clients are being answered."""
        return self.at_once is None or running < self.at_once


class Turn:
    """One request's turn, from its arrival until it has been answered.

    Attributes:
        client: Whose it is.
        kind: Of which kind the request is.
        has_begun: Whether somebody answers it, and will say when that is done.
    """

    def __init__(self, client: str, kind: str) -> None:
        self.client = client
        self.kind = kind
        self.has_begun = False


class Turns:
    """Says when the requests of clients are answered.

    Args:
        kinds: The kinds of requests, by name.
    """

    def __init__(self, kinds: dict[str, Kind]) -> None:
        self._kinds = kinds
        self._lock = threading.Lock()
        self._running: set[Turn] = set()
        self._of_client: Counter[tuple[str, str]] = Counter()
        self._of_kind: Counter[str] = Counter()
        #: By client and kind, what waits.
        self._waiting: dict[tuple[str, str], deque[tuple[Turn, Start]]] = {}
        #: By kind, the clients of which something waits, in the order of their turns.
        self._queues: dict[str, deque[str]] = {kind: deque() for kind in kinds}

    def enter(self, turn: Turn, start: Start) -> bool | None:
        """Ask for a turn.

        Args:
            turn: The turn.
            start: Called, in whatever thread or task ends the turn before, when it has come, if that is not now.

        Returns:
            Whether it has come; None if too many requests of the client wait already.
        """
        with self._lock:
            waiting = self._waiting.get((turn.client, turn.kind))
            if not waiting and self._may_begin(turn.client, turn.kind):
                self._begin(turn)
                return True
            if waiting is None:
                waiting = self._waiting[turn.client, turn.kind] = deque()
                self._queues[turn.kind].append(turn.client)
            if len(waiting) >= self._kinds[turn.kind].most_waiting:
                return None
            waiting.append((turn, start))
            return False

    def is_waiting(self, client: str, kind: str) -> bool:
        """Tell whether requests of a client wait for their turn."""
        return bool(self._waiting.get((client, kind)))

    def leave(self, turn: Turn) -> list[Start]:
        """End a turn, and return what has to be called to begin others."""
        with self._lock:
            if turn in self._running:
                self._running.discard(turn)
                self._less(self._of_client, (turn.client, turn.kind))
                self._less(self._of_kind, turn.kind)
            return self._next(turn.kind)

    def forget(self, client: str) -> list[Start]:
        """Drop what waits of a client that has gone; return what has to be called to begin others' turns."""
        with self._lock:
            for kind in self._kinds:
                self._waiting.pop((client, kind), None)
            lost = [turn for turn in self._running if turn.client == client and not turn.has_begun]
        return [start for turn in lost for start in self.leave(turn)]

    def _may_begin(self, client: str, kind: str) -> bool:
        return self._of_client[client, kind] < self._kinds[kind].of_one and self._kinds[kind].has_room(
            self._of_kind[kind]
        )

    def _begin(self, turn: Turn) -> None:
        self._running.add(turn)
        self._of_client[turn.client, turn.kind] += 1
        self._of_kind[turn.kind] += 1

    def _next(self, kind: str) -> list[Start]:
        """Begin what may begin now, one of each client in turn."""
        starts: list[Start] = []
        queue = self._queues[kind]
        for _ in range(len(queue)):
            if not self._kinds[kind].has_room(self._of_kind[kind]):
                break
            client = queue.popleft()
            waiting = self._waiting.get((client, kind))
            if waiting and self._may_begin(client, kind):
                turn, start = waiting.popleft()
                self._begin(turn)
                starts.append(start)
            if waiting:
                queue.append(client)
            else:
                self._waiting.pop((client, kind), None)
        return starts

    def _less(self, counter: Counter[Any], name: Any) -> None:
        counter[name] -= 1
        if not counter[name]:
            del counter[name]
