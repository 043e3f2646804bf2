from __future__ import annotations

import pytest

from celery_realtime.sending.slow_start import (
    BUSY,
    FIRST,
    LONG_REST,
    LONGEST_REST,
    LONGEST_RETURN,
    LONGEST_SPREAD,
    REST,
    SPREAD_SHARE,
    SlowStart,
)

QUICK = 0.002


def returned(outage: float = 10.0, most: int = 100) -> SlowStart:
    """Return one that has sent its first batch after an outage, at 100."""
    start = SlowStart(most)
    start.sent(0.0, QUICK, 0)
    start.failed(100.0 - outage)
    start.failed(99.0)
    start.sent(100.0, QUICK, 1000)
    return start


def test_in_normal_times_batches_are_whole_and_nothing_rests() -> None:
    start = SlowStart(100)
    for took, waiting in ((QUICK, 1000), (1.0, 1000), (5.0, 0)):
        assert start.sent(100.0, took, waiting) == 0.0
        assert start.size == 100


@pytest.mark.parametrize("outage", [0.2, 2.0, 3600.0])
def test_processes_come_back_over_a_time_in_proportion_to_the_outage(outage: float) -> None:
    rests = []
    for _ in range(200):
        start = SlowStart(100)
        start.failed(100.0 - outage)
        assert start.size == FIRST
        rests.append(start.sent(100.0, QUICK, 1000))
    spread = min(outage * SPREAD_SHARE, LONGEST_SPREAD)
    assert 0 <= min(rests) < spread / 4
    assert spread * 3 / 4 < max(rests) <= spread


def test_batches_grow_as_long_as_they_are_quick_and_are_halved_when_they_are_not() -> None:
    start = returned()
    sizes = []
    for took in (QUICK, QUICK, QUICK, QUICK + 2 * BUSY, 1.0, 1.0, 1.0, QUICK, *[QUICK] * 6):
        rest = start.sent(101.0, took, 1000)
        busy = took - QUICK
        expected = min(busy * (LONG_REST if busy > BUSY else REST), LONGEST_REST)
        assert expected * 0.5 <= rest <= expected * 1.5
        sizes.append(start.size)
    assert sizes == [8, 16, 32, 16, 8, 4, 4, 8, 16, 32, 64, 100, 100, 100]


def test_a_server_far_away_is_not_taken_for_a_busy_one() -> None:
    start = SlowStart(100)
    start.sent(0.0, 0.1, 0)
    start.failed(90.0)
    start.sent(100.0, 0.1, 1000)
    assert start.sent(101.0, 0.1, 1000) == 0.0
    assert start.size == 2 * FIRST


@pytest.mark.parametrize(("clock", "waiting"), [(101.0, 0), (100.0 + LONGEST_RETURN + 1, 1000)])
def test_it_is_over_when_nothing_waits_any_more_or_after_a_while(clock: float, waiting: int) -> None:
    start = returned()
    assert start.sent(clock, 5.0, waiting) == 0.0
    assert start.size == 100
    assert start.sent(clock, 5.0, 1000) == 0.0


def test_a_failure_on_the_way_back_begins_it_anew() -> None:
    start = returned()
    start.sent(101.0, QUICK, 1000)
    start.failed(102.0)
    assert start.size == FIRST
    assert 0 <= start.sent(102.5, QUICK, 1000) <= 0.5 * SPREAD_SHARE


def test_a_batch_is_never_larger_than_the_setting() -> None:
    start = returned(most=2)
    assert start.size == 2
    start.sent(101.0, QUICK, 1000)
    assert start.size == 2
    start.sent(102.0, 1.0, 1000)
    assert start.size == 2


def test_a_batch_that_may_not_be_split_is_tried_again_as_a_whole() -> None:
    start = SlowStart(100, splits=False)
    start.failed(90.0)
    assert start.size == 100
    assert 0 <= start.sent(100.0, QUICK, 1000) <= LONGEST_SPREAD
    start.sent(101.0, 1.0, 1000)
    assert start.size == 100
