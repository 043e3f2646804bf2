"""Pauses between attempts that fail: each twice as long as the one before, up to a limit, and shortened at random."""

from __future__ import annotations

import random


class Backoff:
    """The pauses of one thing that is tried again until it works.

    Each pause is shortened at random by up to a half, so that processes that failed together do not try again together.
    Not locked; made anew in a child of a fork, which would otherwise pause exactly as its siblings do.

    Args:
        first: The first pause, in seconds.
        longest: The longest one; the same as ``first`` for pauses that do not grow.
    """

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self._next = first
        # Not the module's own generator: a task that seeds that one counts on its numbers.
        self._random = random.Random()

    def pause(self) -> float:
        """Return how long to pause after one more failure, in seconds."""
        pause, self._next = self._next, min(self._next * 2, self._longest)
        return pause * self._random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Begin again with the first pause, after a success."""
        self._next = self._first
