from __future__ import annotations

import pytest

from celery_realtime.processor_share import ProcessorShare


def test_what_is_done_for_the_first_time_needs_no_rest() -> None:
    assert ProcessorShare(0.1, 1.0).rest(100.0, busy=0.1) == 0


def test_what_is_done_all_the_time_takes_its_share_and_no_more() -> None:
    share, clock, busy = ProcessorShare(0.05, 0.05), 100.0, 0.0
    while clock < 110:
        clock += 0.001
        busy += 0.001
        clock += share.rest(clock, busy=0.001)
    assert 0.5 < busy < 0.5 + 2 * share.credit


def test_what_takes_less_than_its_share_never_rests() -> None:
    share = ProcessorShare(0.05, 0.05)
    assert {share.rest(100 + number * 0.025, busy=0.001) for number in range(1000)} == {0}


def test_there_is_a_longest_rest_and_what_is_beyond_it_is_forgotten() -> None:
    share = ProcessorShare(0.05, 0.05)
    assert share.rest(100.0, busy=1.0) == pytest.approx(0.05)
    assert share.rest(100.05, busy=0.0) == pytest.approx(0.0, abs=1e-9)


def test_what_is_saved_up_has_a_limit() -> None:
    share = ProcessorShare(0.05, 0.05)
    share.rest(100.0, busy=0.0)
    assert share.rest(100_000.0, busy=share.credit + 0.001) == pytest.approx(0.02)
