"""Look at streams soon after something was written to them, from a thread of its own."""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from celery_realtime.clocks import time
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.loops import BackgroundLoop, WakeUp, start_detached

logger = logging.getLogger(__name__)

#: Seconds after which the thread ends that has nothing to send.
IDLE_TURN = 20.0

#: Seconds without a turn after which the loop counts as standing still.
LONGEST_TURN = 60.0

THREAD = "celery-realtime-streams"


class Writing(Protocol):
    """What is looked at."""

    @property
    def waiting(self) -> int:
        """About how many bytes wait in it."""

    def send(self) -> None:
        """Send what has been written, as far as there is room."""

    def drop_oldest(self, most: int) -> None:
        """Let go of what was written first, so that hardly more than so many bytes wait."""


S = TypeVar("S", bound=Writing)


class StreamRounds(Generic[S]):
    """Has each stream send what was written, a moment after it was stirred, and again as long as something waits in it.

    The thread starts when the first is stirred, also in the child of a fork, and ends when none has been for a while.

    Args:
        interval: Returns the seconds of that moment.
        most: Returns the bytes that may wait in all of them; beyond, the oldest of the longest is let go.
        started: Called once in each process, when the thread first starts.
    """

    def __init__(self, interval: Callable[[], float], most: Callable[[], int], started: Callable[[], None]) -> None:
        self.interval = interval
        self._most = most
        self._started = started
        self._loop = BackgroundLoop("streams", logger, LONGEST_TURN)
        self._log = RateLimitedLogger(logger)
        self.start_over()

    def start_over(self) -> None:
        """Forget what was stirred, and the thread: done in the child of a fork, which has none of it."""
        self._lock = threading.RLock()
        self._stirred: deque[S] = deque()
        self._wake = WakeUp()
        self._is_resting = self._has_started = False
        self._thread: threading.Thread | None = None

    @property
    def loops(self) -> list[BackgroundLoop]:
        """The background loop, if there is something to do."""
        return [] if self._thread is None else [self._loop]

    def stir(self, stream: S) -> None:
        """Have a stream looked at soon."""
        self._stirred.append(stream)
        if self._is_resting:
            self._wake.call()
        elif self._thread is None:
            self._start()

    def _start(self) -> None:
        with self._lock:
            if self._thread is not None:
                return
            if not self._has_started:
                self._has_started = True
                self._started()
            arguments = weakref.ref(self), self._wake, self._loop
            self._thread = threading.Thread(target=_go_round, args=arguments, name=THREAD, daemon=True)
            try:
                start_detached(self._thread)
            except RuntimeError as error:  # too many threads, or the interpreter ends
                self._thread = None
                self._log.error(
                    "no thread can be started, so what streams say waits; the next write tries again: %s", error
                )

    # -- in the thread ------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Have those send that were stirred since the last turn, and those for which there was no room."""
        self._is_resting = False
        stirred = deque(dict.fromkeys(self._stirred.popleft() for _ in range(len(self._stirred))))
        try:
            while stirred:
                stream = stirred.popleft()
                stream.send()
                if stream.waiting:
                    self._stirred.append(stream)
        finally:
            self._stirred.extend(stirred)  # if one has failed, the others come next: nobody stirs them again
        self._drop_surplus()

    def _drop_surplus(self) -> None:
        waiting = dict.fromkeys(self._stirred)
        surplus = sum(stream.waiting for stream in waiting) - self._most()
        for stream in sorted(waiting, key=lambda one: -one.waiting):
            if surplus <= 0:
                break
            surplus -= stream.waiting // 2
            stream.drop_oldest(stream.waiting // 2)

    def rest(self, me: threading.Thread, *, is_over: bool) -> bool:
        """Note that the thread has nothing to do, and return whether it has; if ``is_over``, it may end."""
        self._is_resting = not is_over  # first: whoever stirs then wakes it
        if self._stirred:
            self._is_resting = False
            return False
        if is_over:
            with self._lock:
                if self._thread is me:
                    self._thread = None
            if self._stirred:
                self._start()
        return True


def _go_round(reference: weakref.ref[StreamRounds[Any]], wake: WakeUp, loop: BackgroundLoop) -> None:
    """Take turns for as long as somebody has the streams, until none was stirred for a while."""
    me = threading.current_thread()
    is_woken = True
    while (rounds := reference()) is not None:
        if is_woken:
            pause = rounds.interval()
            del rounds
            time.sleep(pause)
            rounds = reference()
            if rounds is None:
                break
            with loop.turn():
                rounds.turn()
        if rounds.rest(me, is_over=not is_woken):
            if not is_woken:
                break
            del rounds
            is_woken = wake.wait(IDLE_TURN)
        else:
            is_woken = True
    loop.rest()
