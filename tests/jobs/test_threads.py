"""Threads inside a task: each call is of the job whose context it has, or says that it has none."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.jobs.test_task import progress_of, task_of
from tests.recording import Studio


@pytest.fixture
def studio() -> Studio:
    return Studio()


def in_coroutine(call: Callable[..., Any], *args: Any) -> None:
    async def main() -> None:
        call(*args)

    asyncio.run(main())


def to_thread(call: Callable[..., Any], *args: Any) -> None:
    asyncio.run(asyncio.to_thread(call, *args))


def in_executor(call: Callable[..., Any], *args: Any) -> None:
    async def main() -> None:
        await asyncio.get_running_loop().run_in_executor(None, call, *args)

    asyncio.run(main())


def in_pool(call: Callable[..., Any], *args: Any) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(call, *args).result()


def with_context(way: Callable[..., None]) -> Callable[..., None]:
    def run(call: Callable[..., Any], *args: Any) -> None:
        way(contextvars.copy_context().run, call, *args)

    return run


@pytest.mark.parametrize("way", [in_coroutine, to_thread, with_context(in_executor), with_context(in_pool)])
def test_what_has_the_context_of_a_job_reports_for_it(studio: Studio, way: Callable[..., None]) -> None:
    def body(self: Any) -> None:
        way(self.update_progress, 40)
        way(self.emit, "line", {"text": "..."})
        way(list, self.track([1, 2]))

    result = task_of(studio.app, body).apply(headers={"project_id": "p"})
    assert result.state == "SUCCESS"
    assert {data["job_id"] for data in progress_of(studio)} == {result.id}
    assert progress_of(studio)[-1]["progress"] == 100
    assert len(studio.wire.named("line")) == 1


@pytest.mark.parametrize("way", [in_executor, in_pool])
@pytest.mark.parametrize("name", ["update_progress", "emit"])
def test_what_has_none_says_so_while_jobs_run(studio: Studio, way: Callable[..., None], name: str) -> None:
    def body(self: Any) -> None:
        way(getattr(self, name), *{"update_progress": (40,), "emit": ("line", {})}[name])

    with pytest.raises(RuntimeError, match=r"copy_context\(\)\.run"):
        task_of(studio.app, body).apply(headers={"project_id": "p"}).get()
    assert progress_of(studio) == []


def test_a_plain_call_is_no_job_in_whichever_thread(studio: Studio) -> None:
    task = task_of(studio.app, lambda self: self.update_progress(40))
    in_pool(task)
    in_pool(task.run)
    inner = task_of(studio.app, lambda self: (task(), task.run()))
    assert inner.apply(headers={"project_id": "p"}).state == "SUCCESS"
    assert progress_of(studio) == []


def test_jobs_side_by_side_are_told_apart(studio: Studio) -> None:
    meeting = threading.Barrier(2)

    def body(self: Any, percent: int) -> None:
        meeting.wait(60)
        to_thread(self.update_progress, percent)
        meeting.wait(60)

    task = task_of(studio.app, body)
    assert task.request_stack is not None  # bound at its first use, of which no thread must see half
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda n: task.apply((n,), headers={"project_id": f"p{n}"}), (10, 20)))
    told = {data["job_id"]: (data["project_id"], data["progress"]) for data in progress_of(studio)}
    assert told == {result.id: (f"p{n}", n) for n, result in zip((10, 20), results, strict=True)}


def test_a_thread_that_outlives_its_job_reports_for_no_other(studio: Studio) -> None:
    left: list[Callable[[], None]] = []

    def body(self: Any, first: bool) -> None:
        if first:
            context = contextvars.copy_context()
            left.append(lambda: context.run(self.update_progress, 40))
        else:
            in_pool(left[0])

    task = task_of(studio.app, body)
    for first in (True, False):
        assert task.apply((first,), headers={"project_id": "p"}).state == "SUCCESS"
    assert progress_of(studio) == []


@pytest.mark.parametrize("way", [in_executor, in_pool])
def test_a_state_that_is_stored_by_the_id_of_a_job_is_progress_of_that_job(
    studio: Studio, way: Callable[..., None]
) -> None:
    def body(self: Any) -> None:
        way(
            functools.partial(
                self.update_state, task_id=self.request.id, state="PROGRESS", meta={"done": 3, "total": 4}
            )
        )

    result = task_of(studio.app, body).apply(headers={"project_id": "p"})
    assert result.state == "SUCCESS"
    assert [(data["job_id"], data["project_id"], data["progress"]) for data in progress_of(studio)] == [
        (result.id, "p", 75)
    ]


@pytest.mark.parametrize("way", [in_executor, in_pool])
def test_a_tracker_that_is_asked_for_in_a_thread_is_that_of_the_job(studio: Studio, way: Callable[..., None]) -> None:
    def body(self: Any) -> None:
        way(lambda job_id: studio.realtime.progress_tracker(job_id).set_progress(75), self.request.id)

    result = task_of(studio.app, body).apply(headers={"project_id": "p"})
    assert (result.state, [data["progress"] for data in progress_of(studio)]) == ("SUCCESS", [75])


def test_of_two_projects_with_one_id_a_thread_reports_for_neither(studio: Studio) -> None:
    meeting = threading.Barrier(2)

    def body(self: Any) -> None:
        meeting.wait(60)
        in_pool(functools.partial(self.update_state, task_id="job-1", state="PROGRESS", meta={"progress": 75}))
        meeting.wait(60)

    task = task_of(studio.app, body, ignore_result=True)
    assert task.request_stack is not None
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: task.apply(task_id="job-1", headers={"project_id": name}), ("p", "q")))
    assert progress_of(studio) == []


def test_after_the_end_of_a_job_its_id_says_nothing_of_it(studio: Studio) -> None:
    task = task_of(studio.app, lambda self: None)
    job = task.apply(headers={"project_id": "p"})
    task.update_state(task_id=job.id, state="PROGRESS", meta={"progress": 75})
    assert progress_of(studio) == []
