"""Count durations by buckets, at the cost of a few additions."""

from __future__ import annotations

from bisect import bisect_left


class Timing:
    """How long something took, each time. For one thread at a time; others may read it meanwhile.

    Args:
        bounds: The upper bounds of the buckets, in seconds, growing.

    Attributes:
        bounds: As given.
        counts: How many durations are in each bucket; the last one has those above all bounds.
        sums: The sum of those in each bucket, in seconds.
    """

    __slots__ = ("__weakref__", "bounds", "counts", "sums")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sums = [0.0] * (len(bounds) + 1)

    def observe(self, seconds: float) -> None:
        """Count a duration."""
        bucket = bisect_left(self.bounds, seconds)
        self.sums[bucket] += seconds
        self.counts[bucket] += 1
