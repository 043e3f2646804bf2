"""append.lua by itself: keys and arguments in, reply and stored entries out."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest
import redis

from celery_realtime.history.keys import PROJECT as PROJECT_KEYS
from tests.lua_scripts import KEYS, Caller
from tests.waiting import wait_for

PROJECT = KEYS.project("p")

RUN = "1795762121624-3a930231"
LATER_RUN = "1795762121625-0a930231"
NAMES = dict(zip(PROJECT_KEYS, PROJECT, strict=True))


class Append:
    """Appends events to the project ``p``."""

    def __init__(self, url: str) -> None:
        self._call = Caller("append", url)
        self.redis = self._call.redis
        self.limits: dict[str, Any] = {"max_events": 1000, "ttl": 60, "ended_ttl": 60, "max_live": 100}
        self.writes = 0
        #: The offsets of the events that were answered to be the first of a newer run.
        self.new_runs: list[int] = []

    def __call__(
        self,
        *events: list[Any],
        witnessed: tuple[str, int] = ("", 0),
        server: bool = False,
        writer: str = "me",
        write: int | None = None,
    ) -> tuple[str, list[int], list[Any]]:
        limits = self.limits
        self.writes += 1
        epoch, offsets, updates, self.has_made_due, self.is_watched = self._call(
            KEYS.project_and_begun("p", "watched", *(["server"] if server else [])),
            *("new", limits["max_events"], limits["ttl"], limits["ended_ttl"], '"now"', '"p"', *witnessed),
            *(limits["max_live"], writer, write or self.writes, " ".join(str(100 + n) for n in range(len(events)))),
            msgspec.msgpack.encode([event[:-1] for event in events]),
            *(event[-1] for event in events),
        )
        answers = [int(word) for word in offsets.split()]
        self.new_runs += [-answer for answer in answers if answer < 0]
        return epoch.decode(), [abs(answer) for answer in answers], updates

    def shown(self) -> set[str]:
        """Return the jobs that a snapshot has."""
        return {job.decode() for name in ("live", "ended") for job in self.redis.zrange(NAMES[name], 0, -1)}  # type: ignore[union-attr]

    def state(self) -> dict[str, Any]:
        """Return what is known of jobs and workflows."""
        flows: Any = self.redis.hgetall(NAMES["flows"])
        gone: Any = self.redis.zrange(NAMES["gone"], 0, -1)
        counts = {root: [float(word) for word in flow.split()[:-1]] for root, flow in flows.items()}
        return {"shown": self.shown(), "gone": set(gone), "flows": counts}

    def time(self) -> float:
        """Return the server's clock in seconds."""
        return self._call.time()

    def receipts(self) -> dict[str, list[str]]:
        """Return the receipts of writers, line by line."""
        fields: Any = self.redis.hgetall(NAMES["meta"])
        return {
            name.decode().removeprefix("receipt:"): value.decode().split("\n")
            for name, value in fields.items()
            if name.startswith(b"receipt:")
        }

    def wait(self, seconds: float) -> None:
        """Wait by the server's clock."""
        until = self._call.time() + seconds
        wait_for(lambda: self._call.time() >= until)

    def entry(self, job: str = "job") -> list[str]:
        """Return the words and lines of a job's entry."""
        head, *lines = self.redis.hget(NAMES["jobs"], job).decode().split("\n")  # type: ignore[union-attr]
        return [*head.split(), *lines]


def event(rank: str, payload: str, **more: Any) -> list[Any]:
    """Return the description of an event, and its payload."""
    kind = {"0": "queued", "B": "queued", "1": "running", "2": "done", **dict.fromkeys("LSENUD", "failed")}.get(
        rank, ""
    )
    fields = {"job": "job", "attempt": 0, "percent": 0, "incarnation": "-", "kind": kind, "root": "-"}
    fields |= {"run": "-", "execution": "-", "age": 0, "redelivered": False, "clock": -1}
    assert more.keys() <= fields.keys()
    fields |= more
    name = {"p": "agent_progress", "s": "agent_progress", "c": "line"}.get(rank, "agent_status")
    return [name, fields["job"], fields["attempt"], rank, *list(fields.values())[2:], payload]


@pytest.fixture
def append(redis_url: str) -> Append:
    return Append(redis_url)


def test_events_are_counted_and_stored_in_order_with_their_time(append: Append) -> None:
    assert append(event("0", "q"), event("1", "r"), event("c", "c")) == ("new", [1, 2, 3], [])
    entries: Any = append.redis.xrange(NAMES["events"])
    assert [name for name, _ in entries] == [b"1-0", b"2-0", b"3-0"]
    assert [(fields[b"e"], fields[b"p"]) for _, fields in entries] == [
        (b"agent_status", b"q"),
        (b"agent_status", b"r"),
        (b"line", b"c"),
    ]
    assert all(abs(float(fields[b"t"]) - append.time()) < 60 for _, fields in entries)
    assert append.redis.hmget(NAMES["meta"], "epoch", "offset", "keys") == [b"new", b"3", b"3"]


def test_a_job_has_one_entry_of_its_latest_status_and_progress(append: Append) -> None:
    of_start = {"attempt": 2, "run": RUN, "execution": "x"}
    append(event("1", "r", incarnation="i1", root="root", **of_start), event("p", "p", percent=40.5, **of_start))
    entry = append.entry()
    assert entry[:11] == ["2", "1", "40.5", "1", "2", "i1", "running", "40.5", "root", RUN, "x"]
    assert entry[12:] == ["0", "r", "p"]


@pytest.mark.parametrize(
    ("first", "then", "is_news"),
    [
        (("0", 0, "-"), ("1", 0, "a"), True),
        (("1", 0, "a"), ("0", 0, "-"), False),
        (("1", 0, "a"), ("1", 0, "a"), False),
        (("1", 0, "a"), ("1", 0, "b"), True),
        (("1", 0, "a"), ("L", 0, "a"), True),
        (("1", 0, "a"), ("L", 0, "b"), False),
        (("1", 0, "-"), ("L", 0, "b"), True),
        (("1", 0, "a"), ("E", 0, "-"), False),
        (("0", 0, "-"), ("E", 0, "-"), True),
        (("0", 0, "-"), ("L", 0, "a"), False),
        (("L", 0, "a"), ("0", 0, "-"), False),
        (("L", 0, "a"), ("1", 0, "b"), True),
        (("0", 0, "-"), ("S", 0, "a"), True),
        (("1", 0, "a"), ("S", 0, "a"), True),
        (("1", 0, "a"), ("S", 0, "b"), False),
        (("0", 1, "-"), ("S", 0, "a"), False),
        (("E", 0, "-"), ("0", 0, "-"), False),
        (("E", 0, "-"), ("1", 0, "a"), True),
        (("E", 0, "-"), ("2", 0, "a"), True),
        (("E", 0, "-"), ("L", 0, "a"), False),
        (("E", 0, "-"), ("E", 0, "-"), False),
        (("U", 0, "-"), ("U", 0, "-"), False),
        (("U", 0, "-"), ("1", 0, "a"), True),
        (("U", 0, "-"), ("2", 0, "a"), True),
        (("0", 0, "-"), ("U", 0, "-"), False),
        (("1", 0, "a"), ("U", 0, "-"), False),
        (("2", 0, "a"), ("U", 0, "-"), False),
        (("L", 0, "a"), ("2", 0, "b"), True),
        (("2", 0, "a"), ("1", 0, "b"), False),
        (("2", 0, "a"), ("0", 1, "-"), True),
        (("0", 1, "-"), ("2", 0, "a"), False),
    ],
)
def test_of_two_reports_attempt_and_rank_decide(append: Append, first: Any, then: Any, is_news: bool) -> None:
    if first[0] == "L":
        append(event("1", "before", incarnation=first[2]))
    if first[0] == "E":
        append(event("0", "before"))
    for number, (rank, attempt, incarnation) in enumerate((first, then)):
        _, offsets, _ = append(event(rank, f"{number}", attempt=attempt, incarnation=incarnation))
    assert (offsets != [0]) is is_news


def test_an_end_that_only_a_reaper_has_seen_is_made_final_by_a_report_that_says_the_same(append: Append) -> None:
    append(event("0", "{}"), event("E", '{"status":"error","state":"REVOKED","error":"expired"}'))
    same = event("2", '{"status":"error","state":"REVOKED","error":"expired","timestamp":"later"}', kind="failed")
    assert append(same)[1] == [0]
    assert append(event("1", "{}"))[1] == [0]


def test_a_step_that_will_not_run_is_reopened_by_its_publication(append: Append) -> None:
    append(event("U", "not run"))
    assert append(event("0", "queued", run=RUN))[1] == [2]
    assert append(event("U", "not run after all"))[1] == [0]


def test_a_stall_changes_nothing_of_a_job_that_is_not_known_to_run(append: Append) -> None:
    stall = event("s", "stalled", percent=10)
    assert append(stall)[1] == [0]
    assert append(event("0", "q"), stall)[1] == [1, 0]
    assert append(event("1", "r", execution="x"), event("s", "s", execution="y"), stall)[1] == [2, 0, 3]
    assert append(event("p", "p", percent=20), stall)[1] == [4, 0]
    assert append(event("2", "d"), event("s", "t", percent=50))[1] == [5, 0]


def test_a_later_run_begins_anew_and_an_earlier_one_changes_nothing(append: Append) -> None:
    old, new = {"run": RUN}, {"run": LATER_RUN}
    append(event("1", "a", attempt=3, **old), event("p", "b", attempt=3, percent=50, **old))
    append(event("2", "c", attempt=3, **old))
    assert append(event("0", "d", **new))[1] == [4]
    entry = append.entry()
    assert entry[:4] == ["0", "0", "0", "4"]
    assert entry[-2:] == ["d", ""]
    late = [event(rank, rank, attempt=9, percent=90, **old) for rank in ("0", "1", "p", "2", "L", "S", "E", "s")]
    assert append(*late)[1] == [0] * 8
    assert append(event("1", "e", **new), event("p", "f", percent=1, **new), event("2", "g", **new))[1] == [5, 6, 7]
    assert append.new_runs == [4]


@pytest.mark.parametrize("rank", ["1", "p", "2", "S"])
def test_the_first_that_is_heard_of_a_run_may_be_anything_that_happens_to_it(append: Append, rank: str) -> None:
    append(event("2", "a", run=RUN))
    assert append(event(rank, "b", run=LATER_RUN, percent=5))[1] == [2]
    assert append.new_runs == [2]
    assert [b"n" in fields for _, fields in append.redis.xrange(NAMES["events"])] == [False, True]  # type: ignore[union-attr]
    # Another process, which has not heard the answer, is given it again, and so is the writer of a doubtful write.
    assert append(event(rank, "b", run=LATER_RUN, percent=5), writer="other")[1] == [2]
    assert append(event(rank, "b", run=LATER_RUN, percent=5), writer="other", write=append.writes)[1] == [2]
    assert append.new_runs == [2, 2, 2]
    append(event("p" if rank == "p" else "2", "c", run=LATER_RUN, percent=6))
    assert append.new_runs == [2, 2, 2]


def test_a_job_that_is_published_twice_in_one_moment_has_two_runs(append: Append) -> None:
    assert append(event("0", "same", run=RUN), event("0", "same", run=LATER_RUN))[1] == [1, 2]
    assert append(event("0", "same", run=LATER_RUN))[1] == [2]


def test_a_report_without_a_mark_is_of_the_present_run(append: Append) -> None:
    append(event("1", "a", run=RUN))
    assert append(event("2", "b"), event("1", "c", run=RUN, execution="x"))[1] == [2, 0]
    assert append.entry()[9] == RUN


def test_a_job_without_a_mark_that_ended_is_published_again_by_somebody_who_writes_marks(append: Append) -> None:
    append(event("2", "a"))
    assert append(event("0", "b", run=RUN))[1] == [2]


def test_without_marks_a_task_that_starts_after_the_end_is_of_another_run(append: Append) -> None:
    first, second = ({"execution": name, "incarnation": "i"} for name in "xy")
    append(event("1", "a", **first), event("2", "b", **first))
    append.wait(0.05)
    assert append(event("1", "late", age=10000, **second))[1] == [0]
    assert append(event("1", "c", redelivered=True, **second))[1] == [0]
    assert append(event("1", "c", **second), event("p", "d", percent=5, **second))[1] == [3, 4]
    assert append(event("2", "e", age=10000, **first), event("1", "f", age=10000, **first))[1] == [0, 0]
    assert append(event("2", "g", **second))[1] == [5]


def test_a_task_that_starts_again_within_an_attempt_has_its_own_progress(append: Append) -> None:
    first, second = ({"execution": name, "incarnation": "i", "run": RUN} for name in "xy")
    append(event("1", "a", age=100, **first), event("p", "b", percent=80, **first))
    assert append(event("1", "c", **second))[1] == [3]
    assert append.entry()[2] == "0"
    assert append(event("p", "d", percent=90, **first), event("p", "e", percent=10, **second))[1] == [0, 4]
    assert append(event("p", "f", percent=5, **second), event("1", "g", age=100, **first))[1] == [0, 0]
    assert append(event("2", "h", **first))[1] == [5]


@pytest.mark.parametrize("rank", ["0", "1", "p", "s", "2", "L", "S", "E"])
def test_what_has_ended_and_is_not_shown_any_more_does_not_come_back(append: Append, rank: str) -> None:
    append.limits["max_events"] = 2
    append(event("2", "a", run=RUN, attempt=1), *(event("2", f"e{n}", job=f"other{n}") for n in range(5)))
    assert append.shown() == {"other3", "other4"}
    assert append(event(rank, "b", run=RUN, attempt=1, percent=50))[1] == [0]
    assert append(event("0", "c", run=LATER_RUN))[1] == [7]
    assert "job" in append.shown()


def test_of_what_is_not_shown_any_more_a_limited_number_is_remembered(append: Append) -> None:
    append.limits["max_events"] = 2
    for start in range(0, 60, 10):
        append(*(event("2", f"e{n}", job=f"job{n}") for n in range(start, start + 10)))
    assert append.redis.zcard(NAMES["gone"]) == 20
    assert append.redis.hlen(NAMES["jobs"]) == 22


def test_a_job_that_comes_back_is_counted_once_in_its_workflow(append: Append) -> None:
    append.limits["max_events"] = 1
    append(*(event("2", f"{n}", job=f"job{n}", root="r", run=RUN) for n in range(4)))
    append(event("1", "again", job="job0", root="r", run=LATER_RUN))
    assert append.state()["flows"][b"r"][:5] == [4, 0, 1, 3, 0]


def test_updates_of_a_workflow_are_the_first_the_last_and_few_in_between(append: Append) -> None:
    members = [event("0", f"q{n}", job=f"job{n}", root="r") for n in range(10)]
    _, _, updates = append(*members)
    assert [json.loads(update)["total"] for _, update, _ in updates] == [1 + 1]
    assert append.has_made_due == 1
    _, _, updates = append(event("1", "start", job="job0", root="r"))
    assert (updates, append.has_made_due) == ([], 0)
    append.wait(0.3)
    _, offsets, updates = append(event("w", "", job="look"))
    assert offsets == [0]
    assert [(json.loads(update)["total"], json.loads(update)["running"]) for _, update, _ in updates] == [(10, 1)]
    _, _, updates = append(*(event("2", f"d{n}", job=f"job{n}", root="r") for n in range(10)))
    assert [json.loads(update)["done"] for _, update, _ in updates] == [10]
    append.wait(0.3)
    assert append(event("w", "", job="look"))[2] == []


def test_progress_does_not_go_back_within_an_attempt(append: Append) -> None:
    steps = [event("p", f"{percent}", percent=percent) for percent in (10, 5, 20)]
    assert append(*steps)[1] == [1, 0, 2]
    assert append(event("p", "again", percent=1, attempt=1))[1] == [3]


def test_a_write_that_has_been_applied_is_answered_as_then(append: Append) -> None:
    write = [event("0", "q", root="r"), event("0", "s", job="other", root="r"), event("0", "s", job="other", root="r")]
    first = append(*write, event("c", "c"), write=7)
    assert first[1] == [1, 2, 2, 4]
    assert [(index, offset) for index, _, offset in first[2]] == [(1, 3)]
    for number in range(1500):
        append(event("c", f"{number}"), writer=f"other{number % 3}", write=number + 1)
    assert append(*write, event("c", "c"), write=7)[:2] == first[:2]
    assert append.redis.hget(NAMES["meta"], "offset") == b"1504"


def test_a_write_that_is_answered_as_then_brings_the_updates_of_workflows_of_then(append: Append) -> None:
    write = [event("0", "q", root="r"), event("0", "s", job="other", root="r")]
    first = append(*write, write=7)
    assert [(index, offset) for index, _, offset in first[2]] == [(1, 3)]
    append(event("c", "c"), writer="other", write=1)
    assert append(*write, write=7) == first
    assert append.has_made_due == 0


def test_a_write_that_was_given_up_is_refused(append: Append) -> None:
    append(event("c", "a"), write=2)
    with pytest.raises(redis.ResponseError, match="STALE"):
        append(event("c", "b"), write=1)
    assert append(event("c", "b"), writer="other", write=1)[1] == [2]
    assert append(event("c", "c"), write=3)[1] == [3]


def test_a_write_of_another_epoch_is_applied_again(append: Append) -> None:
    append(event("c", "a"), write=1)
    append.redis.hset(NAMES["meta"], "epoch", "old")
    assert append(event("c", "a"), write=1)[:2] == ("old", [2])
    append.redis.delete(NAMES["events"])
    assert append(event("c", "a"), write=1)[:2] == ("new", [3])
    append.redis.flushdb()
    assert append(event("c", "a"), write=1)[1] == [1]


def test_a_receipt_has_the_latest_write_only(append: Append) -> None:
    append(event("c", "a"), event("c", "b"), event("0", "q"), event("0", "r"), write=1)
    assert append.receipts() == {"me": ["1 new 3", "100 101 102 103", "1 2 3 0", ""]}
    append(event("1", "s"), event("0", "r"), write=2)
    assert append.receipts() == {"me": ["2 new 4", "100 101", "4 0", ""]}


def test_a_writer_that_has_stored_nothing_has_no_receipt(append: Append) -> None:
    append(event("2", "a"), write=1)
    append(event("1", "b"), event("w", "", job="look"), writer="late", write=1)
    assert append.receipts().keys() == {"me"}


def test_receipts_are_forgotten_when_all_that_they_are_about_has_left_the_stream(append: Append) -> None:
    append.limits["max_events"] = 100
    for number in range(1000):
        append(event("c", f"{number}"), writer=f"writer{number}", write=1)
    oldest: Any = append.redis.xrange(NAMES["events"], count=1)
    first = int(oldest[0][0].split(b"-")[0])
    assert append.receipts().keys() >= {f"writer{number}" for number in range(first - 1, 1000)}
    assert len(append.receipts()) < 500


def test_an_entry_that_cannot_be_read_is_written_anew(append: Append) -> None:
    append(event("1", "r"))
    append.redis.hset(NAMES["jobs"], "job", "junk")
    assert append(event("0", "q"))[1] == [2]
    assert append.entry()[1] == "0"


@pytest.mark.parametrize("damaged", ["0 1 x 1 1 - running 0 - - - 0 0\nr\n", "0 1 0 1 1 - running x - - - 0 0\nr\n"])
def test_progress_keeps_coming_though_an_entry_cannot_be_read(append: Append, damaged: str) -> None:
    append(event("1", "r"))
    append.redis.hset(NAMES["jobs"], "job", damaged)
    assert append(event("p", "p", percent=50), event("p", "p2", percent=60))[1] == [2, 3]
    assert append.entry()[1:3] == ["1", "60"]


def test_workflows_are_counted_from_their_second_job_on(append: Append) -> None:
    assert append(event("1", "a", job="r", root="r"))[2] == []
    _, offsets, updates = append(event("0", "b", job="s", root="r"))
    assert [(index, offset) for index, _, offset in updates] == [(0, 3)]
    append.wait(0.3)
    _, offsets, updates = append(event("2", "c", job="r", root="r"))
    assert offsets == [4]
    assert [(index, offset) for index, _, offset in updates] == [(0, 5)]
    assert json.loads(updates[0][1]) == {
        "event": "workflow_update",
        "root_id": "r",
        "project_id": "p",
        "timestamp": "now",
        "total": 2,
        "queued": 1,
        "running": 0,
        "done": 1,
        "failed": 0,
        "progress": 50,
    }
    append(event("2", "d", job="s", root="r"))
    assert append.redis.zrange(NAMES["flows-ended"], 0, -1) == [b"r"]


def test_jobs_are_live_until_they_have_ended(append: Append) -> None:
    append(event("1", "a", job="one"), event("1", "b", job="two"), event("2", "c", job="one"))
    assert append.redis.zrange(NAMES["live"], 0, -1) == [b"two"]
    assert append.redis.zrange(NAMES["ended"], 0, -1) == [b"one"]


def test_what_is_beyond_the_limits_is_forgotten(append: Append) -> None:
    append.limits |= {"max_events": 2, "max_live": 1}
    append(*(event("2", f"e{n}", job=f"ended{n}") for n in range(4)))
    append(*(event("1", f"l{n}", job=f"live{n}") for n in range(3)))
    assert append.shown() == {"ended2", "ended3", "live2"}
    append.limits["ended_ttl"] = -1
    append(event("c", "later"))
    assert append.shown() == {"live2"}


def test_every_key_expires(append: Append) -> None:
    append(event("1", "a", job="r", root="r"), event("2", "b", job="s", root="r"), event("2", "c", job="r", root="r"))
    assert [0 < append.redis.ttl(key) <= 60 for key in PROJECT if append.redis.exists(key)] == [True] * 6  # type: ignore[operator]


def test_a_project_begins_in_an_epoch_that_was_never_given_before(append: Append) -> None:
    first = append(event("1", "a"))[0]
    assert first == "new"  # random: there was nothing yet that tells what has begun
    assert append(event("2", "b"))[:2] == ("new", [2])
    epochs = [first]
    for _ in range(3):
        append.redis.delete(*PROJECT)
        epoch, offsets, _ = append(event("1", "a"))
        assert offsets == [1]
        epochs.append(epoch)
    assert append.redis.hgetall(KEYS.begun) == {b"id": b"new", NAMES["meta"].encode(): b"4"}
    assert len({*epochs}) == 4
    assert 0 < append.redis.ttl(KEYS.begun) <= 60  # type: ignore[operator]


def test_what_has_begun_is_counted_within_a_bound(append: Append) -> None:
    append.redis.hset(KEYS.begun, mapping={"id": "old", **{f"project {number}": 1 for number in range(20001)}})
    append(event("1", "a"))
    assert append.redis.hgetall(KEYS.begun) == {b"id": b"new", NAMES["meta"].encode(): b"1"}


@pytest.mark.parametrize("key", PROJECT_KEYS)
def test_a_project_of_which_a_part_was_lost_goes_on_in_a_new_epoch(append: Append, key: str) -> None:
    append(event("1", "a", job="live"), event("2", "b", job="one", root="r"), event("2", "c", job="two", root="r"))
    append(event("1", "d", job="three", root="r"))
    append.limits["max_events"] = 1
    append(event("1", "e", job="four", root="r"), event("2", "f", job="five", root="s"))
    append(event("2", "g", job="six", root="s"))
    append.redis.hset(NAMES["meta"], "epoch", "old")
    before = append.state()
    offset = int(append.redis.hget(NAMES["meta"], "offset"))  # type: ignore[arg-type]
    assert append.redis.delete(NAMES[key]) == 1

    assert append(event("c", "b"))[:2] == ("new", [offset + 1])

    if key == "jobs":
        assert append.state() == {"shown": set(), "gone": set(), "flows": {}}
    else:
        assert append.state() == before
    assert append(event("c", "b"))[:2] == ("new", [offset + 2])


def test_a_project_goes_on_in_a_new_epoch_when_the_caller_has_stored_more(append: Append) -> None:
    append(event("1", "a"), event("c", "b"))
    append.redis.hset(NAMES["meta"], "epoch", "old")
    assert append(event("c", "c"), witnessed=("old", 2))[:2] == ("old", [3])
    assert append(event("c", "d"), witnessed=("other", 9))[:2] == ("old", [4])
    assert append(event("c", "e"), witnessed=("old", 9))[:2] == ("new", [10])
    assert append.shown() == {"job"}


def test_another_server_counts_on_in_another_epoch(append: Append) -> None:
    append(event("1", "a"), event("c", "b"), server=True)
    append.redis.hset(NAMES["meta"], "epoch", "old")
    assert append(event("c", "c"), server=True)[:2] == ("old", [3])
    append.redis.set(KEYS.project("p", "server")[-1], "another")
    assert append(event("c", "d"), server=True)[:2] == ("new", [4])
    assert append.entry()[-2] == "a"


# -- messages that went back to the broker ---------------------------------------------------------------------------


def test_a_job_whose_message_went_back_is_queued_again_without_its_progress(append: Append) -> None:
    started = {"incarnation": "i1", "execution": "e1", "age": 500}
    append(event("0", "q"), event("1", "r", **started), event("p", "80", percent=80, execution="e1", age=500))
    [at] = append(event("B", "back", incarnation="i1", age=100))[1]
    assert at == 4
    words = append.entry()
    assert (words[1], words[2], words[6], words[-2:]) == ("B", "0", "queued", ["back", ""])
    # What is heard late of the start before.
    assert append(event("1", "r", **started), event("p", "85", percent=85, execution="e1", age=500))[1] == [0, 0]
    assert append(event("S", "lost", incarnation="i1"), event("L", "lost", incarnation="i1"))[1] == [0, 0]
    again = {"incarnation": "i2", "execution": "e2"}
    offsets = append(
        event("1", "r2", **again), event("p", "20", percent=20, execution="e2"), event("2", "end", **again)
    )[1]
    assert offsets == [5, 6, 7]


@pytest.mark.parametrize(
    "later",
    [
        event("1", "r2", incarnation="i1", execution="e2", age=0),  # delivered again to the same worker
        event("1", "r2", incarnation="i2", execution="e2", age=0),
        event("2", "end", incarnation="i1", execution="e1", age=500),
        event("0", "retry", attempt=1),
    ],
)
def test_that_a_message_went_back_is_no_news_of_what_came_after(append: Append, later: list[Any]) -> None:
    append(event("0", "q"), event("1", "r", incarnation="i1", execution="e1", age=500))
    assert append(later)[1] != [0]
    assert append(event("B", "back", incarnation="i1", age=100))[1] == [0]


def test_a_lost_job_whose_message_went_back_is_queued_again(append: Append) -> None:
    append(event("0", "q"), event("1", "r", incarnation="i1", execution="e1", age=500))
    append(event("L", "lost", incarnation="i1"))
    assert append(event("B", "back", incarnation="i1", age=100))[1] != [0]
    assert append.shown() == {"job"}
    assert append.redis.zcard(NAMES["ended"]) == 0


def test_that_a_queued_job_is_given_back_is_noted_and_shown_to_nobody(append: Append) -> None:
    append(event("0", "q"))
    assert append(event("B", "back", incarnation="i1"))[1] == [0]
    assert (append.entry()[1], append.entry()[-2]) == ("B", "q")


@pytest.mark.parametrize(
    "before",
    [
        [],
        [event("1", "of the run before", run=RUN, incarnation="i0", execution="e0")],
        [event("1", "of the attempt before", run=LATER_RUN, incarnation="i0", execution="e0")],
    ],
    ids=["nothing", "another run", "another attempt"],
)
def test_that_a_message_went_back_may_be_the_first_that_is_heard(append: Append, before: list[Any]) -> None:
    """Its start may still be reported, which would be shown as running until it is delivered again."""
    append(*before)
    start = {"run": LATER_RUN, "attempt": 1, "incarnation": "i1"}
    assert append(event("B", "back", age=100, **start))[1] == [len(before) + 1]
    late = event("1", "r", execution="e1", age=500, **start)
    assert append(event("0", "retry", run=LATER_RUN, attempt=1), late, event("S", "lost", **start))[1] == [0, 0, 0]
    assert append.entry()[-2] == "back"
    assert append(event("1", "again", execution="e2", **{**start, "incarnation": "i2"}))[1] == [len(before) + 2]


@pytest.mark.parametrize("end", [event("E", "expired"), event("U", "not run")])
def test_a_job_whose_message_went_back_had_not_ended_as_a_reaper_thought(append: Append, end: list[Any]) -> None:
    append(*([event("0", "q")] if end[3] == "E" else []), end)
    assert append(event("B", "back", incarnation="i1", age=100))[1] != [0]
    assert append(event("1", "r", incarnation="i1", execution="e1", age=500))[1] == [0]


def test_a_message_that_went_back_once_more_is_not_lost_by_the_second_worker_whose_start_nobody_heard(
    append: Append,
) -> None:
    append(event("0", "q"), event("1", "r", incarnation="i1", execution="e1", age=9000))
    assert append(event("B", "back", incarnation="i1", age=8000))[1] != [0]
    assert append(event("B", "back", incarnation="i2", age=100))[1] == [0]
    assert append(event("S", "lost", incarnation="i2", age=4000), event("L", "lost", incarnation="i2"))[1] == [0, 0]
    assert append(event("S", "lost", incarnation="i1", age=9000))[1] == [0]
    assert append(event("1", "late", incarnation="i2", execution="e2", age=4000))[1] == [0]
    assert append(event("B", "back", incarnation="i1", age=8000))[1] == [0]
    assert append.entry()[1] == "B"
    assert append(event("1", "again", incarnation="i3", execution="e3"))[1] != [0]


# -- jobs that go on in another message ----------------------------------------------------------------------------

FIRST = {"incarnation": "i1", "execution": "e1"}
SECOND = {"incarnation": "i2", "execution": "e1"}


def hand_on(append: Append, age: int = 300) -> None:
    before = append.redis.hget(NAMES["meta"], "offset")
    assert append(event("H", "", age=age, **FIRST))[1] == [0]
    assert append.redis.hget(NAMES["meta"], "offset") == before


def test_a_job_that_has_been_handed_on_is_not_lost_by_who_had_it(append: Append) -> None:
    append(event("1", "r", age=500, **FIRST), event("p", "40", percent=40, age=500, execution="e1"))
    hand_on(append)
    assert append(event("S", "lost", incarnation="i1"), event("L", "lost", incarnation="i1"))[1] == [0, 0]
    assert append.entry()[-2:] == ["r", "40"]
    assert append(event("L", "lost by whoever has it"))[1] == [3]


def test_a_job_may_be_handed_on_sooner_than_its_start_seems_to_be(append: Append) -> None:
    """The report of the start has taken longer to come."""
    append(event("1", "r", **FIRST))
    hand_on(append, age=500)
    assert append(event("S", "lost", incarnation="i1"))[1] == [0]


@pytest.mark.parametrize("is_noted", [True, False])
def test_a_job_that_goes_on_elsewhere_is_lost_by_who_has_it(append: Append, is_noted: bool) -> None:
    append(event("1", "r", age=500, **FIRST))
    if is_noted:
        hand_on(append)
    assert append(event("1", "r2", **SECOND))[1] == [0]  # that it runs, and how far it is, is known
    assert append.entry()[-2:] == ["r2 ", ""]  # and who asks is given the worker that has it
    assert append(event("1", "r2", **SECOND))[1] == [0]
    assert append(event("p", "40", percent=40, execution="e1"))[1] == [2]
    assert append(event("S", "lost", incarnation="i1"))[1] == [0]
    assert append(event("1", "r", age=500, **FIRST))[1] == [0]
    assert append(event("S", "lost", incarnation="i2"))[1] == [3]


def test_a_job_that_goes_on_in_the_same_worker_is_lost_by_it(append: Append) -> None:
    append(event("1", "r", age=2000, **FIRST))
    hand_on(append)
    assert append(event("1", "r2", **FIRST))[1] == [0]
    hand_on(append, age=1400)  # heard of late
    assert append(event("L", "lost", incarnation="i1"))[1] == [2]


def test_a_job_that_has_gone_on_with_who_was_killed_before_it_could_say_so_is_lost(append: Append) -> None:
    append(event("1", "r", age=500, **FIRST))
    hand_on(append)
    assert append(event("L", "lost", incarnation="i2"))[1] == [0]
    assert append(event("S", "known to have been started", incarnation="i2"))[1] == [2]


def test_a_job_that_has_been_handed_on_twice_is_lost_by_none_of_those_who_had_it(append: Append) -> None:
    """Whoever looks for the jobs of a dead worker reports each a second time."""
    append(event("1", "r", age=9000, **FIRST))
    append(event("H", "", age=8000, **FIRST), event("1", "r2", age=6000, **SECOND), event("H", "", age=4000, **SECOND))
    lost = [event("S", f"lost {age}", incarnation=name, age=age) for name, age in (("i1", 9000), ("i2", 6000))]
    assert append(*lost, *lost)[1] == [0] * 4
    assert append.entry()[-2] == "r2 "
    assert append(event("S", "begun once more, and not heard of", incarnation="i1", age=2000))[1] == [2]


@pytest.mark.parametrize("giver", ["i1", "i2"])
def test_a_job_whose_message_went_back_is_lost_by_none_of_those_who_had_it(append: Append, giver: str) -> None:
    append(event("1", "r", incarnation="i1", execution="e1", age=9000))
    if giver == "i2":
        append(event("1", "r2", incarnation="i2", execution="e2", age=6000))
    append(event("B", "back", incarnation=giver, age=4000))
    ages = {"i1": 9000, **({"i2": 6000} if giver == "i2" else {})}
    lost = [event("S", f"lost by {name}", incarnation=name, age=age) for name, age in ages.items()]
    assert append(*lost, *lost)[1] == [0] * 2 * len(lost)
    assert append.entry()[-2] == "back"
    assert append(event("S", "begun once more, and not heard of", incarnation="i1", age=2000))[1] != [0]


def test_a_message_that_a_job_has_published_since_is_not_lost_with_those_before(append: Append) -> None:
    append(event("1", "r", age=9000, **FIRST))
    append(event("H", "", age=4000, **FIRST))
    assert append(event("N", "lost before that", age=6000))[1] == [0]
    assert append(event("N", "lost", age=2000))[1] == [2]


def test_of_all_that_have_had_an_attempt_the_latest_are_remembered(append: Append) -> None:
    names = [f"{number:032d}" for number in range(20)]
    for number, name in enumerate(names):
        append(event("1", "r", incarnation=name, execution=f"e{number}", age=9000 - number))
    had = append.entry()[5].split(",")
    assert had == names[::-1][: len(had)]
    assert 5 < len(had) < 12


def test_a_job_whose_message_nobody_will_get_ends_if_it_waits_and_only_then(append: Append) -> None:
    append(event("1", "r", age=500, **FIRST))
    assert append(event("N", "lost"))[1] == [0]
    hand_on(append)
    assert append(event("E", "it had started in time"))[1] == [0]
    assert append(event("N", "lost"))[1] == [2]
    assert append(event("1", "r2", **SECOND))[1] == [3]
    assert append(event("N", "lost"))[1] == [0]
    assert append(event("0", "q", job="other"), event("N", "lost", job="other"))[1] == [4, 5]


@pytest.mark.parametrize("is_start_known", [True, False])
def test_the_message_that_a_job_goes_on_in_may_go_back(append: Append, is_start_known: bool) -> None:
    append(event("1", "r", age=500, **FIRST))
    hand_on(append)
    if is_start_known:
        append(event("1", "r2", age=200, **SECOND))
    assert append(event("B", "back", incarnation="i2", age=100))[1] == [2]
    assert append(event("1", "r3", incarnation="i3", execution="e3"))[1] == [3]


@pytest.mark.parametrize(
    "other",
    [event("1", "r2", run=LATER_RUN, **SECOND), event("0", "retry", attempt=1, run=RUN), event("2", "end", **FIRST)],
)
def test_that_a_job_was_handed_on_changes_nothing_of_what_came_after(append: Append, other: list[Any]) -> None:
    append(event("1", "r", age=500, run=RUN, **FIRST), other)
    before = append.entry()
    assert append(event("H", "", run=RUN, **FIRST))[1] == [0]
    assert append.entry() == before


def test_the_start_whose_message_went_back_may_be_heard_of_only_then(append: Append) -> None:
    append(event("0", "q", run=RUN))
    assert append(event("B", "back", incarnation="i1", run=RUN, age=100))[1] == [0]
    before = {"incarnation": "i1", "execution": "e1", "run": RUN, "age": 500}
    late = [event("1", "r", **before), event("p", "80", percent=80, execution="e1", run=RUN, age=500)]
    assert append(*late, event("S", "lost", incarnation="i1", run=RUN))[1] == [0, 0, 0]
    assert append.entry()[-2] == "q"
    again = {"incarnation": "i1", "execution": "e2", "run": RUN, "redelivered": True}
    assert append(event("1", "r2", **again))[1] == [2]


def test_a_message_may_go_back_of_a_start_that_nothing_but_its_worker_is_known_of(append: Append) -> None:
    append(event("0", "q"), event("1", "runs on", incarnation="i1"))
    assert append(event("B", "back", incarnation="i1", age=100))[1] == [3]
    late = event("1", "r", incarnation="i1", execution="e1", age=500)
    assert append(late, event("S", "lost", incarnation="i1"))[1] == [0, 0]
    assert append(event("1", "r2", incarnation="i1", execution="e2"))[1] == [4]


def test_a_job_whose_message_went_back_can_expire(append: Append) -> None:
    append(event("1", "r", incarnation="i1", execution="e1"), event("B", "back", incarnation="i1"))
    assert append(event("E", "expired"))[1] == [3]


def test_a_job_that_says_itself_that_it_is_tried_once_more_then_runs(append: Append) -> None:
    execution = {"incarnation": "i1", "execution": "e1", "attempt": 1}
    assert append(event("0", "retry", **execution), event("1", "r", **execution))[1] == [1, 2]
    assert append(event("p", "10", percent=10, execution="e1", attempt=1))[1] == [3]


def test_progress_of_a_queued_job_does_not_keep_out_its_start(append: Append) -> None:
    append(event("0", "q"), event("p", "10", percent=10, execution="e1"))
    assert append(event("1", "r", incarnation="i1", execution="e1"))[1] == [3]


def test_what_a_reaper_has_not_heard_of_since_a_message_went_back_is_lost(append: Append) -> None:
    append(event("1", "r", incarnation="i1", execution="e1"), event("B", "back", incarnation="i1"))
    assert append(event("S", "lost", incarnation="i2"))[1] == [3]


# -- starts whose process was killed, and starts after them ---------------------------------------------------------

KILLED = {"incarnation": "i1", "execution": "e1"}
NEXT = {"incarnation": "i2", "execution": "e2", "redelivered": True}


def failed(rank: str, payload: str, **more: Any) -> list[Any]:
    return event(rank, payload, kind="failed", **more)


@pytest.mark.parametrize("is_start_known", [True, False])
@pytest.mark.parametrize("is_next_start_heard", [True, False])
def test_the_end_of_a_killed_process_is_taken_back_by_the_next_start(
    append: Append, is_start_known: bool, is_next_start_heard: bool
) -> None:
    start = event("1", "r", age=9000, **KILLED)
    append(event("0", "q"), *[start] * is_start_known)
    [at] = append(failed("D", "killed", incarnation="i1", age=8000))[1]
    assert at > 0
    assert append.shown() == {"job"}
    assert append(event("0", "q"), start, event("p", "50", percent=50, age=9000, execution="e1"))[1] == [0, 0, 0]
    assert append(failed("D", "again", incarnation="i1", age=8000), event("L", "lost", incarnation="i1"))[1] == [0, 0]
    if is_next_start_heard:
        at += 1
        assert append(event("1", "r2", age=4000, **NEXT))[1] == [at]
        assert append(failed("D", "again", incarnation="i1", age=8000))[1] == [0]
    assert append(event("2", "done", age=4000, **NEXT))[1] == [at + 1]
    assert append(failed("D", "again", incarnation="i1", age=8000))[1] == [0]
    assert append.entry()[-2] == "done"


def test_what_the_killed_process_had_still_said_itself_changes_its_end_no_more(append: Append) -> None:
    append(event("1", "r", age=9000, **KILLED), failed("D", "killed", incarnation="i1"))
    assert append(event("2", "done", age=9000, **KILLED), failed("2", "failed", age=9000, **KILLED))[1] == [0, 0]


def test_a_killed_process_whose_message_went_back_after_all_is_queued_again(append: Append) -> None:
    append(event("1", "r", age=9000, **KILLED), failed("D", "killed", incarnation="i1", age=8000))
    assert append(event("B", "back", incarnation="i1", age=7000))[1] == [3]


@pytest.mark.parametrize("is_first_known", [True, False])
def test_the_end_of_a_killed_process_is_no_news_of_the_start_after_it(append: Append, is_first_known: bool) -> None:
    append(event("0", "q"), *[event("1", "r", age=9000, **KILLED)] * is_first_known, event("1", "r2", age=4000, **NEXT))
    assert append(failed("D", "killed", incarnation="i1", age=6000))[1] == [0]
    assert append(failed("D", "killed", age=9000, **KILLED))[1] == [0]
    assert append(failed("D", "killed", incarnation="i2", age=1000))[1] != [0]


def test_the_next_start_in_the_same_worker_is_not_ended_by_the_death_of_the_one_before(append: Append) -> None:
    append(event("1", "r", age=9000, **KILLED))
    append(event("1", "r2", age=4000, incarnation="i1", execution="e2", redelivered=True))
    assert append(failed("D", "killed", incarnation="i1", age=6000))[1] == [0]
    assert append(failed("D", "killed", incarnation="i1", age=1000))[1] == [3]


@pytest.mark.parametrize("who", [KILLED, {"incarnation": "i1"}])
def test_a_start_that_fails_while_the_next_one_runs_does_not_end_the_job_and_one_that_succeeds_does(
    append: Append, who: dict[str, Any]
) -> None:
    """As of a child whose worker's main process was killed, and whose message was delivered again."""
    append(event("1", "r", age=9000, **KILLED), event("1", "r2", age=4000, **NEXT))
    assert append(failed("2", "failed", age=9000, **who))[1] == [0]
    assert append(event("2", "done", age=9000, **who))[1] == [3]
    assert append(failed("2", "failed", age=4000, **NEXT))[1] == [0]


#: A start, and the next one, whichever way it is known to be that.
IN_ORDER = pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"incarnation": "i1", "clock": 1000}, {"incarnation": "i1", "clock": 1002}),
        ({"incarnation": "i1", "clock": 1000}, {"incarnation": "i2", "clock": 70, "redelivered": True}),
    ],
    ids=["by its clock", "in another worker"],
)


@IN_ORDER
def test_a_second_start_is_known_by_more_than_when_it_is_heard_of(
    append: Append, first: dict[str, Any], second: dict[str, Any]
) -> None:
    """Its report came here sooner after it: it seems to have begun before the first."""
    first, second = first | {"age": 0, "execution": "a"}, second | {"age": 50_000, "execution": "b"}
    append(event("0", "q"), event("1", "r", **first), event("p", "80", percent=80, **first))
    assert append(event("1", "r2", **second), event("p", "10", percent=10, **second))[1] == [4, 5]
    assert append(event("p", "85", percent=85, **first), event("p", "20", percent=20, **second))[1] == [0, 6]


@IN_ORDER
def test_what_is_heard_late_of_the_first_start_is_no_news(
    append: Append, first: dict[str, Any], second: dict[str, Any]
) -> None:
    first, second = first | {"age": 100, "execution": "a"}, second | {"age": 900, "execution": "b"}
    assert append(event("1", "r2", **second), event("1", "r", **first), failed("2", "f", **first))[1] == [1, 0, 0]


def test_a_start_long_after_one_that_was_redelivered_may_be_of_another_publication(append: Append) -> None:
    append(event("1", "r", incarnation="i1", execution="a", age=50_000, clock=1000, redelivered=True))
    assert append(event("1", "r2", incarnation="i2", execution="b", age=10_000, clock=20))[1] == [2]


def test_when_a_message_went_back_is_compared_with_its_start_by_their_clock(append: Append) -> None:
    start = {"incarnation": "i1", "execution": "a", "age": 0, "clock": 1000}
    again = {"incarnation": "i1", "execution": "b", "age": 60_000, "clock": 1004}
    back = {"incarnation": "i1", "age": 50_000, "clock": 1002}
    append(event("1", "r", **start))
    assert append(event("B", "back", **back), event("1", "r", **start))[1] == [2, 0]
    assert append(event("1", "r2", **again), event("B", "back", **back))[1] == [3, 0]


def test_that_a_message_went_back_once_more_may_be_heard_of_before_that_it_went_back(append: Append) -> None:
    append(event("0", "q"), event("B", "back", incarnation="i1", age=50_000, clock=1006))
    append(event("B", "back", incarnation="i1", age=0, clock=1002))
    assert append.entry()[13] == "1006"
    append(event("B", "back", incarnation="i1", age=60_000, clock=1008))
    assert append.entry()[13] == "1008"


@pytest.mark.parametrize("redelivered", [False, True])
def test_a_start_that_was_given_back_unseen_is_told_from_the_next_by_their_clock(
    append: Append, redelivered: bool
) -> None:
    append(event("0", "q"), event("B", "back", incarnation="i1", age=50_000, clock=1002))
    start = {"incarnation": "i1", "redelivered": redelivered}
    assert append(event("1", "r", age=0, execution="a", clock=1000, **start))[1] == [0]
    assert append(event("1", "r2", age=60_000, execution="b", clock=1004, **start))[1] == [2]


def test_a_death_is_compared_with_the_next_start_by_their_clock(append: Append) -> None:
    append(event("1", "r", age=0, clock=1000, **KILLED))
    append(event("1", "r2", age=50, incarnation="i1", execution="e2", clock=1004))
    assert append(failed("D", "killed", incarnation="i1", age=0, clock=1002))[1] == [0]
    assert append(failed("D", "killed", incarnation="i1", age=100, clock=1006))[1] == [3]


def test_an_entry_without_a_clock_is_read_and_gets_one(append: Append) -> None:
    append(event("1", "r", incarnation="i1", execution="a", age=500))
    assert append.entry()[12:] == ["0", "r", ""]
    append(event("p", "5", percent=5, execution="a", age=500, clock=1000))
    assert append.entry()[12:] == ["0", "r", "5"]  # the start is known without one
    again = {"execution": "b", "clock": 4_123_456_789_012_345, "redelivered": True}  # more digits than Lua writes
    append(event("1", "r2", incarnation="i1", **again), event("p", "6", percent=6, **again))
    assert append.entry()[12:] == ["0", "4123456789012345r", "r2", "6"]


def test_the_clock_of_one_worker_is_not_taken_for_that_of_another(append: Append) -> None:
    append(event("1", "r", incarnation="i1", execution="a", age=500, clock=9000), event("H", "-", incarnation="i1"))
    append(event("B", "back", incarnation="i2", age=300, clock=20))
    assert append.entry()[12:] == ["0", "back", ""]
    append(event("B", "back again", incarnation="i2", age=100, clock=30))
    assert append.entry()[12:] == ["0", "30", "back", ""]


def test_a_death_replaces_what_a_reaper_has_said(append: Append) -> None:
    append(event("1", "r", age=9000, **KILLED), event("L", "lost", incarnation="i1"))
    assert append(failed("D", "killed", incarnation="i1", age=8000))[1] == [3]


#: The ages (ms) of starts, far apart: what is decided must not depend on how long this test takes.
STARTS = {"-": 0, "x1": 300_000, "x2": 200_000, "x3": 100_000}
#: Of those of which it is known, their time by the clock of the host.
CLOCKS = {"x2": 1_200_000, "x3": 1_300_000}


def random_event(rng: random.Random, number: int) -> list[Any]:
    """Return an event of one of three jobs: mostly progress, and mostly of the same start."""
    job, attempt, run, execution = rng.choice("abc"), 0, RUN, "x1"
    if rng.random() < 0.2:
        attempt, run, execution = rng.choice([0, 1]), rng.choice(["-", RUN, LATER_RUN]), rng.choice(list(STARTS))
    rank = rng.choice("02LSEUNDc" if rng.random() < 0.1 else "1psppppppp")
    payload = f"{number}" if rng.random() < 0.6 else "the same"
    if rng.random() < 0.5:
        name = "progress_update" if rank in "ps" else "status_change"
        payload = f'{{"event":"{name}","job_id":"{job}","project_id":"p","said":"{payload}"}}'
    return event(
        rank,
        payload,
        job=job,
        attempt=attempt,
        percent=rng.choice([0, 33.5, number, 50]),
        incarnation=rng.choice(["-", "i1", "i1", "i2"]),
        root=rng.choice(["-", job, job, "a", "root"]),
        run=run,
        execution=execution,
        age=STARTS[execution],
        redelivered=execution == "x3",
        clock=CLOCKS.get(execution, -1),
    )


def outcome(append: Append, *writes: list[list[Any]]) -> dict[str, Any]:
    """Store writes in an empty history, and return what has come of them but for times and offsets."""
    append.redis.flushdb()
    answers = [offset > 0 for write in writes for offset in append(*write)[1]]
    stored: Any = append.redis.xrange(NAMES["events"])
    jobs: Any = append.redis.hgetall(NAMES["jobs"])
    words = {job.decode(): append.entry(job.decode()) for job in jobs}
    return {
        **append.state(),
        "events": [(fields[b"p"], b"n" in fields) for _, fields in stored if fields[b"e"] != b"agent_workflow"],
        "answers": answers,
        "jobs": {job: [*entry[:3], *entry[5:11], entry[12] != "0", *entry[13:]] for job, entry in words.items()},
        "live": append.redis.zrange(NAMES["live"], 0, -1),
    }


@pytest.mark.parametrize("seed", range(10))
def test_it_makes_no_difference_in_how_many_writes_events_come(append: Append, seed: int) -> None:
    rng = random.Random(seed)
    events = [random_event(rng, number) for number in range(40)]
    singly = outcome(append, *([one] for one in events))
    assert outcome(append, events) == singly
    assert outcome(append, *(events[start : start + 7] for start in range(0, len(events), 7))) == singly


@pytest.mark.parametrize("seed", range(10))
def test_further_progress_is_stored_as_any_progress_is(append: Append, seed: int) -> None:
    rng = random.Random(seed)
    events = [random_event(rng, number) for number in range(40)]
    singly = outcome(append, *([one] for one in events))
    # What changes nothing, and has the job's entry parsed: then the short way is not taken.
    parsed = outcome(append, *([event("H", "-", job=one[1], attempt=99), one] for one in events))
    assert list(parsed.pop("answers")[1::2]) == singly.pop("answers")
    assert parsed == singly


def test_the_answer_says_whether_somebody_watches_the_first_time_and_again(append: Append) -> None:
    assert (append(event("c", "one")), append.is_watched) == (("new", [1], []), 0)
    append.redis.set(KEYS.watched("p"), 1)
    assert (append(event("c", "two"), write=5), append.is_watched) == (("new", [2], []), 1)
    assert (append(event("c", "two"), write=5), append.is_watched) == (("new", [2], []), 1)
    append.redis.delete(KEYS.watched("p"))
    assert (append(event("c", "two"), write=5), append.is_watched) == (("new", [2], []), 0)
