"""Of which jobs nobody can know the truth, as narrowly as docs/how-we-know.md says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.deaths.diary import Delivery, Run

#: Seconds within which the history has on record that a worker has a job, and that it has begun, on a busy machine too.
NOTED = 0.15
#: Seconds for which a Redis goes on to hand out messages to a worker that is dead: kombu waits so long for one.
BRPOP = 1.0


@dataclass(frozen=True)
class Fate:
    """What became of a job and of those who had it.

    Args:
        published_at: When, in seconds since the epoch.
        runs: What its task has written down.
        deliveries: What the workers have that received it.
        died: By main process, when it was killed.
        broker: The kind of broker.
    """

    published_at: float
    runs: Sequence[Run]
    deliveries: Sequence[Delivery]
    died: Mapping[int, float]
    broker: str


def reason(fate: Fate) -> str | None:
    """Return why nobody can know that a job has begun, or that its message is gone; None if somebody can.

    Of one that has been heard to run, or that has ended, it can be known.
    """
    if any(run.end for run in fate.runs):
        return None
    if not fate.deliveries:
        return _lost_on_the_way(fate)
    latest = fate.deliveries[-1]
    died_at = fate.died.get(latest.main_pid)
    if latest.accepted_at is None or died_at is None:
        return None
    # A Redis is asked whether it still has the message, if it is on record that the worker received it.
    since, what = (latest.received_at, "received it") if fate.broker == "redis" else (latest.accepted_at, "begun it")
    if died_at - since > NOTED:
        return None
    return f"its worker was killed {(died_at - since) * 1000:.0f} ms after it had {what}, before that was noted"


def _lost_on_the_way(fate: Fate) -> str | None:
    """A Redis gives a message away before kombu has put it into ``unacked``."""
    if fate.broker == "redis" and any(died_at + BRPOP > fate.published_at for died_at in fate.died.values()):
        return "no worker has received its message, which Redis had given away to one that was killed"
    return None
