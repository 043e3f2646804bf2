"""Count how far something is, together with the processes that a process forks."""

from __future__ import annotations

from celery_realtime.jobs.progress import Number
from celery_realtime.jobs.shared_sum import SharedSum


class Reached:
    """How far a job, or a stage of it, is, in percent. It never goes backwards; the caller keeps threads apart."""

    def __init__(self) -> None:
        self._value: Number = 0
        #: Once this process forks: how far all processes together are.
        self._shared: SharedSum | None = None

    @property
    def value(self) -> Number:
        """How far it is."""
        return self._value if self._shared is None else self._shared.value

    def raise_to(self, value: Number) -> Number:
        """Let it be at least as far, and return how far it is."""
        if self._shared is not None:
            self._value = self._shared.raise_to(value)
        elif value > self._value:
            self._value = value
        return self._value

    def add(self, amount: Number) -> Number:
        """Let it be further by an amount, up to 100, and return how far it is; call :meth:`raise_to` with that."""
        return min(100, self._value + amount) if self._shared is None else self._shared.add(amount, 100)

    def share(self) -> None:
        """Count together with the processes that are forked from now on.

        Raises:
            OSError: The system has no file for it.
        """
        if self._shared is None:
            self._shared = SharedSum(self._value)

    @property
    def unreported(self) -> Number | None:
        """How far other processes have brought it, if that is further than this one knows; else None."""
        value = self.value
        return value if value > self._value else None
