"""What is stored of a project, as a subscriber receives it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from celery_realtime.events import Job, outgoing_progress
from celery_realtime.history.entries import UNREADABLE, decode_job
from celery_realtime.history.snapshot import Snapshot, decode_event
from celery_realtime.jobs.progress import Progress, progress_update
from tests import wire

HEAD = b"0 1 40 1 2 i running 40 root\n"
STATUS = {"event": "status_change", "job_id": "one", "status": "running", "state": "STARTED", "timestamp": "2"}
PROGRESS = {"event": "progress_update", "job_id": "one", "progress": 40, "message": "at 40", "timestamp": "3"}
REACHED = {"progress": 40, "message": "at 40", "current": None, "total": None}
NOTHING_REACHED = dict.fromkeys(REACHED)


def decode(stored: bytes) -> dict[str, Any] | None:
    return decode_job(stored, "one", "p")


def entry(status: Any, progress: Any) -> bytes:
    parts = [b"" if part is None else json.dumps(part).encode() for part in (status, progress)]
    return HEAD + b"\n".join(parts)


def snapshot(
    events: list[Any] | None = None, jobs: list[Any] | None = None, flows: list[bytes] | None = None, complete: int = 1
) -> Snapshot:
    entries = jobs or []
    names = [b"one"] * len(entries)
    packed = [msgspec.msgpack.encode([text and text.decode() for text in texts]) for texts in (entries, names)]
    reply = [b"epoch", 7, complete, events or [], packed[:1], len(entries), flows or [], packed[1:], b"", []]
    return Snapshot.of_reply("p", reply)


def test_a_job_is_its_latest_status_with_its_progress() -> None:
    assert decode(entry(STATUS, PROGRESS)) == {**STATUS, **REACHED, "stalled": False}
    assert decode(entry(STATUS, None)) == {**STATUS, **NOTHING_REACHED, "stalled": False}


def test_json_is_whole_again_of_which_the_beginning_was_left_out() -> None:
    short = HEAD + b'~"status":"running","timestamp":"2"}\n~"progress":40,"message":"at 40","timestamp":"3"}'
    names = {"event": "status_change", "job_id": "one", "project_id": "p"}
    assert decode(short) == {**names, "status": "running", "timestamp": "2", **REACHED, "stalled": False}
    begun = decode(HEAD + b"\n" + short.rpartition(b"\n")[2])
    assert begun is not None
    assert {name: begun[name] for name in (*names, "progress", "timestamp")} == {
        **names,
        "progress": 40,
        "timestamp": "3",
    }


def test_a_job_of_which_only_progress_is_known_is_running() -> None:
    job = decode(entry(None, PROGRESS))
    assert job is not None
    assert (job["event"], job["status"], job["state"], job["result"]) == ("status_change", "running", "STARTED", None)
    assert job["progress"] == 40


def test_a_job_of_which_only_progress_is_known_has_the_members_of_others() -> None:
    update = progress_update(Job(job_id="one", project_id="p"), Progress(40))
    job = decode(HEAD + b"\n" + outgoing_progress(update).payload)
    assert wire.problem_of_part("Job", job) is None


def test_a_job_is_stalled_only_while_it_runs() -> None:
    stalled = {**PROGRESS, "stalled": True}
    running, ended = decode(entry(STATUS, stalled)), decode(entry({**STATUS, "status": "success"}, stalled))
    assert running is not None
    assert ended is not None
    assert (running["stalled"], ended["stalled"]) == (True, False)


def test_a_job_whose_status_a_filter_has_removed_has_the_member_all_the_same() -> None:
    job = decode(entry({"job_id": "one"}, None))
    assert job is not None
    assert job["status"] is None


@pytest.mark.parametrize("junk", [b"", b"x", HEAD, HEAD + b"[]\n", HEAD + b"{\n{}", entry({"job_id": 5}, None)])
def test_an_entry_that_cannot_be_read_is_none(junk: bytes) -> None:
    assert decode(junk) is None
    assert [job["job_id"] for job in snapshot(jobs=[junk, entry(STATUS, None), None]).jobs] == ["one"]


def test_jobs_come_in_the_order_of_their_times() -> None:
    jobs = [
        entry({**STATUS, "job_id": name, "timestamp": at}, None) for name, at in (("c", "3"), ("a", "1"), ("b", "2"))
    ]
    assert [job["job_id"] for job in snapshot(jobs=jobs).jobs] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("name", "data", "decoded"),
    [
        ("agent_status", {"a": 1}, {"data": {"a": 1, "epoch": "e", "offset": 3}}),
        ("line", {"a": 1}, {"data": {"a": 1, "_realtime": {"epoch": "e", "offset": 3}}}),
        ("line", [1], {"data": [1], "epoch": "e", "offset": 3}),
    ],
)
def test_an_event_has_its_position_where_clients_look_for_it(name: str, data: Any, decoded: dict[str, Any]) -> None:
    fields = [b"e", name.encode(), b"p", json.dumps(data).encode()]
    assert decode_event((b"3-0", fields), "e") == {"event": name, **decoded}


def test_the_first_event_of_a_newer_run_says_so() -> None:
    fields = [b"e", b"agent_status", b"p", b'{"a":1}', b"t", b"1.5", b"n", b"1"]
    position = {"epoch": "e", "offset": 3}
    assert decode_event((b"3-0", fields), "e") == {
        "event": "agent_status",
        "data": {"a": 1, **position, "new_run": True},
    }


@pytest.mark.parametrize("fields", [[], [b"e", b"line"], [b"e", b"line", b"p", b"{"], [b"e", b"\xff", b"p", b"1"]])
def test_an_entry_of_the_stream_that_is_no_event_of_ours_cannot_be_read(fields: list[bytes]) -> None:
    with pytest.raises(UNREADABLE):
        decode_event((b"3-0", fields), "e")


@pytest.mark.parametrize("stored", [[3], [3, b"", b""], [3, b"line", b"{"], [3, b"\xff", b"1"]])
def test_one_missed_event_that_cannot_be_read_makes_the_whole_unrecoverable(stored: list[Any]) -> None:
    assert snapshot(events=[2, b"line", b"1"]).recovered
    broken = snapshot(events=[2, b"line", b"1", *stored])
    assert (broken.recovered, broken.events, broken.offset) == (False, [], 7)


def test_missed_events_say_which_is_the_first_of_a_newer_run() -> None:
    missed = snapshot(events=[2, b"agent_status", b'{"a":1}', -3, b"agent_status", b'{"a":2}']).events
    assert [event["data"] for event in missed] == [
        {"a": 1, "epoch": "epoch", "offset": 2},
        {"a": 2, "epoch": "epoch", "offset": 3, "new_run": True},
    ]


def test_workflows_of_more_than_one_job_are_counted() -> None:
    flows = [b"r", b"3 1 1 1 0 150 50 9", b"alone", b"1 0 1 0 0 0 0 0", b"junk", b"2 x", b"odd", b"2 0 0 2 0 inf 9 0"]
    assert snapshot(flows=flows).workflows == [
        {
            "root_id": "r",
            "project_id": "p",
            "total": 3,
            "queued": 1,
            "running": 1,
            "done": 1,
            "failed": 0,
            "progress": 50,
        }
    ]
