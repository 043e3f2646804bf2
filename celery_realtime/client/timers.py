"""Named timers on a clock that is handed in."""

from __future__ import annotations

import random
from collections.abc import Callable

#: Not the module's own generator: a program that seeds that one must get its own numbers.
_random = random.Random()


def spread(seconds: float, low: float, high: float) -> float:
    """Return a pause between ``low`` and ``high`` times ``seconds``, so that clients do not act in step."""
    return seconds * _random.uniform(low, high)


class Timers:
    """Named timers; setting one again replaces it.

    Args:
        clock: Returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._due: dict[str, tuple[float, Callable[[], None]]] = {}

    def set(self, name: str, seconds: float, action: Callable[[], None]) -> None:
        """Have an action run in some seconds."""
        self._due[name] = (self._clock() + seconds, action)

    def cancel(self, name: str) -> None:
        """Cancel a timer, if it is set."""
        self._due.pop(name, None)

    def clear(self) -> None:
        """Cancel all timers."""
        self._due.clear()

    def __contains__(self, name: str) -> bool:
        return name in self._due

    @property
    def next_at(self) -> float | None:
        """When the next timer is due, by the clock; None if none is set."""
        return min((at for at, _ in self._due.values()), default=None)

    def run_due(self) -> None:
        """Run what is due; an action may set and cancel timers."""
        clock = self._clock()
        for name in [name for name, (at, _) in self._due.items() if at <= clock]:
            timer = self._due.pop(name, None)
            if timer is not None:
                timer[1]()
