"""Make short random words without asking the system for each, which takes longer and lets other threads go on."""

from __future__ import annotations

import random

from celery_realtime.forks import after_fork


class RandomWords:
    """Words that tell things apart, and that somebody may guess. A child of a fork has others than its parent."""

    def __init__(self) -> None:
        self._start_over()
        after_fork(self._start_over)

    def _start_over(self) -> None:
        # Not the module's own generator: a task that seeds that one counts on its numbers.
        self._random = random.Random()

    def new(self) -> str:
        """Return a word of eight hexadecimal digits."""
        return f"{self._random.getrandbits(32):08x}"
