"""Small structured state of jobs: with a history of Redis, and without one."""

from __future__ import annotations

import itertools
import logging
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest

from celery_realtime.events import Job
from celery_realtime.jobs.metadata import MAX_KEY
from tests.jobs.test_task import HEADERS, run, task_of
from tests.recording import Studio, new_app
from tests.services import RedisServer


@pytest.fixture
def studio(redis_url: str) -> Studio:
    return Studio(history_url=redis_url)


@pytest.fixture
def plain() -> Studio:
    """A studio without a history."""
    return Studio()


def told(studio: Studio) -> list[tuple[dict[str, Any], list[str]]]:
    """Return what was set and deleted, in order."""
    updates = [sent.data for sent in studio.sent if sent.event == "agent_metadata"]
    return [(update["set"], update["deleted"]) for update in updates]


def stored(studio: Studio, project: str = "p") -> dict[str, Any]:
    """Return the metadata of each job of a project, as the snapshot has it."""
    assert studio.realtime.flush(60)
    history = studio.realtime.manager.history
    assert history is not None
    return {job["job_id"]: job.get("metadata") for job in history.read(project).jobs}


def change_all(metadata: Any) -> None:
    metadata.set("text", {"a": [1, "é"]})
    metadata.increment("count")
    metadata.increment("count", 4)
    metadata.increment("sum", 0.1)
    metadata.increment("sum", 0.2)
    metadata.append("list", "x")
    metadata.append("list", {"y": None})
    metadata.set("gone", True)
    metadata.delete("gone")


ALL = {"text": {"a": [1, "é"]}, "count": 5, "sum": 0.1 + 0.2, "list": ["x", {"y": None}]}


@pytest.mark.parametrize("has_history", [True, False])
def test_changes_are_told_as_they_are_made(redis_url: str, has_history: bool) -> None:
    studio = Studio(history_url=redis_url if has_history else None)
    values = []

    def work(self: Any) -> None:
        change_all(self.metadata)
        values.append({name: self.metadata.get(name) for name in ALL})
        values.append({"gone": self.metadata.get("gone", "not there"), "nosuch": self.metadata.get("nosuch")})

    result = run(studio, work)
    assert result.successful()
    assert values == [ALL, {"gone": "not there", "nosuch": None}]
    assert told(studio) == [
        ({"text": {"a": [1, "é"]}}, []),
        ({"count": 1}, []),
        ({"count": 5}, []),
        ({"sum": 0.1}, []),
        ({"sum": 0.1 + 0.2}, []),
        ({"list": ["x"]}, []),
        ({"list": ["x", {"y": None}]}, []),
        ({"gone": True}, []),
        ({}, ["gone"]),
    ]
    updates = [sent.data for sent in studio.sent if sent.event == "agent_metadata"]
    assert {(one["event"], one["job_id"], one["project_id"]) for one in updates} == {
        ("metadata_update", result.id, "p")
    }
    if has_history:
        assert [one["offset"] for one in updates] == list(range(2, 11))
        assert stored(studio) == {result.id: ALL}
    else:
        assert not any("offset" in one for one in updates)


def test_what_changes_nothing_is_not_told(studio: Studio) -> None:
    def work(self: Any) -> None:
        for _ in range(2):
            self.metadata.set("state", "on")
            self.metadata.delete("nosuch")

    run(studio, work)
    assert told(studio) == [({"state": "on"}, [])]


def test_a_job_changes_that_of_its_parent_and_of_its_root(studio: Studio) -> None:
    child = task_of(
        studio.app, lambda self: (self.metadata.parent.increment("done"), self.metadata.root.append("ids", 1))
    )
    seen = []

    def work(self: Any) -> None:
        for _ in range(3):
            child.apply()
        seen.append(
            (self.metadata.get("done"), self.metadata.root.get("ids"), self.metadata.parent.get("done", "none"))
        )

    result = run(studio, work)
    assert seen == [(3, [1, 1, 1], "none")]
    assert stored(studio)[result.id] == {"done": 3, "ids": [1, 1, 1]}


def test_that_of_a_job_that_has_ended_can_be_changed_from_below(studio: Studio) -> None:
    result = run(studio, lambda _: None)
    above = Job(job_id=result.id, project_id="p")
    metadata = studio.realtime.running_jobs.metadata_of(_task_below(studio, above))
    assert metadata is not None
    metadata.parent.set("child", "done")
    assert stored(studio)[result.id] == {"child": "done"}


def _task_below(studio: Studio, above: Job) -> Any:
    """Return a task that runs a job whose parent is another one."""
    task = task_of(studio.app, lambda _: None)
    task.request_stack.push(_request(task, above))
    return task


def _request(task: Any, above: Job) -> Any:
    from celery.app.task import Context

    fields = {"id": "below", "task": task.name, "parent_id": above.job_id, "root_id": above.job_id, **HEADERS}
    return Context(fields, delivery_info={}, called_directly=False)


def test_without_a_job_above_changes_do_nothing_and_are_checked(studio: Studio) -> None:
    def work(self: Any) -> None:
        self.metadata.parent.increment("done")
        with pytest.raises(TypeError):
            self.metadata.parent.increment("done", "much")
        self.metadata.root.set("own", 1)  # it is its own root

    result = run(studio, work)
    assert result.successful()
    assert stored(studio) == {result.id: {"own": 1}}


def test_a_group_has_none(studio: Studio) -> None:
    def work(self: Any) -> Any:
        self.metadata.root.set("of", "nobody")
        return self.metadata.root.get("of")

    task = task_of(studio.app, work)
    result = task.apply(headers={**HEADERS, "realtime_root_id": "g", "group": "g"}, root_id="g", group_id="g")
    assert (result.result, told(studio)) in ((None, []), (None, [({"of": "nobody"}, [])]))


def test_retries_go_on_with_it_and_the_next_run_does_not(studio: Studio) -> None:
    def work(self: Any) -> None:
        self.metadata.increment("tries")
        if not self.request.retries:
            raise self.retry(countdown=0)

    task = task_of(studio.app, work)
    mark = {**HEADERS, "realtime_run": "1795762121624-3a930231"}
    task.apply(headers=mark, task_id="job")
    assert stored(studio) == {"job": {"tries": 2}}
    task.apply(headers={**HEADERS, "realtime_run": "1795762121625-3a930231"}, task_id="job", retries=1)
    assert stored(studio) == {"job": {"tries": 1}}


# -- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda data: data.set(5, 1), TypeError, "a key of metadata must be a str, not int"),
        (lambda data: data.set("", 1), ValueError, "1 to 200 characters, this one has 0"),
        (lambda data: data.get("x" * (MAX_KEY + 1)), ValueError, "this one has 201"),
        (lambda data: data.set("a", object()), TypeError, "metadata 'a' cannot be sent as JSON"),
        (lambda data: data.set("a", {"b": math.nan}), ValueError, "metadata 'a' cannot be sent as JSON"),
        (lambda data: data.increment("a", "1"), TypeError, "by must be a number, not str"),
        (lambda data: data.increment("a", True), TypeError, "by must be a number, not bool"),
        (lambda data: data.increment("a", math.inf), ValueError, "from -2\\*\\*53 to 2\\*\\*53"),
        (lambda data: data.increment("a", math.nan), ValueError, "from -2\\*\\*53 to 2\\*\\*53"),
        (lambda data: data.increment("a", 2**60), ValueError, "from -2\\*\\*53 to 2\\*\\*53"),
        (
            lambda data: data.set("a", "x" * 70000),
            ValueError,
            "70002 bytes of JSON, realtime_metadata_size allows 65536",
        ),
        (lambda data: data.append("a", "x" * 70000), ValueError, "realtime_metadata_size allows 65536"),
    ],
)
@pytest.mark.parametrize("kind", ["job", "job without history", "plain call"])
def test_what_cannot_be_kept_is_refused_at_the_call(
    redis_url: str, call: Any, error: type[Exception], message: str, kind: str
) -> None:
    studio = Studio(history_url=redis_url if kind == "job" else None)

    def work(self: Any) -> None:
        with pytest.raises(error, match=message):
            call(self.metadata)

    task = task_of(studio.app, work)
    assert task() is None if kind == "plain call" else task.apply(headers=HEADERS).successful()
    assert told(studio) == []


@pytest.mark.parametrize("has_history", [True, False])
def test_a_value_of_another_type_is_neither_added_to_nor_appended_to(redis_url: str, has_history: bool) -> None:
    studio = Studio(history_url=redis_url if has_history else None)

    def work(self: Any) -> None:
        self.metadata.set("text", "five")
        self.metadata.set("on", True)
        self.metadata.set("nothing", None)
        for key, kind in itertools.product(("text", "on", "nothing"), ("increment", "append")):
            with pytest.raises(TypeError, match=f"metadata '{key}' is no"):
                getattr(self.metadata, kind)(key, 1)

    assert run(studio, work).successful()


def test_to_a_number_that_no_float_can_hold_no_part_of_one_is_added(studio: Studio) -> None:
    def work(self: Any) -> None:
        self.metadata.set("large", 10**400)
        with pytest.raises(ValueError, match="metadata 'large' is too large a number"):
            self.metadata.increment("large", 0.5)

    assert run(studio, work).successful()


def test_all_of_it_has_a_largest_size(redis_url: str) -> None:
    studio = Studio(history_url=redis_url, metadata_size=100)

    def work(self: Any) -> None:
        self.metadata.set("a", "x" * 80)
        with pytest.raises(ValueError, match=r"the metadata of the job would have 1.. bytes of JSON, .* allows 100"):
            self.metadata.set("b", "x" * 20)
        self.metadata.set("a", "short")
        self.metadata.set("b", "x" * 20)
        for number in range(8):
            self.metadata.append("c", number)
        with pytest.raises(ValueError, match="allows 100"):
            self.metadata.append("c", "x" * 40)

    assert run(studio, work).successful()


def test_a_type_that_another_process_has_changed_counts(studio: Studio) -> None:
    other = Studio(history_url=studio.realtime.settings.history_url, channel=studio.realtime.settings.channel)

    def work(self: Any) -> None:
        self.metadata.set("count", "none yet")
        assert studio.realtime.flush(60)
        above = Job(job_id=self.request.id, project_id="p")
        metadata = other.realtime.running_jobs.metadata_of(_task_below(other, above))
        assert metadata is not None
        metadata.parent.set("count", 7)
        assert other.realtime.flush(60)
        self.metadata.increment("count")
        assert self.metadata.get("count") == 8

    assert run(studio, work).successful()


def test_what_no_process_could_know_is_a_line_in_the_log(studio: Studio, caplog: pytest.LogCaptureFixture) -> None:
    above = Job(job_id="nosuch", project_id="p")
    metadata = studio.realtime.running_jobs.metadata_of(_task_below(studio, above))
    assert metadata is not None
    with caplog.at_level(logging.WARNING):
        metadata.parent.increment("done")
        assert studio.realtime.flush(60)
    assert "the job's metadata stays as it was" in caplog.text
    assert "no such job is known" in caplog.text
    assert told(studio) == []


def test_values_may_be_of_any_kind_that_json_has_a_form_for(studio: Studio) -> None:
    def work(self: Any) -> None:
        self.metadata.set("price", Decimal("1.50"))
        self.metadata.increment("sum", Decimal(2))
        self.metadata.set("caf\udce9", "caf\udce9")
        self.metadata.set('q"k:ey\n', 1)
        self.metadata.increment('q"k:ey\n')

    result = run(studio, work)
    found = stored(studio)[result.id]
    assert (found["sum"], found["caf\ufffd"], found['q"k:ey\n']) == (2, "caf\ufffd", 2)


# -- several at a time ------------------------------------------------------------------------------------------


def test_no_change_of_several_threads_and_processes_is_lost(studio: Studio) -> None:
    result = run(studio, lambda _: None)
    above = Job(job_id=result.id, project_id="p")
    url = studio.realtime.settings.history_url
    studios = [Studio(history_url=url, channel=studio.realtime.settings.channel) for _ in range(4)]

    def count(one: Studio) -> None:
        metadata = one.realtime.running_jobs.metadata_of(_task_below(one, above))
        assert metadata is not None
        for _ in range(25):
            metadata.parent.increment("count")
            metadata.parent.append("list", 1)
        assert one.realtime.flush(60)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, studios))
    assert stored(studio)[result.id] == {"count": 100, "list": [1] * 100}


def test_threads_of_one_job_write_without_losing_anything(studio: Studio) -> None:
    def work(self: Any) -> None:
        metadata = self.metadata
        threads = [threading.Thread(target=metadata.increment, args=("count",)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert metadata.get("count") == 20

    assert run(studio, work).successful()


# -- outages ----------------------------------------------------------------------------------------------------


def test_while_redis_is_away_nothing_waits_and_nothing_is_lost(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()
    studio = Studio(history_url=server.fresh_url())
    values = []

    def work(self: Any) -> None:
        self.metadata.set("before", 1)
        assert studio.realtime.flush(60)
        server.stop()
        self.metadata.increment("during")
        self.metadata.increment("during")
        values.append((self.metadata.get("before"), self.metadata.get("during")))
        server.start()

    result = run(studio, work)
    assert result.successful(), result.traceback
    assert values == [(1, 2)]
    assert stored(studio)[result.id]["during"] == 2


# -- plain calls ------------------------------------------------------------------------------------------------


def test_tasks_may_have_an_attribute_of_that_name(studio: Studio) -> None:
    class Described(studio.app.Task):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.metadata = {"version": 1}

    seen = []
    result = run(studio, lambda self: seen.append(self.metadata), base=Described)
    assert result.successful()
    assert seen == [{"version": 1}]


def test_a_plain_call_keeps_it_to_itself() -> None:
    def work(self: Any) -> Any:
        change_all(self.metadata)
        self.metadata.parent.set("nowhere", 1)
        return {name: self.metadata.get(name) for name in (*ALL, "gone", "nowhere")}

    studio, silent = Studio(), Studio(enabled=False)
    expected = {**ALL, "gone": None, "nowhere": None}
    assert task_of(studio.app, work)() == expected
    assert task_of(studio.app, work)() == expected
    assert task_of(new_app(), work)() == expected
    assert task_of(silent.app, work).apply(headers=HEADERS).result == expected
    assert studio.sent == silent.sent == []


def test_a_job_without_a_project_keeps_it_to_itself(studio: Studio) -> None:
    def work(self: Any) -> Any:
        change_all(self.metadata)
        return self.metadata.get("count")

    assert task_of(studio.app, work).apply().result == 5
    assert studio.sent == []


# -- filters ----------------------------------------------------------------------------------------------------


def test_a_filter_may_redact_a_value_and_drop_a_change(redis_url: str) -> None:
    def rule(event: str, _project: str, payload: Any) -> Any:
        if event != "agent_metadata":
            return payload
        if "secret" in payload["set"]:
            return None
        changed = {key: "***" if key == "password" else value for key, value in payload["set"].items()}
        return {**payload, "set": {key: value for key, value in changed.items() if key != "hidden"}}

    studio = Studio(history_url=redis_url, event_filter=rule)

    def work(self: Any) -> None:
        for key in ("secret", "password", "hidden", "plain"):
            self.metadata.set(key, 5)
        self.metadata.increment("count")
        self.metadata.delete("plain")

    result = run(studio, work)
    assert stored(studio)[result.id] == {"password": "***", "count": 1}
    assert told(studio) == [({"password": "***"}, []), ({"plain": 5}, []), ({"count": 1}, []), ({}, ["plain"])]
    assert studio.realtime.manager.counts["filtered"] == 2


@pytest.mark.parametrize("made", [5, True, "a", {"a": 1}, [["a"]], None])
def test_what_a_filter_makes_of_other_types_hides_it_and_raises_nothing(redis_url: str, made: Any) -> None:
    def rule(event: str, _project: str, payload: Any) -> Any:
        return {**payload, "set": made, "deleted": made} if event == "agent_metadata" else payload

    studio = Studio(history_url=redis_url, event_filter=rule)

    def work(self: Any) -> None:
        self.metadata.set("b", 1)
        self.metadata.delete("a")

    result = run(studio, work)
    assert result.successful()
    assert stored(studio) == {result.id: None}
    assert told(studio) == []


def test_a_filter_that_fails_hides_it(redis_url: str) -> None:
    def rule(event: str, _project: str, payload: Any) -> Any:
        if event == "agent_metadata":
            raise RuntimeError("broken")
        return payload

    studio = Studio(history_url=redis_url, event_filter=rule)
    result = run(studio, lambda self: self.metadata.set("a", 1))
    assert stored(studio) == {result.id: None}
