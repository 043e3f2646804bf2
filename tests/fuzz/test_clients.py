"""Whatever a server says, the Python client goes on, keeps its state in order, and hears the next good server."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_realtime.client import Feed, FeedOptions
from tests.fuzz import material
from tests.fuzz.budget import tried

STATUS = {
    "event": "status_change",
    "job_id": "a",
    "project_id": "p",
    "status": "running",
    "state": "STARTED",
    "attempt": 0,
    "worker": "w",
    "epoch": "e",
    "offset": 3,
}
PROGRESS = {"event": "progress_update", "job_id": "a", "project_id": "p", "progress": 40, "attempt": 0, "offset": 4}
FLOW = {"root_id": "a", "project_id": "p", "total": 2, "queued": 0, "running": 0, "done": 2, "failed": 0}
MARK = {"job_id": "a", "project_id": "p", "epoch": "e", "offset": 4}
JOB = {**STATUS, "progress": 40, "message": None, "current": None, "total": None, "stalled": False}
MISSED = [
    {"event": "agent_status", "data": STATUS},
    {"event": "step", "data": 5, "epoch": "e", "offset": 3},
    {"event": "agent_progress", "data": {**PROGRESS, "epoch": "e"}},
    {"event": "agent_workflow", "data": {**FLOW, "event": "workflow_update", "epoch": "e", "offset": 4}},
    {"event": "agent_hidden", "data": {"project_id": "p", "epoch": "e", "offset": 4}},
]
ANSWER = {
    "ok": True,
    "project_id": "p",
    "epoch": "e",
    "offset": 2,
    "recovered": False,
    "jobs": [JOB, {**JOB, "job_id": "b", "status": "success", "state": "SUCCESS"}],
    "jobs_total": 2,
    "workflows": [FLOW],
    "events": [],
}
ANSWERS = [
    ANSWER,
    {**ANSWER, "epoch": None, "offset": None},
    {**ANSWER, "recovered": True, "offset": 2 + len(MISSED), "events": MISSED},
    *({"ok": False, "error": {"code": code, "message": "no"}} for code in ("unavailable", "too_many_requests")),
]
REFUSAL = {"ok": False, "error": {"code": "forbidden", "message": "no"}}
MESSAGES = [
    *([one["event"], one["data"]] for one in MISSED),
    ["step", {"n": 1, "_realtime": MARK}],
    ["agent_batch", [{**MARK, "event": "step", "data": 5}, MISSED[0], MISSED[2]]],
    ["agent_resync", {"project_id": "p", "epoch": "e", "offset": 9}],
    ["error", {"code": "forbidden", "message": "no", "project_id": "p"}],
]
WORDS = [
    *(*JOB, *FLOW, *ANSWER, "data", "error", "code", "_realtime", "root_id", "replayed", "p", "a", "e", "queued"),
    *("success", "LOST", "agent_status", "agent_progress", "agent_workflow", "agent_batch", "agent_hidden"),
]
wrong = material.values(WORDS)


def numbered(message: list[Any], offset: int) -> list[Any]:
    """Return a message with another offset, wherever it has one."""
    return [_renumbered(part, offset) for part in message]


def _renumbered(part: Any, offset: int) -> Any:
    if isinstance(part, list):
        return [_renumbered(one, offset + place) for place, one in enumerate(part)]
    if not isinstance(part, dict):
        return part
    return {name: offset if name == "offset" else _renumbered(value, offset) for name, value in part.items()}


messages = st.builds(numbered, st.sampled_from(MESSAGES), st.integers(1, 8))
steps = st.one_of(
    st.tuples(st.just("connected")),
    st.tuples(st.just("connected")),
    st.tuples(st.just("disconnected")),
    st.tuples(st.just("wait"), st.sampled_from([0.3, 6.0, 60.0])),
    st.tuples(st.just("answer"), st.sampled_from(ANSWERS)),
    st.tuples(st.just("answer"), material.near(st.sampled_from([*ANSWERS, REFUSAL]), wrong)),
    st.tuples(st.just("late_answer"), material.near(st.sampled_from(ANSWERS), wrong)),
    st.tuples(st.just("hear"), messages),
    st.tuples(st.just("hear"), material.near(messages, wrong)),
    st.tuples(st.just("hear"), st.tuples(st.sampled_from(WORDS), wrong)),
)
options = st.fixed_dictionaries(
    {"batch": st.booleans(), "max_jobs": st.integers(1, 3)},
    optional={"since": st.just({"epoch": "e", "offset": 2})},
)


class Follower:
    """A feed, whose server is the test."""

    def __init__(self, **options: Any) -> None:
        self.clock = 0.0
        self.numbers: list[int] = []
        self.events: list[Any] = []
        self.online = False
        self.feed = Feed("p", self.ask, FeedOptions(self._on_event, clock=lambda: self.clock, **options))

    def ask(self, number: int, request: dict[str, Any]) -> None:
        assert set(request) <= {"project_id", "since", "batch"}
        self.numbers.append(number)

    def _on_event(self, name: str, data: Any) -> None:
        assert isinstance(name, str)
        self.events.append((name, data))

    def connected(self) -> None:
        self.online = True
        self.feed.connected()

    def disconnected(self) -> None:
        self.online = False
        self.feed.disconnected()

    def wait(self, seconds: float) -> None:
        self.clock += seconds
        self.feed.wake()

    def answer(self, answer: Any) -> None:
        self.feed.answered(self.numbers[-1] if self.numbers else 1, answer)

    def late_answer(self, answer: Any) -> None:
        self.feed.answered(self.numbers[-2] if len(self.numbers) > 1 else 0, answer)

    def hear(self, message: Any) -> None:
        if isinstance(message, (list, tuple)) and len(message) == 2 and isinstance(message[0], str):
            self.feed.heard(*message)

    def check(self) -> None:
        """Check that the parts of the feed's state agree."""
        feed = self.feed
        assert feed.state in ("subscribing", "subscribed", "stale", "refused")
        assert isinstance(feed.error, (dict, type(None)))
        assert (isinstance(feed.epoch, str) and isinstance(feed.offset, int)) or feed.epoch is feed.offset is None
        for entries, key in ((feed.jobs, "job_id"), (feed.workflows, "root_id")):
            assert all(isinstance(name, str) and entry[key] == name for name, entry in entries.items())
        assert all(isinstance(offset, int) and offset > (feed.offset or 0) for offset in feed.held_offsets)
        assert not (self.online and feed.state in ("subscribing", "stale")) or feed.wakes_at is not None

    def recover(self) -> None:
        """Connect to a good server."""
        for epoch in ("better", "good"):  # what was heard before belongs to the first of them
            self.disconnected()
            self.connected()
            self.answer({**ANSWER, "epoch": epoch, "offset": 7})
        assert (self.feed.state, self.feed.epoch, self.feed.offset) == ("subscribed", "good", 7)
        assert {name: job["status"] for name, job in self.feed.jobs.items()} == {"a": "running", "b": "success"}
        self.events.clear()
        for offset in (9, 8, 8):
            self.hear(["agent_status", {**STATUS, "status": "error", "epoch": "good", "offset": offset}])
        assert [data["offset"] for _, data in self.events] == [8, 9]
        assert self.feed.jobs["a"]["status"] == "error"


@tried(125)
@given(options, st.lists(steps, min_size=1, max_size=10))
def test_no_server_whatever_breaks_a_feed(options: dict[str, Any], steps: list[Any]) -> None:
    follower = Follower(**options)
    for name, *args in steps:
        getattr(follower, name)(*args)
        follower.check()
    follower.recover()


NO_ANSWERS = {
    "one that says nothing": {"ok": True},
    "an epoch without an offset": {**ANSWER, "offset": None},
    "no events": {**ANSWER, "events": None},
    "an offset that is text": {**ANSWER, "recovered": True, "offset": "2"},
    "an event that is a number": {**ANSWER, "recovered": True, "events": [5]},
    "an error that is text": {"ok": False, "error": "unavailable"},
}


@pytest.mark.parametrize("answer", NO_ANSWERS.values(), ids=NO_ANSWERS.keys())
def test_an_answer_that_is_none_is_asked_for_again(answer: dict[str, Any]) -> None:
    follower = Follower()
    follower.connected()

    follower.answer(answer)

    assert follower.feed.state == "stale"
    follower.wait(1.0)
    assert len(follower.numbers) == 2
    follower.recover()


ANSWERS_WITH_JUNK = {
    "a job without an id": {**ANSWER, "jobs": [{"status": "running"}, JOB]},
    "a job that is null, and an id that is a list": {**ANSWER, "jobs": [None, {**JOB, "job_id": ["a"]}, JOB]},
    "workflows without an id": {**ANSWER, "jobs": [JOB], "workflows": [{}, {"root_id": 5}]},
    "an event without data": {**ANSWER, "jobs": [JOB], "recovered": True, "events": [{"event": "agent_status"}]},
}


@pytest.mark.parametrize("answer", ANSWERS_WITH_JUNK.values(), ids=ANSWERS_WITH_JUNK.keys())
def test_entries_that_are_none_are_left_out_of_an_answer(answer: dict[str, Any]) -> None:
    follower = Follower(since={"epoch": "e", "offset": 1})
    follower.connected()
    follower.answer(answer)
    assert (follower.feed.state, list(follower.feed.jobs)) == ("subscribed", ["a"])


MEAGRE = {"project_id": "p", "epoch": "e", "offset": 3}
EVENTS = {
    "a status of no job": ("agent_status", MEAGRE),
    "a status of a list": ("agent_status", {**STATUS, "job_id": ["a"]}),
    "a status of nothing but a job": ("agent_status", {**MEAGRE, "job_id": "a"}),
    "a status that nobody knows": ("agent_status", {**STATUS, "status": "asleep", "attempt": "one"}),
    "a status without an offset": ("agent_status", {**STATUS, "offset": None, "attempt": None}),
    "an epoch that is a list": ("agent_status", {**STATUS, "epoch": ["e"]}),
    "progress of nothing but a job": ("agent_progress", {**MEAGRE, "job_id": "a"}),
    "progress that is text": ("agent_progress", {"project_id": "p", "job_id": "a", "progress": "40"}),
    "a workflow without numbers": ("agent_workflow", {**MEAGRE, "root_id": "a", "queued": "0"}),
    "a batch with a list for a name": ("agent_batch", [{"event": ["step"], "data": 1, **MARK}]),
}


@pytest.mark.parametrize(("name", "data"), EVENTS.values(), ids=EVENTS.keys())
def test_an_event_that_lacks_what_others_have_does_no_harm(name: str, data: Any) -> None:
    """A filter may have taken it out, or the server be of another version."""
    follower = Follower(max_jobs=1)
    follower.connected()
    follower.answer(ANSWER)
    follower.hear([name, data])
    follower.hear(["agent_status", {**STATUS, "job_id": "c", "offset": 4}])
    follower.check()
    follower.recover()


def test_any_number_of_epochs_does_no_harm() -> None:
    """That only so many are remembered is tested beside the class that does."""
    follower = Follower()
    follower.connected()
    follower.answer(ANSWER)
    for number in range(1000):
        follower.hear(["agent_status", {**STATUS, "epoch": f"epoch {number}"}])
        follower.answer({**ANSWER, "epoch": f"epoch {number}"})
    follower.recover()
