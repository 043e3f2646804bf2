"""What browsers ask about single jobs: to hear one, its result, its end."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery.app.task import Context
from celery.backends.redis import RedisBackend

from celery_realtime import Realtime, events
from celery_realtime.events import Job
from celery_realtime.exceptions import SubscribeError
from celery_realtime.web.job_requests import JobRequests
from tests.recording import new_app
from tests.stream_readers import Writer
from tests.waiting import wait_for
from tests.web_servers import Web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.client_recorder import Recorder
    from tests.web_servers import Kind

NO_SUCH_JOB = {"code": "forbidden", "message": "this job does not exist, or is not open to you"}


@pytest.fixture
def make_web(kind: Kind, redis_url: str) -> Iterator[Callable[..., Web]]:
    made: list[Web] = []

    def make(**settings: Any) -> Web:
        web = Web(kind, redis_url, **{"history_url": redis_url, **settings})
        web.realtime.app.conf.result_backend = redis_url
        made.append(web)
        return web

    yield make
    for web in made:
        web.stop()


@pytest.fixture
def web(make_web: Callable[..., Web]) -> Web:
    return make_web().attach().start()


def tell(web: Web, job_id: str, state: str, project: str = "alpha", **more: Any) -> None:
    job = Job(job_id=job_id, project_id=project)
    web.realtime.manager.put_status(events.status_change(job, state, **more))
    assert web.realtime.flush(60)


def ask(client: Recorder, event: str, job_id: Any, **more: Any) -> dict[str, Any]:
    return client.call(event, {"job_id": job_id, **more})


# -- one job --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [False, True])
def test_a_subscriber_of_a_job_hears_that_job_alone(web: Web, batch: bool) -> None:
    tell(web, "one", "STARTED")
    tell(web, "two", "STARTED")
    client = web.connect()

    answer = ask(client, "subscribe_job", "one", batch=batch)

    assert (answer["job_id"], answer["project_id"], answer["recovered"]) == ("one", "alpha", False)
    assert [job["job_id"] for job in answer["jobs"]] == ["one"]
    for job_id in ("two", "one"):
        web.realtime.manager.emit_to_project("alpha", "line", {"of": job_id}, job_id=job_id)
        tell(web, job_id, "SUCCESS")
    if batch:
        client.wait(lambda _: len([item for told in client.of("agent_batch") for item in told]) == 2)
        heard = [(item["event"], item["data"]) for told in client.of("agent_batch") for item in told]
    else:
        client.wait_for_end("one")
        heard = [tuple(event) for event in client.events]
    assert [name for name, _ in heard] == ["line", "agent_status"]
    assert heard[0][1]["of"] == "one"
    assert heard[1][1]["job_id"] == "one"


def test_what_was_missed_of_a_job_is_told_when_it_is_asked_for(web: Web) -> None:
    tell(web, "one", "STARTED")
    client = web.connect()
    place = ask(client, "subscribe_job", "one")
    client.call("unsubscribe_job", {"job_id": "one"})
    tell(web, "two", "STARTED")
    tell(web, "one", "SUCCESS")

    answer = ask(client, "subscribe_job", "one", since={"epoch": place["epoch"], "offset": place["offset"]})

    assert answer["recovered"]
    assert [(item["data"]["job_id"], item["data"]["status"]) for item in answer["events"]] == [("one", "success")]
    assert client.events == []


def test_without_a_callback_a_jobs_snapshot_comes_as_events(web: Web) -> None:
    tell(web, "one", "STARTED")
    client = web.connect()
    client.emit("subscribe_job", {"job_id": "one"})
    assert client.wait_for_event("agent_status", job_id="one", replayed=True)


def test_a_client_that_follows_a_job_and_its_project_receives_each_event_once(web: Web) -> None:
    tell(web, "one", "STARTED")
    client = web.subscriber("alpha")
    assert ask(client, "subscribe_job", "one")["ok"]
    tell(web, "one", "SUCCESS")
    tell(web, "two", "STARTED")
    client.wait_for_event("agent_status", job_id="two")
    assert len(client.for_job("one")) == 1


@pytest.mark.parametrize("named", [None, "alpha", "beta"])
@pytest.mark.parametrize("event", ["subscribe_job", "get_result", "cancel_job"])
def test_a_job_that_is_not_there_and_one_that_is_anothers_look_the_same(
    web: Web, event: str, named: str | None
) -> None:
    tell(web, "theirs", "STARTED", project="beta")
    client, more = web.connect(), {} if named is None else {"project_id": named}
    theirs, nowhere = (ask(client, event, job_id, **more) for job_id in ("theirs", "elsewhere"))
    # In a project of one's own a job may be followed that is yet to come.
    if (event, named) == ("subscribe_job", "alpha"):
        assert (theirs.pop("job_id"), nowhere.pop("job_id")) == ("theirs", "elsewhere")
        assert theirs == nowhere
        assert theirs["jobs"] == []
    else:
        assert theirs["error"] == nowhere["error"] == NO_SUCH_JOB
    tell(web, "theirs", "SUCCESS", project="beta")
    web.emit("alpha", 1)
    web.subscriber("alpha")
    assert client.for_job("theirs") == []


@pytest.mark.parametrize("event", ["subscribe_job", "get_result", "cancel_job"])
def test_as_much_is_asked_about_a_job_that_is_not_there_as_about_one_that_is_anothers(
    make_web: Callable[..., Web], event: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the time which an answer takes does not tell them apart."""
    asked: list[str] = []

    def authorize(_user: str, project: str) -> bool:
        asked.append(project)
        return False

    questions: list[tuple[str, ...]] = []
    for question in ("project_of", "state_of", "result_of", "cancel"):
        monkeypatch.setattr(JobRequests, question, _counted(getattr(JobRequests, question), question, questions))
    web = make_web().attach(authorize=authorize).start()
    tell(web, "theirs", "STARTED", project="beta")
    client = web.connect()
    steps = []
    for job_id in ("theirs", "nowhere"):
        ask(client, event, job_id)
        steps.append((len(asked), [name for name, *_ in questions]))
        asked.clear()
        questions.clear()
    assert steps[0] == steps[1] == (1, ["project_of"])


def test_an_id_that_very_many_projects_use_is_found_in_each_of_them(
    make_web: Callable[..., Web], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celery_realtime.history.places.MOST_BYTES", 20)
    web = make_web().attach().start()
    for number in range(5):
        tell(web, "nightly", "SUCCESS", project=f"proj-{number}", result=f'"{number}"'.encode())
    for number in (0, 4):
        client = web.connect(web.token(projects=[f"proj-{number}"]))
        for named in ({}, {"project_id": f"proj-{number}"}):
            answer = ask(client, "get_result", "nightly", **named)
            assert (answer["ok"], answer["project_id"], answer["result"]) == (True, f"proj-{number}", str(number))
            assert ask(client, "cancel_job", "nightly", **named)["error"]["message"] == "you may not cancel this job"
        assert ask(client, "subscribe_job", "nightly")["project_id"] == f"proj-{number}"
        assert not ask(client, "get_result", "nightly", project_id="proj-1")["ok"]
    assert not ask(web.connect(web.token(projects=["elsewhere"])), "get_result", "nightly")["ok"]


def _counted(answer: Callable[..., Any], question: str, questions: list[tuple[str, ...]]) -> Callable[..., Any]:
    def counted(jobs: JobRequests, *args: str) -> Any:
        questions.append((question, *args))
        return answer(jobs, *args)

    return counted


def test_a_job_that_was_not_told_of_yet_can_be_heard_by_who_knows_its_project(web: Web) -> None:
    client = web.connect()
    answer = ask(client, "subscribe_job", "future", project_id="alpha")
    assert answer["jobs"] == []
    tell(web, "future", "PENDING")
    assert client.wait_for_event("agent_status", job_id="future")["status"] == "queued"


@pytest.mark.parametrize("event", ["subscribe_job", "unsubscribe_job", "get_result", "cancel_job"])
@pytest.mark.parametrize("data", [None, [], "one", {}, {"job_id": 7}, {"job_id": ""}, {"job_id": "x" * 300}])
def test_a_request_without_a_job_is_a_bad_one(web: Web, event: str, data: Any) -> None:
    assert web.connect().call(event, data)["error"]["code"] == "bad_request"


def test_access_to_a_job_goes_with_that_to_its_project(web: Web) -> None:
    tell(web, "one", "STARTED")
    client = web.connect()
    assert ask(client, "subscribe_job", "one")["ok"]
    assert web.realtime.revoke_access("ada", "alpha")
    client.wait_for_event("error", code="forbidden")
    tell(web, "one", "SUCCESS")
    other = web.connect(web.token("bob"))
    assert ask(other, "subscribe_job", "one")["jobs"][0]["status"] == "success"
    assert "success" not in client.statuses("one")


# -- results --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", ["read_stream", "get_result"])
def test_what_was_read_of_a_job_as_its_project_was_taken_from_a_user_is_not_given_out(
    web: Web, event: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(web, "one", "STARTED")
    tell(web, "one", "SUCCESS", result="secret")
    history = web.realtime.manager.history
    assert history is not None
    assert history.streams.append([Writer(project_id="alpha", job_id="one").part("secret")])
    client, kept = web.subscriber("alpha"), web.connect(web.token("bob"))
    assert ask(client, event, "one", stream="answer")["ok"]
    where, name = (history.streams, "read") if event == "read_stream" else (history, "job_and_run")
    read = getattr(where, name)

    def revoked(*args: Any, **more: Any) -> Any:
        found = read(*args, **more)
        assert web.realtime.revoke_access("ada", "alpha", wait=0)
        wait_for(lambda: not any(client.topics for client in web.handlers.clients().values()))
        return found

    monkeypatch.setattr(where, name, revoked)
    assert ask(client, event, "one", stream="answer") == {"ok": False, "error": NO_SUCH_JOB}
    assert ask(kept, event, "one", stream="answer")["ok"]


def test_a_result_is_fetched_from_the_result_backend(web: Web) -> None:
    large = {"text": "x" * 100000}
    tell(web, "two", "PENDING")
    web.realtime.app.backend.store_result("two", large, "SUCCESS")
    answer = ask(web.connect(), "get_result", "two")
    assert answer == {
        "ok": True,
        "job_id": "two",
        "project_id": "alpha",
        "status": "success",
        "state": "SUCCESS",
        "result": large,
        "error": None,
    }


def test_the_error_of_a_job_is_one_line_and_no_traceback(web: Web) -> None:
    tell(web, "one", "STARTED")
    web.realtime.app.backend.store_result("one", ValueError("no\nway"), "FAILURE", traceback="File secret.py")
    answer = ask(web.connect(), "get_result", "one")
    assert (answer["status"], answer["result"], answer["error"]) == ("error", None, "ValueError: no way")
    assert "secret" not in str(answer)


def test_of_a_job_that_runs_the_result_is_not_there_yet(web: Web) -> None:
    tell(web, "one", "STARTED")
    web.realtime.app.backend.store_result("one", {"current": 1}, "PROGRESS")
    answer = ask(web.connect(), "get_result", "one")
    assert (answer["status"], answer["state"], answer["result"]) == ("running", "PROGRESS", None)


def test_of_a_task_that_ignores_its_results_the_history_answers(web: Web) -> None:
    tell(web, "one", "STARTED")
    tell(web, "one", "SUCCESS", result=b"[1]")
    answer = ask(web.connect(), "get_result", "one")
    assert (answer["status"], answer["result"]) == ("success", [1])


def test_the_result_of_a_job_is_known_although_what_was_before_its_end_was_lost(web: Web, redis_url: str) -> None:
    tell(web, "one", "STARTED")
    redis.Redis.from_url(redis_url).flushdb()
    tell(web, "one", "SUCCESS", result=b"[1]")
    answer = ask(web.connect(), "get_result", "one")
    assert (answer["status"], answer["result"]) == ("success", [1])


def test_without_a_result_backend_the_history_answers(make_web: Callable[..., Web]) -> None:
    web = make_web()
    web.realtime.app.conf.result_backend = None
    web.attach().start()
    tell(web, "one", "STARTED")
    assert ask(web.connect(), "get_result", "one")["status"] == "running"
    tell(web, "one", "SUCCESS", result=b"[1]")
    answer = ask(web.connect(), "get_result", "one")
    assert (answer["ok"], answer["status"], answer["result"]) == (True, "success", [1])


def test_results_that_are_not_told_cannot_be_fetched_either(make_web: Callable[..., Web]) -> None:
    web = make_web(include_result=False).attach().start()
    tell(web, "one", "STARTED")
    web.realtime.app.backend.store_result("one", "secret", "SUCCESS")
    assert ask(web.connect(), "get_result", "one")["result"] is None


def test_a_filter_sees_a_result_before_it_is_given_out(make_web: Callable[..., Web]) -> None:
    def hide(event: str, _project: str, payload: dict[str, Any]) -> dict[str, Any]:
        return {**payload, "result": "hidden"} if event == "agent_status" else payload

    web = make_web(event_filter=hide).attach().start()
    tell(web, "one", "STARTED")
    web.realtime.app.backend.store_result("one", "secret", "SUCCESS")
    assert ask(web.connect(), "get_result", "one")["result"] == "hidden"


# -- ids that several projects use ----------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [False, True])
def test_of_an_id_that_two_projects_use_each_has_the_answers_of_its_own_job(web: Web, named: bool) -> None:
    tell(web, "same", "STARTED", project="beta")
    web.realtime.app.backend.store_result("same", "beta's secret", "SUCCESS")
    tell(web, "same", "SUCCESS", project="beta", result=b'"beta\'s secret"')
    tell(web, "same", "PENDING", project="alpha")

    answers = {}
    for project in ("alpha", "beta"):
        client = web.connect(web.token("ada", projects=[project]))
        more = {"project_id": project} if named else {}
        answers[project] = ask(client, "get_result", "same", **more)
        assert [job["project_id"] for job in ask(client, "subscribe_job", "same", **more)["jobs"]] == [project]

    assert [(answer["project_id"], answer["status"], answer["result"]) for answer in answers.values()] == [
        ("alpha", "queued", None),
        ("beta", "success", "beta's secret"),
    ]


@pytest.mark.parametrize("end", [{"result": b"null", "truncated": True}, {"error": "ValueError: hers"}])
def test_a_stored_result_that_may_be_another_projects_is_given_to_neither(web: Web, end: dict[str, Any]) -> None:
    state = "FAILURE" if "error" in end else "SUCCESS"
    for project in ("alpha", "beta"):
        tell(web, "same", state, project=project, **end)
    web.realtime.app.backend.store_result("same", ValueError("secret") if "error" in end else "secret", state)
    for project in ("alpha", "beta"):
        answer = ask(web.connect(web.token("ada", projects=[project])), "get_result", "same")
        assert (answer["state"], answer["result"], answer["error"]) == (state, None, end.get("error"))
        assert answer.get("truncated") is end.get("truncated")


def test_a_stored_result_that_may_be_another_projects_is_not_even_read(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How long that takes would tell of it."""
    read: list[str] = []
    backend = type(web.realtime.app.backend)
    theirs = backend.get_task_meta

    def get_task_meta(self: Any, job_id: str, *rest: Any, **more: Any) -> Any:
        read.append(job_id)
        return theirs(self, job_id, *rest, **more)

    monkeypatch.setattr(backend, "get_task_meta", get_task_meta)
    tell(web, "same", "SUCCESS", project="beta", result=b"null", truncated=True)
    tell(web, "own", "SUCCESS", result=b"null", truncated=True)
    tell(web, "same", "SUCCESS", result=b"null", truncated=True)
    client = web.connect()
    assert ask(client, "get_result", "same")["result"] is None
    assert ask(client, "get_result", "own")["result"] is None
    assert len(read) == 2
    assert (read[0] != "same", read[1]) == (True, "own")


def test_a_result_that_was_stored_before_the_job_was_published_is_not_the_jobs(
    make_web: Callable[..., Web], redis_url: str
) -> None:
    """Its own history has forgotten the job of the other project, or it was of none."""
    web = make_web().attach().start()
    web.realtime.app.backend.store_result("same", "secret", "SUCCESS")
    meta = web.realtime.app.backend.get_task_meta("same", cache=False)
    earlier = {**meta, "date_done": "2020-01-01T00:00:00+00:00"}
    redis.Redis.from_url(redis_url).set("celery-task-meta-same", web.realtime.app.backend.encode(earlier))
    tell(web, "same", "STARTED")
    answer = ask(web.connect(), "get_result", "same")
    assert (answer["status"], answer["result"]) == ("running", None)


def test_the_text_of_an_error_is_that_of_the_projects_own_event(web: Web) -> None:
    """Celery stores for a step that will not run the error of the step before, which may be of another project."""
    tell(web, "step", "FAILURE", error="not run: an earlier step did not succeed")
    web.realtime.app.backend.store_result("step", ValueError("secret of beta"), "FAILURE")
    answer = ask(web.connect(), "get_result", "step")
    assert answer["error"] == "not run: an earlier step did not succeed"


def test_a_project_that_is_watched_comes_first_where_the_token_does_not_name_it(make_web: Callable[..., Web]) -> None:
    web = make_web().attach(authenticate=lambda token, _: token, authorize=lambda user, project: user == project)
    web.start()
    tell(web, "same", "SUCCESS", project="beta", result=b"1")
    tell(web, "same", "SUCCESS", project="alpha", result=b"2")
    client = web.connect("beta")
    assert client.subscribe("beta")["ok"]
    assert ask(client, "get_result", "same")["result"] == 1
    assert ask(web.connect("alpha"), "get_result", "same")["result"] == 2


# -- cancelling -----------------------------------------------------------------------------------------------------


def test_nobody_may_cancel_unless_a_rule_says_so(web: Web) -> None:
    tell(web, "one", "STARTED")
    answer = ask(web.connect(), "cancel_job", "one")
    assert answer["error"] == {"code": "forbidden", "message": "you may not cancel this job"}


def test_the_rule_is_told_who_wants_to_cancel_what(make_web: Callable[..., Web]) -> None:
    asked = []

    def may_cancel(user: str, project: str, job: str) -> bool:
        asked.append((user, project, job))
        return user == "bob"

    web = make_web().attach(authorize_cancel=may_cancel).start()
    tell(web, "one", "STARTED")
    tell(web, "one", "SUCCESS")
    assert ask(web.connect(), "cancel_job", "one")["error"]["code"] == "forbidden"
    answer = ask(web.connect(web.token("bob")), "cancel_job", "one")
    assert answer == {"ok": True, "job_id": "one", "project_id": "alpha", "cancel": "too_late"}
    assert asked == [("ada", "alpha", "one"), ("bob", "alpha", "one")]


def test_a_rule_that_returns_something_else_than_true_refuses(make_web: Callable[..., Web]) -> None:
    web = make_web().attach(authorize_cancel=lambda *_: "yes").start()
    tell(web, "one", "STARTED")
    assert ask(web.connect(), "cancel_job", "one")["error"]["code"] == "forbidden"


# -- results that are too long --------------------------------------------------------------------------------------


def test_a_result_that_is_too_long_is_refused_before_it_is_read(make_web: Callable[..., Web]) -> None:
    web = make_web(max_backlog_bytes=200_000).attach().start()
    tell(web, "one", "SUCCESS", truncated=True)
    backend = web.realtime.app.backend
    backend.store_result("one", "x" * 150_000, "SUCCESS")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "get_task_meta", None)
        answer = ask(web.connect(), "get_result", "one")
    assert answer["error"]["code"] == "bad_request"
    assert "at most 100000 are sent" in answer["error"]["message"]

    tell(web, "two", "SUCCESS", truncated=True)
    backend.store_result("two", "x" * 50_000, "SUCCESS")
    assert ask(web.connect(), "get_result", "two")["result"] == "x" * 50_000


@pytest.mark.parametrize(
    ("stored", "questions"),
    [
        (None, []),
        ("short", ["projects", "length", "result", "projects"]),
        ("x" * 150_000, ["projects", "length", "projects"]),
    ],
    ids=["the history has all", "short", "too long"],
)
def test_no_more_is_asked_for_a_result_than_has_to_be_known(
    make_web: Callable[..., Web], monkeypatch: pytest.MonkeyPatch, stored: str | None, questions: list[str]
) -> None:
    web = make_web(max_backlog_bytes=200_000).attach().start()
    tell(web, "one", "SUCCESS", truncated=stored is not None)
    backend, history = web.realtime.app.backend, web.realtime.manager.history
    assert history is not None
    if stored is not None:
        backend.store_result("one", stored, "SUCCESS")
    asked: list[str] = []
    for owner, name, what in (
        (type(backend.client), "strlen", "length"),
        (type(backend), "get_task_meta", "result"),
        (history, "project_of", "project"),
        (history.places, "projects_of", "projects"),
    ):
        monkeypatch.setattr(owner, name, _noted(asked, what, getattr(owner, name)))
    client = web.connect()
    answer = ask(client, "get_result", "one", project_id="alpha")
    assert answer.get("result") == (stored if stored == "short" else None)
    # First, whether there is such a job; then, before and after the result is read, whether it may be another's.
    assert asked == ["project", *questions]


def test_a_result_of_anothers_that_is_too_long_looks_as_if_there_were_none(make_web: Callable[..., Web]) -> None:
    web = make_web(max_backlog_bytes=200_000).attach().start()
    tell(web, "same", "SUCCESS", truncated=True)
    tell(web, "same", "SUCCESS", project="beta", truncated=True)
    web.realtime.app.backend.store_result("same", "x" * 150_000, "SUCCESS")
    answer = ask(web.connect(), "get_result", "same", project_id="alpha")
    assert (answer["ok"], answer["state"], answer["result"]) == (True, "SUCCESS", None)


def test_a_result_that_is_too_long_is_not_sent_from_where_its_length_cannot_be_asked(
    make_web: Callable[..., Web],
) -> None:
    web = make_web(max_backlog_bytes=200_000).attach().start()
    tell(web, "one", "SUCCESS", truncated=True)
    web.realtime.app.conf.result_backend = "cache+memory://"
    web.realtime.app.__dict__.pop("backend", None)
    web.realtime.app.backend.store_result("one", "x" * 150_000, "SUCCESS")
    answer = ask(web.connect(), "get_result", "one")
    assert answer["error"]["code"] == "bad_request"
    assert "at most 100000 are sent" in answer["error"]["message"]


def test_while_the_length_of_a_result_cannot_be_asked_it_is_read_as_it_is(make_web: Callable[..., Web]) -> None:
    web = make_web().attach().start()
    tell(web, "one", "SUCCESS", truncated=True)
    backend = web.realtime.app.backend
    backend.store_result("one", 5, "SUCCESS")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "get_key_for_task", _fails_once(backend.get_key_for_task))
        assert ask(web.connect(), "get_result", "one")["result"] == 5


def test_over_a_connection_that_had_broken_a_result_is_asked_for_once_more(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = type(web.realtime.app.backend)
    tell(web, "one", "SUCCESS", truncated=True)
    web.realtime.app.backend.store_result("one", 5, "SUCCESS")
    client = web.connect()
    monkeypatch.setattr(backend, "get_task_meta", _fails_once(backend.get_task_meta))
    assert ask(client, "get_result", "one")["result"] == 5


def test_the_result_of_a_task_with_a_backend_of_its_own_is_there(web: Web) -> None:
    own = RedisBackend(app=web.realtime.app, url=web.realtime.app.conf.result_backend)
    own.task_keyprefix = b"own-"
    web.realtime.app.task(tell, name="own", backend=own, shared=False)
    for job_id, task in (("one", "own"), ("two", "unknown")):
        job = Job(job_id=job_id, project_id="alpha", task=task)
        web.realtime.manager.put_status(events.status_change(job, "SUCCESS", truncated=True))
    assert web.realtime.flush(60)
    own.store_result("one", "own", "SUCCESS")
    web.realtime.app.backend.store_result("one", "the app's", "SUCCESS")
    web.realtime.app.backend.store_result("two", "the app's", "SUCCESS")
    client = web.connect()
    assert [ask(client, "get_result", job_id)["result"] for job_id in ("one", "two")] == ["own", "the app's"]


def _noted(asked: list[str], what: str, theirs: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        asked.append(what)
        return theirs(*args, **options)

    return call


def _fails_once(theirs: Callable[..., Any]) -> Callable[..., Any]:
    failed: list[bool] = []

    def call(*args: Any, **options: Any) -> Any:
        if not failed:
            failed.append(True)
            raise redis.exceptions.ConnectionError("gone")
        return theirs(*args, **options)

    return call


# -- a result backend that is read once --------------------------------------------------------------------------------


def test_a_result_that_the_application_waits_for_is_never_taken_away(redis_url: str) -> None:
    app = new_app(broker=redis_url, backend="rpc://")
    realtime = Realtime(app, history_url=redis_url)
    manager, job = realtime.manager, Job(job_id=uuid.uuid4().hex, project_id=uuid.uuid4().hex)
    requests = JobRequests(app, lambda: manager.history, lambda: realtime.settings)
    result = app.AsyncResult(job.job_id)
    with app.producer_or_acquire() as producer:  # as publishing does
        app.backend.on_task_call(producer, job.job_id)
    app.backend.store_result(
        job.job_id, {"whole": 1}, "SUCCESS", request=Context(reply_to=app.thread_oid, correlation_id=job.job_id)
    )
    for state, truncated in (("STARTED", False), ("SUCCESS", True)):
        manager.put_status(events.status_change(job, state, truncated=truncated))
        assert realtime.flush(60)
        if truncated:
            with pytest.raises(SubscribeError, match="hands each result out once") as refusal:
                requests.result_of(job.project_id, job.job_id)
            assert refusal.value.code == "unavailable"
        else:
            assert requests.result_of(job.project_id, job.job_id)["status"] == "running"
    assert result.get(timeout=60) == {"whole": 1}
    with pytest.raises(SubscribeError, match="does not exist"):
        requests.result_of(job.project_id, "another")
