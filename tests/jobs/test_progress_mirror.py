"""Clients that poll a job see its progress, and never see a job that has ended go back to it."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from celery.app.task import Context
from celery.backends.database import DatabaseBackend
from celery.backends.redis import RedisBackend
from celery.contrib.abortable import AbortableAsyncResult, AbortableTask
from celery.result import AsyncResult

from celery_realtime import events
from celery_realtime.jobs.progress import Progress
from celery_realtime.jobs.progress_mirror import REMEMBERED, MirroredProgress, ProgressMirror
from tests.log_records import logged_by
from tests.recording import Studio, new_app
from tests.result_databases import result_database
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.services import RedisServer

ENDS = ["SUCCESS", "FAILURE", "REVOKED"]
_numbers = itertools.count()


def progress(job_id: str, percent: int, message: str | None = None) -> MirroredProgress:
    return MirroredProgress("p", job_id, Progress(percent, message))


def end(app: Celery, job_id: str, state: str) -> None:
    """Store the end of a job as a worker does."""
    result = {"summary": "..."} if state == "SUCCESS" else ValueError("broken")
    app.backend.store_result(job_id, result, state, traceback=None, request=Context(id=job_id))


def new_mirror() -> ProgressMirror:
    return ProgressMirror(queue_size=10)


class Job:
    """A running job whose progress is mirrored.

    Args:
        app: Its app.
        mirror: The mirror; one of its own by default.
    """

    def __init__(self, app: Celery, mirror: ProgressMirror | None = None) -> None:
        self.app = app
        self.id = f"job-{next(_numbers)}"
        self.mirror = mirror or new_mirror()
        self.expect()

    def expect(self, **options: Any) -> None:
        task = SimpleNamespace(backend=self.app.backend)
        self.mirror.expect("p", task, Context(id=self.id, task="transcribe", args=["m1"], kwargs={}, **options))

    def report(self, *percents: int) -> int:
        return self.mirror.store([progress(self.id, percent, f"at {percent}") for percent in percents])

    @property
    def seen(self) -> AsyncResult:
        """What a client sees who polls, with nothing remembered."""
        return AsyncResult(self.id, app=self.app)


@pytest.fixture
def redis_app(redis_url: str) -> Celery:
    return new_app(backend=redis_url)


REDIS = [pytest.param(name, marks=pytest.mark.service) for name in ("redis", "redis with pickle")]


@pytest.fixture(params=[*REDIS, "sqlite"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Celery:
    """An app with a result backend, of each kind that can compare and store in one step in turn."""
    if request.param == "sqlite":
        return new_app(backend=f"db+{result_database(tmp_path / 'results.db')}")
    app = new_app(backend=request.getfixturevalue("redis_url"))
    if request.param != "redis":
        serializer = request.param.rpartition(" ")[2]
        app.conf.update(result_serializer=serializer, result_accept_content=[serializer, "json"])
    return app


# -- on every backend that progress is stored in ------------------------------------------------------------------


def test_clients_that_poll_see_progress(app: Celery) -> None:
    job = Job(app)
    assert job.seen.state == "PENDING"

    assert job.report(25) == 1
    assert job.seen.state == "PROGRESS"
    assert job.seen.info == {"progress": 25, "message": "at 25", "current": None, "total": None}
    assert not job.seen.ready()

    assert job.report(50, 75) == 2
    assert job.seen.info["progress"] == 75


def test_each_job_has_its_own_progress(app: Celery) -> None:
    mirror = new_mirror()
    first, second = Job(app, mirror), Job(app, mirror)

    assert mirror.store([progress(first.id, 10), progress(second.id, 20), progress(first.id, 30)]) == 3

    assert (first.seen.info["progress"], second.seen.info["progress"]) == (30, 20)


def test_a_successful_job_does_not_go_back(app: Celery) -> None:
    job = Job(app)
    job.report(25)
    end(app, job.id, "SUCCESS")

    assert job.report(50) == 1

    assert job.seen.state == "SUCCESS"
    assert job.seen.result == {"summary": "..."}


@pytest.mark.parametrize("state", ENDS)
def test_after_its_end_nothing_is_stored_of_a_job(app: Celery, state: str) -> None:
    job = Job(app)
    job.report(25)

    job.mirror.end(events.Job(job_id=job.id, project_id="p"))
    end(app, job.id, state)

    assert job.report(50, 75) == 2
    assert job.seen.state == state


def test_a_job_that_is_retried_is_seen_again(app: Celery) -> None:
    job = Job(app)
    job.report(75)
    job.mirror.end(events.Job(job_id=job.id, project_id="p"))
    end(app, job.id, "RETRY")

    job.expect(retries=1)
    assert job.report(5) == 1

    assert job.seen.state == "PROGRESS"
    assert job.seen.info["progress"] == 5


def test_a_job_that_nobody_expects_is_left_alone(app: Celery) -> None:
    mirror = new_mirror()

    assert mirror.store([progress("somebody-else's", 25)]) == 1
    mirror.end(events.Job(job_id="somebody-else's", project_id="p"))
    assert mirror.store([progress("somebody-else's", 50)]) == 1

    assert AsyncResult("somebody-else's", app=app).state == "PENDING"


def test_the_end_of_a_job_ends_nothing_of_another_project_s(app: Celery) -> None:
    job = Job(app)
    job.mirror.end(events.Job(job_id=job.id, project_id="q"))
    assert job.report(25) == 1
    assert job.seen.info["progress"] == 25


def test_an_end_without_any_progress_is_the_end(app: Celery) -> None:
    job = Job(app)
    job.mirror.end(events.Job(job_id=job.id, project_id="p"))

    assert job.report(25) == 1

    assert job.seen.state == "PENDING"


def test_progress_from_another_thread_is_stored_too(app: Celery) -> None:
    job, stored = Job(app), []

    thread = threading.Thread(target=lambda: stored.append(job.report(25)))
    thread.start()
    thread.join(60)

    assert stored == [1]
    assert job.seen.state == "PROGRESS"


def test_what_is_stored_is_what_celerys_update_state_stores(app: Celery) -> None:
    job, plain = Job(app), Job(app)
    job.report(25)
    meta = {"progress": 25, "message": "at 25", "current": None, "total": None}

    app.backend.store_result(plain.id, meta, "PROGRESS", request=Context(id=plain.id))

    metas = app.backend.get_task_meta(job.id), app.backend.get_task_meta(plain.id)
    # A database writes a date itself: the first time none, and that of the update from the second time on.
    mirrored, stored = ({**meta, "date_done": None} for meta in metas)
    assert mirrored == {**stored, "task_id": job.id}


def test_extended_results_name_their_task(app: Celery) -> None:
    app.conf.result_extended = True
    job = Job(app)

    job.report(25)

    assert (job.seen.name, job.seen.args) == ("transcribe", ["m1"])


def test_without_a_backend_nothing_happens() -> None:
    job = Job(new_app(backend="disabled://"))

    assert job.report(25, 50) == 2


def test_no_more_jobs_are_expected_than_memory_can_hold(app: Celery) -> None:
    mirror = new_mirror()
    oldest = Job(app, mirror)
    for number in range(REMEMBERED):
        mirror.expect("p", None, Context(id=f"other-{number}"))

    assert oldest.report(25) == 1

    assert oldest.seen.state == "PENDING"


@pytest.mark.parametrize("state", ENDS)
@pytest.mark.parametrize("first", [True, False])
def test_a_job_that_has_ended_does_not_go_back_even_if_nobody_told_the_mirror(
    app: Celery, state: str, first: bool
) -> None:
    job = Job(app)
    job.report(*([25] * first))
    end(app, job.id, state)
    stored = app.backend.get_task_meta(job.id)

    assert job.report(50, 75) == 2

    assert repr(app.backend.get_task_meta(job.id)) == repr(stored)
    assert job.seen.state == state


def test_a_state_that_celery_or_we_store_on_the_way_is_replaced_by_progress(app: Celery) -> None:
    for state in ("PENDING", "STARTED", "RETRY", "PROGRESS"):
        job = Job(app)
        app.backend.store_result(job.id, {}, state, request=Context(id=job.id))

        assert job.report(50) == 1

        assert job.seen.state == "PROGRESS"


def test_a_state_of_the_users_own_is_left_alone(app: Celery) -> None:
    for state in ("UPLOADING", "ABORTED"):
        job = Job(app)
        app.backend.store_result(job.id, {"left": 3}, state, request=Context(id=job.id))

        assert job.report(50) == 1

        assert (job.seen.state, job.seen.info) == (state, {"left": 3})


def test_an_end_that_comes_at_the_same_time_is_never_undone(app: Celery) -> None:
    for state in ENDS * 3:
        job, stop = Job(app), threading.Event()

        def keep_reporting(job: Job = job, stop: threading.Event = stop) -> None:
            while not stop.is_set():
                job.report(50)

        thread = threading.Thread(target=keep_reporting)
        thread.start()
        wait_for(lambda job=job: job.seen.state == "PROGRESS")
        end(app, job.id, state)
        seen = [job.seen.state for _ in range(20)]
        stop.set()
        thread.join(60)

        assert set(seen) == {state}
        assert job.seen.state == state


def test_the_first_that_is_stored_of_a_job_may_be_its_end_at_the_same_time(app: Celery) -> None:
    jobs = [Job(app) for _ in range(30)]
    for job in jobs:
        at_once = threading.Barrier(2)

        def report(job: Job = job, at_once: threading.Barrier = at_once) -> None:
            at_once.wait(60)
            job.report(50)

        thread = threading.Thread(target=report)
        thread.start()
        at_once.wait(60)
        end(app, job.id, "FAILURE")
        thread.join(60)

    assert {job.seen.state for job in jobs} == {"FAILURE"}


# -- where comparing and storing are not one step -------------------------------------------------------------------


class OwnRedis(RedisBackend):
    """Stores in its own way, so nobody else knows where."""

    def _set_with_state(self, key: Any, value: Any, state: str) -> None:
        super()._set_with_state(key, value, state)


class OwnDatabase(DatabaseBackend):
    """Stores in its own way."""

    def _store_result(self, *args: Any, **options: Any) -> Any:
        return super()._store_result(*args, **options)


@pytest.mark.parametrize(
    "kind", ["file", "cache", pytest.param("own redis", marks=pytest.mark.service), "own database"]
)
def test_on_any_other_backend_no_progress_is_stored(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    own = f"{__name__}:OwnDatabase+{result_database(tmp_path / 'results.db')}"
    url = {"file": f"file://{tmp_path}", "own database": own}
    if kind == "own redis":
        url[kind] = f"{__name__}:OwnRedis+{request.getfixturevalue('redis_url')}"
    app = new_app(backend=url.get(kind, "cache+memory://"))
    job = Job(app)

    assert job.report(25, 50) == 2

    assert job.seen.state == "PENDING"
    app.backend.store_result(job.id, {"progress": 10}, "PROGRESS")  # the user's own, by update_state
    assert job.report(75) == 1
    assert job.seen.info == {"progress": 10}
    assert logged_by(caplog, "celery_realtime.jobs") == []


# -- on Redis -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stored", ["", "no JSON", "null", "5", "[]", "{}", '{"status": null}', '{"status": ["SUCCESS"]}']
)
def test_what_cannot_be_read_as_progress_is_left_alone(redis_app: Celery, stored: str) -> None:
    """It may be an end that a worker with other settings has stored: in another serializer, or compressed."""
    job = Job(redis_app)
    redis_app.backend.client.set(redis_app.backend.get_key_for_task(job.id), stored)

    assert job.report(25) == 1

    assert redis_app.backend.client.get(redis_app.backend.get_key_for_task(job.id)) == stored.encode()


@pytest.mark.parametrize(("result_expires", "life"), [(60, range(55, 61)), (None, [-1]), (0, [-1])])
def test_progress_lives_as_long_as_results_do(redis_url: str, result_expires: int | None, life: Any) -> None:
    app = new_app(backend=redis_url)
    app.conf.result_expires = result_expires
    job = Job(app)

    job.report(25)

    assert app.backend.client.ttl(app.backend.get_key_for_task(job.id)) in life


def test_keys_have_the_prefix_that_is_set(redis_url: str) -> None:
    app = new_app(backend=redis_url)
    app.conf.result_backend_transport_options = {"global_keyprefix": "studio_"}
    job = Job(app)

    job.report(25)

    # Up to 5.4, Celery puts one more underscore after the prefix.
    assert app.backend.client.keys() == [app.backend.get_key_for_task(job.id)]
    assert app.backend.get_key_for_task(job.id).startswith(b"studio_")
    assert job.seen.state == "PROGRESS"


def test_a_client_that_waits_for_a_result_receives_progress_as_it_comes(redis_app: Celery) -> None:
    job, told = Job(redis_app), []
    result = job.seen

    def wait() -> None:
        result.get(timeout=60, on_message=lambda meta: told.append((meta.get("task_id"), meta["status"])))

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()

    wait_for(lambda: job.report(25) and told)
    end(redis_app, job.id, "SUCCESS")
    waiting.join(60)

    assert not waiting.is_alive()
    assert told[0] == (job.id, "PROGRESS")
    assert told[-1] == (job.id, "SUCCESS")


def test_while_the_backend_is_away_nothing_is_raised_and_later_it_goes_on(
    start_redis: Callable[..., RedisServer],
) -> None:
    server = start_redis()
    app = new_app(backend=server.url())
    mirror = new_mirror()
    first, second = Job(app, mirror), Job(app, mirror)
    batch = [progress(first.id, 50), progress(second.id, 60)]
    assert mirror.store(batch[:1]) == 1

    server.stop()
    assert mirror.store(batch) == 0

    server.start()
    assert wait_for(lambda: mirror.store(batch)) == 2
    assert (first.seen.info["progress"], second.seen.info["progress"]) == (50, 60)


def test_a_backend_that_was_never_there_raises_nothing(closed_port_url: str) -> None:
    job = Job(new_app(backend=closed_port_url))

    assert job.report(25) == 0


@pytest.fixture
def closed_port_url(start_redis: Callable[..., RedisServer]) -> str:
    server = start_redis()
    server.stop()
    return server.url()


# -- in a database --------------------------------------------------------------------------------------------------


def test_a_database_that_is_away_raises_nothing_and_later_it_goes_on(tmp_path: Path) -> None:
    folder, moved = tmp_path / "results", tmp_path / "moved"
    folder.mkdir()
    job = Job(new_app(backend=f"db+{result_database(folder / 'results.db')}"))
    assert job.report(25) == 1

    folder.rename(moved)
    assert job.report(50) == 0
    moved.rename(folder)

    assert job.report(50) == 1
    assert job.seen.info["progress"] == 50


def test_where_celery_would_not_store_an_end_again_no_row_is_added(tmp_path: Path) -> None:
    app = new_app(backend=f"db+{result_database(tmp_path / 'results.db')}")
    if hasattr(DatabaseBackend._store_result, "__wrapped__"):
        pytest.skip("this Celery always tries again")
    app.conf.result_backend_always_retry = False
    job = Job(app)

    assert job.report(25) == 1
    assert job.seen.state == "PENDING"

    app.backend.store_result(job.id, None, "STARTED")
    assert job.report(50) == 1
    assert job.seen.info["progress"] == 50


# -- from a running task ------------------------------------------------------------------------------------------


@pytest.fixture
def studio(redis_url: str) -> Studio:
    app = new_app(backend=redis_url)
    app.conf.task_store_eager_result = True
    return Studio(app, history_url=None)


def transcribe(studio: Studio, body: Callable[[Any], Any], **options: Any) -> Any:
    task = studio.app.task(bind=True, name=f"transcribe-{next(_numbers)}", shared=False, **options)(body)
    return task.apply(headers={"project_id": "alpha"})


def test_clients_that_poll_see_the_progress_of_a_job_while_it_runs(studio: Studio) -> None:
    seen = SimpleNamespace()

    def body(self: Any) -> str:
        self.update_progress(current=3, total=12, message="Transcribing")
        result = AsyncResult(self.request.id, app=studio.app)
        wait_for(lambda: result.state == "PROGRESS")
        seen.info = result.info
        return "done"

    job = transcribe(studio, body)

    assert job.get() == "done"
    assert seen.info == {"progress": 25, "message": "Transcribing", "current": 3, "total": 12}
    assert AsyncResult(job.id, app=studio.app).state == "SUCCESS"


def test_a_task_that_was_aborted_stays_so(studio: Studio) -> None:
    """Celery's AbortableTask is aborted by a state in the result backend."""
    seen = []

    def body(self: Any) -> None:
        AbortableAsyncResult(self.request.id, app=studio.app).abort()
        self.update_progress(50)
        studio.realtime.running_jobs.mirror.flush(60)
        seen.append(self.is_aborted(task_id=self.request.id))

    transcribe(studio, body, base=AbortableTask)

    assert seen == [True]


def test_a_task_with_a_backend_of_its_own_has_its_progress_there(studio: Studio, tmp_path: Path) -> None:
    own, seen = new_app(backend=f"db+{result_database(tmp_path / 'results.db')}").backend, []

    def body(self: Any) -> None:
        self.update_progress(50)
        studio.realtime.running_jobs.mirror.flush(60)
        states = [backend.get_task_meta(self.request.id)["status"] for backend in (own, studio.app.backend)]
        seen.append(states)

    transcribe(studio, body, backend=own)

    assert seen == [["PROGRESS", "PENDING"]]


@pytest.mark.parametrize("ends", ["SUCCESS", "FAILURE"])
def test_progress_that_was_held_back_does_not_undo_the_end(studio: Studio, ends: str) -> None:
    def body(self: Any) -> str:
        for percent in range(0, 100, 10):
            self.update_progress(percent)  # all but the first are held back for a second
        if ends == "FAILURE":
            raise ValueError("broken")
        return "done"

    job = transcribe(studio, body)
    assert studio.realtime.running_jobs.mirror.flush(60)

    assert AsyncResult(job.id, app=studio.app).state == ends


def test_a_job_that_keeps_no_result_keeps_no_progress(studio: Studio) -> None:
    def body(self: Any) -> None:
        self.update_progress(50)
        studio.realtime.running_jobs.mirror.flush(60)

    job = transcribe(studio, body, ignore_result=True)

    assert studio.told() == ["STARTED", "50", "SUCCESS"]
    assert AsyncResult(job.id, app=studio.app).state == "PENDING"


def test_a_job_runs_as_well_without_its_backend(closed_port_url: str) -> None:
    studio = Studio(new_app(backend=closed_port_url), history_url=None)

    def body(self: Any) -> str:
        for percent in range(100):
            self.update_progress(percent)
        return "done"

    assert transcribe(studio, body).get() == "done"
    assert studio.told()[-1] == "SUCCESS"


def test_a_job_does_not_wait_for_its_backend(studio: Studio) -> None:
    is_over, answers = threading.Event(), []

    class Slow(RedisBackend):
        """Answers only when the job is over."""

        def get_key_for_task(self, task_id: str, key: str = "") -> Any:
            if threading.current_thread() is not caller:
                answers.append(is_over.wait(60))
            return super().get_key_for_task(task_id, key)

    def body(self: Any) -> str:
        for percent in range(100):
            self.update_progress(percent)
        is_over.set()
        return "done"

    caller = threading.current_thread()
    transcribe(studio, body, backend=Slow(app=studio.app, url=studio.app.conf.result_backend))
    assert studio.realtime.running_jobs.mirror.flush(60)
    assert answers
    assert False not in answers
