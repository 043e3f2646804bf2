"""read.lua by itself: keys and arguments in, reply out."""

from __future__ import annotations

from typing import Any

import pytest

from celery_realtime.history.entries import METADATA, unpack
from tests.lua_scripts import KEYS, Caller

META, EVENTS, JOBS, ENDED, FLOWS, LIVE, FLOWS_ENDED, GONE, FLOWS_DUE = PROJECT = KEYS.project("p")
BEGUN = KEYS.begun


class Read:
    """Reads the project ``p``, in which five events are stored."""

    def __init__(self, url: str) -> None:
        self._call = Caller("read", url)
        self.redis = self._call.redis
        self.now_ms = int(self._call.time() * 1000)
        for offset in range(1, 6):
            self.redis.xadd(EVENTS, {"e": "line", "p": f"payload {offset}"}, id=f"{offset}-0")
        self.redis.hset(META, mapping={"epoch": "e", "offset": 5, "keys": 6})
        self.redis.hset(JOBS, mapping={job: job.upper() for job in ("live1", "live2", "ended", "old")})
        self.redis.zadd(LIVE, {"live1": 1, "live2": 4})
        self.redis.zadd(ENDED, {"ended": self._call.time(), "old": 1})
        self.redis.hset(FLOWS, mapping={"root": "counts", "old root": "counts"})
        self.redis.zadd(FLOWS_ENDED, {"old root": 1})

    def __call__(self, since: tuple[str, int] = ("", -1), page: str = "", **limits: int) -> list[Any]:
        most = {"max_missed": 100, "max_ended": 100, "max_jobs": 100, "max_bytes": 1000} | limits
        arguments = [most["max_missed"], 60, 60, most["max_ended"], most["max_jobs"], most["max_bytes"], page]
        reply: list[Any] = self._call([*PROJECT, BEGUN], "new", *since, *arguments)
        for place in (4, 7):
            reply[place] = [text.encode() for text in unpack(reply[place])]
        return reply


@pytest.fixture
def read(redis_url: str) -> Read:
    return Read(redis_url)


def test_the_live_jobs_come_first_and_of_each_kind_the_latest(read: Read) -> None:
    assert read() == [
        b"e",
        5,
        0,
        [],
        [b"LIVE2", b"LIVE1", b"ENDED"],
        3,
        [b"root", b"counts"],
        [b"live2", b"live1", b"ended"],
        b"",
        [],
    ]
    assert read(max_jobs=1)[4:6] == [[b"LIVE2"], 3]
    assert read(max_jobs=0)[4:] == [[], 0, [], [], b"", []]
    assert read(max_bytes=9)[4] == [b"LIVE2"]
    assert read(max_ended=0)[4:6] == [[b"LIVE2", b"LIVE1"], 2]


@pytest.mark.parametrize(
    ("since", "limits", "offsets"),
    [
        (("e", 3), {}, [4, 5]),
        (("e", 5), {}, []),
        (("e", 0), {}, [1, 2, 3, 4, 5]),
        (("e", 6), {}, None),
        (("e", 10**9), {}, None),
        (("other", 3), {}, None),
        (("e", -1), {}, None),
        (("e", 2), {"max_missed": 2}, None),
        (("e", 3), {"max_bytes": 17}, None),
    ],
)
def test_what_was_missed_comes_whole_or_not_at_all(
    read: Read, since: tuple[str, int], limits: dict[str, int], offsets: list[int] | None
) -> None:
    _, _, is_complete, missed, *_ = read(since, **limits)
    assert is_complete == (offsets is not None)
    assert missed == [part for n in offsets or [] for part in (n, b"line", f"payload {n}".encode())]


def test_what_was_missed_says_what_is_the_first_of_a_newer_run_and_what_is_of_somebody_else(read: Read) -> None:
    read.redis.delete(EVENTS)
    read.redis.xadd(EVENTS, {"e": "a", "p": "1", "t": "2.5"}, id="3-0")
    read.redis.xadd(EVENTS, {"e": "a", "p": "2", "t": "2.5", "n": 1}, id="4-0")
    read.redis.xadd(EVENTS, {"p": "3"}, id="5-0")
    assert read(("e", 2))[2:4] == [1, [3, b"a", b"1", -4, b"a", b"2", 5, b"", b""]]


def test_a_hole_in_what_was_missed_is_noticed(read: Read) -> None:
    read.redis.xdel(EVENTS, "4-0")
    assert read(("e", 3))[2:4] == [0, []]
    assert read(("e", 4))[2] == 1


def test_a_project_that_has_not_begun_is_empty_and_nothing_is_written(read: Read) -> None:
    read.redis.flushall()
    assert read(("e", 3)) == [b"new", 0, 0, [], [], 0, [], [], b"", []]
    assert read.redis.dbsize() == 0
    read.redis.hset(BEGUN, "id", "a")
    epoch = read()[0]
    assert len(epoch) == 8
    assert read((epoch.decode(), 0)) == [epoch, 0, 1, [], [], 0, [], [], b"", []]
    assert read.redis.dbsize() == 1


@pytest.mark.parametrize(("name", "value"), [("id", "b"), (META, 1)])
def test_what_has_begun_before_decides_on_the_epoch_of_what_has_not_begun(read: Read, name: str, value: Any) -> None:
    read.redis.flushall()
    read.redis.hset(BEGUN, "id", "a")
    before = read()[0]
    read.redis.hset(BEGUN, name, value)
    assert read()[0] not in (before, b"new")


@pytest.mark.parametrize("key", [META, EVENTS, JOBS, LIVE, ENDED, FLOWS, FLOWS_ENDED])
def test_a_project_of_which_a_part_was_lost_goes_on_in_a_new_epoch(read: Read, key: str) -> None:
    start = "- running 0 - - - 0"
    entries = {job: f"0 1 0 {n} 0 {start} 0\n{job.upper()}\n" for n, job in enumerate(("live1", "live2"), 3)}
    entries |= {job: f"0 2 0 {n} 0 {start} {read.now_ms}\n{job.upper()}\n" for n, job in enumerate(("ended", "old"))}
    read.redis.hset(JOBS, mapping=entries)
    read.redis.hset(FLOWS, mapping={"root": "3 0 1 2 0 200 66 0", "old root": "2 0 0 2 0 200 100 0"})
    read.redis.delete(key)
    epoch, offset, is_complete, missed, jobs, total, flows, ids, *_ = read(("e", 3))
    assert (epoch, offset, is_complete, missed) == (b"new", 5, 0, [])
    if key != JOBS:
        assert [job.split(b"\n")[1] for job in jobs[:2]] == [b"LIVE2", b"LIVE1"]
        assert total == 4
        assert len(flows) == (0 if key == FLOWS else 4)
    assert read(("new", 5)) == [b"new", 5, 1, [], jobs, total, flows, ids, b"", []]


def test_nothing_else_is_written(read: Read) -> None:
    before = {key: read.redis.dump(key) for key in PROJECT}
    read(("e", 3))
    read(("e", 99))
    assert {key: read.redis.dump(key) for key in PROJECT} == before


def test_jobs_come_with_their_metadata_and_that_counts_for_the_size_of_a_page(read: Read) -> None:
    read.redis.hset(META, "metadata", 1)
    read.redis.hset(JOBS, METADATA + "live1", '"a":1')
    packed = read()[9]
    assert unpack(packed) == ["", '"a":1', *[""] * (len(unpack(packed)) - 2)]
    read.redis.hset(JOBS, METADATA + "live2", "x" * 1000)
    whole = read(max_bytes=10_000)
    assert len(whole[4]) > 1
    assert read(max_bytes=900)[4] == []  # not even the first, and the next page begins with it
    assert read(max_bytes=900)[8] != b""
