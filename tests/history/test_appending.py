"""What becomes of events whose storing was not answered: a real Redis, and a line that loses what the test says."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
import redis

from celery_realtime.channel import wire
from celery_realtime.events import (
    Execution,
    Job,
    outgoing_handed_on,
    outgoing_status,
    pack,
    status_change,
    unpack,
)
from celery_realtime.history.lua import Runner
from celery_realtime.history.store import History
from tests.appended import append, custom, progress, status
from tests.waiting import wait_for


@pytest.fixture
def history(redis_url: str) -> History:
    return History(redis_url, "tests", size=1000, ttl=60.0)


def test_events_whose_storing_was_not_answered_are_stored_once(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = [status("STARTED"), custom({"n": 1}), progress(10), custom([2]), custom({"n": 3}), status("SUCCESS")]
    answers = Runner.replies

    def lose_the_answer(runner: Runner, commands: Any) -> Any:
        answers(runner, commands)
        raise redis.TimeoutError("the answer does not come")

    with monkeypatch.context() as lossy:
        lossy.setattr(Runner, "replies", lose_the_answer)
        assert history.append(batch) is None
        assert history.append(batch) is None
    append(history, custom({"n": "other"}))

    again = history.append(batch)

    assert again is not None
    heard = [
        event for group in again for _, body in wire.frames(group, "me", "/") for event in wire.decode_message(body)
    ]
    assert [event.offset for event in heard if isinstance(event, wire.Heard)] == [1, 2, 3, 4, 5, 6]
    assert len(history.recent("p")) == 7


def test_the_first_event_of_a_newer_run_says_so_to_those_who_hear_it_and_to_those_who_catch_up(
    history: History,
) -> None:
    first, second = (Job(job_id="job", project_id="p", run=f"170000000000{number}-a") for number in (1, 2))
    append(history, outgoing_status(status_change(first, "STARTED"), job=first), progress(50))
    answer = history.append([outgoing_status(status_change(second, "SUCCESS"), job=second)])
    assert answer is not None
    [[end]] = answer
    assert msgspec.json.decode(end.payload)["new_run"] is True
    snapshot = history.read("p", history.read("p").epoch, 0)
    assert [entry["data"].get("new_run") for entry in snapshot.events] == [None, None, True]
    [job] = snapshot.jobs
    assert ("new_run" in job, job["progress"]) == (False, None)


def test_a_snapshot_names_the_worker_in_which_a_job_goes_on(history: History) -> None:
    now = time.time()
    first = Job(job_id="job", project_id="p", task="first", worker="one", execution=Execution("e", now - 3))
    append(history, outgoing_status(status_change(first, "STARTED"), incarnation="i1", job=first))
    append(history, progress(40), outgoing_handed_on(first, now - 2, incarnation="i1"))
    second = msgspec.structs.replace(first, task="second", worker="two", execution=Execution("e", now - 1))
    goes_on = outgoing_status(status_change(second, "STARTED"), incarnation="i2", job=second)

    assert append(history, goes_on) == []

    [job] = history.read("p").jobs
    assert (job["status"], job["worker"], job["task"], job["progress"]) == ("running", "two", "second", 40)
    end = outgoing_status(status_change(second, "SUCCESS"), incarnation="i2", job=second)
    assert append(history, end, goes_on) == ["agent_status"]
    assert history.read("p").jobs[0]["status"] == "success"


def test_a_start_that_is_reported_sooner_than_the_one_before_is_still_the_later_one(history: History) -> None:
    """How long a report was on its way here is not known: what started a moment later may seem to be the earlier."""
    now = time.time()
    executions = Execution("a", now, clock=1000), Execution("b", now - 50, clock=1002)
    first, second = (Job(job_id="job", project_id="p", run="1-a", execution=execution) for execution in executions)
    append(history, outgoing_status(status_change(first, "STARTED"), incarnation="i1", job=first), progress(80))
    starts_again = outgoing_status(status_change(second, "STARTED"), incarnation="i1", job=second)
    assert append(history, starts_again) == ["agent_status"]
    assert history.read("p").jobs[0]["progress"] is None


class Line:
    """What lies between a history and its Redis: commands, answers or both may be lost."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._answers = answers = Runner.replies
        self.loses = ""
        self.round_trips = 0
        self._late: list[tuple[Runner, Any]] = []

        def carry(runner: Runner, commands: Any) -> Any:
            self.round_trips += bool(commands)
            if self.loses == "command":
                self._late.append((runner, commands))
            replies = answers(runner, commands) if self.loses != "command" else None
            if self.loses:
                raise redis.TimeoutError("the answer does not come")
            return replies

        monkeypatch.setattr(Runner, "replies", carry)

    def deliver_late(self) -> None:
        """Let the commands that were lost arrive after all, when nobody waits for their answers any more."""
        late, self._late = self._late, []
        for runner, commands in late:
            self._answers(runner, commands)


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Line:
    return Line(monkeypatch)


def crowd_out(redis_url: str) -> None:
    """Store more than a thousand events of others."""
    others = [History(redis_url, "tests", size=1000, ttl=60.0) for _ in range(3)]
    for start in range(0, 1500, 100):
        for other in others:
            append(other, *(custom({"other": start + n}) for n in range(35)))


def lines(history: History) -> list[Any]:
    """Return the numbers of the lines that are stored and are not of others, and of how many there is more than one."""
    return [event["data"]["n"] for event in history.recent("p") if "n" in event["data"]]


def test_a_doubtful_batch_is_stored_once_whatever_came_between(history: History, redis_url: str, line: Line) -> None:
    batch = [status("STARTED"), *(custom({"n": n}) for n in range(20)), progress(10)]
    line.loses = "answer"
    assert history.append(batch) is None
    line.loses = ""
    crowd_out(redis_url)
    client = redis.Redis.from_url(redis_url)
    before = client.hget(history.keys.project("p")[0], "offset")

    answers = history.append(batch)

    assert answers is not None
    assert [wire_offset(group) for group in answers] == list(range(1, 23))
    assert client.hget(history.keys.project("p")[0], "offset") == before


def wire_offset(group: list[Any]) -> int:
    """Return the offset of the only event of a group."""
    [(_, body)] = wire.frames(group, "me", "/")
    [heard] = [event for event in wire.decode_message(body) if isinstance(event, wire.Heard)]
    assert heard.offset is not None
    return heard.offset


def test_a_doubtful_batch_costs_one_look(history: History, line: Line) -> None:
    batch = [custom({"n": n}) for n in range(100)]
    for loses in ("answer", "command"):
        line.loses = loses
        assert history.append(batch) is None
    line.loses, line.round_trips = "", 0
    assert history.append(batch) is not None
    assert line.round_trips == 1
    assert history.append([custom({"n": 100})]) is not None
    assert line.round_trips == 2
    assert lines(history) == list(range(101))


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("loses", ["answer", "command"])
def test_a_doubtful_batch_may_be_tried_again_in_parts_and_with_others(
    history: History, redis_url: str, line: Line, loses: str, size: int
) -> None:
    queue = [custom({"n": n}) for n in range(20)]
    line.loses = loses
    assert history.append(queue[:10]) is None
    line.loses = ""
    for start in range(0, 20, size):
        part = queue[start : start + size]
        if start % 2:
            line.loses = "answer"
            assert history.append(part) is None
            line.loses = "command"
            assert history.append(part) is None
            line.loses = ""
        answers = history.append(part)
        assert answers is not None
        assert [wire_offset(group) for group in answers] == [event + 1 for event in range(start, start + len(part))]
    assert lines(history) == list(range(20))


def test_of_a_doubtful_batch_some_may_have_been_dropped_or_replaced_meanwhile(history: History, line: Line) -> None:
    old, new = progress(10), progress(20)
    batch = [custom({"n": 0}), old, custom({"n": 1}), custom({"n": 2})]
    line.loses = "answer"
    assert history.append(batch) is None
    line.loses = ""
    for retried in ([batch[0]], [new], [batch[3]]):
        line.loses = "answer"
        assert history.append(retried) is None
        line.loses = ""
        assert history.append(retried) is not None
    assert lines(history) == [0, 1, 2]
    assert history.read("p").offset == 5


def test_a_batch_of_several_projects_is_stored_once_in_each(history: History, redis_url: str, line: Line) -> None:
    batch = [custom({"n": n}, project=f"p{n % 3}") for n in range(9)]
    line.loses = "answer"
    assert history.append(batch[:6]) is None
    assert history.append(batch[:6]) is None
    line.loses = ""
    answers = history.append(batch)
    assert answers is not None
    assert [wire_offset(group) for group in answers] == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_a_command_that_arrives_after_it_was_given_up_changes_nothing(history: History, line: Line) -> None:
    batch = [custom({"n": n}) for n in range(3)]
    line.loses = "command"
    assert history.append(batch) is None
    line.loses = ""
    assert history.append(batch) is not None
    line.deliver_late()
    assert lines(history) == [0, 1, 2]
    assert history.append([custom({"n": 3})]) is not None
    assert lines(history) == [0, 1, 2, 3]


def test_what_a_redis_that_hung_has_still_read_is_stored_once(start_redis: Any) -> None:
    server = start_redis()
    url = server.fresh_url()
    history = History(url, "tests", size=1000, ttl=60.0)
    append(history, custom({"n": -1}))
    batch = [custom({"n": n}) for n in range(10)]
    server.pause()
    try:
        assert history.append(batch) is None
    finally:
        server.resume()
    wait_for(lambda: history.read("p").offset == 11)
    crowd_out(url)
    for start in range(0, 10, 4):
        answers = history.append(batch[start : start + 4])
        assert answers is not None
        assert [wire_offset(group) for group in answers] == list(range(2, 12))[start : start + 4]
    assert history.read("p").offset == 11 + 1575


@pytest.mark.parametrize("loses", ["answer", "command"])
def test_what_was_stored_and_lost_is_stored_again(history: History, redis_url: str, line: Line, loses: str) -> None:
    client = redis.Redis.from_url(redis_url)
    batch = [custom({"n": n}) for n in range(3)]
    for lose in (client.flushdb, lambda: client.delete(history.keys.project("p")[1])):
        line.loses = loses
        assert history.append(batch) is None
        line.loses = ""
        lose()
        assert history.append(batch) is not None
        assert lines(history) == [0, 1, 2]
        client.flushdb()


def test_a_doubt_that_redis_is_too_full_to_settle_is_published_without_an_offset(start_redis: Any, line: Line) -> None:
    server = start_redis()
    history = History(server.fresh_url(), "full", size=1000, ttl=60.0)
    event = custom({"n": 0})
    line.loses = "answer"
    assert history.append([event]) is None
    line.loses = ""
    redis.Redis.from_url(server.url()).config_set("maxmemory", 1)
    assert history.append([event]) == [[event]]


@pytest.mark.parametrize("loses", ["", "answer", "command"])
def test_another_process_stores_what_a_dead_one_may_have_stored(
    history: History, redis_url: str, line: Line, loses: str
) -> None:
    heir = History(redis_url, "tests", size=1000, ttl=60.0)
    batch = [status("STARTED"), progress(10), *(custom({"n": n}) for n in range(5)), progress(10, job="other")]
    line.loses = loses
    history.append(batch)
    line.loses = ""
    crowd_out(redis_url)
    inherited = [unpack(pack(event, history.writer)) for event in batch]
    for loss in ("answer", "command", ""):
        line.loses = loss
        assert (heir.append(inherited[:4]) is None) is bool(loss)
    assert heir.append(inherited[4:]) is not None
    line.deliver_late()
    assert heir.read("p").offset == 1575 + len(batch)


def test_a_custom_event_that_is_sent_twice_is_two_events(history: History) -> None:
    event = custom({"n": 1})
    assert append(history, event, event) == ["line", "line"]
    assert append(history, event) == ["line"]
    assert len(history.recent("p")) == 3
