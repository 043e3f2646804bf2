from __future__ import annotations

import pytest

from celery_realtime.backoff import Backoff
from celery_realtime.sending.pace import LONGEST_REST, LONGEST_REST_OF_QUEUED, REST_SHARE_OF_QUEUED, SHARE, Pace
from celery_realtime.sending.slow_start import FIRST, LONGEST_SPREAD, SlowStart


def pace(linger: float = 0.005) -> Pace:
    return Pace(linger, Backoff(1.0, 4.0), SlowStart(100))


def test_after_a_silence_there_is_no_rest() -> None:
    assert pace().rest_left(100.0, urgent=False) <= 0


def test_after_sending_it_rests_for_the_linger_at_least() -> None:
    resting = pace()
    resting.rest(100.0, busy=0.0)
    assert resting.rest_left(100.0, urgent=True) == pytest.approx(0.005)
    assert resting.rest_left(100.005, urgent=True) == pytest.approx(0.0, abs=1e-6)


def test_the_more_time_sending_takes_the_longer_is_the_rest_up_to_a_limit() -> None:
    resting = pace()
    resting.rest(100.0, busy=SHARE * LONGEST_REST + 0.001)
    assert resting.rest_left(100.0, urgent=True) == pytest.approx(0.001 / SHARE)
    resting.rest(200.0, busy=1.0)
    assert resting.rest_left(200.0, urgent=True) == pytest.approx(LONGEST_REST)


def test_what_comes_now_and_then_does_not_rest_for_what_came_before() -> None:
    resting, clock = pace(), 100.0
    for _ in range(1000):  # takes a twenty-fifth of the time
        resting.rest(clock, busy=0.001)
        assert resting.rest_left(clock, urgent=True) <= 0.005 + 1e-9
        clock += 0.025


def test_a_long_linger_delays_progress_only() -> None:
    resting = pace(linger=60.0)
    resting.rest(100.0, busy=0.0)
    assert resting.rest_left(100.0, urgent=False) == pytest.approx(60.0)
    assert resting.rest_left(100.0, urgent=True) == pytest.approx(LONGEST_REST)


def test_without_a_linger_there_is_never_a_rest() -> None:
    resting = pace(linger=0.0)
    resting.rest(100.0, busy=1.0)
    assert resting.rest_left(100.0, urgent=False) <= 0


def test_failures_pause_longer_each_time_and_a_success_ends_the_pause() -> None:
    failing = pace()
    assert not failing.is_failing
    for longest in (1.0, 2.0, 4.0, 4.0):
        failing.failed(99.0, 100.0)
        assert failing.is_failing
        assert longest / 2 <= failing.pause_left(100.0) <= longest
    failing.succeeded(99.0, 100.0, 0)
    assert not failing.is_failing
    assert failing.pause_left(100.0) <= 0
    failing.failed(199.0, 200.0)
    assert failing.pause_left(200.0) <= 1.0


def test_after_an_outage_a_small_batch_comes_first_and_a_pause_before_the_rest() -> None:
    returning = pace()
    returning.failed(98.0, 99.0)
    assert returning.batch_size == FIRST
    returning.succeeded(100.0, 100.001, 50)
    assert not returning.is_failing
    assert returning.pause_left(100.001) <= LONGEST_SPREAD
    returning.succeeded(101.0, 101.001, 40)
    assert returning.batch_size == 2 * FIRST
    returning.succeeded(102.0, 102.001, 0)
    assert returning.batch_size == 100
    assert returning.pause_left(102.001) <= 0


def test_what_only_says_that_jobs_are_queued_rests_longest() -> None:
    resting = pace()
    resting.rest(100.0, 0.001)
    assert resting.rest_left(100.0, urgent=False, queued=True, progress=False) == pytest.approx(
        REST_SHARE_OF_QUEUED * 0.001
    )
    assert resting.rest_left(100.0, urgent=True, queued=True) == pytest.approx(0.005)
    resting.rest(200.0, 1.0)
    assert resting.rest_left(200.0, urgent=False, queued=True, progress=False) == pytest.approx(LONGEST_REST_OF_QUEUED)


def test_what_says_that_a_job_is_queued_does_not_wait_as_progress_does() -> None:
    resting = pace(60.0)
    resting.rest(100.0, 0.0001)
    assert resting.rest_left(100.0, urgent=False, queued=True) < 1
    assert resting.rest_left(100.0, urgent=False) == pytest.approx(60.0)
