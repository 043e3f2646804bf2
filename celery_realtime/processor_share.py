"""How long a thread rests so that it takes no more than a share of the processor's time."""

from __future__ import annotations


class ProcessorShare:
    """The rests of a thread whose work may wait. Not locked.

    Time is saved up at the same share while the thread does nothing, so that what it does now and then never rests.

    Args:
        share: The part of the time that it may take, above 0 and below 1.
        longest: The longest rest, in seconds; what it would have to rest beyond that is forgotten.

    Attributes:
        credit: Most time, in seconds of the processor, that it may take without a rest after doing nothing for long.
    """

    def __init__(self, share: float, longest: float) -> None:
        self._share = share
        self._longest = longest
        self.credit = share * longest
        self._saved, self._saved_at = self.credit, 0.0

    def rest(self, clock: float, busy: float) -> float:
        """Return the seconds to rest from ``clock`` on, after work that took ``busy`` seconds of the processor."""
        saved = self._saved + max(0.0, clock - self._saved_at) * self._share
        self._saved, self._saved_at = max(min(saved, self.credit) - busy, -self.credit), clock
        return min(max(0.0, -self._saved / self._share), self._longest)
