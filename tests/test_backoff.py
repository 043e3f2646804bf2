from __future__ import annotations

import random

from celery_realtime.backoff import Backoff


def test_each_pause_is_up_to_twice_the_one_before_until_the_longest() -> None:
    backoff = Backoff(0.1, 0.5)
    for longest in (0.1, 0.2, 0.4, 0.5, 0.5):
        assert longest / 2 <= backoff.pause() <= longest


def test_a_success_begins_again_with_the_first_pause() -> None:
    backoff = Backoff(0.1, 60.0)
    for _ in range(10):
        backoff.pause()
    backoff.reset()
    assert backoff.pause() <= 0.1


def test_pauses_differ_and_leave_the_tasks_random_numbers_alone() -> None:
    random.seed(7)
    expected = random.random()
    random.seed(7)
    assert len({Backoff(1.0, 1.0).pause() for _ in range(20)}) > 1
    assert random.random() == expected
