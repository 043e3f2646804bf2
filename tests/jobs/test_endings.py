from __future__ import annotations

import asyncio
import gc
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery.app.trace import trace_task
from celery.exceptions import Ignore, Reject, Retry, TaskRevokedError, TimeLimitExceeded, WorkerLostError

from celery_realtime.events import Ending
from celery_realtime.jobs import endings
from celery_realtime.jobs.seams import PoolReport
from celery_realtime.settings import Settings
from tests.log_records import logged_by
from tests.recording import Studio, new_app

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


# -- what a task returns ------------------------------------------------------------------------------------------


def run(function: Any, *, backend: str | None = None, **options: Any) -> list[Any]:
    """Run a function as a worker does, and return the statuses that are reported."""
    studio = Studio(new_app(result_backend=backend))
    task = studio.app.task(function, **{"name": f"studio.{function.__name__}", "shared": False, **options})
    request = {"id": "j", "task": task.name, "headers": {"project_id": "p"}, "project_id": "p", "is_eager": False}
    trace_task(task, "j", (), {}, request, app=studio.app)
    return [sent.data for sent in studio.sent if sent.event == "agent_status"]


async def asynchronous() -> str:
    return "done"


async def asynchronous_generator() -> Any:
    yield "done"


def generator() -> Any:
    yield "done"


@pytest.mark.parametrize("function", [asynchronous, asynchronous_generator, generator])
@pytest.mark.parametrize("options", [{"ignore_result": True}, {"backend": "cache+memory://"}, {}])
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_a_function_that_celery_only_calls_ends_as_what_it_is(function: Any, options: dict[str, Any]) -> None:
    statuses = run(function, **options)
    kind = "an async def function" if function is asynchronous else "a generator function"
    assert statuses[-1]["state"] == "FAILURE"
    assert statuses[-1]["error"] == (
        f"TypeError: the task is {kind}, which Celery calls and never runs: no line of it was executed"
    )
    assert statuses[-1]["result"] is None
    gc.collect()  # Python warns of what was never awaited when it is gone


def returns_a_generator() -> Any:
    return (number for number in range(3))


def test_a_task_that_has_run_and_returns_a_generator_has_succeeded() -> None:
    statuses = run(returns_a_generator, ignore_result=True)
    assert (statuses[-1]["state"], statuses[-1]["result"]) == ("SUCCESS", None)


class Later:
    def __await__(self) -> Any:
        yield


def returns_what_may_be_awaited() -> Any:
    return Later()


def test_what_a_task_returns_for_somebody_to_await_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    statuses = run(returns_what_may_be_awaited)
    assert (statuses[-1]["state"], statuses[-1]["result"]) == ("SUCCESS", None)
    (line,) = logged_by(caplog, "celery_realtime.jobs.endings")
    assert "returned a Later, which nobody awaits" in line.getMessage()


def test_an_eager_job_may_be_awaited_by_its_caller() -> None:
    studio = Studio()
    task = studio.app.task(asynchronous, name="studio.asynchronous", shared=False)
    assert asyncio.run(task.apply(headers={"project_id": "p"}).get()) == "done"
    assert (studio.sent[-1].data["state"], studio.sent[-1].data["result"]) == ("SUCCESS", None)


def returns_a_secret() -> dict[str, str]:
    return {"password": "geheim"}


def test_an_ignored_result_does_not_travel() -> None:
    ignored = run(returns_a_secret, ignore_result=True)
    assert (ignored[-1]["state"], ignored[-1]["result"]) == ("SUCCESS", None)
    assert "truncated" not in ignored[-1]
    shown = run(returns_a_secret)
    assert shown[-1]["result"] == {"password": "geheim"}


def test_an_ignored_result_does_not_travel_from_a_call_that_ignores_it() -> None:
    studio = Studio()
    task = studio.app.task(returns_a_secret, name="studio.returns_a_secret", shared=False)
    task.apply(headers={"project_id": "p"}, ignore_result=True)
    assert studio.sent[-1].data["result"] is None


def test_a_result_of_a_million_rows_is_left_out_and_never_encoded(settings: Settings) -> None:
    class Row(dict[str, str]):
        def __json__(self) -> None:
            raise AssertionError("it was encoded")

    assert endings.success([Row(a="b")] * 1_000_000, settings) == Ending("SUCCESS", truncated=True)


# -- what a backend has -----------------------------------------------------------------------------------------


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


def test_a_stored_failure_of_a_killed_process_is_one_that_nobody_has_seen(settings: Settings) -> None:
    stored = of(settings, status="FAILURE", result=WorkerLostError("gone"))
    assert stored == Ending("FAILURE", "WorkerLostError: gone", died=True)


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
        (PoolReport("lost", WorkerLostError("gone")), Ending("FAILURE", "WorkerLostError: gone", died=True)),
        (
            PoolReport("failed", TimeLimitExceeded(2)),
            Ending("FAILURE", "TimeLimitExceeded: TimeLimitExceeded(2,)", died=True),
        ),
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
