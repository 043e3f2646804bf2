"""A client that asks for some jobs of a project is given these, page by page, and finds out nothing of others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import socketio

from celery_realtime import events
from celery_realtime.client import ProjectSubscription
from celery_realtime.events import Details, Job
from celery_realtime.history.snapshot import narrowed
from celery_realtime.history.store import History
from celery_realtime.job_filters import JobFilter
from celery_realtime.jobs.progress import Progress, progress_update
from celery_realtime.web.filtering import filtered, narrow
from celery_realtime.web.messages import MOST_JOBS
from tests.node_client import Follower
from tests.processes import ROOT
from tests.waiting import wait_for
from tests.web_rules import FORBIDDEN, error_of
from tests.web_servers import Web

if TYPE_CHECKING:
    from tests.services import RedisServer
    from tests.web_servers import Kind

STATIC = ROOT / "celery_realtime" / "static"
JOBS = 2500
STATES = ("PENDING", "STARTED", "SUCCESS", "FAILURE", "STARTED")


@pytest.fixture
def web_settings(redis_url: str) -> dict[str, Any]:
    return {"history_url": redis_url}


@pytest.fixture(scope="module")
def large(kind: Kind, results_server: RedisServer) -> Iterator[Web]:
    url = results_server.fresh_url()
    web = Web(kind, url, history_url=url).attach().start()
    fill(web, JOBS)
    yield web
    web.stop()


@pytest.fixture
def web(large: Web) -> Iterator[Web]:
    """A web server with a project of 2,500 jobs."""
    yield large
    large.reset()


def history_of(web: Web) -> History:
    history = web.realtime.manager.history
    assert history is not None
    return history


def job_of(number: int) -> Job:
    details = Details(label=f"customer {number % 10}") if number % 2 else Details()
    return Job(
        job_id=f"job-{number}", project_id="alpha", task=f"app.{'ab'[number % 3 == 0]}.run", worker="w", details=details
    )


def fill(web: Web, count: int) -> None:
    numbers = range(count)
    for start in range(0, count, 250):
        batch = [
            events.outgoing_status(events.status_change(job_of(number), STATES[number % len(STATES)]))
            for number in numbers[start : start + 250]
        ]
        assert history_of(web).append(batch)


def expected(web: Web, wanted: dict[str, Any]) -> set[str]:
    read = history_of(web).read("alpha", most_jobs=10 * JOBS, most_bytes=10**9)
    chosen = JobFilter.of(wanted) or JobFilter()
    return {job["job_id"] for job in read.jobs if chosen.matches(job)}


def pages(client: Any, wanted: Any, **more: Any) -> list[dict[str, Any]]:
    """Return the answer to a subscription, and all further pages."""
    answers = [client.call("subscribe_project", {"project_id": "alpha", "filter": wanted, **more})]
    assert answers[0]["ok"], answers[0]
    while answers[-1].get("next"):
        answers.append(client.call("read_jobs", {"project_id": "alpha", "filter": wanted, "from": answers[-1]["next"]}))
        assert answers[-1]["ok"], answers[-1]
    return answers


def names(answers: list[dict[str, Any]]) -> list[str]:
    return [job["job_id"] for answer in answers for job in answer["jobs"]]


@pytest.mark.parametrize(
    "wanted",
    [
        {"status": ["running"]},
        {"status": ["queued", "error"]},
        {"status": ["success"], "task": ["app.a.*"]},
        {"task": ["app.b.run"], "label": ["customer 1", "*7"]},
        {"label": ["nobody"]},
    ],
    ids=str,
)
def test_all_jobs_that_match_are_answered_once_and_no_others(web: Web, wanted: dict[str, Any]) -> None:
    answers = pages(web.connect(), wanted)
    found = names(answers)
    assert {*found} == expected(web, wanted)
    assert len(found) == len({*found})
    assert answers[0]["jobs_total"] == JOBS


def test_what_cannot_match_is_not_read(web: Web) -> None:
    client = web.connect()
    live, ended = pages(client, {"status": ["running"]}), pages(client, {"status": ["error"]})
    # Of 2,500 jobs 1,500 have not ended. What has changed since the page before is read in any case.
    assert [len(answers) for answers in (live, ended)] == [3, 2]


@pytest.mark.parametrize("nothing", [None, {}, {"status": []}])
def test_a_filter_without_a_condition_leaves_all(web: Web, nothing: Any) -> None:
    assert len(names(pages(web.connect(), nothing))) == JOBS


@pytest.mark.parametrize(
    ("wanted", "named"), [("running", "filter"), ({"status": ["done"]}, "filter.status"), ({"state": []}, "state")]
)
def test_what_is_no_filter_is_a_bad_request_that_names_it(web: Web, wanted: Any, named: str) -> None:
    client = web.connect()
    place = client.subscribe("alpha")["next"]
    for request, more in (("subscribe_project", {}), ("read_jobs", {"from": place}), ("read_jobs", {"jobs": ["a"]})):
        refusal = error_of(client, request, {"project_id": "alpha", "filter": wanted, **more})
        assert refusal["code"] == "bad_request"
        assert named in refusal["message"]


def test_a_place_goes_on_with_another_filter(web: Web) -> None:
    client = web.connect()
    first = client.call("subscribe_project", {"project_id": "alpha"})
    wanted = {"status": ["success"]}
    rest, place = set[str](), first["next"]
    while place:
        page = client.call("read_jobs", {"project_id": "alpha", "filter": wanted, "from": place})
        rest |= {*names([page])}
        place = page["next"]
    assert {*names([first])} & expected(web, wanted) | rest == expected(web, wanted)


def test_a_snapshot_that_comes_as_events_is_filtered(make_web: Callable[..., Web]) -> None:
    web = make_web().attach().start()
    fill(web, 20)
    client = web.connect()
    client.emit("subscribe_project", {"project_id": "alpha", "filter": {"status": ["error"]}})
    client.call("subscribe_project", {"project_id": "alpha"})
    told = {data["job_id"] for name, data in client.events if name == "agent_status"}
    assert told == expected(web, {"status": ["error"]}) != set()


# -- jobs by their ids ------------------------------------------------------------------------------------------


def some(client: Any, job_ids: Any, **more: Any) -> Any:
    return client.call("read_jobs", {"project_id": "alpha", "jobs": job_ids, **more})


def test_jobs_are_read_by_their_ids_as_the_snapshot_has_them(web: Web) -> None:
    client = web.connect()
    first = client.subscribe("alpha")
    wanted = [job["job_id"] for job in first["jobs"][:3]]

    answer = some(client, [*wanted, "nobody's", wanted[0]])

    assert {*answer} == {"ok", "project_id", "epoch", "offset", "jobs", "next"}
    assert (answer["epoch"], answer["offset"], answer["next"]) == (first["epoch"], first["offset"], None)
    assert {job["job_id"]: job for job in answer["jobs"]} == {job["job_id"]: job for job in first["jobs"][:3]}


def test_jobs_by_their_ids_have_their_progress_and_metadata(make_web: Callable[..., Web]) -> None:
    web = make_web().attach().start()
    fill(web, 5)
    client = web.subscriber("alpha")
    assert history_of(web).append([events.outgoing_progress(progress_update(job_of(1), Progress(40, "on")))])
    [job] = some(client, ["job-1"])["jobs"]
    assert (job["progress"], job["message"], job["label"]) == (40, "on", "customer 1")


def test_of_jobs_that_had_no_room_it_is_said_which_they_are(make_web: Callable[..., Web]) -> None:
    web = make_web().attach().start()
    history = history_of(web)
    for number in range(40):
        change = events.status_change(job_of(number), "SUCCESS", result=b'"' + b"x" * 60_000 + b'"')
        assert history.append([events.outgoing_status(change)])
    client = web.subscriber("alpha")
    ids = [f"job-{number}" for number in range(40)]
    read = list[str]()
    while left := [name for name in ids if name not in read]:
        answer = some(client, left)
        found = names([answer])
        assert found
        assert answer.get("unread", []) == [name for name in left if name not in found]
        read += found
    assert len(read) == 40


@pytest.mark.parametrize("job_ids", [[], "job-1", [5], [""], ["a"] * (MOST_JOBS + 1), {"a": 1}])
def test_what_are_no_ids_is_a_bad_request(web: Web, job_ids: Any) -> None:
    client = web.subscriber("alpha")
    assert error_of(client, "read_jobs", {"project_id": "alpha", "jobs": job_ids})["code"] == "bad_request"
    both = {"project_id": "alpha", "jobs": ["job-1"], "from": client.subscribe("alpha")["next"]}
    assert error_of(client, "read_jobs", both)["code"] == "bad_request"


def test_jobs_of_a_project_that_a_client_does_not_follow_are_refused(web: Web) -> None:
    request = {"project_id": "alpha", "jobs": ["job-1"]}
    assert error_of(web.connect(), "read_jobs", request) == FORBIDDEN
    assert error_of(web.subscriber("beta"), "read_jobs", request) == FORBIDDEN
    beta = web.subscriber("beta").call("read_jobs", {"project_id": "beta", "jobs": ["job-1"]})
    assert (beta["ok"], beta["jobs"]) == (True, [])


# -- audiences --------------------------------------------------------------------------------------------------


def shown_to_guests(event: str, _project: str, payload: dict[str, Any], audience: str | None) -> dict[str, Any] | None:
    """Hide every second job from guests, and the tasks and labels of the others."""
    if audience == "owner" or event != "agent_status":
        return payload
    if int(payload["job_id"].partition("-")[2]) % 2:
        return None
    return {**payload, "task": "secret", "label": "none of yours"}


def test_a_filter_finds_nothing_that_its_user_may_not_see(make_web: Callable[..., Web]) -> None:
    web = make_web(event_filter=shown_to_guests)
    web.attach(audience=lambda user, _: "owner" if user == "ada" else "guest").start()
    fill(web, 1200)
    guest, owner = web.connect(web.token("bob")), web.connect()

    assert names(pages(guest, {"label": ["customer *"]})) == []
    assert names(pages(guest, {"task": ["app.*"]})) == []
    assert {*names(pages(guest, {"task": ["secret"]}))} == {f"job-{n}" for n in range(0, 1200, 2)}
    assert {*names(pages(guest, {"label": ["none*"], "status": ["queued"]}))} == {
        f"job-{n}" for n in range(0, 1200, 10)
    }
    assert {*names(pages(owner, {"label": ["customer *"]}))} == {f"job-{n}" for n in range(1, 1200, 2)}

    read = some(guest, ["job-1", "job-2", "nobody's"])
    assert [(job["job_id"], job["task"]) for job in read["jobs"]] == [("job-2", "secret")]
    assert "unread" not in read
    hidden = some(guest, ["job-1"])
    unknown = some(guest, ["nobody's"])
    assert hidden == unknown


def test_what_a_guest_is_answered_is_the_same_whatever_hidden_jobs_are_like(make_web: Callable[..., Web]) -> None:
    web = make_web(event_filter=shown_to_guests)
    web.attach(audience=lambda *_: "guest").start()
    fill(web, 100)
    client = web.connect()
    answers = [
        pages(client, {"label": [label], "task": [task]})
        for label in ("customer 1", "customer 3", "nobody")
        for task in ("app.a.run", "app.b.run", "*")
    ]
    assert all(answer == answers[0] for answer in answers)


# -- clients ----------------------------------------------------------------------------------------------------


def go_on(web: Web, number: int) -> None:
    """Have some jobs go on, wherever they are among the pages, and some begin."""
    for n in range(number % 7, 1500, 60):
        state = STATES[(n + number) % len(STATES)]
        if n % 2:
            job = msgspec.structs.replace(job_of(n), attempt=number)
        else:
            job = msgspec.structs.replace(job_of(n), job_id=f"new-{number}-{n}")
        web.realtime.manager.put_status(events.status_change(job, "PENDING"))
        web.realtime.manager.put_status(events.status_change(job, "STARTED"))
        web.realtime.manager.put(events.outgoing_progress(progress_update(job, Progress(number, f"at {number}"))))
        web.realtime.manager.put_status(events.status_change(job, state))
    assert web.realtime.flush(60)


def matching(web: Web, wanted: dict[str, Any]) -> dict[str, Any]:
    read = history_of(web).read("alpha", most_jobs=10 * JOBS, most_bytes=10**9)
    chosen = JobFilter.of(wanted)
    assert chosen is not None
    return {job["job_id"]: job for job in read.jobs if chosen.matches(job)}


def test_clients_show_what_matches_though_it_changes_while_pages_are_read(redis_url: str, tmp_path: Path) -> None:
    web = Web("asgi", redis_url, history_url=redis_url, history_size=10_000).attach().start()
    filters: list[dict[str, Any]] = [{"status": ["running"]}, {"label": ["customer 1", "*7"]}]
    client, script = socketio.Client(), STATIC / "celery-realtime-filter.js"
    followers = [
        Follower(web.url, web.token(), "alpha", folder=tmp_path, name=f"f{n}", javascript=script, filter=wanted)
        for n, wanted in enumerate(filters)
    ]
    try:
        fill(web, 1500)
        for follower in followers:
            follower.start()
        client.connect(web.url, auth={"token": web.token()}, transports=["websocket"], wait_timeout=60)
        for number in range(1, 8):
            go_on(web, number)
            if number == 4:
                wait_for(lambda: [follower.state for follower in followers] == ["subscribed"] * 2)
                subscriptions = [ProjectSubscription(client, "alpha", filter=wanted) for wanted in filters]
                followers[0].drop()
        for wanted, follower, subscription in zip(filters, followers, subscriptions, strict=True):
            expected = matching(web, wanted)
            assert expected
            wait_for(lambda follower=follower, expected=expected: follower.jobs() == expected)
            assert subscription.wait_for(lambda feed, expected=expected: {**feed.jobs} == expected, timeout=60)
    finally:
        client.shutdown()
        for follower in followers:
            follower.stop()
        web.stop()


# -- the parts --------------------------------------------------------------------------------------------------

PLACE = '[1,["5","a"],["7",""],["8",""]]'


@pytest.mark.parametrize(
    ("live", "ended", "is_first", "place", "rest"),
    [
        (True, True, False, PLACE, PLACE),
        (True, False, False, PLACE, PLACE),
        (False, True, False, PLACE, '[2,["",""],["7",""],["8",""]]'),
        (True, False, True, PLACE.replace("[1", "[2"), None),
        (True, False, False, PLACE.replace("[1", "[2"), '[3,["",""],["7",""],["8",""]]'),
        (False, True, True, PLACE.replace("[1", "[2"), PLACE.replace("[1", "[2")),
        (False, True, False, '[3,["",""],["7",""],["8",""]]', '[3,["",""],["7",""],["8",""]]'),
    ],
)
def test_a_place_leaves_out_the_jobs_of_another_kind(
    *, live: bool, ended: bool, is_first: bool, place: str, rest: str | None
) -> None:
    assert narrowed(place, live=live, ended=ended, is_first=is_first) == rest


def test_what_is_no_place_is_not_narrowed() -> None:
    with pytest.raises(ValueError, match="no place to read on at"):
        narrow("[9]", JobFilter(("running",)))


def test_a_snapshot_says_where_to_read_on_only_if_that_leads_to_something() -> None:
    shown = {"jobs": [{"status": "running"}, {"status": "error"}], "next": PLACE.replace("[1", "[2")}
    assert filtered(shown, JobFilter(("running",)), is_first=True) == {"jobs": [{"status": "running"}]}
    assert filtered({"jobs": [], "next": None}, JobFilter(("running",))) == {"jobs": [], "next": None}
