"""The order of one stream's chunks: each character once, whatever comes when, and holes are filled or seen."""

from __future__ import annotations

import random
from typing import Any

import pytest

from celery_realtime.channel.wire import Heard
from celery_realtime.web.stream_order import Chunk, StreamOrder, chunk_of
from tests.stream_readers import Reader


def data(position: int, content: Any, state: str = "open", generation: int = 1, attempt: int = 0) -> dict[str, Any]:
    kind = "text" if isinstance(content, str) else "json"
    return {
        "event": "stream_chunk",
        "job_id": "job",
        "project_id": "p",
        "stream": "answer",
        "kind": kind,
        "attempt": attempt,
        "generation": generation,
        "position": position,
        "chunk": content,
        "state": state,
    }


def chunk(position: int, content: Any, state: str = "open", generation: int = 1) -> Chunk:
    made = chunk_of(Heard("p", "job", "agent_stream", data(position, content, state, generation)))
    assert made is not None
    return made


def shown(events: list[Heard]) -> list[tuple[int, Any, str]]:
    return [(event.data["position"], event.data["chunk"], event.data["state"]) for event in events]


def test_what_follows_is_emitted_and_what_was_before_is_not() -> None:
    order = StreamOrder(1, 3)
    assert shown(order.take(chunk(3, "def"))) == [(3, "def", "open")]
    assert order.take(chunk(0, "abc")) == order.take(chunk(3, "def")) == []
    assert shown(order.take(chunk(4, "efgh"))) == [(6, "gh", "open")]
    assert shown(order.take(chunk(8, "", "closed"))) == [(8, "", "closed")]
    assert order.take(chunk(8, "", "closed")) == []


def test_what_is_ahead_waits_for_what_is_missing() -> None:
    order = StreamOrder(1, 0)
    assert order.take(chunk(6, "gh", "closed")) == []
    assert order.take(chunk(3, "def")) == []
    assert order.is_behind
    assert shown(order.take(chunk(0, "abc"))) == [(0, "abc", "open"), (3, "def", "open"), (6, "gh", "closed")]


def test_the_history_fills_a_hole() -> None:
    order = StreamOrder(1, 2)
    order.take(chunk(6, "gh"))
    assert shown(order.answer(chunk(2, "cdefg"), 7)) == [(2, "cdefg", "open"), (7, "h", "open")]
    assert not order.is_behind


def test_as_long_as_there_is_more_in_the_history_it_is_read_on() -> None:
    order = StreamOrder(1, 0)
    order.take(chunk(6, "gh"))
    assert shown(order.answer(chunk(0, "ab"), 8)) == [(0, "ab", "open")]
    assert order.is_behind
    assert shown(order.answer(chunk(2, "cdefgh"), 8)) == [(2, "cdefgh", "open")]
    assert not order.is_behind


def test_a_new_start_begins_at_0_and_an_old_one_is_over() -> None:
    order = StreamOrder(5, 100, "failed")
    assert shown(order.take(chunk(0, "new", generation=6))) == [(0, "new", "open")]
    assert order.take(chunk(100, "old", generation=5)) == []
    assert order.take(chunk(4, "late", generation=7)) == []  # what is before it was missed
    assert shown(order.answer(chunk(0, "too late", generation=7), 8)) == [(0, "too late", "open")]


def test_what_was_let_go_is_seen_by_the_position() -> None:
    order = StreamOrder(1, 0)
    order.take(chunk(50, "x"))
    assert shown(order.answer(chunk(40, "0123456789x", "closed"), 51)) == [(40, "0123456789x", "closed")]


def test_without_an_answer_it_goes_on_with_what_there_is() -> None:
    order = StreamOrder(1, 0)
    order.take(chunk(9, "j"))
    order.take(chunk(5, "fg"))
    assert shown(order.give_up()) == [(5, "fg", "open"), (9, "j", "open")]
    order.take(chunk(20, "later"))
    assert shown(order.answer(None, 0)) == [(20, "later", "open")]


def test_what_waits_is_bounded() -> None:
    order = StreamOrder(1, 0)
    for number in range(2000):
        order.take(chunk(10 + number, "x"))
    assert shown(order.give_up())[0][0] >= 1000


@pytest.mark.parametrize(
    "wrong",
    [
        {"stream": 5},
        {"kind": "bytes"},
        {"chunk": 5},
        {"chunk": ["of", "a", "text"]},
        {"kind": "json", "chunk": "text"},
        {"position": -1},
        {"position": True},
        {"position": "0"},
        {"generation": None},
        {"state": "gone"},
    ],
)
def test_what_is_no_chunk_is_none(wrong: dict[str, Any]) -> None:
    assert chunk_of(Heard("p", "job", "agent_stream", {**data(0, "x"), **wrong})) is None
    assert chunk_of(Heard("p", "job", "line", data(0, "x"))) is None
    assert chunk_of(Heard("p", None, "agent_stream", data(0, "x"))) is None
    assert chunk_of(Heard("p", "job", "agent_stream", "x")) is None


@pytest.mark.parametrize("seed", range(50))
def test_whatever_is_lost_late_or_twice_a_reader_has_it_all(seed: int) -> None:
    chance = random.Random(seed)
    whole = [str(number) for number in range(200)]
    cuts = sorted(chance.sample(range(1, 200), 40))
    pieces = [(start, whole[start:end]) for start, end in zip([0, *cuts], [*cuts, 200], strict=True)]
    order, reader = (
        StreamOrder(1, 0),
        Reader({"generation": 1, "position": 0, "start": 0, "value": [], "state": "open", "attempt": 0}),
    )
    late: list[tuple[int, list[str]]] = []

    def emit(events: list[Heard]) -> None:
        for event in events:
            reader.take(event.data)

    for start, piece in pieces:
        fate = chance.random()
        if fate < 0.2:
            late.append((start, piece))
        elif fate > 0.3:
            emit(order.take(chunk(start, piece)))
        if late and chance.random() < 0.3:
            emit(order.take(chunk(*late.pop(chance.randrange(len(late))))))
        if order.is_behind and chance.random() < 0.3:
            end = start + len(piece)
            some = min(end, order.position + chance.randint(1, 30))
            emit(order.answer(chunk(order.position, whole[order.position : some]), end))
    emit(order.answer(chunk(order.position, whole[order.position :], "closed"), 200))
    assert (reader.value, reader.state) == (whole, "closed")
