"""What a snapshot has no room for is read page by page, by those that may see the project."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import socketio

from celery_realtime import events
from celery_realtime.client import ProjectSubscription
from celery_realtime.events import Job
from celery_realtime.history.store import History
from celery_realtime.jobs.progress import Progress, progress_update
from tests.node_client import Follower
from tests.waiting import wait_for
from tests.web_rules import FORBIDDEN, error_of
from tests.web_servers import Web

JOBS = 5000


@pytest.fixture
def web_settings(redis_url: str) -> dict[str, Any]:
    return {"history_url": redis_url}


def history_of(web: Web) -> History:
    history = web.realtime.manager.history
    assert history is not None
    return history


def fill(web: Web, count: int) -> None:
    for start in range(0, count, 250):
        jobs = [Job(job_id=f"job-{n}", project_id="alpha", task="t", worker="w") for n in range(start, start + 250)]
        batch = [events.outgoing_status(events.status_change(job, "STARTED")) for job in jobs[: count - start]]
        assert history_of(web).append(batch)


@pytest.fixture
def web(make_web: Callable[..., Web]) -> Web:
    web = make_web().attach().start()
    fill(web, 1500)
    return web


@pytest.fixture
def large(redis_url: str) -> Iterator[Web]:
    """A web server with a project of 5,000 jobs; which kind it is makes no difference to what is read."""
    web = Web("asgi", redis_url, history_url=redis_url).attach().start()
    fill(web, JOBS)
    yield web
    web.stop()


def read(client: Any, place: Any, project: str = "alpha") -> Any:
    return client.call("read_jobs", {"project_id": project, "from": place})


def test_further_jobs_are_answered_until_there_are_none(web: Web) -> None:
    client = web.connect()
    first = client.subscribe("alpha")
    assert (len(first["jobs"]), first["jobs_total"]) == (1000, 1500)

    second = read(client, first["next"])

    assert {*second} == {"ok", "project_id", "epoch", "offset", "jobs", "next"}
    assert (second["ok"], second["project_id"], second["next"]) == (True, "alpha", None)
    assert (second["epoch"], second["offset"]) == (first["epoch"], first["offset"])
    names = {job["job_id"] for answer in (first, second) for job in answer["jobs"]}
    assert names == {f"job-{n}" for n in range(1500)}


def test_an_answer_that_leaves_nothing_out_is_as_it_was_without_pages(make_web: Callable[..., Web]) -> None:
    web = make_web().attach().start()
    fill(web, 3)
    answer = web.connect().subscribe("alpha")
    assert {*answer} == {
        *("ok", "project_id", "epoch", "offset", "recovered", "jobs", "jobs_total", "workflows", "events")
    }


def test_who_is_not_subscribed_is_given_none(web: Web) -> None:
    place = web.subscriber("alpha").subscribe("alpha")["next"]
    request = {"project_id": "alpha", "from": place}
    assert error_of(web.connect(), "read_jobs", request) == FORBIDDEN
    assert error_of(web.subscriber("beta"), "read_jobs", request) == FORBIDDEN
    of_one_job = web.connect()
    answer = of_one_job.call("subscribe_job", {"project_id": "alpha", "job_id": "job-1"})
    assert answer["ok"]
    assert "next" not in answer
    assert error_of(of_one_job, "read_jobs", request) == FORBIDDEN
    former = web.subscriber("alpha")
    assert former.call("unsubscribe_project", {"project_id": "alpha"})["ok"]
    assert error_of(former, "read_jobs", request) == FORBIDDEN


@pytest.mark.parametrize("place", [None, "", 5, "x", [], '[9, ["", ""], ["", ""], ["", ""]]'])
def test_what_is_no_place_is_a_bad_request(web: Web, place: Any) -> None:
    client = web.subscriber("alpha")
    assert error_of(client, "read_jobs", {"project_id": "alpha", "from": place})["code"] == "bad_request"
    assert error_of(client, "read_jobs", {"from": place})["code"] == "bad_request"


def test_a_place_in_one_project_opens_no_other(web: Web) -> None:
    place = web.subscriber("alpha").subscribe("alpha")["next"]
    other = web.subscriber("beta")
    answer = read(other, place, "beta")
    assert (answer["ok"], answer["jobs"], answer["next"]) == (True, [], None)


def test_who_loses_access_while_a_page_is_read_is_not_given_it(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    client = web.subscriber("alpha")
    place = client.subscribe("alpha")["next"]
    history = history_of(web)
    read_on = history.read_on

    def revoked(*arguments: Any) -> Any:
        page = read_on(*arguments)
        assert web.realtime.revoke_access("ada", "alpha", wait=0)
        wait_for(lambda: not any(client.topics for client in web.handlers.clients().values()))
        return page

    monkeypatch.setattr(history, "read_on", revoked)
    assert read(client, place)["error"] == FORBIDDEN


def test_a_history_that_does_not_answer_is_unavailable(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    client = web.subscriber("alpha")
    place = client.subscribe("alpha")["next"]

    def fail(*_: Any) -> Any:
        raise ConnectionError("there is no Redis")

    monkeypatch.setattr(history_of(web), "read_on", fail)
    assert error_of(client, "read_jobs", {"project_id": "alpha", "from": place})["code"] == "unavailable"
    monkeypatch.undo()
    assert read(client, place)["ok"]


def test_each_audience_is_shown_what_it_may_see_of_further_jobs(make_web: Callable[..., Web]) -> None:
    def only_even(_event: str, _project: str, payload: dict[str, Any], audience: str | None) -> dict[str, Any] | None:
        is_even = int(payload["job_id"].partition("-")[2]) % 2 == 0
        return payload if audience == "owner" else {**payload, "worker": None} if is_even else None

    web = make_web(event_filter=only_even).attach(audience=lambda user, _: "owner" if user == "ada" else "guest")
    web.start()
    fill(web, 1250)
    guest, owner = web.connect(web.token("bob")), web.connect()
    shown = read(guest, guest.subscribe("alpha")["next"])["jobs"]
    assert {job["job_id"] for job in shown} == {f"job-{n}" for n in range(0, 250, 2)}
    assert {job["worker"] for job in shown} == {None}
    assert len(read(owner, owner.subscribe("alpha")["next"])["jobs"]) == 250


# -- clients ----------------------------------------------------------------------------------------------------


def go_on(web: Web, number: int) -> None:
    """Have some jobs go on, wherever they are among the pages."""
    manager = web.realtime.manager
    for n in range(number % 7, JOBS, 500):
        job = Job(job_id=f"job-{n}", project_id="alpha", task="t", worker="w")
        manager.put(events.outgoing_progress(progress_update(job, Progress(number, f"at {number}"))))
        if n % 3 == 0:
            manager.put_status(events.status_change(job, "SUCCESS"))
    assert web.realtime.flush(60)


def whole(web: Web) -> dict[str, Any]:
    read = history_of(web).read("alpha", most_jobs=10 * JOBS, most_bytes=10**9)
    return {job["job_id"]: job for job in read.jobs}


def test_the_python_client_shows_5000_jobs_as_they_are_though_they_change_meanwhile(large: Web) -> None:
    client = socketio.Client()
    try:
        client.connect(large.url, auth={"token": large.token()}, transports=["websocket"], wait_timeout=60)
        with ProjectSubscription(client, "alpha", batch=True) as project:
            for number in range(10):
                go_on(large, number)
            expected = whole(large)
            assert project.wait_for(lambda feed: {**feed.jobs} == expected, timeout=60)
            assert len(expected) == JOBS
    finally:
        client.shutdown()


def test_the_browsers_client_shows_5000_jobs_as_they_are_though_they_change_meanwhile(
    large: Web, tmp_path: Path
) -> None:
    follower = Follower(large.url, large.token(), "alpha", folder=tmp_path, name="follower").start()
    try:
        wait_for(lambda: follower.state == "subscribed")
        for number in range(10):
            go_on(large, number)
        expected = whole(large)
        wait_for(lambda: follower.jobs() == expected)
        assert len(expected) == JOBS
    finally:
        follower.stop()
