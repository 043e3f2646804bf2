"""The thread that looks at streams: one that fails keeps no other from being sent."""

from __future__ import annotations

import threading

import pytest

from celery_realtime.jobs.stream_rounds import StreamRounds
from tests.waiting import wait_for


class Written:
    """What was written, and cannot be sent a number of times."""

    waiting = 0

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.has_sent = threading.Event()

    def send(self) -> None:
        """Send it."""
        if self.failures:
            self.failures -= 1
            raise RuntimeError("it cannot be sent")
        self.has_sent.set()

    def drop_oldest(self, most: int) -> None:
        """Let go of nothing."""


@pytest.mark.parametrize("failing", [0, 1, 3])
def test_one_that_cannot_be_sent_does_not_keep_others_from_it(failing: int) -> None:
    may_turn = threading.Event()
    rounds: StreamRounds[Written] = StreamRounds(
        lambda: 0.001 if may_turn.wait(60) else 0.0, lambda: 1000, lambda: None
    )
    broken, others = [Written(failures=1) for _ in range(failing)], [Written() for _ in range(3)]
    for stream in [*broken, *others]:
        rounds.stir(stream)
    may_turn.set()
    for other in others:
        assert other.has_sent.wait(60)
    wait_for(lambda: [loop.failures for loop in rounds.loops] == [failing])
