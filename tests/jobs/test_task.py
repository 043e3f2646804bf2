from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, Task, shared_task
from celery.exceptions import Ignore
from django.utils.functional import lazystr

from celery_realtime import ImproperlyConfigured, Realtime, get_progress_tracker
from tests.recording import Studio, current, new_app, record
from tests.result_databases import result_database

HEADERS = {"project_id": "p"}
names = (f"studio.task{number}" for number in itertools.count())


@pytest.fixture
def studio() -> Studio:
    return Studio()


def task_of(app: Celery, function: Callable[..., Any], **options: Any) -> Any:
    """Make a bound task of a function."""
    function.__name__ = "body"  # Celery makes a class of that name, which "<lambda>" cannot be
    return app.task(function, **{"bind": True, "name": next(names), "shared": False, **options})


def run(studio: Studio, function: Callable[[Any], Any], **options: Any) -> Any:
    """Run a function as a job of project ``p``, and return the eager result."""
    return task_of(studio.app, function, **options).apply(headers=HEADERS)


def flush(task: Any) -> None:
    """Let what was said leave, so that newer progress does not replace it."""
    assert task.app.realtime.flush(60)


def progress_of(studio: Studio) -> list[Any]:
    """Return all progress updates so far."""
    assert studio.realtime.flush(60)
    return studio.wire.named("agent_progress")


def test_each_start_of_a_job_has_its_time_by_the_clock_that_all_processes_of_a_host_share(studio: Studio) -> None:
    before = round(time.perf_counter() * 1_000_000)
    for _ in range(2):
        run(studio, lambda _: None)
    after = round(time.perf_counter() * 1_000_000)
    assert studio.realtime.flush(60)
    executions = [outgoing.standing.execution for outgoing in studio.wire.outgoing if outgoing.rank == 1]
    first, second = (execution.clock for execution in executions if execution is not None)
    assert first is not None
    assert second is not None
    assert before <= first <= second <= after


# -- every kind of task -----------------------------------------------------------------------------------------


def body(self: Any) -> str:
    self.update_progress(25, "Downloading audio file...")
    flush(self)
    self.emit("transcript_line", {"text": "..."})
    for _ in self.track([1, 2], "Transcribing"):
        flush(self)
    return "done"


def by_decorator(app: Celery) -> Any:
    return task_of(app, body)


def not_lazy(app: Celery) -> Any:
    return task_of(app, body, lazy=False)


def shared(app: Celery) -> Any:
    return shared_task(body, bind=True, name=next(names))


def with_a_base(app: Celery) -> Any:
    class Base(Task):
        def on_success(self, *args: Any) -> None:
            self.went_well = True

    return task_of(app, body, base=Base)


def with_a_base_that_publishes_in_its_own_way(app: Celery) -> Any:
    class Base(Task):
        def apply_async(self, *args: Any, **options: Any) -> Any:
            return super().apply_async(*args, **options)

        def update_state(self, *args: Any, **options: Any) -> Any:
            return super().update_state(*args, **options)

    return task_of(app, body, base=Base)


def with_retries(app: Celery) -> Any:
    return task_of(app, body, autoretry_for=(ValueError,))


def class_based(app: Celery) -> Any:
    class Transcribe(Task):
        name = next(names)

        def run(self) -> str:
            return body(self)

    return app.register_task(Transcribe())


def class_based_by_its_class(app: Celery) -> Any:
    class Transcribe(Task):
        name = next(names)

        def run(self) -> str:
            return body(self)

    return app.register_task(Transcribe)


def of_the_apps_own_class(app: Celery) -> Any:
    class Transcribe(app.Task):
        name = next(names)

        def run(self) -> str:
            return body(self)

    return app.register_task(Transcribe())


KINDS = [
    *(by_decorator, not_lazy, shared, with_a_base, with_a_base_that_publishes_in_its_own_way, with_retries),
    *(class_based, class_based_by_its_class, of_the_apps_own_class),
]


@pytest.mark.parametrize("declare", KINDS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_every_kind_of_task_reports_declared_before_the_extension_or_after(
    declare: Callable[[Celery], Any], when: str
) -> None:
    app = new_app()
    with current(app):
        if when == "before":
            task = declare(app)
            studio = Studio(app)
        else:
            studio = Studio(app)
            task = declare(app)
        assert task.apply(headers=HEADERS).get() == "done"
    assert studio.told() == ["STARTED", "25", "transcript_line", "25", "50", "100", "SUCCESS"]
    assert {sent.project_id for sent in studio.sent} == {"p"}


class OwnTask(Task):
    """What an app's ``task_cls`` names."""


@pytest.mark.parametrize("task_cls", [OwnTask, "tests.jobs.test_task:OwnTask"])
def test_tasks_of_an_app_with_its_own_task_class_report(task_cls: Any) -> None:
    studio = Studio(new_app(task_cls=task_cls))
    task = by_decorator(studio.app)
    assert isinstance(studio.app.tasks[task.name], OwnTask)
    assert task.apply(headers=HEADERS).get() == "done"
    assert studio.told() == ["STARTED", "25", "transcript_line", "25", "50", "100", "SUCCESS"]


def test_a_method_of_the_same_name_in_a_users_base_is_the_users() -> None:
    class Base(Task):
        def update_progress(self, *args: Any) -> str:
            return "mine"

    studio = Studio()
    task = task_of(studio.app, lambda self: self.update_progress(1), base=Base)
    assert task.apply(headers=HEADERS).get() == "mine"
    assert studio.told() == ["STARTED", "SUCCESS"]


def test_two_extensions_in_a_process_do_not_wrap_celerys_task_twice() -> None:
    before = {
        name: getattr(Task, name) for name in ("apply_async", "apply", "retry", "update_state", "update_progress")
    }
    Studio()
    Studio()
    assert {name: getattr(Task, name) for name in before} == before


# -- progress ---------------------------------------------------------------------------------------------------


def test_progress_says_what_the_task_reported(studio: Studio) -> None:
    def body(self: Any) -> None:
        self.update_progress(25, "Downloading audio file...")
        flush(self)
        self.update_progress(current=6, total=12, message="Transcribing")

    job_id = run(studio, body).id
    one, other = progress_of(studio)
    assert (one["job_id"], one["project_id"]) == (job_id, "p")
    assert (one["progress"], one["message"], one["current"], one["total"]) == (
        25,
        "Downloading audio file...",
        None,
        None,
    )
    assert (other["progress"], other["message"], other["current"], other["total"]) == (50, "Transcribing", 6, 12)


def test_the_first_and_the_last_progress_of_a_quick_job_are_published() -> None:
    studio = Studio(progress_interval=600)

    def body(self: Any) -> None:
        for percent in range(10, 100, 10):
            self.update_progress(percent)
            if percent == 10:
                flush(self)

    run(studio, body)
    assert studio.told() == ["STARTED", "10", "90", "SUCCESS"]


def test_progress_comes_before_the_failure_that_ends_its_job() -> None:
    studio = Studio(progress_interval=600)

    def body(self: Any) -> None:
        self.update_progress(10)
        flush(self)
        self.update_progress(60)
        raise ValueError("no such file")

    run(studio, body)
    assert studio.told() == ["STARTED", "10", "60", "FAILURE"]
    assert studio.sent[-1].data["error"] == "ValueError: no such file"


BAD = [
    ((250,), {}, ValueError, "progress must be between 0 and 100, not 250"),
    ((-1,), {}, ValueError, "progress must be between 0 and 100, not -1"),
    ((math.nan,), {}, ValueError, "progress must be finite, not nan"),
    ((math.inf,), {}, ValueError, "progress must be finite, not inf"),
    ((10**400,), {}, ValueError, "progress must be"),
    (("50",), {}, TypeError, "progress must be a number, not str"),
    ((True,), {}, TypeError, "progress must be a number, not bool"),
    ((), {}, TypeError, "give progress"),
    ((None,), {}, TypeError, "give progress"),
    ((), {"message": "on it"}, TypeError, "give progress"),
    ((50,), {"current": 1, "total": 2}, TypeError, "give either progress, or current and total"),
    ((50,), {"current": 1}, TypeError, "give either progress, or current and total"),
    ((), {"current": 3}, TypeError, "both current and total"),
    ((), {"total": 12}, TypeError, "both current and total"),
    ((), {"current": 5, "total": 3}, ValueError, "current must be between 0 and 3, not 5"),
    ((), {"current": 1, "total": -1}, ValueError, "total must be 0 or more, not -1"),
    ((), {"current": "1", "total": 2}, TypeError, "current must be a number, not str"),
]


@pytest.mark.parametrize(("args", "kwargs", "error", "text"), BAD, ids=lambda value: str(value)[:40])
def test_a_mistake_in_progress_is_an_error_in_a_job_and_in_a_direct_call_alike(
    studio: Studio, args: tuple[Any, ...], kwargs: dict[str, Any], error: type[Exception], text: str
) -> None:
    def body(self: Any) -> str:
        with pytest.raises(error) as refused:
            self.update_progress(*args, **kwargs)
        return str(refused.value)

    assert text in run(studio, body).get()
    task = task_of(studio.app, body)
    assert text in task()
    assert studio.told() == ["STARTED", "SUCCESS"]


def test_a_message_with_a_file_name_that_is_no_utf_8_does_not_break_the_task(studio: Studio) -> None:
    def body(self: Any) -> str:
        self.update_progress(50, "caf\udce9.wav")
        return "done"

    assert run(studio, body).get() == "done"
    assert studio.told() == ["STARTED", "50", "SUCCESS"]


def test_a_job_without_project_reports_in_vain_and_does_not_notice(studio: Studio) -> None:
    task = by_decorator(studio.app)
    assert task.apply().get() == "done"
    assert studio.sent == []
    assert studio.realtime.manager.counts["no_project"] >= 6


def test_an_outage_is_nothing_to_a_task(studio: Studio) -> None:
    studio.wire.down = True

    def body(self: Any) -> str:
        for number in range(50):
            self.update_progress(number)
            self.emit("line", {"number": number})
        return "done"

    assert run(studio, body).get() == "done"
    studio.wire.down = False
    assert studio.told()[-1] == "SUCCESS"
    assert len(studio.wire.named("line")) == 50


def test_a_broker_that_cannot_even_be_reached_for_is_nothing_to_a_task() -> None:
    app = new_app()
    realtime = Realtime(app)

    def refuse() -> Any:
        raise OSError("no route")

    realtime.manager.start_over(refuse)
    assert task_of(app, lambda self: self.update_progress(5) or "done").apply(headers=HEADERS).get() == "done"
    realtime.flush(60)


def test_a_tracker_that_outlives_its_job_says_nothing_more(studio: Studio) -> None:
    kept: list[Any] = []

    def body(self: Any) -> None:
        kept.append(studio.realtime.progress_tracker(self.request.id))
        kept[0].set_progress(50)
        flush(self)

    run(studio, body)
    kept[0].set_progress(60)
    kept[0].mark_complete()
    assert studio.told() == ["STARTED", "50", "SUCCESS"]


def test_a_tracker_that_is_asked_for_after_its_jobs_end_says_nothing(studio: Studio) -> None:
    job_id = run(studio, lambda self: None).id
    studio.realtime.manager.track_job_for_project(job_id, "p")
    with current(studio.app):
        get_progress_tracker(job_id).set_progress(70)
    assert studio.told() == ["STARTED", "SUCCESS"]


# -- track ------------------------------------------------------------------------------------------------------


def tracked(studio: Studio, *args: Any, **kwargs: Any) -> tuple[list[Any], list[Any]]:
    """Track something in a job; return the items, and what was told: percent, current, total and message."""

    def body(self: Any) -> list[Any]:
        seen = []
        for item in self.track(*args, **kwargs):
            flush(self)
            seen.append(item)
        return seen

    items = run(studio, body).get()
    told = [tuple(data[name] for name in ("progress", "current", "total", "message")) for data in progress_of(studio)]
    return items, told


def test_tracking_passes_the_items_on_and_counts_them(studio: Studio) -> None:
    items, told = tracked(studio, ["a", "b", "c", "d"], "Transcribing")
    assert told == [
        (0, 0, 4, "Transcribing"),
        (25, 1, 4, "Transcribing"),
        (50, 2, 4, "Transcribing"),
        (75, 3, 4, "Transcribing"),
        (100, 4, 4, "Transcribing"),
    ]
    assert items == ["a", "b", "c", "d"]


def test_tracking_what_has_no_length_counts_and_leaves_the_bar_until_the_end(studio: Studio) -> None:
    items, told = tracked(studio, (item for item in "abc"))
    assert told == [(0, 0, None, None), (0, 1, None, None), (0, 2, None, None), (100, 3, 3, None)]
    assert items == ["a", "b", "c"]


def test_tracking_accepts_how_many_items_there_are(studio: Studio) -> None:
    _, told = tracked(studio, iter("ab"), total=2)
    assert [update[:3] for update in told] == [(0, 0, 2), (50, 1, 2), (100, 2, 2)]


def test_tracking_nothing_is_done_at_once(studio: Studio) -> None:
    assert [update[0] for update in tracked(studio, [])[1]] == [100]


def test_tracking_more_than_was_announced_stays_at_100(studio: Studio) -> None:
    assert [update[0] for update in tracked(studio, iter("abcd"), total=2)[1]] == [0, 50, 100, 100, 100]


def test_tracking_that_is_given_up_does_not_claim_to_be_done(studio: Studio) -> None:
    def body(self: Any) -> None:
        for item in self.track([1, 2, 3, 4]):
            flush(self)
            if item == 2:
                break

    run(studio, body)
    assert studio.told() == ["STARTED", "0", "25", "SUCCESS"]


def test_tracking_passes_on_what_its_items_raise(studio: Studio) -> None:
    def items() -> Any:
        yield 1
        raise ValueError("broken item")

    def body(self: Any) -> None:
        for _ in self.track(items(), total=4):
            flush(self)

    assert run(studio, body).state == "FAILURE"
    assert studio.told() == ["STARTED", "0", "FAILURE"]


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "text"),
    [
        ((iter("ab"),), {"total": "2"}, TypeError, "total must be a number, not str"),
        ((iter("ab"),), {"total": True}, TypeError, "total must be a number, not bool"),
        ((iter("ab"),), {"total": -1}, ValueError, "total must be 0 or more, not -1"),
        ((5,), {}, TypeError, "'int' object is not iterable"),
    ],
)
def test_a_mistake_in_tracking_is_an_error_in_a_job_and_in_a_direct_call_alike(
    studio: Studio, args: tuple[Any, ...], kwargs: dict[str, Any], error: type[Exception], text: str
) -> None:
    def body(self: Any) -> str:
        with pytest.raises(error) as refused:
            list(self.track(*args, **kwargs))
        return str(refused.value)

    assert text in run(studio, body).get()
    assert text in task_of(studio.app, body)()
    assert studio.told() == ["STARTED", "SUCCESS"]


def test_a_long_message_is_cut_whether_the_total_is_known_or_not(studio: Studio) -> None:
    assert {len(update[3]) for update in tracked(studio, [1], "x" * 1000)[1]} == {500}
    assert {len(update[3]) for update in tracked(Studio(), iter([1]), "x" * 1000)[1]} == {500}


# -- custom events ----------------------------------------------------------------------------------------------


def test_a_custom_event_goes_to_the_jobs_project_under_its_own_name(studio: Studio) -> None:
    result = run(studio, lambda self: self.emit("transcript_line", {"text": "..."}))
    (data,) = [sent.data for sent in studio.sent if sent.event == "transcript_line"]
    assert data == {"text": "...", "_realtime": {"job_id": result.id, "project_id": "p"}}


@pytest.mark.parametrize("data", [None, [1, 2], "text", 5])
def test_a_custom_event_may_hold_anything_that_json_can(studio: Studio, data: Any) -> None:
    run(studio, lambda self: self.emit("line", data))
    assert [sent.data for sent in studio.sent if sent.event == "line"] == [data]


@pytest.mark.parametrize(
    ("event", "data", "error", "text"),
    [
        ("line", Ellipsis, TypeError, "the data of event 'line' cannot be sent as JSON"),
        ("line", {"a": math.nan}, ValueError, "the data of event 'line' cannot be sent as JSON"),
        ("line", "x" * 70000, ValueError, "the data of event 'line' has 70002 bytes"),
        ("agent_status", {}, ValueError, "'agent_status' is reserved"),
        ("disconnect", {}, ValueError, "'disconnect' is reserved"),
        ("", {}, ValueError, "event name"),
        (5, {}, TypeError, "event name must be a str, not int"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_mistake_in_a_custom_event_is_an_error_in_a_job_with_or_without_project_and_in_a_direct_call(
    studio: Studio, event: Any, data: Any, error: type[Exception], text: str
) -> None:
    def body(self: Any) -> str:
        with pytest.raises(error) as refused:
            self.emit(event, data)
        return str(refused.value)

    task = task_of(studio.app, body)
    assert text in task.apply(headers=HEADERS).get()
    assert text in task.apply().get()
    assert text in task()
    assert studio.told() == ["STARTED", "SUCCESS"]


# -- outside a job ----------------------------------------------------------------------------------------------


def test_a_direct_call_does_its_work_and_says_nothing(studio: Studio) -> None:
    task = task_of(
        studio.app, lambda self: (self.update_progress(5), self.emit("line", {}), list(self.track([1, 2])))[2]
    )
    assert task() == [1, 2]
    with studio.realtime.project("p"):
        assert task() == [1, 2]
    assert studio.sent == []


def test_a_direct_call_in_the_midst_of_a_job_says_nothing_for_that_job(studio: Studio) -> None:
    inner = task_of(studio.app, lambda self: self.update_progress(99))

    def body(self: Any) -> None:
        self.update_progress(10)
        flush(self)
        inner()
        self.update_progress(20)

    run(studio, body)
    assert studio.told() == ["STARTED", "10", "20", "SUCCESS"]


def test_a_job_in_the_midst_of_a_job_speaks_for_itself_and_in_the_same_project(studio: Studio) -> None:
    parents = []

    def report(self: Any) -> None:
        parents.append(self.request.parent_id)  # Celery says it since 5.6
        self.update_progress(99)

    inner = task_of(studio.app, report)

    def body(self: Any) -> None:
        self.update_progress(10)
        flush(self)
        inner.apply()
        self.update_progress(20)

    outer_id = run(studio, body).id
    assert studio.told() == ["STARTED", "10", "STARTED", "99", "SUCCESS", "20", "SUCCESS"]
    jobs = [sent.data["job_id"] == outer_id for sent in studio.sent]
    assert jobs == [True, True, False, False, False, True, True]
    assert {sent.project_id for sent in studio.sent} == {"p"}
    assert studio.sent[2].data["parent_id"] == outer_id
    assert parents[0] in (None, outer_id)


def test_a_task_of_an_app_without_the_extension_says_what_is_missing() -> None:
    task = task_of(new_app("plain"), lambda self: self.update_progress(5))
    with pytest.raises(ImproperlyConfigured, match=r"'plain' has no Realtime: write Realtime\(app\) beside it"):
        task.apply(throw=True)


@pytest.mark.usefixtures("studio")  # an app with a Realtime, in the same process
def test_a_direct_call_where_no_realtime_is_set_up_is_silent() -> None:
    def body(self: Any) -> list[int]:
        self.update_progress(25, "Downloading")
        self.emit("transcript_line", {"text": "..."})
        with pytest.raises(TypeError, match=r"at \['text'\]"):
            self.emit("transcript_line", {"text": object()})
        with pytest.raises(ValueError, match="between 0 and 100"):
            self.update_progress(250)
        return list(self.track([1, 2], "Transcribing"))

    app = new_app("plain")
    with current(app):
        assert task_of(app, body)() == [1, 2]
        assert shared_task(body, bind=True, name=next(names))() == [1, 2]


def test_a_message_that_is_no_text_does_not_end_a_job(studio: Studio) -> None:
    def body(self: Any) -> None:
        self.update_progress(Decimal("12.5"), lazystr("later"))
        flush(self)
        list(self.track([1], lazystr("later")))

    run(studio, body)
    assert [(data["progress"], data["message"]) for data in progress_of(studio)][:1] == [(12.5, "later")]
    assert studio.told()[-2:] == ["100", "SUCCESS"]


def test_jobs_in_threads_do_not_speak_for_each_other(studio: Studio) -> None:
    gate = threading.Barrier(4)

    def body(self: Any, percent: int) -> None:
        gate.wait(60)
        self.update_progress(percent)
        gate.wait(60)

    task = task_of(studio.app, body)
    threads = [
        threading.Thread(target=task.apply, args=((number,),), kwargs={"headers": {"project_id": f"p{number}"}})
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {(data["project_id"], data["progress"]) for data in progress_of(studio)} == {(f"p{n}", n) for n in range(4)}


# -- plain Celery code ------------------------------------------------------------------------------------------

SHAPES = [
    ({"current": 3, "total": 12}, (25, None, 3, 12)),
    ({"current": 3, "total": 12, "status": "on it"}, (25, "on it", 3, 12)),
    ({"progress": 40, "message": "on it"}, (40, "on it", None, None)),
    ({"percent": 60}, (60, None, None, None)),
]


@pytest.fixture
def storing(tmp_path: Path) -> Studio:
    """A studio with a result backend, which eager jobs write to as others do."""
    studio = Studio(new_app(backend=f"db+{result_database(tmp_path / 'results.db')}"))
    studio.app.conf.task_store_eager_result = True
    return studio


@pytest.mark.parametrize(("meta", "told"), SHAPES)
def test_progress_that_plain_code_stores_is_published_and_is_stored_as_it_was(
    storing: Studio, meta: dict[str, Any], told: tuple[Any, ...]
) -> None:
    def body(self: Any) -> Any:
        self.update_state(state="PROGRESS", meta=dict(meta))
        flush(self)
        result = self.app.AsyncResult(self.request.id)
        return [result.state, result.info]

    assert run(storing, body).get() == ["PROGRESS", meta]
    (data,) = progress_of(storing)
    assert tuple(data[name] for name in ("progress", "message", "current", "total")) == told


def test_it_does_not_matter_how_plain_code_writes_the_call(studio: Studio) -> None:
    def body(self: Any) -> None:
        self.update_state(None, "PROGRESS", {"progress": 10})
        flush(self)
        self.update_state(self.request.id, "PROGRESS", meta={"progress": 20})
        flush(self)
        self.update_state(meta={"progress": 30}, state="PROGRESS", task_id=self.request.id)

    run(studio, body)
    assert studio.told() == ["STARTED", "10", "20", "30", "SUCCESS"]


@pytest.mark.parametrize(
    ("state", "meta"),
    [
        *(("DOWNLOADING", {"name": "a.wav"}), ("FAILURE", {"progress": 5}), ("ABORTED", {"progress": 5})),
        *(("PROGRESS", None), ("PROGRESS", {}), ("PROGRESS", {"step": "one"})),
        *(("PROGRESS", {"progress": "five"}), ("PROGRESS", {"progress": 10**400, "x": 1}), ("PROGRESS", [5])),
        ("PROGRESS", {"progress": math.nan}),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_tells_no_progress_is_stored_and_nothing_else(studio: Studio, state: str, meta: Any) -> None:
    def body(self: Any) -> str:
        self.update_state(state=state, meta=meta)
        return "done"

    assert run(studio, body).get() == "done"
    assert [word for word in studio.told() if word != "100"] == ["STARTED", "SUCCESS"]


@pytest.mark.parametrize("state", ["DOWNLOADING", "Processing", "STARTED", "IN PROGRESS"])
def test_progress_under_a_state_of_ones_own_is_picked_up(studio: Studio, state: str) -> None:
    def body(self: Any) -> str:
        self.update_state(state=state, meta={"done": 3, "total": 12, "status": "on it"})
        return "done"

    assert run(studio, body).get() == "done"
    assert studio.told() == ["STARTED", "25", "SUCCESS"]
    assert progress_of(studio)[0]["message"] == "on it"


def test_a_state_of_ones_own_still_is_that_of_a_job_that_ignores_itself(studio: Studio) -> None:
    def body(self: Any) -> None:
        self.update_state(state="FAILURE", meta={"exc_type": "ValueError", "exc_message": "by hand", "progress": 5})
        raise Ignore

    run(studio, body)
    assert studio.told() == ["STARTED", "FAILURE"]


@pytest.mark.parametrize("state", ["PROGRESS", "IN_PROGRESS"])
def test_a_meta_that_is_not_understood_is_one_line_that_says_what_is(
    studio: Studio, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    def body(self: Any) -> None:
        for step in range(3):
            self.update_state(state=state, meta={"step": step, "steps": 3})

    run(studio, body)
    [line] = [record.getMessage() for record in caplog.records if "is understood" in record.getMessage()]
    assert f"stores the state {state}" in line
    assert "it has 'step', 'steps'" in line
    assert "done" in line
    assert "percent" in line
    assert studio.told() == ["STARTED", "SUCCESS"]


@pytest.mark.parametrize("above", [{"parent_id": "above"}, {"root_id": "above", "parent_id": "between"}])
def test_a_child_reports_the_progress_of_its_parent_by_its_id(studio: Studio, above: dict[str, str]) -> None:
    task = task_of(studio.app, lambda self: None)
    task.push_request(id="child", task=task.name, headers=HEADERS, **above)
    task.update_state(task_id="above", state="PROGRESS", meta={"done": 1, "total": 4})
    task.pop_request()
    [update] = progress_of(studio)
    assert (update["job_id"], update["project_id"], update["progress"]) == ("above", "p", 25)


def test_an_id_that_is_of_no_job_above_does_not_become_a_job(studio: Studio) -> None:
    def body(self: Any) -> None:
        self.update_state(task_id="nobody", state="PROGRESS", meta={"done": 1, "total": 4})

    run(studio, body)
    assert studio.told() == ["STARTED", "SUCCESS"]


def test_a_strange_message_of_plain_code_does_not_break_its_task(studio: Studio) -> None:
    def body(self: Any) -> str:
        self.update_state(state="PROGRESS", meta={"progress": 5, "message": "caf\udce9.wav"})
        return "done"

    assert run(studio, body).get() == "done"
    assert studio.told() == ["STARTED", "5", "SUCCESS"]


def test_the_state_of_another_job_is_not_this_ones_progress(studio: Studio) -> None:
    def body(self: Any) -> None:
        self.update_state("another-job", state="PROGRESS", meta={"progress": 5})

    run(studio, body)
    assert studio.told() == ["STARTED", "SUCCESS"]


def test_plain_code_and_ours_share_one_rising_bar(studio: Studio) -> None:
    def body(self: Any) -> None:
        self.update_progress(50)
        flush(self)
        self.update_state(state="PROGRESS", meta={"progress": 20})

    run(studio, body)
    assert studio.told() == ["STARTED", "50", "50", "SUCCESS"]


# -- the result backend -----------------------------------------------------------------------------------------


def test_progress_is_in_the_result_backend_for_clients_that_poll(storing: Studio) -> None:
    def body(self: Any) -> Any:
        self.update_progress(current=3, total=12, message="on it")
        assert storing.realtime.running_jobs.mirror.flush(60)
        result = self.app.AsyncResult(self.request.id)
        return [result.state, result.info]

    state, info = run(storing, body).get()
    assert state == "PROGRESS"
    assert info == {"progress": 25, "message": "on it", "current": 3, "total": 12}


def test_progress_never_undoes_what_a_job_ended_with(storing: Studio) -> None:
    def body(self: Any) -> str:
        for percent in range(100):
            self.update_progress(percent)
        return "done"

    result = run(storing, body)
    assert storing.realtime.running_jobs.mirror.flush(60)
    stored = storing.app.AsyncResult(result.id)
    assert (stored.state, stored.result) == ("SUCCESS", "done")


@pytest.mark.parametrize("options", [{"store_eager_result": False}, {"ignore_result": True}])
def test_a_job_that_stores_no_result_stores_no_progress(storing: Studio, options: dict[str, bool]) -> None:
    def body(self: Any) -> Any:
        self.update_progress(25)
        storing.realtime.running_jobs.mirror.flush(60)
        return self.app.AsyncResult(self.request.id).state

    task = task_of(storing.app, body, **options)
    assert task.apply(headers=HEADERS).get() == "PENDING"
    assert [word for word in storing.told() if word != "25"] == ["STARTED", "SUCCESS"]


# -- events that are not ours to hear ---------------------------------------------------------------------------


def test_a_recorder_of_another_app_hears_nothing(studio: Studio) -> None:
    other = new_app("other")
    wire = record(Realtime(other))
    run(studio, body)
    assert wire.sent == []
