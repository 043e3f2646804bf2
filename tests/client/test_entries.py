"""Events are merged into the latest state of each job and workflow."""

from __future__ import annotations

from typing import Any

import pytest

from celery_realtime import events
from celery_realtime.client import protocol
from celery_realtime.client.entries import Entries

RUNNING = {"job_id": "a", "status": "running", "state": "STARTED", "attempt": 0, "worker": "w1"}
PROGRESS = {"job_id": "a", "progress": 40, "message": "at 40", "attempt": 0}
BLANK = {"progress": None, "message": None, "current": None, "total": None, "stalled": False}


def jobs(*entries: dict[str, Any], limit: int = 10) -> Entries:
    made = Entries("job_id", limit)
    made.replace(list(entries))
    return made


def test_what_a_client_knows_of_the_wire_format_is_what_servers_send() -> None:
    names = [name for name in vars(protocol) if name.isupper() and name not in ("ENTRY_EVENTS", "TRANSIENT_CODES")]
    assert {name: getattr(protocol, name) for name in names} == {name: getattr(events, name) for name in names}


def test_a_status_keeps_the_progress_of_its_attempt_only() -> None:
    entries = jobs({**RUNNING, **PROGRESS})
    assert entries.update("agent_status", {**RUNNING, "status": "success", "epoch": "e", "offset": 5}, numbered=True)
    assert entries.view["a"] == {**RUNNING, **BLANK, "status": "success", "progress": 40, "message": "at 40"}
    assert entries.update("agent_status", {**RUNNING, "attempt": 1}, numbered=True)
    assert entries.view["a"] == {**RUNNING, **BLANK, "attempt": 1}


def test_progress_of_an_unknown_job_makes_it_a_running_one() -> None:
    entries = jobs()
    assert entries.update("agent_progress", {**PROGRESS, "stalled": True}, numbered=True)
    assert entries.view["a"]["status"] == "running"
    assert entries.view["a"]["stalled"]


@pytest.mark.parametrize(
    "change",
    [
        {"status": "queued", "worker": None},
        {"status": "success", "attempt": -1},
        {},
    ],
    ids=["a lower rank", "an earlier attempt", "the same again"],
)
def test_what_is_out_of_date_counts_only_with_an_offset(change: dict[str, Any]) -> None:
    entries = jobs(RUNNING)
    event = {**RUNNING, **change}
    assert not entries.update("agent_status", event, numbered=False)
    assert entries.update("agent_status", event, numbered=True)


def test_a_lost_job_may_come_back_but_not_to_the_queue() -> None:
    lost = {**RUNNING, "status": "error", "state": "LOST"}
    assert jobs(lost).update("agent_status", RUNNING, numbered=False)
    assert not jobs(lost).update("agent_status", {**RUNNING, "status": "queued"}, numbered=False)


@pytest.mark.parametrize("data", [None, [], "a", {}, {"job_id": 5}])
def test_an_event_that_names_no_entry_is_not_merged(data: Any) -> None:
    entries = jobs(RUNNING)
    assert not entries.update("agent_status", data, numbered=True)
    assert list(entries.view) == ["a"]


@pytest.mark.parametrize("entries", [None, {}, [None, {}, {"job_id": []}]])
def test_what_is_no_entry_is_left_out_of_a_snapshot(entries: Any) -> None:
    made = jobs(RUNNING)
    made.replace(entries)
    assert dict(made.view) == {}


def test_beyond_the_limit_the_oldest_that_has_ended_is_forgotten() -> None:
    ended = {"status": "success"}
    entries = jobs(RUNNING, {**RUNNING, **ended, "job_id": "b"}, {**RUNNING, **ended, "job_id": "c"}, limit=3)
    entries.update("agent_status", {**RUNNING, **ended, "job_id": "d"}, numbered=True)
    assert list(entries.view) == ["a", "c", "d"]


def test_a_workflow_ends_when_nothing_of_it_waits_or_runs() -> None:
    flows = Entries("root_id", 2)
    for name, running in (("x", 0), ("y", 1), ("z", 0)):
        data = {"event": "workflow_update", "root_id": name, "queued": 0, "running": running, "timestamp": "t"}
        assert flows.update("agent_workflow", data, numbered=False)
    assert list(flows.view) == ["y", "z"]
    assert flows.view["y"] == {"root_id": "y", "queued": 0, "running": 1}
