"""What each audience sees of a project: live, in the history, and nothing more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import redis

from celery_realtime import events
from celery_realtime.events import Job
from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.jobs.progress import Progress, progress_update
from tests.web_servers import Web

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def web_settings(redis_url: str) -> dict[str, Any]:
    """A history, which all servers of a test share."""
    return {"history_url": redis_url}


def for_whom(event: str, _project: str, payload: dict[str, Any], audience: str | None) -> dict[str, Any] | None:
    """Members see no results and no messages, and nothing of what is marked as internal; owners see all."""
    if audience == "owner":
        return payload
    if payload.get("internal"):
        return None
    if event == "agent_status":
        return {**payload, "result": None, "job_id": "forged"}
    return {**payload, "message": None} if event == "agent_progress" else payload


@pytest.fixture
def web(make_web: Callable[..., Web]) -> Web:
    return (
        make_web(event_filter=for_whom).attach(audience=lambda user, _: "owner" if user == "ada" else "member").start()
    )


def say_all(web: Web) -> None:
    manager = web.realtime.manager
    job = Job(job_id="one", project_id="alpha")
    manager.put_status(events.status_change(job, "STARTED"))
    manager.put(events.outgoing_progress(progress_update(job, Progress(50, "a secret"))))
    manager.flush(60)
    manager.emit_to_project("alpha", "line", {"internal": True, "text": "a secret"})
    manager.put_status(events.status_change(job, "SUCCESS", result=b'"a secret"'))
    assert web.realtime.flush(60)


@pytest.mark.parametrize("batch", [False, True])
def test_each_audience_sees_its_own_version_live(web: Web, batch: bool) -> None:
    owner, member = web.connect(), web.connect(web.token("bob"))
    for client in (owner, member):
        assert client.subscribe("alpha", batch=batch)["ok"]

    say_all(web)

    heard = {}
    for name, client in (("owner", owner), ("member", member)):
        client.wait(lambda told: "success" in str(told))
        told = [tuple(one) for one in client.events]
        if batch:
            told = [(item["event"], item["data"]) for _, items in told for item in items]
        heard[name] = told
    assert [event for event, _ in heard["owner"]] == ["agent_status", "agent_progress", "line", "agent_status"]
    assert [event for event, _ in heard["member"]] == ["agent_status", "agent_progress", "agent_hidden", "agent_status"]
    assert str(heard["owner"]).count("a secret") == 3
    assert "a secret" not in str(heard["member"])
    assert [data["job_id"] for _, data in heard["member"] if "job_id" in data] == ["one"] * 3
    offsets = [(data.get("_realtime") or data)["offset"] for _, data in heard["member"]]
    assert offsets == [1, 2, 3, 4]


def test_each_audience_sees_its_own_version_of_what_it_missed(web: Web) -> None:
    owner, member = web.connect(), web.connect(web.token("bob"))
    place = owner.subscribe("alpha")
    say_all(web)

    since = {"epoch": place["epoch"], "offset": 0}
    full, less = owner.subscribe("alpha", since=since), member.subscribe("alpha", since=since)

    assert full["recovered"]
    assert less["recovered"]
    assert str(full).count("a secret") == 5  # progress, line and result missed; progress and result in the snapshot
    assert "a secret" not in str(less)
    assert [item["event"] for item in less["events"]] == [
        *("agent_status", "agent_progress", "agent_hidden", "agent_status"),
    ]
    [job] = less["jobs"]
    assert (job["job_id"], job["status"], job["progress"], job["result"]) == ("one", "success", 50, None)


def test_a_single_job_is_redacted_too(web: Web) -> None:
    job = Job(job_id="one", project_id="alpha")
    web.realtime.manager.put_status(events.status_change(job, "STARTED"))
    assert web.realtime.flush(60)
    member = web.connect(web.token("bob"))
    assert member.call("subscribe_job", {"job_id": "one"})["ok"]
    web.realtime.manager.put_status(events.status_change(job, "SUCCESS", result=b'"a secret"'))
    end = member.wait_for_end("one")
    assert end["result"] is None


# -- the same members everywhere ------------------------------------------------------------------------------------

NO_SUCH_JOB = {"code": "forbidden", "message": "this job does not exist, or is not open to you"}


class Asked:
    """A rule that notes what it is asked for, and shows all.

    Attributes:
        calls: Of each place, by what was asked about, the data.
    """

    def __init__(self) -> None:
        self.place = ""
        self.calls: dict[str, dict[str, dict[str, Any]]] = {}

    def __call__(self, event: str, _project: str, payload: dict[str, Any], audience: str | None) -> dict[str, Any]:
        if audience is not None:
            about = f"{event} {payload.get('status', '')}"
            self.calls.setdefault(self.place, {})[about] = payload
        return payload


def tell_two(web: Web) -> None:
    """Publish all kinds of events about a workflow of two jobs of one task."""
    manager = web.realtime.manager
    jobs = [Job(job_id=name, project_id="alpha", task="studio.mix", root_id="one") for name in ("one", "two")]
    for job in jobs:
        manager.put_status(events.status_change(job, "STARTED"))
    manager.put(events.outgoing_progress(progress_update(jobs[1], Progress(50, "half"))))
    manager.flush(60)
    manager.emit_to_project("alpha", "line", {"text": "hello"}, job_id="two")
    manager.put_status(events.status_change(jobs[1], "SUCCESS", result=b"7"))
    manager.put_status(events.status_change(jobs[0], "SUCCESS", result=b"7"))
    assert web.realtime.flush(60)


def test_the_rule_is_given_the_same_members_wherever_something_is_shown(make_web: Callable[..., Web]) -> None:
    asked = Asked()
    web = make_web(event_filter=asked).attach(audience=lambda *_: "member").start()
    client = web.connect()
    requests: dict[str, Callable[[], Any]] = {
        "missed": lambda: client.subscribe("alpha", since={"epoch": place["epoch"], "offset": 0}),
        "snapshot": lambda: client.subscribe("alpha"),
        "batches": lambda: client.subscribe("alpha", batch=True),
        "one job": lambda: client.call("subscribe_job", {"job_id": "two"}),
        "result": lambda: client.call("get_result", {"job_id": "two"}),
        "cancel": lambda: client.call("cancel_job", {"job_id": "two"}),
    }
    place = client.subscribe("alpha")
    asked.place = "live"
    tell_two(web)
    client.wait(lambda told: str(told).count("success") == 2)
    for name, request in requests.items():
        asked.place = name
        request()

    live = asked.calls.pop("live")
    assert {*live} == {"agent_status running", "agent_status success", "agent_progress ", "agent_workflow ", "line "}
    assert {*asked.calls} == {*requests}
    for shown in asked.calls.values():
        assert {about: {*data} for about, data in shown.items()} == {about: {*live[about]} for about in shown}
    for name in ("missed", "snapshot", "one job"):
        assert asked.calls[name]["agent_status success"]["task"] == "studio.mix"
        assert asked.calls[name]["agent_progress "]["task"] == "studio.mix"
    assert asked.calls["missed"] == live


def test_the_rule_is_shown_no_position_and_everybody_is(make_web: Callable[..., Web]) -> None:
    asked = Asked()
    web = make_web(event_filter=asked).attach(audience=lambda *_: "member").start()
    client = web.subscriber("alpha")
    tell_two(web)
    client.wait(lambda told: str(told).count("success") == 2)
    assert "offset" not in str(asked.calls)
    positions = [(data.get("_realtime") or data)["offset"] for _, data in client.events]
    assert positions == list(range(1, len(positions) + 1))


def no_mixes(_event: str, _project: str, payload: dict[str, Any], audience: str | None) -> dict[str, Any] | None:
    """Members see nothing of one task's jobs."""
    return None if audience == "member" and payload.get("task") == "studio.mix" else payload


@pytest.fixture
def mixing(make_web: Callable[..., Web]) -> Web:
    rules = {"audience": lambda user, _: "owner" if user == "ada" else "member", "authorize_cancel": lambda *_: True}
    return make_web(event_filter=no_mixes).attach(**rules).start()


@pytest.mark.parametrize("state", ["STARTED", "SUCCESS"])
def test_a_job_that_is_hidden_live_shows_nowhere(mixing: Web, state: str) -> None:
    owner, member = mixing.connect(), mixing.connect(mixing.token("bob"))
    place = member.subscribe("alpha")
    job = Job(job_id="one", project_id="alpha", task="studio.mix")
    manager = mixing.realtime.manager
    manager.put_status(events.status_change(job, "STARTED"))
    manager.put(events.outgoing_progress(progress_update(job, Progress(50, "half"))))
    manager.flush(60)
    if state != "STARTED":
        manager.put_status(events.status_change(job, state))
    assert mixing.realtime.flush(60)
    mixing.emit("alpha", 1)
    member.wait_for_event("step")

    since = {"epoch": place["epoch"], "offset": 0}
    answers = [
        member.subscribe("alpha", since=since),
        member.call("subscribe_job", {"job_id": "one", "project_id": "alpha", "since": since}),
    ]
    requests = ("get_result", "cancel_job", "subscribe_job")
    asked = [[member.call(name, {"job_id": job_id}) for job_id in ("one", "two")] for name in requests]

    assert [(answer["jobs"], answer["jobs_total"]) for answer in answers] == [([], 0)] * 2
    assert "studio.mix" not in str([answers, member.events])
    assert [answer["error"] for pair in asked for answer in pair] == [NO_SUCH_JOB] * 6
    assert owner.call("get_result", {"job_id": "one"})["state"] == state
    assert len(owner.subscribe("alpha")["jobs"]) == 1


def test_progress_of_a_job_that_has_reported_nothing_else_is_hidden_too(mixing: Web) -> None:
    job = Job(job_id="one", project_id="alpha", task="studio.mix")
    mixing.realtime.manager.put(events.outgoing_progress(progress_update(job, Progress(50, "half"))))
    assert mixing.realtime.flush(60)
    assert mixing.connect(mixing.token("bob")).subscribe("alpha")["jobs"] == []
    [shown] = mixing.connect().subscribe("alpha")["jobs"]
    assert (shown["status"], shown["progress"]) == ("running", 50)


def test_of_a_job_of_which_the_history_has_forgotten_what_a_rule_decides_by_nothing_is_given_out(
    mixing: Web, redis_url: str
) -> None:
    mixing.realtime.app.conf.result_backend = mixing.realtime.settings.history_url
    mixing.realtime.app.backend.store_result("one", "secret", "SUCCESS")
    job = Job(job_id="one", project_id="alpha", task="studio.mix")
    mixing.realtime.manager.put_status(events.status_change(job, "STARTED"))
    assert mixing.realtime.flush(60)
    history = mixing.realtime.manager.history
    assert history is not None
    redis.Redis.from_url(redis_url).delete(history.keys.project("alpha")[2])
    assert mixing.connect(mixing.token("bob")).call("get_result", {"job_id": "one"})["error"] == NO_SUCH_JOB


# -- the rule itself ------------------------------------------------------------------------------------------------


def test_who_changes_sides_hears_one_version_only(make_web: Callable[..., Web]) -> None:
    role = ["owner"]
    web = make_web(event_filter=for_whom).attach(audience=lambda *_: role[0]).start()
    client = web.subscriber("alpha")
    role[0] = "member"
    assert client.subscribe("alpha")["ok"]
    web.realtime.manager.emit_to_project("alpha", "line", {"text": "hello"})
    web.emit("alpha", 1)
    client.wait_for_event("step")
    assert len(client.of("line")) == 1


def test_a_filter_that_fails_for_an_audience_shows_it_nothing(make_web: Callable[..., Web]) -> None:
    def fails(*_: Any, audience: str | None = None) -> dict[str, Any]:
        raise RuntimeError(f"no idea about {audience}")

    web = make_web(event_filter=fails).attach(audience=lambda *_: "member").start()
    client = web.subscriber("alpha")
    web.emit("alpha", 1)
    client.wait_for_event("agent_hidden")
    assert client.of("step") == []


@pytest.mark.parametrize("wrong", [7, ["owner"]])
def test_an_audience_that_is_no_name_is_refused(make_web: Callable[..., Web], wrong: Any) -> None:
    web = make_web(event_filter=for_whom).attach(audience=lambda *_: wrong).start()
    client = web.connect()
    assert client.subscribe("alpha")["error"]["code"] == "unavailable"


def test_an_audience_that_nobody_asks_for_is_a_mistake(make_web: Callable[..., Web]) -> None:
    with pytest.raises(ImproperlyConfigured, match="fourth parameter"):
        make_web().attach(audience=lambda *_: "owner")
