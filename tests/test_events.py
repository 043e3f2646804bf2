from __future__ import annotations

import datetime as dt
import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from celery_realtime import events
from celery_realtime.encoding import describe_error
from celery_realtime.events import (
    RANK_OF_STATUS,
    STATUS_OF_STATE,
    Job,
    check_event_name,
    now,
    outgoing_custom,
    outgoing_progress,
    outgoing_status,
    stamp,
    status_change,
)
from celery_realtime.jobs.progress import Progress, progress_update

HALF_A_PAIR = "caf\udce9"  # what a file name that is not UTF-8 looks like in Python
JOB = Job(job_id="job_123", project_id="project_456", task="studio.transcribe", root_id="job_123", worker="celery@host")


TEXT = st.text(st.characters()) | st.just(HALF_A_PAIR)


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def parse(encoded: bytes) -> Any:
    """Parse as browsers do, and as the web server does on the way."""
    parsed = json.loads(encoded, parse_constant=refuse)
    msgspec.json.decode(encoded)
    return parsed


def test_times_are_utc_with_milliseconds() -> None:
    before = dt.datetime.now(dt.timezone.utc)
    text = now()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
    told = dt.datetime.fromisoformat(text[:-1] + "+00:00")
    assert abs(told - before) < dt.timedelta(seconds=5)


@pytest.mark.parametrize("name", ["line", "transcript_line", "a b", "Zeile", "x" * 128])
def test_a_custom_event_may_have_any_other_name(name: str) -> None:
    assert check_event_name(name) == name


@pytest.mark.parametrize(
    "name", ["connect", "connect_error", "disconnect", "disconnecting", "error", "newListener", "removeListener"]
)
def test_a_custom_event_cannot_have_a_name_that_clients_raise_themselves(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is reserved"):
        check_event_name(name)


@pytest.mark.parametrize("name", ["agent_status", "agent_progress"])
def test_a_custom_event_cannot_pass_for_one_of_ours(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is reserved"):
        check_event_name(name)


@pytest.mark.parametrize("name", ["", "x" * 129, HALF_A_PAIR])
def test_a_name_that_cannot_travel_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="event name"):
        check_event_name(name)


@pytest.mark.parametrize("name", [None, 5, b"line", ["line"]])
def test_a_name_that_is_no_text_is_refused(name: object) -> None:
    with pytest.raises(TypeError, match=f"event name must be a str, not {type(name).__name__}"):
        check_event_name(name)


# -- what travels -----------------------------------------------------------------------------------------------


def test_a_status_is_one_of_four() -> None:
    assert set(STATUS_OF_STATE.values()) == {"queued", "running", "success", "error"} == set(RANK_OF_STATUS)


@pytest.mark.parametrize(
    ("state", "status", "rank"),
    [
        ("PENDING", "queued", 0),
        ("RETRY", "queued", 0),
        ("STARTED", "running", 1),
        ("SUCCESS", "success", 2),
        ("IGNORED", "success", 2),
        ("FAILURE", "error", 2),
        ("REVOKED", "error", 2),
        ("REJECTED", "error", 2),
        ("LOST", "error", 2),
    ],
)
def test_every_celery_state_is_shown_as_a_status(state: str, status: str, rank: int) -> None:
    outgoing = outgoing_status(status_change(JOB, state))
    told = parse(outgoing.payload)
    assert (told["status"], told["state"], outgoing.rank) == (status, state, rank)


def test_a_status_change_says_all_that_the_contract_lists() -> None:
    outgoing = outgoing_status(status_change(JOB, "STARTED"))
    told = parse(outgoing.payload)
    assert re.fullmatch(r"[\dT:.-]{23}Z", told.pop("timestamp"))
    assert told == {
        "event": "status_change",
        "job_id": "job_123",
        "project_id": "project_456",
        "status": "running",
        "state": "STARTED",
        "result": None,
        "error": None,
        "task": "studio.transcribe",
        "attempt": 0,
        "root_id": "job_123",
        "parent_id": None,
        "group_id": None,
        "worker": "celery@host",
    }
    assert (outgoing.project_id, outgoing.event) == ("project_456", "agent_status")
    assert (outgoing.job_id, outgoing.attempt, outgoing.progress) == ("job_123", 0, False)


def test_what_is_seldom_given_is_left_out_until_it_is() -> None:
    told = parse(outgoing_status(status_change(JOB, "SUCCESS", truncated=True)).payload)
    assert (told["result"], told["truncated"]) == (None, True)
    told = parse(outgoing_status(status_change(JOB, "FAILURE", error="E: m", traceback="Traceback ...")).payload)
    assert (told["error"], told["traceback"]) == ("E: m", "Traceback ...")


def test_a_result_goes_out_as_it_was_encoded() -> None:
    told = parse(outgoing_status(status_change(JOB, "SUCCESS", result=b'{"summary":"..."}')).payload)
    assert told["result"] == {"summary": "..."}


def test_a_progress_update_says_all_that_the_contract_lists() -> None:
    outgoing = outgoing_progress(progress_update(JOB, Progress(25, "Downloading", 3, 12)))
    told = parse(outgoing.payload)
    assert re.fullmatch(r"[\dT:.-]{23}Z", told.pop("timestamp"))
    assert told == {
        "event": "progress_update",
        "job_id": "job_123",
        "project_id": "project_456",
        "progress": 25,
        "message": "Downloading",
        "current": 3,
        "total": 12,
        "task": "studio.transcribe",
        "attempt": 0,
    }
    assert (outgoing.project_id, outgoing.event) == ("project_456", "agent_progress")
    assert (outgoing.job_id, outgoing.rank, outgoing.progress, outgoing.standing.percent) == ("job_123", None, True, 25)


@given(TEXT)
def test_a_failure_is_reported_whatever_letters_its_message_has(message: str) -> None:
    told = outgoing_status(status_change(JOB, "FAILURE", error=describe_error(OSError(message))))
    assert parse(told.payload)["error"].startswith("OSError")


def test_a_failure_over_a_file_name_that_is_no_utf_8_is_reported() -> None:
    told = outgoing_status(
        status_change(JOB, "FAILURE", error=describe_error(FileNotFoundError(2, "no file", HALF_A_PAIR)))
    )
    assert parse(told.payload)["error"].startswith("FileNotFoundError: [Errno 2] no file")


def test_an_object_that_is_sent_says_whose_it_is() -> None:
    outgoing = outgoing_custom("line", {"text": "..."}, "project_456", "job_123", 1000)
    assert parse(outgoing.payload) == {
        "text": "...",
        "_realtime": {"job_id": "job_123", "project_id": "project_456"},
    }
    assert (outgoing.project_id, outgoing.event) == ("project_456", "line")
    assert (outgoing.job_id, outgoing.rank, outgoing.progress) == ("job_123", None, False)


@pytest.mark.parametrize("data", [[1, 2], "text", 5, None, True])
def test_other_data_is_sent_as_it_is(data: object) -> None:
    assert parse(outgoing_custom("line", data, "p", None, 1000).payload) == data


def test_nobody_can_pretend_to_be_another_job() -> None:
    outgoing = outgoing_custom("line", {"_realtime": {"job_id": "other"}}, "p", "mine", 1000)
    assert parse(outgoing.payload)["_realtime"] == {"job_id": "mine", "project_id": "p"}
    assert msgspec.json.decode(outgoing.payload)["_realtime"]["job_id"] == "mine"


def test_the_limit_is_for_what_the_user_sends_and_not_for_what_we_add() -> None:
    assert outgoing_custom("line", {"t": "x" * 92}, "p", "j", 100)
    with pytest.raises(ValueError, match="the data of event 'line' has 101 bytes"):
        outgoing_custom("line", {"t": "x" * 93}, "p", "j", 100)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


STAMP = {"epoch": "k3f9", "offset": 41}


def test_status_and_progress_are_stamped_at_the_top() -> None:
    for outgoing in (
        outgoing_status(status_change(JOB, "SUCCESS", result=b"{}")),
        outgoing_progress(progress_update(JOB, Progress(25))),
    ):
        stamped = stamp(outgoing, STAMP)
        assert parse(stamped.payload) == {**parse(outgoing.payload), **STAMP}
        assert replace(stamped, payload=b"") == replace(outgoing, payload=b"")


@given(st.dictionaries(st.text(), PLAIN, max_size=4))
def test_custom_objects_are_stamped_beside_their_job(data: dict[str, Any]) -> None:
    outgoing = outgoing_custom("line", data, "p", "j", 100000)
    told = {"job_id": "j", "project_id": "p", **STAMP}
    assert parse(stamp(outgoing, STAMP).payload) == {**data, "_realtime": told}


@pytest.mark.parametrize("data", [[1], "t", None])
def test_other_custom_data_has_no_room_for_a_stamp_which_goes_beside_it(data: object) -> None:
    outgoing = outgoing_custom("line", data, "p", "j", 1000)
    stamped = stamp(outgoing, STAMP)
    assert stamped.payload == outgoing.payload
    assert stamped.mark == {"job_id": "j", "project_id": "p", **STAMP}


def test_our_own_events_are_reserved() -> None:
    assert {events.STATUS_EVENT, events.PROGRESS_EVENT} <= events.RESERVED_EVENTS
