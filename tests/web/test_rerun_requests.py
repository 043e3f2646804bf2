"""Who may have what run again, and what becomes of it while that is decided."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
import redis

from celery_realtime import events
from celery_realtime.events import Job
from tests.waiting import wait_for
from tests.web_servers import Web

if TYPE_CHECKING:
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


def tell(web: Web, job_id: str, state: str, project: str = "alpha", **more: Any) -> None:
    job = Job(job_id=job_id, project_id=project)
    web.realtime.manager.put_status(events.status_change(job, state, **more))
    assert web.realtime.flush(60)


def ask(client: Recorder, job_id: Any, **more: Any) -> dict[str, Any]:
    return client.call("rerun_job", {"job_id": job_id, **more})


def test_nobody_may_run_a_job_again_unless_a_rule_says_so(make_web: Callable[..., Web]) -> None:
    web = make_web().attach(authorize_cancel=lambda *_: True).start()
    tell(web, "one", "SUCCESS")
    assert ask(web.connect(), "one")["error"] == {"code": "forbidden", "message": "you may not run this job again"}


def test_the_rule_is_told_who_wants_to_run_what_again(make_web: Callable[..., Web]) -> None:
    asked = []

    def may_rerun(user: str, project: str, job: str) -> bool:
        asked.append((user, project, job))
        return user == "bob"

    web = make_web().attach(authorize_rerun=may_rerun).start()
    tell(web, "one", "SUCCESS")
    assert ask(web.connect(), "one")["error"]["code"] == "forbidden"
    assert ask(web.connect(web.token("bob")), "one")["error"]["code"] == "unavailable"  # its message is not kept
    assert asked == [("ada", "alpha", "one"), ("bob", "alpha", "one")]


def test_a_rule_that_returns_something_else_than_true_or_raises_refuses(make_web: Callable[..., Web]) -> None:
    def rule(_user: Any, _project: str, job: str) -> Any:
        return "yes" if job == "one" else {}["no such key"]

    web = make_web().attach(authorize_rerun=rule).start()
    for job_id in ("one", "two"):
        tell(web, job_id, "SUCCESS")
    client = web.connect()
    assert ask(client, "one")["error"]["code"] == "forbidden"
    assert ask(client, "two")["error"]["code"] == "unavailable"


def test_a_job_of_another_project_is_as_one_that_does_not_exist(make_web: Callable[..., Web]) -> None:
    asked = []
    web = make_web().attach(authorize_rerun=lambda *what: bool(asked.append(what)) or True).start()
    tell(web, "theirs", "SUCCESS", project="beta")
    client = web.connect()
    for job_id, more in (("theirs", {}), ("theirs", {"project_id": "beta"}), ("theirs", {"project_id": "alpha"})):
        assert ask(client, job_id, **more)["error"] == NO_SUCH_JOB
    assert ask(client, "none")["error"] == NO_SUCH_JOB
    assert ask(client, 7)["error"]["code"] == "bad_request"
    assert asked == []


class Gate:
    """A rule that takes until it is told to answer."""

    def __init__(self) -> None:
        self.may_answer, self.has_asked = threading.Event(), threading.Event()
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, *what: str) -> bool:
        self.asked.append(what)
        self.has_asked.set()
        return self.may_answer.wait(60)


def publish(web: Web, job_id: str) -> None:
    """Publish a job that is kept, and report its end."""
    web.realtime.app.send_task("add", (1, 2), task_id=job_id, headers={"project_id": "alpha"})
    assert web.realtime.flush(60)
    history = web.realtime.manager.history
    assert history is not None
    job = Job(job_id=job_id, project_id="alpha", run=history.job_and_run("alpha", job_id)[1])
    web.realtime.manager.put(events.outgoing_status(events.status_change(job, "SUCCESS"), job=job))
    assert web.realtime.flush(60)


def published(redis_url: str) -> int:
    return int(redis.Redis.from_url(redis_url).llen("celery"))  # type: ignore[arg-type]


def test_a_job_whose_message_is_kept_is_run_again(make_web: Callable[..., Web], redis_url: str) -> None:
    web = make_web(keep_messages=True).attach(authorize_rerun=lambda *_: True).start()
    publish(web, "one")
    client = web.connect()
    assert client.subscribe("alpha")["ok"]
    answer = ask(client, "one")
    assert answer == {"ok": True, "job_id": answer["job_id"], "project_id": "alpha", "rerun_of": "one"}
    queued = client.wait_for_event("agent_status", job_id=answer["job_id"], status="queued")
    assert (queued["rerun_of"], queued["task"]) == ("one", "add")
    assert published(redis_url) == 2
    assert ask(client, answer["job_id"])["error"]["code"] == "bad_request"  # it has not ended


@pytest.mark.parametrize("end", ["revoked", "gone"])
def test_nothing_is_run_again_for_whoever_may_not_or_has_left(
    make_web: Callable[..., Web], redis_url: str, end: str
) -> None:
    gate = Gate()
    web = make_web(keep_messages=True).attach(authorize_rerun=gate).start()
    publish(web, "one")
    client, answers = web.connect(), list[Any]()
    client.sio.emit("rerun_job", {"job_id": "one"}, callback=answers.append)
    assert gate.has_asked.wait(60)
    if end == "revoked":
        web.realtime.revoke_access("ada", "alpha")
    else:
        client.sio.disconnect()
        wait_for(lambda: not web.handlers.clients())
    gate.may_answer.set()
    if end == "revoked":
        wait_for(lambda: answers)
        assert answers[0]["error"]["code"] == "forbidden"
    later = web.connect(web.token("bob"))
    assert ask(later, "one")["ok"]
    assert published(redis_url) == 2


def test_a_job_that_an_audience_does_not_see_cannot_be_run_again(make_web: Callable[..., Web]) -> None:
    def event_filter(event: str, _project: str, payload: Any, audience: str | None) -> Any:
        return payload if audience == "owner" or event != "agent_status" else None

    asked = []
    rules = {
        "audience": lambda user, _: "owner" if user == "bob" else "member",
        "authorize_rerun": lambda *what: bool(asked.append(what)) or True,
    }
    web = make_web(keep_messages=True, event_filter=event_filter, event_filter_audience=True).attach(**rules).start()
    publish(web, "one")
    assert ask(web.connect(), "one")["error"] == NO_SUCH_JOB
    assert asked == []
    assert ask(web.connect(web.token("bob")), "one")["ok"]


def test_whoever_loses_the_project_meanwhile_has_nothing_run_again(make_web: Callable[..., Web]) -> None:
    may_answer, has_asked, asked = threading.Event(), threading.Event(), []

    def may_rerun(*what: str) -> bool:
        asked.append(what)
        has_asked.set()
        return may_answer.wait(60)

    web = make_web().attach(authorize_rerun=may_rerun).start()
    tell(web, "one", "SUCCESS")
    client, answers = web.subscriber("alpha"), list[Any]()
    client.sio.emit("rerun_job", {"job_id": "one"}, callback=answers.append)
    assert has_asked.wait(60)
    assert web.realtime.revoke_access("ada", "alpha", wait=0)
    wait_for(lambda: not any(one.topics for one in web.handlers.clients().values()))
    may_answer.set()
    wait_for(lambda: answers)
    assert answers[0]["error"]["code"] in ("forbidden", "unavailable")
    assert len(asked) == 1
