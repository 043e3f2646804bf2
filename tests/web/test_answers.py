"""Answers are of the documented shape, are measured, and say no more than they should."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import socketio

from celery_realtime.exceptions import SubscribeError
from celery_realtime.settings import Settings
from celery_realtime.web.answers import NO_HISTORY, AnswerBudget, Sender, of_one_job, replayed, size_of
from celery_realtime.web.decisions import Decision, call
from celery_realtime.web.sessions import Limits, Sessions
from celery_realtime.web.stock_manager import StockManager
from tests.log_records import logged_by


class Server:
    """Remembers what is emitted, and may refuse to."""

    def __init__(self) -> None:
        self.emitted: list[tuple[Any, ...]] = []
        self.is_broken = False

    def emit(self, event: str, data: Any, *, to: str, namespace: str, ignore_queue: bool) -> None:
        if self.is_broken:
            raise OSError("the connection is lost")
        assert ignore_queue
        self.emitted.append((event, data, to, namespace))

    def disconnect(self, sid: str, *, namespace: str, ignore_queue: bool) -> None:
        assert ignore_queue
        self.emitted.append(("disconnect", sid, namespace))


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def sender(server: Server) -> Sender:
    return Sender(server, "/jobs")


def failing(error: Exception) -> Decision[dict[str, Any]]:
    yield from ()
    raise error


def test_a_decision_is_answered(sender: Sender, server: Server) -> None:
    def decide() -> Decision[dict[str, Any]]:
        yield lambda: None
        return {"ok": True}

    assert call(sender.acknowledge("sid", decide())) == {"ok": True}
    assert server.emitted == []


def test_a_refusal_says_why_in_the_answer_and_as_an_event(sender: Sender, server: Server) -> None:
    refusal = {"code": "forbidden", "message": "not yours"}
    answer = call(sender.acknowledge("sid", failing(SubscribeError("not yours", "forbidden"))))
    assert answer == {"ok": False, "error": refusal}
    assert server.emitted == [("error", refusal, "sid", "/jobs")]


def test_any_other_error_is_logged_once_a_minute_and_says_nothing(
    sender: Sender, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    answers = [call(sender.acknowledge("sid", failing(KeyError("hunter2")))) for _ in range(5)]
    assert {answer["error"]["code"] for answer in answers} == {"unavailable"}
    assert "hunter2" not in str(answers)
    [record] = caplog.records
    assert "hunter2" in record.getMessage()


def test_a_refused_connection_carries_its_code(sender: Sender) -> None:
    refused = sender.refusal_to_connect(SubscribeError("no", "unauthorized"))
    assert isinstance(refused, socketio.exceptions.ConnectionRefusedError)
    assert refused.error_args == {"message": "no", "data": {"code": "unauthorized", "message": "no"}}
    own = socketio.exceptions.ConnectionRefusedError("closed on Sundays")
    assert sender.refusal_to_connect(own) is own


def test_of_several_steps_one_that_fails_stops_no_other(
    sender: Sender, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.is_broken = True
    call(sender.notify(sender.disconnect("sid", {"code": "unauthorized", "message": "bye"})))
    assert server.emitted == [("disconnect", "sid", "/jobs")]
    assert len(logged_by(caplog, "celery_realtime.web.answers")) == 1


# -- what waits for a client --------------------------------------------------------------------------------------


class Queues(StockManager):
    """Knows how many bytes wait for a client."""

    def __init__(self) -> None:
        self.waiting = 0

    def is_loaded(self, sid: str, bytes_in_flight: int) -> bool:
        return self.waiting + bytes_in_flight > 100


def test_a_client_is_given_no_more_than_it_may_have_waiting() -> None:
    sessions, queues = Sessions(Limits.of(Settings())), Queues()
    budget = AnswerBudget(sessions, queues)
    sessions.open("sid", "ada")
    session = budget.asking("sid", {})
    budget.reserve(session, 101)
    with pytest.raises(SubscribeError, match="read what was sent") as refused:
        budget.reserve(session, 1)
    assert refused.value.code == "too_many_requests"
    with pytest.raises(SubscribeError, match="read what was sent"):
        budget.asking("sid", {})
    assert session.bytes_in_flight == 101


@pytest.mark.parametrize("odd", [{"a": object()}, {"a": 10**4000}, {"a": "\ud800"}, {1: {2}}])
def test_any_answer_has_a_size(odd: Any) -> None:
    assert size_of(odd) > 0
    assert size_of({"a": [1, 2]}) == len(b'{"a":[1,2]}')


# -- snapshots ----------------------------------------------------------------------------------------------------


def job(job_id: str, status: str, progress: float | None) -> dict[str, Any]:
    rest = {"message": None, "current": None, "total": None, "stalled": False, "project_id": "alpha"}
    return {**rest, "job_id": job_id, "status": status, "progress": progress}


def test_a_snapshot_is_replayed_as_status_and_then_progress() -> None:
    flow = {"root_id": "one"}
    jobs = [job("one", "running", 50), job("two", "success", 100), job("three", "queued", None)]
    events = replayed({**NO_HISTORY, "jobs": jobs, "workflows": [flow]})
    assert [(name, data.get("job_id")) for name, data in events] == [
        ("agent_status", "one"),
        ("agent_progress", "one"),
        ("agent_status", "two"),
        ("agent_status", "three"),
        ("agent_workflow", None),
    ]
    assert all(data["replayed"] for _, data in events)
    assert "progress" not in events[0][1]


def test_the_part_of_a_snapshot_that_is_about_one_job() -> None:
    missed = [
        {"event": "agent_status", "data": {"job_id": "one"}},
        {"event": "agent_status", "data": {"job_id": "two"}},
        {"event": "line", "data": {"_realtime": {"job_id": "one"}}},
        {"event": "line", "data": {"job_id": "one"}},
        {"event": "line", "data": ["one"]},
        {"event": "line", "data": None},
    ]
    part = of_one_job({**NO_HISTORY, "events": missed, "workflows": [{}]}, "one", None)
    assert part["events"] == [missed[0], missed[2]]
    assert (part["jobs"], part["jobs_total"], part["workflows"]) == ([], 0, [])
    assert of_one_job(NO_HISTORY, "one", job("one", "running", None))["jobs_total"] == 1
