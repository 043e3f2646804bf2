from __future__ import annotations

import logging

import pytest

from celery_realtime import failures
from celery_realtime.failures import FailureLog

logger = logging.getLogger(__name__)


def test_what_fails_again_and_again_is_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FailureLog(logger)
    for number in range(5):
        log.error("failed on %s", number)
    assert caplog.messages == ["failed on 0"]
    monkeypatch.setattr(failures, "LOG_INTERVAL", 0.0)
    log.error("failed on %s", 5)
    assert caplog.messages == ["failed on 0", "failed on 5"]


def test_it_is_an_error_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise RuntimeError("broken")
    except RuntimeError as error:
        FailureLog(logger).error("failed: %r", error)
    (record,) = caplog.records
    assert (record.levelno, record.exc_info) == (logging.ERROR, None)


def test_each_log_has_its_own_minute(caplog: pytest.LogCaptureFixture) -> None:
    FailureLog(logger).error("one")
    FailureLog(logger).error("other")
    assert caplog.messages == ["one", "other"]
