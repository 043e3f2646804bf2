"""What each audience sees of a project: live, in the history, and nothing more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

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
    manager.flush(5)
    manager.emit_to_project("alpha", "line", {"internal": True, "text": "a secret"})
    manager.put_status(events.status_change(job, "SUCCESS", result=b'"a secret"'))
    assert web.realtime.flush(5)


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
    assert web.realtime.flush(5)
    member = web.connect(web.token("bob"))
    assert member.call("subscribe_job", {"job_id": "one"})["ok"]
    web.realtime.manager.put_status(events.status_change(job, "SUCCESS", result=b'"a secret"'))
    end = member.wait_for_end("one")
    assert end["result"] is None


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
