from __future__ import annotations

import logging

import pytest

from celery_realtime import logs
from celery_realtime.logs import RateLimitedLogger

logger = logging.getLogger(__name__)


def test_a_repeated_failure_is_logged_once_a_minute_with_a_count_of_the_rest(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RateLimitedLogger(logger)
    for number in range(5):
        log.error("failed on %s", number)
    assert caplog.messages == ["failed on 0"]
    monkeypatch.setattr(logs, "LOG_INTERVAL", 0.0)
    log.error("failed on %s", 5)
    log.error("failed on %s", 6)
    assert caplog.messages == [
        "failed on 0",
        "failed on 5 (and 4 more times since the last such line)",
        "failed on 6",
    ]


def test_a_second_kind_of_failure_is_not_hidden_by_the_first(caplog: pytest.LogCaptureFixture) -> None:
    log = RateLimitedLogger(logger)
    log.error("the filter failed on %s", "a")
    log.error("an order failed: %s", "b")
    log.warning("the filter failed on %s", "c")
    assert caplog.messages == ["the filter failed on a", "an order failed: b"]


def test_it_is_an_error_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise RuntimeError("broken")
    except RuntimeError as error:
        RateLimitedLogger(logger).error("failed: %r", error)
    (record,) = caplog.records
    assert (record.levelno, record.exc_info) == (logging.ERROR, None)


def test_a_warning_is_logged_as_one(caplog: pytest.LogCaptureFixture) -> None:
    RateLimitedLogger(logger).warning("slow")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_each_logger_has_its_own_minute(caplog: pytest.LogCaptureFixture) -> None:
    RateLimitedLogger(logger).error("same")
    RateLimitedLogger(logger).error("same")
    assert caplog.messages == ["same", "same"]


def test_a_suppressed_exception_is_logged_and_the_block_ends(caplog: pytest.LogCaptureFixture) -> None:
    log = RateLimitedLogger(logger)
    reached = False
    with log.suppressing("the filter failed on %s", "progress"):
        raise KeyError("nothing")
    with log.suppressing("the filter failed on %s", "progress"):
        reached = True
    assert reached
    assert caplog.messages == ["the filter failed on progress: KeyError: 'nothing'"]


def test_an_exit_is_not_suppressed() -> None:
    with pytest.raises(SystemExit), RateLimitedLogger(logger).suppressing("the filter failed"):
        raise SystemExit
