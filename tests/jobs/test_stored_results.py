from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from celery.backends.base import KeyValueStoreBackend

from celery_realtime.jobs.stored_results import StoredResults
from tests.recording import new_app
from tests.waiting import wait_for


class Memory(KeyValueStoreBackend):  # type: ignore[misc]
    """A backend that can be held up, and that cannot read everything."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The app's backend is one for each thread.
        self.values, self.may_answer = vars(self.app).setdefault("shared", ({}, threading.Event()))

    def get(self, key: str) -> Any:
        self.may_answer.wait(60)
        return self.values.get(key if isinstance(key, str) else key.decode())

    def _set_with_state(self, key: Any, value: Any, state: str) -> None:
        self.values[key if isinstance(key, str) else key.decode()] = value


@pytest.fixture
def app() -> Celery:
    app = new_app(backend=f"{__name__}:Memory")
    app.backend.may_answer.set()
    return app


@pytest.fixture
def results(app: Celery) -> Iterator[StoredResults]:
    yield StoredResults(app)
    app.backend.may_answer.set()


def test_what_is_stored_is_answered_and_the_rest_is_pending(app: Celery, results: StoredResults) -> None:
    app.backend.store_result("a", {"made": 1}, "SUCCESS")
    app.backend.store_result("b", ValueError("no"), "FAILURE")
    answers = results.ask([("a", "task"), ("b", None), ("c", None)], 10)
    a, b, c = (answers[name] for name in "abc")
    assert a is not None
    assert b is not None
    assert c is not None
    assert (a["status"], a["result"]) == ("SUCCESS", {"made": 1})
    assert repr(b["result"]) == "ValueError('no')"
    assert c["status"] == "PENDING"


def test_what_may_be_another_projects_is_not_answered(app: Celery) -> None:
    stored: list[str] = []

    def is_shared(job_id: str) -> bool:
        stored.append(app.backend.get_task_meta(job_id, cache=False)["status"])
        return job_id == "a"

    for job_id in "ab":
        app.backend.store_result(job_id, 5, "SUCCESS")
    answers = StoredResults(app, is_shared).ask([("a", None), ("b", None)], 10)
    assert answers["a"] is None
    assert answers["b"] is not None
    assert answers["b"]["result"] == 5
    assert stored == ["SUCCESS", "SUCCESS"]


def test_while_nobody_can_tell_whose_a_result_is_it_counts_as_not_asked_for(app: Celery) -> None:
    def is_shared(job_id: str) -> bool:
        raise ConnectionError(f"nobody knows {job_id}")

    assert StoredResults(app, is_shared).ask([("a", None)], 10) == {}


def test_a_task_s_own_backend_is_asked(app: Celery, results: StoredResults) -> None:
    own = Memory(new_app())
    own.may_answer.set()

    @app.task(name="own", backend=own, shared=False)
    def task() -> None: ...

    own.store_result("a", 1, "SUCCESS")
    answer = results.ask([("a", "own")], 10)["a"]
    assert answer is not None
    assert answer["status"] == "SUCCESS"


@pytest.mark.parametrize("backend", [None, "rpc://"])
def test_backends_that_keep_nothing_or_would_consume_are_not_asked(backend: str | None) -> None:
    assert StoredResults(new_app(backend=backend)).ask([("a", None)], 10) == {"a": None}


def test_a_result_that_cannot_be_read_is_left_out(
    app: Celery, results: StoredResults, caplog: pytest.LogCaptureFixture
) -> None:
    app.backend.values[app.backend.get_key_for_task("a").decode()] = b"\xff no JSON"
    assert set(results.ask([("a", None), ("b", None)], 10)) == {"b"}
    assert "cannot read the result of a job" in caplog.text


def test_a_backend_that_hangs_holds_up_nobody(
    app: Celery, results: StoredResults, caplog: pytest.LogCaptureFixture
) -> None:
    app.backend.may_answer.clear()
    assert results.ask([("a", None), ("b", None)], 0.01) == {}
    assert "did not answer within" in caplog.text
    assert results.ask([("c", None)], 10) == {}
    assert [loop.name for loop in results.loops] == ["results"]
    app.backend.may_answer.set()
    wait_for(lambda: "c" in results.ask([("c", None)], 10))


def test_nothing_is_asked_for_no_jobs(results: StoredResults) -> None:
    assert results.ask([], 10) == {}
    assert results.loops == []


def test_without_a_thread_nothing_can_be_asked(
    monkeypatch: pytest.MonkeyPatch, results: StoredResults, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert results.ask([("a", None)], 10) == {}
    assert "no thread can be started" in caplog.text
