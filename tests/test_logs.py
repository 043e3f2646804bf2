from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator

import pytest

from celery_realtime import logs
from celery_realtime.logs import MOST_KINDS, RareErrors, RateLimit, RateLimitedLogger, RepeatedErrors, describe

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


def test_its_record_has_the_job_and_the_project(caplog: pytest.LogCaptureFixture) -> None:
    log = RateLimitedLogger(logger)
    log.error("of a job", job_id="j")
    log.warning("of a job of a project", job_id="j", project_id="p")
    log.warning("of a project", project_id="p")
    with log.suppressing("of a block", job_id="j", project_id="p"):
        raise RuntimeError
    log.error("of neither")
    names = ("job_id", "project_id")
    assert [{name: vars(record)[name] for name in names if name in vars(record)} for record in caplog.records] == [
        {"job_id": "j"},
        {"job_id": "j", "project_id": "p"},
        {"job_id": "", "project_id": "p"},
        {"job_id": "j", "project_id": "p"},
        {},
    ]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("cannot reach redis://:pass:w@rd@host:6379/0?x=1 at all", "cannot reach redis://:**@host:6379/0?x=1 at all"),
        ("amqp://user:secret@one//;amqp://user:secret@two//", "amqp://user:**@two//"),
        ("Port could not be cast to integer value as '//x@host'", None),
        ("redis://user@host refused", None),
        ("https://example.com:443/a", None),
    ],
)
def test_what_an_error_says_is_shown_without_passwords(said: str, shown: str | None) -> None:
    assert describe(ValueError(said)) == f"ValueError: {shown or said}"


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


# -- errors that others log ---------------------------------------------------------------------------------------


@pytest.fixture
def noisy() -> Iterator[logging.Logger]:
    """A logger that repeated errors are filtered from."""
    noisy, repeated = logging.getLogger("tests.noisy"), RepeatedErrors()
    noisy.addFilter(repeated)
    yield noisy
    noisy.removeFilter(repeated)


def log_failure(noisy: logging.Logger, fail: Callable[[], object]) -> None:
    try:
        fail()
    except Exception:
        noisy.exception("the handler failed")


def test_an_error_that_repeats_is_logged_once_a_minute_with_its_traceback(
    noisy: logging.Logger, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        log_failure(noisy, lambda: json.loads("{broken"))
    (record,) = caplog.records
    assert record.exc_info
    assert record.getMessage() == "the handler failed"
    monkeypatch.setattr(logs, "LOG_INTERVAL", 0.0)
    log_failure(noisy, lambda: json.loads("{broken"))
    assert caplog.messages[1] == "the handler failed (and 4 more times since the last such line)"


def test_one_error_does_not_hide_another(noisy: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        log_failure(noisy, lambda: json.loads("{broken"))
        log_failure(noisy, lambda: int("x"))
        log_failure(noisy, lambda: {}[1])
        log_failure(noisy, lambda: {}[2])
    assert len(caplog.records) == 4


def test_what_is_no_error_with_a_traceback_is_logged_each_time(
    noisy: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        noisy.error("refused")
        noisy.warning("slow", exc_info=None)
    assert caplog.messages == ["refused", "slow"] * 2


def test_more_kinds_than_anybody_reads_are_left_out_and_remembered_no_longer_than_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit = RateLimit()
    admitted = [limit.admit(kind) for kind in range(2 * MOST_KINDS)]
    assert admitted == [""] * MOST_KINDS + [None] * MOST_KINDS
    monkeypatch.setattr(logs, "LOG_INTERVAL", 0.0)
    assert limit.admit("later") == ""


def fail(kind: int) -> None:
    if kind:
        raise ValueError(kind)
    raise KeyError


def test_rare_errors_pass_once_a_minute_and_kind_and_are_counted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("celery_realtime.logs.time.monotonic", lambda: clock[0])
    errors = RareErrors(logging.getLogger("celery_realtime.test"))
    passed = []
    for at, kind in [(0, 1), (1, 2), (2, 0), (3, 1), (61, 1), (62, 0)]:
        clock[0] = 1000.0 + at
        try:
            with errors:
                fail(kind)
        except (ValueError, KeyError):
            passed.append(at)
    assert passed == [0, 2, 61, 62]
    (line,) = [record.getMessage() for record in caplog.records if "again" in record.getMessage()]
    assert line.startswith("an error was raised again and again, so it is not shown each time; ")
    assert line.endswith(" (and 2 more times since the last such line)")


def test_rare_errors_let_exits_pass() -> None:
    errors = RareErrors(logging.getLogger("celery_realtime.test"))
    for _ in range(3):
        with pytest.raises(SystemExit), errors:
            raise SystemExit
