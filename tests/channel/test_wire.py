"""What is put into a broker message comes out of it, and whatever else comes in does no harm."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_realtime.channel import wire
from celery_realtime.channel.wire import Heard, decode_message
from celery_realtime.encoding import encode
from celery_realtime.events import Outgoing, outgoing_custom, stamp

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

    [event] = decode_message(json.dumps(frame(["step", "", {}], good, None, ["step", None, {}])))

    assert event == Heard("alpha", None, "step", {"number": 1})


@pytest.mark.parametrize("content_type", [None, "", "text/plain", "application/json", "application/data"])
def test_json_is_read_under_the_types_that_managers_send_it_as(content_type: str | None) -> None:
    assert decode_message(json.dumps(STEP), content_type) == [Heard("alpha", None, "step", {"number": 1})]


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
        assert isinstance(message, Heard) or isinstance(message["method"], str)


@given(frames)
def test_no_frame_whatever_is_a_broadcast_or_anything_but_emits(sent: dict[str, Any]) -> None:
    for message in decode_message(json.dumps(sent)):
        if isinstance(message, Heard):
            assert message.project_id == "alpha"
            assert isinstance(message.event, str)
            assert message.event != ""
        else:
            assert message["method"] == "emit"
            assert isinstance(message["room"], str)
            assert message["room"] != ""
            assert isinstance(message["event"], str)
            assert message["event"] != ""
            assert len(message["data"]) == 1


@given(event=st.text(min_size=1, max_size=20), project_id=st.text(min_size=1, max_size=20), data=json_values)
def test_whatever_a_publisher_frames_decodes_to_the_same(event: str, project_id: str, data: Any) -> None:
    outgoing = Outgoing(project_id, event, json.dumps(data).encode())

    [(packed, body)] = wire.frames([outgoing], "me", "/")
    [decoded] = decode_message(body)

    assert packed == [outgoing]
    assert isinstance(decoded, Heard)
    assert (decoded.event, decoded.project_id, decoded.data) == (event, project_id, data)


@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=5))
def test_the_head_of_a_frame_says_which_projects_it_is_of(project_ids: list[str]) -> None:
    [(_, body)] = wire.frames([Outgoing(name, ',"events":[', b'{"events":[1]}') for name in project_ids], "me", "/jobs")
    for frame in (body, body.decode()):
        head = wire.head_of_frame(frame)
        assert head is not None
        assert (set(head.projects), head.namespace) == (set(project_ids), "/jobs")


def repr_of_start(body: Any) -> str:
    """Return the name of a message that may be very long."""
    return repr(body[:60] if isinstance(body, (str, bytes)) else body)


@pytest.mark.parametrize(
    "body",
    [
        *(
            None,
            7,
            b"",
            "",
            b"{",
            wire.PING,
            b'{"method":"celery_realtime",',
            b'{"method":"celery_realtime","events":[]}',
        ),
        b'{"method":"celery_realtime","v":1,"events":[["step","project:a",{}]]}',
        b'{"method":"celery_realtime","projects":"a","events":[]}',
        b'{"method":"celery_realtime","projects":[1],"events":[]}',
        b'{"method":"celery_realtime","projects":["a"],"namespace":7,"events":[]}',
        '{"method":"celery_realtime","projects":["\ud800"],"events":[]}',
        b'{"method":"celery_realtime","deep":%s%s,"projects":["a"],"events":[]}' % (b"[" * 1_000_000, b"]" * 1_000_000),
        b'{"method":"celery_realtime","projects":[%s"a"],"events":[]}' % (b'"a",' * 1_000_000),
    ],
    ids=repr_of_start,
)
def test_what_has_no_such_head_has_to_be_read_whole(body: Any) -> None:
    assert wire.head_of_frame(body) is None


# -- what is known of an event -------------------------------------------------------------------------------------

MARK = {"job_id": "one", "project_id": "alpha", "epoch": "e", "offset": 7}
STATUS = {"event": "status_change", "status": "running", **MARK}


def decode_one(message: dict[str, Any]) -> Heard:
    [event] = decode_message(json.dumps(message))
    assert isinstance(event, Heard)
    return event


@pytest.mark.parametrize(
    "entry",
    [
        ["agent_status", "project:alpha", STATUS],
        ["step", "project:alpha", {"number": 1, "_realtime": MARK}],
        ["step", "project:alpha", 5, MARK],
    ],
    ids=["a status", "a custom event", "a custom event whose data is no object"],
)
def test_an_event_says_which_job_it_is_about_and_its_place(entry: list[Any]) -> None:
    event = decode_one(frame(entry))

    assert (event.project_id, event.job_id, event.epoch, event.offset) == ("alpha", "one", "e", 7)
    assert (event.event, event.data) == (entry[0], entry[2])


def test_the_stamp_of_the_history_is_read_whatever_the_data_is() -> None:
    for data in ([1, 2], None, {"number": 1}):
        stamped = stamp(outgoing_custom("step", data, "alpha", "one", 1000), {"epoch": "e", "offset": 7})
        [(_, body)] = wire.frames([stamped], "me", "/jobs")
        [event] = decode_message(body)

        assert isinstance(event, Heard)
        assert (event.project_id, event.job_id, event.epoch, event.offset) == ("alpha", "one", "e", 7)
        assert (event.namespace, event.host_id) == ("/jobs", "me")


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"n": 1}},
        {"data": {"_realtime": 5}},
        {"data": {"_realtime": {**MARK, "offset": "1"}}},
        {"data": {"_realtime": {**MARK, "epoch": 5}}},
        {"data": {"_realtime": {**MARK, "offset": True}}},
        {"data": {"_realtime": {**MARK, "epoch": None}}},
        {"data": {"epoch": "e", "offset": 1}},
        {"event": "agent_status", "data": "text"},
        {"data": "text", "mark": {"epoch": "e"}},
    ],
)
def test_an_event_that_names_no_place_has_none(change: dict[str, Any]) -> None:
    event = decode_one({**STEP, **change})

    assert (event.epoch, event.offset) == (None, None)


@pytest.mark.parametrize("job_id", [None, 5, ["one"], {}])
def test_a_job_id_that_is_no_text_is_none(job_id: Any) -> None:
    assert decode_one({**STEP, "data": {"_realtime": {**MARK, "job_id": job_id}}}).job_id is None


def test_the_clients_that_an_emit_leaves_out_are_left_out_here_too() -> None:
    assert decode_one({**STEP, "skip_sid": ["a", "b"]}).skip_sid == ["a", "b"]


@pytest.mark.parametrize(
    "change",
    [
        {"room": None},
        {"room": "lobby"},
        {"room": "batch:alpha"},
        {"room": 5},
        {"room": ["project:alpha"]},
        {"binary": True},
        {"data": []},
        {"data": [1, 2]},
    ],
)
def test_what_is_no_event_of_a_project_is_left_to_pythonsocketio_as_it_is(change: dict[str, Any]) -> None:
    message = {**STEP, **change}

    assert decode_message(json.dumps(message)) == [message]


def test_an_entry_of_a_frame_for_another_room_is_emitted_there() -> None:
    [message] = decode_message(json.dumps(frame(["step", "lobby", 1], host_id="me")))

    assert message == {
        "method": "emit",
        "event": "step",
        "room": "lobby",
        "data": [1],
        "namespace": "/",
        "host_id": "me",
    }


@pytest.mark.parametrize("method", ["enter_room", "leave_room", "close_room", "disconnect", "callback"])
def test_other_messages_of_pythonsocketio_pass_as_they_are(method: str) -> None:
    message = {"method": method, "sid": "s", "room": "project:alpha", "namespace": "/", "host_id": "h"}

    assert decode_message(json.dumps(message)) == [message]


def test_an_emit_for_a_namespace_that_is_no_text_says_nothing() -> None:
    assert decode_message(json.dumps({**STEP, "namespace": 5})) == []


@pytest.mark.parametrize("data", [{}, {"n": 1}, "text", None, 7])
def test_data_that_an_older_manager_did_not_put_into_a_list_are_heard_the_same(data: Any) -> None:
    assert decode_one({**STEP, "data": data}).data == data


# -- pings --------------------------------------------------------------------------------------------------------


def test_a_ping_says_nothing() -> None:
    assert decode_message(wire.PING) == []


# -- chunks of streams ----------------------------------------------------------------------------------------------


def chunk_of(job: str, project: str = "p") -> Outgoing:
    return Outgoing(project, "agent_stream", encode({"job_id": job, "project_id": project, "chunk": "x"}), job)


def test_chunks_come_in_frames_of_their_own_that_say_whose_they_are() -> None:
    status = Outgoing("p", "agent_status", b'{"job_id":"one"}', "one", rank=2)
    events = [status, chunk_of("one"), chunk_of("\udc80", "q"), chunk_of("one")]
    [(first, chunks), (second, others)] = wire.frames(events, "me", "/jobs")
    assert (first, second) == (events[1:], [status])
    head = wire.head_of_frame(chunks)
    assert head is not None
    assert (head.projects, head.namespace, head.streams) == (["p", "q"], "/jobs", [("p", "one"), ("q", "�")])
    other_head = wire.head_of_frame(others)
    assert other_head is not None
    assert other_head.streams is None
    assert [item.offset for item in wire.decode_message(chunks) if isinstance(item, Heard)] == [None] * 3


@pytest.mark.parametrize("make", [wire.frames, wire.stock_messages])
def test_a_chunk_is_addressed_to_a_room_that_nobody_is_in_who_has_not_asked_for_it(make: Any) -> None:
    [(_, body)] = make([chunk_of("one")], "me", "/")
    assert b'"streams:p"' in body
    assert b'"project:p"' not in body
    [heard] = wire.decode_message(body)
    assert isinstance(heard, Heard)
    assert (heard.project_id, heard.job_id, heard.event) == ("p", "one", "agent_stream")


def test_what_is_said_to_be_a_chunk_in_another_room_is_none_of_a_project() -> None:
    frame = {"method": "celery_realtime", "v": 1, "events": [["agent_stream", "project:p", {}], ["x", "streams:p", {}]]}
    assert not any(isinstance(item, Heard) for item in wire.decode_message(msgspec.json.encode(frame)))
