"""What a subscriber gets, as server-sent events: which positions it has, and when it has to come back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from celery_realtime.exceptions import SubscribeError
from celery_realtime.web.event_streams import EventStream, Held, Rest, block

ANSWER: dict[str, Any] = {
    "ok": True,
    "project_id": "p",
    "epoch": "e",
    "offset": 3,
    "recovered": False,
    "jobs": [],
    "jobs_total": 0,
    "workflows": [],
    "events": [],
}


def read(*blocks: bytes) -> list[tuple[str | None, str | None, Any]]:
    """Return name, position and data of blocks, as a browser reads them."""
    found = []
    for text in b"".join(blocks).decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in text.split("\n"))
        data = json.loads(fields["data"]) if "data" in fields else None
        found.append((fields.get("event"), fields.get("id"), data))
    return found


def step(number: int, offset: int, epoch: str = "e") -> dict[str, Any]:
    mark = {"project_id": "p", "epoch": epoch, "offset": offset}
    return {"event": "step", "data": {"number": number, "_realtime": mark}}


def taken(stream: EventStream, *items: dict[str, Any]) -> list[tuple[Any, Any]]:
    blocks = read(*stream.take("agent_batch", list(items)))
    return [(data["number"] if isinstance(data, dict) else data, place) for _, place, data in blocks]


@pytest.fixture
def stream() -> EventStream:
    stream = EventStream()
    [*stream.begin(ANSWER)]
    return stream


def test_a_name_cannot_end_a_line() -> None:
    assert read(block("a\nid: forged\r\ndata: 1", {})) == [("a id: forged  data: 1", None, {})]


def test_the_snapshot_has_its_position() -> None:
    [(event, place, data)] = read(*EventStream().begin({**ANSWER, "report_lag": 30}))
    assert (event, place) == ("agent_snapshot", "e:3")
    assert {*data} == {*ANSWER} - {"ok", "events"}


def test_without_a_history_nothing_has_a_position() -> None:
    stream = EventStream()
    [(_, place, _)] = read(*stream.begin({**ANSWER, "epoch": None, "offset": None}))
    assert place is None
    item = {"event": "step", "data": {"number": 1, "_realtime": {"project_id": "p"}}}
    assert taken(stream, item, item) == [(1, None), (1, None)]


def test_what_was_missed_comes_with_its_positions() -> None:
    missed = [step(1, 2), {"event": "plain", "data": "a text"}]
    blocks = read(*EventStream().begin({**ANSWER, "recovered": True, "events": missed}))
    assert [(event, place) for event, place, _ in blocks] == [
        ("agent_resumed", "e:1"),
        ("step", "e:2"),
        ("plain", "e:3"),
    ]


def test_of_one_job_the_last_position_is_said_though_it_is_another_jobs() -> None:
    answer = {**ANSWER, "job_id": "j", "recovered": True, "events": [step(1, 2)]}
    blocks = read(*EventStream("j").begin(answer))
    assert [(event, place) for event, place, _ in blocks] == [("agent_resumed", None), ("step", "e:2"), (None, "e:3")]


def test_each_event_comes_once(stream: EventStream) -> None:
    assert taken(stream, step(1, 4), step(1, 4), step(0, 2), step(2, 5)) == [(1, "e:4"), (2, "e:5")]
    beside = {"event": "plain", "data": "a text", "epoch": "e", "offset": 6}
    assert taken(stream, beside, beside) == [("a text", "e:6")]
    assert not stream.is_over


def test_who_would_miss_an_event_has_to_come_back(stream: EventStream) -> None:
    assert taken(stream, step(1, 4), step(3, 6), step(4, 7)) == [(1, "e:4")]
    assert stream.is_over


def test_who_is_of_an_earlier_epoch_has_to_come_back(stream: EventStream) -> None:
    assert taken(stream, step(1, 1, "f")) == []
    assert stream.is_over


def test_a_resync_ends_the_stream_silently(stream: EventStream) -> None:
    assert [*stream.take("agent_resync", {"project_id": "p", "epoch": "f", "offset": 9})] == []
    assert stream.is_over


def test_a_refusal_ends_the_stream_once(stream: EventStream) -> None:
    refusal = {"code": "forbidden", "message": "no"}
    assert read(*stream.take("error", refusal)) == [("agent_error", None, refusal)]
    assert stream.is_over
    assert [*stream.refuse(SubscribeError("no", "unavailable"))] == []
    assert taken(stream, step(1, 4)) == []


def test_other_jobs_leave_no_holes_in_one_job() -> None:
    stream = EventStream("j")
    [*stream.begin({**ANSWER, "job_id": "j"})]
    assert taken(stream, step(1, 5), step(2, 9)) == [(1, "e:5"), (2, "e:9")]
    assert taken(stream, step(0, 7)) == [(0, "e:9")]  # it was recovered late, and takes nothing back


def test_only_the_last_page_has_a_position() -> None:
    stream = EventStream()
    [(_, place, _)] = read(*stream.begin({**ANSWER, "next": "here"}))
    assert (place, stream.next) == (None, "here")
    assert taken(stream, step(1, 4)) == [(1, None)]
    page = {**ANSWER, "offset": 5}
    stream.held = Held({**page, "next": "there"}, [])
    assert stream.is_behind
    taken(stream, step(2, 5))
    assert not stream.is_behind
    [first] = read(*stream.release())
    stream.held = Held({**page, "next": None}, [])
    [second] = read(*stream.release())
    assert (first[1], first[2]["complete"], second[1], second[2]["complete"]) == (None, False, "e:5", True)


def test_further_jobs_come_between_the_events_that_they_have_seen_and_the_others() -> None:
    stream = EventStream()
    [*stream.begin({**ANSWER, "next": "here"})]
    stream.held = Held({**ANSWER, "offset": 5, "next": None}, [])
    blocks = read(*stream.take("agent_batch", [step(1, 4), step(2, 5), step(3, 6), step(4, 7)]))
    assert [(event, place) for event, place, _ in blocks] == [
        ("step", None),
        ("step", None),
        ("agent_jobs", "e:5"),
        ("step", "e:6"),
        ("step", "e:7"),
    ]
    assert not [*stream.release()]


def test_who_has_to_come_back_is_given_no_jobs_that_are_ahead() -> None:
    stream = EventStream()
    [*stream.begin({**ANSWER, "next": "here"})]
    stream.held = Held({**ANSWER, "offset": 5, "next": None}, [])
    assert taken(stream, step(1, 4), step(3, 6)) == [(1, None)]
    assert stream.is_over


def test_of_a_long_stream_the_rest_is_read_up_to_where_live_begins() -> None:
    stream = EventStream("j")
    long = {
        "stream": "s",
        "kind": "text",
        "attempt": 0,
        "generation": 7,
        "state": "open",
        "task": "t",
        "start": 0,
        "position": 4,
        "end": 8,
        "value": "abcd",
    }
    *_, (_, _, chunk) = read(*stream.begin({**ANSWER, "job_id": "j", "streams": [long]}))
    assert (chunk["position"], chunk["chunk"], stream.unread) == (0, "abcd", [Rest("s", 7, 4, 8)])
    identity = {"job_id": "j", "project_id": "p"}
    more = {**long, "start": 4, "position": 11, "end": 11, "value": "efghijk"}
    [(_, _, chunk)] = read(stream.add_stream(identity, more, stream.unread.pop().end))
    assert (chunk["position"], chunk["chunk"], stream.unread) == (4, "efgh", [])
