"""Give each user one share of a server, however many connections it has: one message of a user is handled at a time."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator

#: Longest wait, in seconds, for another message of the same user: what handles it may wait for something itself.
LONGEST = 5.0


class Shares:
    """Which users have a message that is being handled, on a server of threads or greenlets."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: By user, the lock that who handles a message of it holds, and how many have or want it.
        self._users: dict[str, tuple[threading.Lock, int]] = {}

    def __len__(self) -> int:
        return len(self._users)

    def take(self, user: str) -> None:
        """Wait until no other message of a user is being handled."""
        with self._lock:
            held, count = self._users.get(user) or (threading.Lock(), 0)
            self._users[user] = held, count + 1
        held.acquire(timeout=LONGEST)

    def give(self, user: str) -> None:
        """Note that a message of a user has been handled."""
        with self._lock:
            held, count = self._users[user]
            if count > 1:
                self._users[user] = held, count - 1
            else:
                del self._users[user]
        with contextlib.suppress(RuntimeError):  # it was waited for in vain, and has been given back since
            held.release()

    @contextlib.contextmanager
    def of(self, user: str | None) -> Iterator[None]:
        """Handle a message of a user in the block; of nobody in particular, at once."""
        if user is None:
            yield
            return
        self.take(user)
        try:
            yield
        finally:
            self.give(user)


class AsyncShares:
    """The same for an event loop."""

    def __init__(self) -> None:
        #: By user of whom a message is being handled, those that wait.
        self._users: dict[str, deque[asyncio.Future[None]]] = {}

    def __len__(self) -> int:
        return len(self._users)

    async def take(self, user: str) -> None:
        """Wait until no other message of a user is being handled, and let others have the loop."""
        waiting = self._users.get(user)
        if waiting is None:
            self._users[user] = deque()
            await asyncio.sleep(0)
            return
        turn = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        try:
            await asyncio.wait_for(turn, LONGEST)
        except asyncio.TimeoutError:
            self._users.setdefault(user, deque())
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(user)
            raise

    def give(self, user: str) -> None:
        """Note that a message of a user has been handled."""
        waiting = self._users.get(user)
        while waiting:
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._users.pop(user, None)

    @contextlib.asynccontextmanager
    async def of(self, user: str | None) -> AsyncIterator[None]:
        """Handle a message of a user in the block; of nobody in particular, at once."""
        if user is None:
            yield
            return
        await self.take(user)
        try:
            yield
        finally:
            self.give(user)
