"""What is put into a broker message comes out of it, and whatever else comes in does no harm."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_realtime import wire
from celery_realtime.events import Outgoing, stamp
from celery_realtime.wire import batches, decode_message

STEP = {"method": "emit", "event": "step", "room": "project:alpha", "data": [{"number": 1}], "namespace": "/"}


def frame(*entries: object, version: object = 1, **more: object) -> dict[str, Any]:
    return {"method": "celery_realtime", "v": version, "namespace": "/", "events": list(entries), **more}


NO_MESSAGES = {
    "nothing": b"",
    "not JSON": b"{'method': 'emit'}",
    "cut off": b'{"method":"emit","event":',
    "not UTF-8": b'{"method":"emit","event":"\xff\xfe"}',
    "a JSON string that holds the word method": json.dumps('{"method": "emit"}'),
    "a list": json.dumps([STEP]),
    "a number": b"5",
    "null": b"null",
    "an object without a method": b"{}",
    "a method that is null": json.dumps({**STEP, "method": None}),
    "a method that is a list": json.dumps({**STEP, "method": ["emit"]}),
    "very deep": b"[" * 100_000 + b"]" * 100_000,
    "a frame of a later version": json.dumps(frame(["step", "project:alpha", {}], version=2)),
    "a frame of no version": json.dumps(frame(["step", "project:alpha", {}], version=None)),
    "a frame without events": json.dumps({"method": "celery_realtime", "v": 1}),
    "a frame whose events are an object": json.dumps({**frame(), "events": {"step": "project:alpha"}}),
    "a frame whose events are text": json.dumps({**frame(), "events": "abc"}),
    "an empty frame": json.dumps(frame()),
    "an entry that is null": json.dumps(frame(None)),
    "an entry that is text of three letters": json.dumps(frame("abc")),
    "an entry that is too short": json.dumps(frame(["step", "project:alpha"])),
    "an entry that is too long": json.dumps(frame(["step", "project:alpha", {}, {}, {}])),
    "an entry whose mark is no object": json.dumps(frame(["step", "project:alpha", {}, 5])),
    "an entry with an empty room": json.dumps(frame(["step", "", {}])),
    "an entry with no room": json.dumps(frame(["step", None, {}])),
    "an entry with a list of rooms": json.dumps(frame(["step", ["project:alpha", "project:beta"], {}])),
    "an entry with an empty event": json.dumps(frame(["", "project:alpha", {}])),
    "an entry with a number for an event": json.dumps(frame([5, "project:alpha", {}])),
}


@pytest.mark.parametrize("body", NO_MESSAGES.values(), ids=NO_MESSAGES.keys())
def test_what_is_no_message_says_nothing(body: str | bytes) -> None:
    assert decode_message(body) == []


def test_the_good_entries_of_a_frame_are_heard_beside_bad_ones() -> None:
    good = ["step", "project:alpha", {"number": 1}]

    [message] = decode_message(json.dumps(frame(["step", "", {}], good, None, ["step", None, {}])))

    assert message["data"] == [{"number": 1}]
    assert message["room"] == "project:alpha"


@pytest.mark.parametrize("content_type", [None, "", "text/plain", "application/json", "application/data"])
def test_json_is_read_under_the_types_that_managers_send_it_as(content_type: str | None) -> None:
    assert decode_message(json.dumps(STEP), content_type) == [STEP]


@pytest.mark.parametrize(
    "content_type", ["application/x-python-serialize", "application/x-yaml", "application/x-msgpack", "image/png"]
)
def test_nothing_else_is_read_whatever_it_holds(content_type: str) -> None:
    assert decode_message(json.dumps(STEP), content_type) == []


def test_a_message_too_large_to_be_one_is_not_read() -> None:
    padded = {**STEP, "data": ["x" * 17 * 1024 * 1024]}

    assert decode_message(json.dumps(padded)) == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
entries = json_values | st.tuples(
    st.text(max_size=5) | json_values, st.sampled_from(["", "project:alpha"]) | json_values, json_values
).map(list)
frames = st.fixed_dictionaries(
    {"method": st.just("celery_realtime"), "v": st.just(1) | json_values, "events": st.lists(entries, max_size=5)},
    optional={"namespace": json_values, "host_id": json_values, "room": json_values},
)
messages = st.dictionaries(st.sampled_from(["method", "event", "room", "v", "events"]), json_values) | json_values
content_types = st.none() | st.sampled_from(["", "text/plain", "application/json", "application/data"]) | st.text()


@given(body=st.binary() | st.text() | messages.map(json.dumps) | frames.map(json.dumps), content_type=content_types)
def test_no_body_whatever_stops_the_decoder(body: str | bytes, content_type: str | None) -> None:
    for message in decode_message(body, content_type):
        assert isinstance(message, dict)
        assert isinstance(message["method"], str)


@given(frames)
def test_no_frame_whatever_is_a_broadcast_or_anything_but_emits(sent: dict[str, Any]) -> None:
    for message in decode_message(json.dumps(sent)):
        assert message["method"] == "emit"
        assert isinstance(message["room"], str)
        assert message["room"] != ""
        assert isinstance(message["event"], str)
        assert message["event"] != ""
        assert len(message["data"]) == 1


@given(event=st.text(min_size=1, max_size=20), project_id=st.text(min_size=1, max_size=20), data=json_values)
def test_whatever_a_publisher_frames_decodes_to_the_same(event: str, project_id: str, data: Any) -> None:
    told = Outgoing(project_id, event, json.dumps(data).encode())

    [(packed, body)] = wire.frames([told], "me", "/")
    [message] = decode_message(body)

    assert packed == [told]
    assert (message["event"], message["room"], message["data"]) == (event, f"project:{project_id}", [data])


# -- batches ------------------------------------------------------------------------------------------------------


def everywhere(_namespace: str, _room: str) -> bool:
    return True


def decoded(*events: Outgoing) -> list[dict[str, Any]]:
    [(_, body)] = wire.frames(events, "me", "/chat")
    return decode_message(body)


def test_a_batch_lists_the_events_of_one_project_in_order() -> None:
    heard = decoded(*(Outgoing("alpha", f"step {number}", b"%d" % number) for number in range(3)))

    [batch] = batches(heard, everywhere)

    assert batch["event"] == "agent_batch"
    assert batch["room"] == "batch:alpha"
    assert batch["namespace"] == "/chat"
    assert batch["data"] == [[{"event": f"step {number}", "data": number} for number in range(3)]]


def test_projects_have_batches_of_their_own() -> None:
    heard = decoded(*(Outgoing(project, "step", b"{}") for project in ("alpha", "beta", "alpha")))

    told = {batch["room"]: len(batch["data"][0]) for batch in batches(heard, everywhere)}

    assert told == {"batch:alpha": 2, "batch:beta": 1}


def test_no_batch_is_made_for_nobody() -> None:
    asked: list[tuple[str, str]] = []
    heard = decoded(*(Outgoing("alpha", "step", b"{}") for _ in range(3)))

    assert batches(heard, lambda *place: bool(asked.append(place))) == []
    assert asked == [("/chat", "batch:alpha")]


def test_a_stock_message_is_a_batch_of_one() -> None:
    [(_, body)] = wire.stock_messages([Outgoing("alpha", "step", b'{"number":1}')], "me", "/")

    [batch] = batches(decode_message(body), everywhere)

    assert batch["data"] == [[{"event": "step", "data": {"number": 1}}]]


@pytest.mark.parametrize(
    "change",
    [
        {"room": None},
        {"room": "lobby"},
        {"room": 5},
        {"binary": True},
        {"data": [1, 2]},
        {"namespace": 5},
    ],
)
def test_what_is_no_event_of_a_project_is_in_no_batch(change: dict[str, Any]) -> None:
    assert batches(decode_message(json.dumps({**STEP, **change})), everywhere) == []


@pytest.mark.parametrize("data", [{}, {"n": 1}, "text", None, 7])
def test_data_that_an_older_manager_did_not_put_into_a_list_are_heard_the_same(data: Any) -> None:
    [message] = decode_message(json.dumps({**STEP, "data": data}))
    assert message["data"] == [data]


def test_in_a_batch_data_that_are_no_object_say_whose_they_are() -> None:
    told = stamp(Outgoing("alpha", "step", b"[1,2]", "job"), {"epoch": "e", "offset": 7})

    [batch] = batches(decoded(told), everywhere)

    mark = {"job_id": "job", "project_id": "alpha", "epoch": "e", "offset": 7}
    assert batch["data"] == [[{**mark, "event": "step", "data": [1, 2]}]]


def test_a_forged_mark_changes_neither_the_event_nor_its_data() -> None:
    forged = frame(["step", "project:alpha", 1, {"event": "agent_status", "data": 2}])

    [batch] = batches(decode_message(json.dumps(forged)), everywhere)

    assert batch["data"] == [[{"event": "step", "data": 1}]]


@given(st.lists(frames | messages, max_size=3))
def test_no_message_whatever_stops_the_making_of_batches(sent: list[Any]) -> None:
    for body in sent:
        for batch in batches(decode_message(json.dumps(body)), everywhere):
            assert batch["room"].startswith("batch:")


# -- pings --------------------------------------------------------------------------------------------------------


def test_a_ping_says_nothing() -> None:
    assert decode_message(wire.PING) == []
