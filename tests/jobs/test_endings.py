from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery.exceptions import Ignore, Reject, Retry, TaskRevokedError

from celery_realtime.events import Ending
from celery_realtime.jobs import endings
from celery_realtime.jobs.seams import PoolReport
from celery_realtime.settings import Settings
from tests.recording import Studio

BEGUN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


@pytest.fixture
def settings() -> Settings:
    return Studio(max_payload=100).realtime.settings


def of(settings: Settings, **meta: Any) -> Ending | None:
    return endings.of_meta(meta, settings, since=BEGUN.timestamp())


def test_a_stored_success_has_the_result(settings: Settings) -> None:
    assert of(settings, status="SUCCESS", result={"made": 1}) == Ending("SUCCESS", result=b'{"made":1}')


def test_a_stored_result_that_is_too_large_is_left_out(settings: Settings) -> None:
    assert of(settings, status="SUCCESS", result="x" * 200) == Ending("SUCCESS", truncated=True)


def test_results_are_not_shown_where_they_are_not_to_be() -> None:
    settings = Studio(include_result=False).realtime.settings
    assert of(settings, status="SUCCESS", result=1) == Ending("SUCCESS")


@pytest.mark.parametrize(
    ("state", "result", "error"),
    [
        ("FAILURE", ValueError("no luck"), "ValueError: no luck"),
        ("REVOKED", TaskRevokedError("terminated"), "TaskRevokedError: terminated"),
        ("FAILURE", None, "FAILURE"),
    ],
)
def test_a_stored_failure_has_its_error(settings: Settings, state: str, result: Any, error: str) -> None:
    assert of(settings, status=state, result=result) == Ending(state, error)


@pytest.mark.parametrize("state", ["PENDING", "STARTED", "RETRY", "PROGRESS", "ABORTED", None])
def test_other_states_are_no_ends(settings: Settings, state: str | None) -> None:
    assert of(settings, status=state, result=None) is None


def test_where_no_results_are_kept_nothing_is_known(settings: Settings) -> None:
    assert endings.of_meta(None, settings, since=None) is None


@pytest.mark.parametrize("form", ["text", "datetime", "naive"])
def test_what_was_stored_before_the_run_began_is_of_an_earlier_one(settings: Settings, form: str) -> None:
    def stored(at: datetime) -> Ending | None:
        at = at.replace(tzinfo=None) if form == "naive" else at
        return of(settings, status="SUCCESS", result=1, date_done=at.isoformat() if form == "text" else at)

    assert stored(BEGUN - timedelta(days=2)) is None
    assert stored(BEGUN + timedelta(seconds=1)) == Ending("SUCCESS", result=b"1")


@pytest.mark.parametrize("done", [None, "yesterday", 5])
def test_a_result_of_an_unknown_age_counts(settings: Settings, done: Any) -> None:
    assert of(settings, status="SUCCESS", result=1, date_done=done) == Ending("SUCCESS", result=b"1")


@pytest.mark.parametrize(
    ("report", "ending"),
    [
        (PoolReport("returned"), Ending("SUCCESS")),
        (PoolReport("failed", ValueError("no")), Ending("FAILURE", "ValueError: no")),
        (PoolReport("lost", OSError("gone")), Ending("FAILURE", "OSError: gone")),
        (PoolReport("retried", ValueError("again")), Ending("RETRY", "ValueError: again")),
        (PoolReport("retried", Retry("again")), Ending("RETRY", "Retry: Retry in Nones: None")),
        (PoolReport("ignored", Ignore()), Ending("IGNORED")),
        (PoolReport("terminated"), Ending("REVOKED", "TaskRevokedError: terminated")),
        (PoolReport("rejected"), Ending("REJECTED", "Reject")),
        (PoolReport("rejected", Reject("bad", requeue=True)), Ending("REJECTED", "Reject: bad")),
        (PoolReport("cut off"), Ending("LOST", endings.CUT_OFF)),
    ],
)
def test_what_the_pool_says_is_an_end_or_a_retry(report: PoolReport, ending: Ending) -> None:
    assert endings.of_report(report).state == ending.state
    if not isinstance(report.cause, Retry):
        assert endings.of_report(report) == ending
