from __future__ import annotations

import logging

import pytest

from celery_realtime.loops import BackgroundLoop

logger = logging.getLogger(__name__)


def test_a_turn_that_fails_does_not_end_the_loop_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    loop = BackgroundLoop("keeper", logger, longest=60.0)
    for number in range(3):
        with loop.turn():
            raise ValueError(number)
    assert loop.failures == 3
    assert caplog.messages == ["the background loop 'keeper' failed and goes on: ValueError: 0"]


def test_health_says_whether_it_turns_and_what_failed_last() -> None:
    loop = BackgroundLoop("keeper", logger, longest=60.0)
    assert loop.health() == {"name": "keeper", "turning": False, "failures": 0, "error": None}
    with loop.turn():
        raise ValueError("broken")
    assert loop.health() == {"name": "keeper", "turning": True, "failures": 1, "error": "ValueError: broken"}
    with loop.turn():
        pass
    assert loop.health() == {"name": "keeper", "turning": True, "failures": 1, "error": None}


def test_a_loop_without_a_turn_for_long_stands_still() -> None:
    loop = BackgroundLoop("keeper", logger, longest=0.0)
    with loop.turn():
        pass
    assert not loop.is_turning


def test_an_exit_ends_the_loop() -> None:
    loop = BackgroundLoop("keeper", logger, longest=60.0)
    with pytest.raises(SystemExit), loop.turn():
        raise SystemExit
    assert loop.is_turning
