"""Streams on a real Redis: appended once, read from any position on, and never with a hole that is not told."""

from __future__ import annotations

import functools
import operator
import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import redis

from celery_realtime.events import Execution, Outgoing
from celery_realtime.history.lua import Runner
from celery_realtime.history.streams import StreamLimits, StreamReading, Streams
from tests.lua_scripts import KEYS
from tests.services import RedisServer
from tests.stream_readers import Writer, told


def new_streams(url: str, size: int = 1024 * 1024, most: int = 1000, most_of_job: int = 100) -> Streams:
    limits = StreamLimits(size, most, most_of_job)
    return Streams(KEYS, Runner(redis.Redis.from_url(url)), 60.0, limits=limits, where="redis://")


@pytest.fixture
def streams(redis_url: str) -> Streams:
    return new_streams(redis_url)


@pytest.fixture
def client(redis_url: str) -> Any:
    return redis.Redis.from_url(redis_url)


def read(streams: Streams, name: str = "answer", **how: Any) -> StreamReading:
    reading = streams.read("p", "job", name, **how)
    assert reading is not None
    return reading


def value_of(reading: StreamReading) -> Any:
    if isinstance(reading.value, str):
        return reading.value
    return [msgspec.json.decode(item) for item in reading.value]


def test_what_is_written_is_told_with_its_position_and_can_be_read_from_any_position(streams: Streams) -> None:
    writer = Writer()
    parts = [writer.part("Hello", "open"), writer.part(", "), writer.part("wörld €𝄞!"), writer.part("", "closed")]
    assert told(streams.append(parts[:1])) == [(0, "Hello", "open")]
    assert told(streams.append(parts[1:])) == [(5, ", ", "open"), (7, "wörld €𝄞!", "open"), (16, "", "closed")]
    whole = "Hello, wörld €𝄞!"
    for start in range(len(whole) + 1):
        reading = read(streams, start=start)
        assert (reading.start, value_of(reading), reading.position) == (start, whole[start:], 16)
    assert (reading.state, reading.attempt, reading.kind) == ("closed", 0, "text")
    assert read(streams, start=99).start == 16


def test_items_are_read_as_they_were_written(streams: Streams) -> None:
    items: list[Any] = [{"row": 1, "text": "a\nb"}, [None, "€"], "x", 5]
    writer = Writer(kind="json", stream="rows")
    assert told(streams.append([writer.part(items[:3])])) == [(0, items[:3], "open")]
    assert told(streams.append([writer.part(items[3:])])) == [(3, items[3:], "open")]
    for start in range(len(items) + 1):
        assert value_of(read(streams, "rows", start=start)) == items[start:]
    assert streams.names("p", "job") == ["rows"]


def test_of_a_long_stream_as_much_is_read_as_is_wanted_and_the_rest_from_there_on(streams: Streams) -> None:
    text, rows = "äöü€𝄞plain" * 500, [{"number": number} for number in range(500)]
    streams.append([Writer().part(text), Writer(stream="plain").part("x" * 5000)])
    streams.append([Writer(stream="rows", kind="json").part(rows)])
    for name, expected in (("answer", text), ("plain", "x" * 5000), ("rows", rows)):
        pieces, position = [], 0
        while True:
            reading = read(streams, name, start=position, most=700)
            assert reading.start == position
            pieces.append(value_of(reading))
            position = reading.position
            if position == reading.end:
                break
        assert len(pieces) > 5
        assert functools.reduce(operator.add, pieces) == expected


def test_an_item_that_is_longer_than_what_is_wanted_is_read_all_the_same(streams: Streams) -> None:
    writer = Writer(kind="json")
    streams.append([writer.part(["a" * 1000, "b"])])
    assert value_of(read(streams, most=100)) == ["a" * 1000, "b"]


# -- each once ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [[], ["a"]])
def test_an_item_that_is_longer_than_all_that_a_reader_keeps_is_read_all_the_same(
    redis_url: str, streams: Streams, first: list[str]
) -> None:
    long = "x" * 100_000
    streams.append([Writer(kind="json").part([*first, long, "z"])])
    reader = new_streams(redis_url, size=1000)
    assert value_of(read(reader, start=len(first)))[:1] == [long]
    [reading] = reader.read_all("p", "job", 10)
    assert value_of(reading)[:1] == [*first, long][:1]


@pytest.mark.parametrize("kind", ["text", "json"])
def test_a_stream_is_read_from_its_end_backwards(redis_url: str, kind: str) -> None:
    streams, writer = new_streams(redis_url, size=60), Writer(kind=kind)
    for number in range(40):
        streams.append([writer.part(["ö", number] if kind == "json" else f"ö{number % 10}")])
    whole = read(streams)
    content, end = value_of(whole), whole.end
    assert whole.start > 0
    for count in (1, 2, 7, end - whole.start):
        reading = read(streams, start=-count)
        assert (reading.start, reading.position, value_of(reading)) == (end - count, end, content[-count:])
    for count in (end - whole.start + 1, end, 10 * end):
        assert (read(streams, start=-count).start, value_of(read(streams, start=-count))) == (whole.start, content)
    [all_of_it] = streams.read_all("p", "job", 10_000, tail=2)
    assert value_of(all_of_it) == content[-2:]


def test_parts_that_come_again_are_stored_once_and_told_the_same(streams: Streams, redis_url: str) -> None:
    writer = Writer()
    parts = [writer.part("one "), writer.part("two "), writer.part("three")]
    first = told(streams.append(parts))
    again = new_streams(redis_url)  # of a process that has not had the answer
    assert told(again.append(parts)) == first
    assert told(again.append(parts[:1])) == first[:1]
    assert told(again.append(parts[1:])) == first[1:]
    assert told(again.append([*parts[2:], writer.part("!", "closed")])) == [first[2], (13, "!", "closed")]
    assert value_of(read(streams)) == "one two three!"


@pytest.mark.parametrize("seed", range(20))
def test_however_answers_are_lost_each_part_is_there_once(redis_url: str, seed: int) -> None:
    chance, writer, streams = random.Random(seed), Writer(), new_streams(redis_url)
    waiting: list[Outgoing] = []
    expected, heard = "", dict[int, str]()
    for number in range(60):
        text = f"{number}é " * chance.randint(0, 3)
        expected += text
        waiting.append(writer.part(text))
        batch = waiting[: chance.randint(1, len(waiting))]
        events = streams.append(batch)
        if chance.random() < 0.5:  # the answer has come
            heard.update((position, chunk) for position, chunk, _ in told(events) if chunk)
            waiting = waiting[len(batch) :]
        elif chance.random() < 0.3:  # the process goes on as another one that has its parts, from a spool
            streams = new_streams(redis_url)
    heard.update((position, chunk) for position, chunk, _ in told(streams.append(waiting)) if chunk)
    assert value_of(read(streams)) == expected
    assert "".join(chunk for _, chunk in sorted(heard.items())) == expected


def test_several_processes_write_one_stream_each_in_its_order_and_whole(streams: Streams) -> None:
    parent, child = Writer("parent"), Writer("child")
    events = streams.append([parent.part("a1 "), child.part("b1 "), parent.part("a2 "), child.part("b2 ")])
    assert told(events) == [(0, "a1 ", "open"), (3, "b1 ", "open"), (6, "a2 ", "open"), (9, "b2 ", "open")]
    late = parent.part("a3")
    assert told(streams.append([late])) == [(12, "a3", "open")]
    streams.append([child.part("b3")])
    assert told(streams.append([late])) == [(12, "a3", "open")]
    assert value_of(read(streams)) == "a1 b1 a2 b2 a3b3"


# -- starts of a job ------------------------------------------------------------------------------------------------


def test_a_retry_starts_the_stream_anew_and_what_comes_late_of_the_attempt_before_is_dropped(streams: Streams) -> None:
    first = Writer("one", execution=Execution("e1", 1000.0), generation=1000)
    second = Writer("two", execution=Execution("e2", 990.0), attempt=1, generation=990)  # by a clock that is behind
    streams.append([first.part("draft")])
    [event] = streams.append([second.part("final")]) or []
    data = msgspec.json.decode(event.payload)
    assert (data["attempt"], data["position"], data["generation"]) == (1, 0, 1001)
    assert streams.append([first.part(" of the first")]) == []
    reading = read(streams)
    assert (reading.attempt, reading.generation, value_of(reading)) == (1, 1001, "final")
    assert value_of(read(streams, start=3, generation=1001)) == "al"
    assert value_of(read(streams, start=3, generation=1000)) == "final"


def test_so_does_a_redelivery_and_another_publication(streams: Streams) -> None:
    for writer in (
        Writer("one", execution=Execution("e1", 1000.0), run="0000000000001-a"),
        Writer("two", execution=Execution("e2", 1001.0), run="0000000000001-a"),
        Writer("three", execution=Execution("e3", 900.0), run="0000000000002-a"),
    ):
        streams.append([writer.part(f"by {writer.name}")])
        assert value_of(read(streams)) == f"by {writer.name}"
    assert streams.append([Writer("late", execution=Execution("e2", 1001.0), run="0000000000001-a").part("x")]) == []


def test_whoever_knows_the_job_by_its_id_alone_adds_to_what_there_is(streams: Streams) -> None:
    streams.append([Writer("unknown", execution=None).part("first ")])
    streams.append([Writer("own").part("second ")])
    streams.append([Writer("unknown2", execution=None).part("third")])
    assert value_of(read(streams)) == "first second third"


# -- holes are told -------------------------------------------------------------------------------------------------


def test_what_was_let_go_before_it_was_sent_leaves_a_gap_in_the_positions(streams: Streams) -> None:
    writer = Writer()
    streams.append([writer.part("begin")])
    writer.lose(100)
    assert told(streams.append([writer.part("end")])) == [(105, "end", "open")]
    reading = read(streams)
    assert (reading.start, value_of(reading), reading.position) == (105, "end", 108)


def test_a_server_that_has_lost_what_it_had_goes_on_behind_it(streams: Streams, client: Any) -> None:
    writer, other = Writer(), Writer("other")
    streams.append([writer.part("lost "), other.part("too ")])
    client.flushdb()
    assert told(streams.append([writer.part("kept")])) == [(9, "kept", "open")]
    assert told(streams.append([other.part(" and more")])) == [(13, " and more", "open")]
    reading = read(streams)
    assert (reading.start, value_of(reading)) == (9, "kept and more")


def test_so_does_one_that_has_evicted_a_value(streams: Streams, client: Any) -> None:
    writer = Writer()
    streams.append([writer.part("evicted")])
    client.delete(KEYS.stream("p", "job", "answer")[2])
    reading = read(streams)
    assert (reading.start, value_of(reading), reading.position) == (7, "", 7)
    assert told(streams.append([writer.part("kept")])) == [(7, "kept", "open")]
    assert value_of(read(streams)) == "kept"


@pytest.mark.parametrize("text", ["plain ", "äé€𝄞"])
def test_of_a_long_text_the_oldest_is_let_go_in_whole_characters(redis_url: str, text: str) -> None:
    streams, writer, whole = new_streams(redis_url, size=1000), Writer(), ""
    for _ in range(100):
        whole += text * 10
        streams.append([writer.part(text * 10)])
        reading = read(streams)
        assert value_of(reading) == whole[reading.start :]
        assert len(value_of(reading).encode()) <= 1000 + 1000 / 16
    assert reading.start > 0
    for start in (reading.start + 1, reading.position - 1):
        assert value_of(read(streams, start=start)) == whole[start:]
    assert read(streams, start=1).start == reading.start


def test_of_many_items_the_oldest_are_let_go(redis_url: str) -> None:
    streams, writer = new_streams(redis_url, size=1000), Writer(kind="json")
    for number in range(200):
        streams.append([writer.part([{"number": number}])])
    reading = read(streams)
    assert [item["number"] for item in value_of(reading)] == list(range(reading.start, 200))
    assert 0 < reading.start < 200


def test_of_a_project_with_many_streams_those_that_were_quiet_longest_are_let_go(redis_url: str) -> None:
    streams = new_streams(redis_url, most=3)
    writers = [Writer(stream=f"s{number}") for number in range(5)]
    streams.append([writers[0].part("0")])
    for writer in writers[1:]:
        streams.append([writer.part("1")])
        streams.append([writers[0].part("1")])
    assert streams.names("p", "job") == ["s0", "s3", "s4"]
    assert streams.read("p", "job", "s1") is None
    streams.append([writers[1].part("again")])
    reading = read(streams, "s1")
    assert (reading.start, value_of(reading)) == (1, "again")


# -- all of a job ---------------------------------------------------------------------------------------------------


def test_all_streams_of_a_job_are_read_as_far_as_there_is_room(streams: Streams) -> None:
    streams.append([Writer(stream=name).part(name * 100) for name in "abc"])
    readings = streams.read_all("p", "job", 250)
    assert [(one.stream, len(one.value), one.position, one.end) for one in readings] == [
        ("a", 100, 100, 100),
        ("b", 100, 100, 100),
        ("c", 50, 50, 100),
    ]
    assert streams.read_all("p", "another", 250) == []
    assert streams.read_all("q", "job", 250) == []


def test_streams_expire(streams: Streams, client: Any) -> None:
    streams.append([Writer().part("x")])
    assert all(0 < client.ttl(key) <= 60 for key in KEYS.stream("p", "job", "answer"))


def test_names_of_any_kind_are_kept_apart(streams: Streams) -> None:
    for job in ("a:b", "a", "ü\n", "{x}"):
        for name in ("b:c", "{y}", "ä b"):
            streams.append([Writer(stream=name, job_id=job).part(f"{job} {name}")])
    for job in ("a:b", "a", "ü\n", "{x}"):
        assert streams.names("p", job) == sorted(["b:c", "{y}", "ä b"])
        for name in ("b:c", "{y}", "ä b"):
            reading = streams.read("p", job, name)
            assert reading is not None
            assert reading.value == f"{job} {name}"


# -- outages --------------------------------------------------------------------------------------------------------


def test_while_redis_is_away_nothing_is_told_and_nothing_raises(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()
    streams, writer = new_streams(server.fresh_url()), Writer()
    streams.append([writer.part("before ")])
    server.kill()
    assert streams.append([writer.part("meanwhile ")]) is None


def test_a_redis_that_is_full_lets_streams_be_followed_live(start_redis: Callable[..., RedisServer]) -> None:
    url = start_redis().fresh_url()
    streams, writer, client = new_streams(url), Writer(), redis.Redis.from_url(url)
    streams.append([writer.part("stored ")])
    client.config_set("maxmemory", "1")
    assert told(streams.append([writer.part("live ")])) == [(7, "live ", "open")]
    assert told(streams.append([writer.part("too ")])) == [(12, "too ", "open")]
    client.config_set("maxmemory", "0")
    assert told(streams.append([writer.part("stored")])) == [(16, "stored", "open")]
    reading = read(streams)
    assert value_of(reading) == "stored live too stored"[reading.start :]
    assert reading.start > 0


def test_of_a_job_so_many_streams_are_kept_and_further_ones_are_live_only(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    streams = new_streams(redis_url, most_of_job=3)
    writers = [Writer(name=f"process {number}", stream=f"s{number}") for number in range(5)]
    published = [told(streams.append([writer.part("ab"), writer.part("c")])) for writer in writers]
    assert published == [[(0, "ab", "open"), (2, "c", "open")]] * 5  # by what the writer knows
    assert streams.names("p", "job") == ["s0", "s1", "s2"]
    assert "realtime_streams_per_job allows, 3" in caplog.text
    assert told(streams.append([writers[0].part("d")])) == [(3, "d", "open")]  # one of those that are kept
    assert told(streams.append([writers[4].part("d", "closed")])) == [(3, "d", "closed")]
    another = Writer(stream="s9", job_id="another")
    assert told(streams.append([another.part("x")])) == [(0, "x", "open")]
    assert streams.names("p", "another") == ["s9"]


def test_streams_of_earlier_attempts_make_room(redis_url: str, client: Any, caplog: pytest.LogCaptureFixture) -> None:
    streams = new_streams(redis_url, most_of_job=3)
    for number in range(3):
        streams.append([Writer(stream=f"first {number}").part("x", "failed" if number else "")])
    retry = {"attempt": 1, "execution": Execution("f", 2000.0)}
    for number in range(3):
        writer = Writer(stream=f"second {number}", generation=9, **retry)
        assert told(streams.append([writer.part("y")])) == [(0, "y", "open")]
    assert streams.names("p", "job") == [f"second {number}" for number in range(3)]
    assert len(client.keys("*stream:job:*")) == client.zcard(KEYS.stream("p", "job", "")[-1]) == 3
    assert "are let go, 1 of them" in caplog.text
    streams.append([Writer(stream="second 3", generation=9, **retry).part("y")])
    assert "realtime_streams_per_job allows, 3" in caplog.text


def test_a_stream_that_a_project_lets_go_while_it_is_open_is_told_of(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    streams = new_streams(redis_url, most=2)
    ended = [Writer(job_id=f"j{number}") for number in range(3)]
    for writer in ended:
        streams.append([writer.part("x", "closed")])
    assert "are let go" not in caplog.text
    for number in range(3):
        streams.append([Writer(job_id=f"k{number}").part("x", "open")])
    assert "are let go, 1 of them" in caplog.text
    assert "realtime_streams_per_project (2)" in caplog.text
