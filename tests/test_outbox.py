from __future__ import annotations

import itertools
import json
import logging
import math
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celery_realtime import outbox as outbox_module
from celery_realtime.events import Outgoing
from celery_realtime.outbox import Outbox
from tests.waiting import wait_for

ROOT = Path(__file__).parents[1]
LATER = 600.0


def status(name: str, job: str = "j", rank: int = 1) -> Outgoing:
    return Outgoing("p", "agent_status", name.encode(), job, rank=rank)


def end(name: str, job: str = "j") -> Outgoing:
    return status(name, job, rank=2)


def progress(name: str, job: str = "j") -> Outgoing:
    return Outgoing("p", "agent_progress", name.encode(), job, progress=True)


def custom(name: str, job: str = "j") -> Outgoing:
    return Outgoing("p", "line", name.encode(), job)


class Broker:
    """Takes events as it is told to, and keeps what it took."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.times: list[float] = []
        self.taken: list[str] = []
        self.left_at: dict[str, float] = {}
        self.down = False
        self.script: list[int | Exception] = []
        self.open = threading.Event()
        self.open.set()
        self.busy = threading.Event()

    def deliver(self, events: list[Outgoing]) -> int:
        names = [event.payload.decode() for event in events]
        self.batches.append(names)
        self.times.append(time.monotonic())
        self.busy.set()
        assert self.open.wait(60)
        answer = self.script.pop(0) if self.script else len(events)
        if isinstance(answer, Exception):
            raise answer
        if self.down:
            answer = 0
        self.taken += names[:answer]
        self.left_at.update(dict.fromkeys(names[:answer], time.monotonic()))
        return min(answer, len(events))

    def hang(self) -> None:
        """Take a batch and keep it, until :meth:`go_on`."""
        self.busy.clear()
        self.open.clear()

    def go_on(self) -> None:
        self.open.set()


@pytest.fixture
def broker() -> Iterator[Broker]:
    broker = Broker()
    yield broker
    broker.go_on()


@pytest.fixture
def make(broker: Broker) -> Callable[..., Outbox]:
    def make(**options: Any) -> Outbox:
        return Outbox(broker.deliver, **{"linger": 0.0, **options})

    return make


@pytest.fixture
def quick_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(outbox_module, "LONGEST_PAUSE", 0.08)


def hang_with(outbox: Outbox, broker: Broker, event: Outgoing) -> None:
    """Let the broker hang with one event in hand, so that all that follows waits in the outbox."""
    broker.hang()
    outbox.put(event)
    assert broker.busy.wait(10)


# -- order ------------------------------------------------------------------------------------------------------


def test_events_leave_in_the_order_they_came(make: Callable[..., Outbox], broker: Broker) -> None:
    outbox = make()
    names = [str(number) for number in range(500)]
    for name in names:
        outbox.put(custom(name))
    assert outbox.flush(10)
    assert broker.taken == names
    assert outbox.counts["sent"] == 500
    assert outbox.size == 0


def test_a_batch_has_at_most_so_many_events(make: Callable[..., Outbox], broker: Broker) -> None:
    outbox = make(batch_size=10)
    hang_with(outbox, broker, custom("first"))
    for number in range(25):
        outbox.put(custom(str(number)))
    broker.go_on()
    assert outbox.flush(10)
    assert [len(batch) for batch in broker.batches] == [1, 10, 10, 5]


def test_after_a_silence_progress_leaves_at_once_and_the_next_waits_for_company(
    make: Callable[..., Outbox], broker: Broker
) -> None:
    outbox = make(linger=0.3)
    start = time.monotonic()
    outbox.put(progress("a", "j1"))
    wait_for(lambda: broker.taken == ["a"])
    outbox.put(progress("b", "j2"))
    outbox.put(progress("c", "j3"))
    wait_for(lambda: broker.taken == ["a", "b", "c"])
    assert broker.times[0] - start < 0.2
    assert broker.times[1] - broker.times[0] >= 0.3
    assert broker.batches == [["a"], ["b", "c"]]


def test_what_is_no_progress_hardly_waits(make: Callable[..., Outbox], broker: Broker) -> None:
    outbox = make(linger=60.0)
    outbox.put(progress("a", "j1"))
    wait_for(lambda: broker.taken == ["a"])
    outbox.put(progress("b", "j1"))
    outbox.put(end("c", "j1"))
    wait_for(lambda: broker.taken == ["a", "b", "c"], timeout=1)


def test_who_waits_for_an_event_to_leave_waits_for_no_company(make: Callable[..., Outbox], broker: Broker) -> None:
    outbox = make(linger=60.0)
    for name in ("a", "b", "c"):
        outbox.put(progress(name))
        start = time.monotonic()
        assert outbox.flush(10)
        assert time.monotonic() - start < 1
    assert broker.taken == ["a", "b", "c"]


def test_the_more_there_is_to_send_the_fewer_batches_it_takes(
    make: Callable[..., Outbox], broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = make(linger=0.001)
    deliver = broker.deliver

    def laboriously(events: list[Outgoing]) -> int:
        until = time.thread_time() + 0.005
        while time.thread_time() < until:
            pass
        return deliver(events)

    monkeypatch.setattr(outbox, "_deliver", laboriously)
    wait_for(lambda: outbox.put(custom("one more")) or len(broker.times) > 4)
    gaps = [later - earlier for earlier, later in itertools.pairwise(broker.times)]
    assert min(gaps) >= min(outbox_module.REST_SHARE * 0.005, outbox_module.LONGEST_REST)


# -- progress ---------------------------------------------------------------------------------------------------


def test_of_the_progress_that_waits_only_the_newest_leaves(make: Callable[..., Outbox], broker: Broker) -> None:
    outbox = make()
    hang_with(outbox, broker, status("first"))
    for number in range(10):
        outbox.put(progress(f"one {number}", "j1"))
        outbox.put(progress(f"two {number}", "j2"))
    broker.go_on()
    assert outbox.flush(10)
    assert broker.taken == ["first", "one 9", "two 9"]
    assert outbox.counts["coalesced"] == 18


def test_progress_does_not_replace_what_was_before_a_status_of_its_job(
    make: Callable[..., Outbox], broker: Broker
) -> None:
    outbox = make()
    hang_with(outbox, broker, status("first"))
    for event in (progress("1"), status("retry", rank=0), progress("2"), end("end"), progress("other", "k")):
        outbox.put(event)
    broker.go_on()
    assert outbox.flush(10)
    assert broker.taken == ["first", "1", "retry", "2", "end", "other"]


def test_progress_is_held_back_until_it_is_due_and_then_leaves_by_itself(
    make: Callable[..., Outbox], broker: Broker
) -> None:
    outbox = make()
    due = time.monotonic() + 0.3
    outbox.put(progress("1"), due)
    assert outbox.size == 1
    outbox.put(custom("unhindered"))
    wait_for(lambda: broker.taken == ["unhindered", "1"])
    assert broker.left_at["1"] >= due
    assert broker.left_at["unhindered"] < due


def test_of_the_progress_that_is_held_back_only_the_newest_leaves(make: Callable[..., Outbox], broker: Broker) -> None:
    outbox = make()
    due = time.monotonic() + 0.2
    for number in range(5):
        outbox.put(progress(str(number)), due)
    assert outbox.size == 1
    wait_for(lambda: broker.taken)
    assert outbox.flush(10)
    assert broker.taken == ["4"]
    assert outbox.counts["coalesced"] == 4


def test_progress_that_is_due_at_once_replaces_what_is_held_back(make: Callable[..., Outbox], broker: Broker) -> None:
    outbox = make()
    outbox.put(progress("held"), time.monotonic() + LATER)
    outbox.put(progress("complete"))
    assert outbox.flush(10)
    assert broker.taken == ["complete"]
    assert outbox.counts["coalesced"] == 1


def test_every_job_has_its_own_time(make: Callable[..., Outbox], broker: Broker) -> None:
    outbox = make()
    now = time.monotonic()
    outbox.put(progress("late", "j1"), now + 0.4)
    outbox.put(progress("early", "j2"), now + 0.1)
    outbox.put(progress("at once", "j3"))
    wait_for(lambda: len(broker.taken) == 3)
    assert broker.taken == ["at once", "early", "late"]


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_status_takes_the_held_back_progress_of_its_job_along_in_front(
    make: Callable[..., Outbox], broker: Broker, rank: int
) -> None:
    outbox = make()
    outbox.put(progress("99"), time.monotonic() + LATER)
    outbox.put(status("end", rank=rank))
    wait_for(lambda: len(broker.taken) == 2)
    assert broker.taken == ["99", "end"]


def test_custom_events_and_other_jobs_leave_held_back_progress_where_it_is(
    make: Callable[..., Outbox], broker: Broker
) -> None:
    outbox = make()
    outbox.put(progress("99", "mine"), time.monotonic() + LATER)
    outbox.put(custom("line", "mine"))
    outbox.put(end("end", "other"))
    wait_for(lambda: broker.taken == ["line", "end"])
    assert outbox.size == 1


def test_progress_that_is_never_due_leaves_with_its_jobs_end(make: Callable[..., Outbox], broker: Broker) -> None:
    outbox = make()
    outbox.put(progress("held"), math.inf)
    outbox.put(status("other", "k"))
    wait_for(lambda: broker.taken == ["other"], message="the sender does not go on")
    outbox.put(end("end"))
    wait_for(lambda: broker.taken == ["other", "held", "end"], message="the sender does not go on")


def test_no_older_progress_leaves_after_a_newer_one_when_a_batch_comes_back(
    make: Callable[..., Outbox], broker: Broker, quick_pauses: None
) -> None:
    outbox = make()
    broker.hang()
    outbox.put(progress("1"))
    assert broker.busy.wait(10)
    outbox.put(progress("2"), time.monotonic() + LATER)
    broker.down = True
    broker.go_on()
    wait_for(lambda: len(broker.batches) >= 2)
    outbox.put(progress("3"), time.monotonic() + LATER)
    broker.down = False
    assert outbox.flush(10)
    assert broker.taken[-1] == "3"
    assert broker.taken == sorted(broker.taken)


def test_a_batch_that_comes_back_keeps_the_progress_on_both_sides_of_a_status(
    make: Callable[..., Outbox], broker: Broker, quick_pauses: None
) -> None:
    outbox = make()
    hang_with(outbox, broker, status("first", "k"))
    for event in (progress("1"), status("retry", rank=0), progress("2")):
        outbox.put(event)
    broker.script = [1, 0]
    broker.go_on()
    assert outbox.flush(10)
    assert broker.taken == ["first", "1", "retry", "2"]
    assert outbox.counts["coalesced"] == 0


def test_flushing_starts_the_thread_that_could_not_be_had_before(
    make: Callable[..., Outbox], broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    outbox = make()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        outbox.put(status("1"))
        assert not outbox.flush(60)
    assert outbox.flush(10)
    assert broker.taken == ["1"]


# -- the bound --------------------------------------------------------------------------------------------------


def test_progress_is_dropped_before_any_other_event(make: Callable[..., Outbox], broker: Broker) -> None:
    outbox = make(queue_size=4)
    hang_with(outbox, broker, status("first"))
    outbox.put(status("s1"))
    outbox.put(progress("p2", "j2"))
    outbox.put(progress("p3", "j3"), time.monotonic() + LATER)
    outbox.put(custom("c4"))
    for number in range(5, 9):
        outbox.put(custom(f"c{number}"))
        assert outbox.size == 4
    broker.go_on()
    assert outbox.flush(10)
    assert broker.taken == ["first", "c5", "c6", "c7", "c8"]
    assert (outbox.counts["dropped_progress"], outbox.counts["dropped_lifecycle"]) == (2, 2)
    assert outbox.counts["sent"] == 5


def test_progress_of_a_job_that_has_ended_is_dropped_before_any_other_event_too(
    make: Callable[..., Outbox], broker: Broker
) -> None:
    outbox = make(queue_size=3)
    hang_with(outbox, broker, status("first"))
    for event in (status("s1", "other"), progress("99"), end("end"), custom("c", "other")):
        outbox.put(event)
    broker.go_on()
    assert outbox.flush(10)
    assert broker.taken == ["first", "s1", "end", "c"]
    assert (outbox.counts["dropped_progress"], outbox.counts["dropped_lifecycle"]) == (1, 0)


def test_when_only_other_events_wait_the_oldest_are_dropped(make: Callable[..., Outbox], broker: Broker) -> None:
    outbox = make(queue_size=3)
    hang_with(outbox, broker, status("first"))
    for number in range(10):
        outbox.put(status(str(number), f"j{number}"))
    broker.go_on()
    assert outbox.flush(10)
    assert broker.taken == ["first", "7", "8", "9"]
    assert outbox.counts["dropped_lifecycle"] == 7


def test_held_back_progress_counts_and_is_bounded(make: Callable[..., Outbox], broker: Broker) -> None:
    outbox = make(queue_size=5)
    for number in range(20):
        outbox.put(progress(str(number), f"j{number}"), time.monotonic() + LATER)
        assert outbox.size <= 5
    assert outbox.counts["dropped_progress"] == 15
    assert outbox.flush(10)
    assert broker.taken == ["15", "16", "17", "18", "19"]


def test_an_outage_however_long_does_not_make_it_grow(
    make: Callable[..., Outbox], broker: Broker, quick_pauses: None
) -> None:
    broker.down = True
    outbox = make(queue_size=20, batch_size=5)
    for number in range(500):
        outbox.put(status(str(number), f"j{number}"))
        assert outbox.size <= 25
    wait_for(lambda: len(broker.batches) >= 3)
    broker.down = False
    assert outbox.flush(10)
    assert broker.taken == sorted(broker.taken, key=int)
    assert broker.taken[-15:] == [str(number) for number in range(485, 500)]
    assert outbox.counts["sent"] + outbox.counts["dropped_lifecycle"] == 500


def test_drops_are_logged_once_a_minute_and_not_once_each(
    make: Callable[..., Outbox], broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = make(queue_size=2)
    hang_with(outbox, broker, status("first"))
    for number in range(200):
        outbox.put(status(str(number)))
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "realtime_queue_size=2" in caplog.text


def test_drops_are_logged_again_when_the_minute_is_over(
    make: Callable[..., Outbox], broker: Broker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = make(queue_size=2)
    hang_with(outbox, broker, status("first"))
    for number in range(3):
        outbox.put(status(str(number)))
    monkeypatch.setattr(outbox_module, "LOG_INTERVAL", 0.0)
    outbox.put(status("3"))
    assert len(caplog.records) == 2
    assert "'dropped_lifecycle': 2" in caplog.messages[1]


def test_no_payload_is_ever_logged(
    make: Callable[..., Outbox], broker: Broker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(outbox_module, "LOG_INTERVAL", 0.0)
    broker.script = [0, ValueError("broken"), 1]
    outbox = make(queue_size=2)
    for _ in range(20):
        outbox.put(status("hunter2"))
    outbox.flush(10)
    assert caplog.records
    assert "hunter2" not in caplog.text


# -- outages ----------------------------------------------------------------------------------------------------


def test_what_was_not_sent_is_sent_again_and_the_rest_is_not(
    make: Callable[..., Outbox], broker: Broker, quick_pauses: None
) -> None:
    outbox = make()
    hang_with(outbox, broker, status("first"))
    for number in range(6):
        outbox.put(status(str(number)))
    broker.script = [1, 2, 0, 3]
    broker.go_on()
    assert outbox.flush(10)
    assert broker.batches == [["first"], ["0", "1", "2", "3", "4", "5"], *[["2", "3", "4", "5"]] * 2, ["5"]]
    assert broker.taken == ["first", "0", "1", "2", "3", "4", "5"]
    assert outbox.counts["sent"] == 7


def has_tried(broker: Broker, times: int) -> bool:
    return len(broker.batches) > times


def test_what_comes_during_an_outage_comes_after_what_was_there(
    make: Callable[..., Outbox], broker: Broker, quick_pauses: None
) -> None:
    broker.down = True
    outbox = make(batch_size=2)
    for number in range(10):
        outbox.put(status(str(number)))
        wait_for(partial(has_tried, broker, number // 2))
    broker.down = False
    assert outbox.flush(10)
    assert broker.taken == [str(number) for number in range(10)]


def test_a_newer_update_replaces_one_that_came_back(
    make: Callable[..., Outbox], broker: Broker, quick_pauses: None
) -> None:
    outbox = make()
    hang_with(outbox, broker, progress("1"))
    outbox.put(progress("2"))
    broker.script = [0]
    broker.go_on()
    assert outbox.flush(10)
    assert broker.taken == ["2"]
    assert outbox.counts["coalesced"] == 1


def test_the_pauses_between_tries_grow_to_a_limit(
    make: Callable[..., Outbox], broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "FIRST_PAUSE", 0.04)
    monkeypatch.setattr(outbox_module, "LONGEST_PAUSE", 0.16)
    broker.down = True
    outbox = make()
    outbox.put(status("s"))
    wait_for(lambda: len(broker.times) >= 7)
    gaps = [later - earlier for earlier, later in zip(broker.times, broker.times[1:], strict=False)]
    for gap, pause in zip(gaps, [0.04, 0.08, 0.16, 0.16, 0.16, 0.16], strict=False):
        assert gap >= pause / 2


def test_new_events_do_not_cut_a_pause_short(
    make: Callable[..., Outbox], broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "FIRST_PAUSE", 60.0)
    monkeypatch.setattr(outbox_module, "LONGEST_PAUSE", 60.0)
    broker.down = True
    outbox = make()
    outbox.put(status("first"))
    wait_for(lambda: "sent" in outbox.counts)
    for number in range(50):
        outbox.put(status(str(number)))
    assert not outbox.flush(0.2)
    assert len(broker.batches) == 1


def test_a_success_ends_the_pauses(make: Callable[..., Outbox], broker: Broker, quick_pauses: None) -> None:
    broker.script = [0, 0, 0]
    outbox = make()
    outbox.put(status("1"))
    assert outbox.flush(10)
    outbox_module_first = outbox_module.FIRST_PAUSE
    broker.script = [0]
    start = time.monotonic()
    outbox.put(status("2"))
    assert outbox.flush(10)
    assert broker.taken == ["1", "2"]
    assert time.monotonic() - start >= outbox_module_first / 2


def test_an_outage_is_logged_once_and_not_once_a_try(
    make: Callable[..., Outbox], broker: Broker, quick_pauses: None, caplog: pytest.LogCaptureFixture
) -> None:
    broker.down = True
    outbox = make()
    outbox.put(status("s"))
    wait_for(lambda: len(broker.batches) >= 5)
    assert len(caplog.records) == 1
    assert "the broker does not take events" in caplog.text


def test_a_sender_that_breaks_loses_its_batch_and_goes_on(
    make: Callable[..., Outbox], broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.script = [ValueError("broken")]
    outbox = make()
    hang_with(outbox, broker, status("lost"))
    outbox.put(status("kept"))
    broker.go_on()
    assert outbox.flush(10)
    assert broker.taken == ["kept"]
    assert "ValueError('broken')" in caplog.text
    assert caplog.records[0].exc_info is None


def test_what_a_broken_sender_lost_is_counted_as_lost_and_not_as_sent(
    make: Callable[..., Outbox], broker: Broker
) -> None:
    broker.script = [ValueError("broken")]
    outbox = make()
    outbox.put(status("lost"))
    assert outbox.flush(10)
    assert (outbox.counts["dropped_error"], outbox.counts["sent"]) == (1, 0)


def test_every_event_is_counted_as_what_became_of_it(make: Callable[..., Outbox], broker: Broker) -> None:
    outbox = make(queue_size=5)
    hang_with(outbox, broker, status("first"))
    put = 1
    for number in range(30):
        for event, due in (
            (progress("held", f"j{number % 4}"), time.monotonic() + LATER),
            (progress("now", f"j{number % 3}"), 0.0),
            (custom("c", f"j{number % 2}"), 0.0),
        ):
            outbox.put(event, due)
            put += 1
    broker.go_on()
    assert outbox.flush(10)
    counts = outbox.counts
    assert counts["sent"] == len(broker.taken)
    assert put == counts["sent"] + counts["coalesced"] + counts["dropped_progress"] + counts["dropped_lifecycle"]


# -- flushing ---------------------------------------------------------------------------------------------------


def test_flushing_nothing_is_done_at_once_and_starts_no_thread(make: Callable[..., Outbox]) -> None:
    before = threading.active_count()
    assert make().flush(0)
    assert threading.active_count() == before


def test_flushing_takes_along_what_is_held_back(make: Callable[..., Outbox], broker: Broker) -> None:
    outbox = make()
    outbox.put(progress("held"), time.monotonic() + LATER)
    assert outbox.flush(10)
    assert broker.taken == ["held"]


def test_flushing_gives_up_when_the_time_is_over_and_nothing_is_lost(
    make: Callable[..., Outbox], broker: Broker
) -> None:
    outbox = make()
    hang_with(outbox, broker, status("1"))
    outbox.put(status("2"))
    start = time.monotonic()
    assert not outbox.flush(0.2)
    assert 0.2 <= time.monotonic() - start < 5
    broker.go_on()
    assert outbox.flush(10)
    assert broker.taken == ["1", "2"]


def test_flushing_waits_for_what_is_on_its_way(make: Callable[..., Outbox], broker: Broker) -> None:
    outbox = make()
    hang_with(outbox, broker, status("1"))
    assert outbox.size == 0
    assert not outbox.flush(0)


def test_flushing_waits_as_long_as_the_setting_says(make: Callable[..., Outbox], broker: Broker) -> None:
    outbox = make(flush_timeout=0.1)
    hang_with(outbox, broker, status("1"))
    start = time.monotonic()
    assert not outbox.flush()
    assert 0.1 <= time.monotonic() - start < 5


def test_flushing_may_wait_for_ever(make: Callable[..., Outbox], broker: Broker) -> None:
    outbox = make()
    hang_with(outbox, broker, status("1"))
    timer = threading.Timer(0.1, broker.go_on)
    timer.start()
    assert outbox.flush(math.inf)
    assert broker.taken == ["1"]


# -- threads and processes --------------------------------------------------------------------------------------


def sender_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "celery-realtime-outbox"}


def test_the_thread_starts_with_the_first_event_and_stays(make: Callable[..., Outbox]) -> None:
    before = sender_threads()
    outbox = make()
    assert sender_threads() == before
    for number in range(3):
        outbox.put(status(str(number)))
        assert outbox.flush(10)
    (started,) = sender_threads() - before
    assert started.daemon


def test_an_event_is_accepted_even_when_no_thread_can_be_had(
    make: Callable[..., Outbox], broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    outbox = make()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        outbox.put(status("1"))
    outbox.put(status("2"))
    assert outbox.flush(10)
    assert broker.taken == ["1", "2"]


def test_putting_never_waits_for_a_broker_that_hangs(make: Callable[..., Outbox], broker: Broker) -> None:
    outbox = make(queue_size=100)
    hang_with(outbox, broker, status("first"))
    start = time.monotonic()
    for number in range(1000):
        outbox.put(status(str(number)))
        outbox.put(progress(str(number), f"j{number}"))
    assert time.monotonic() - start < 5
    assert not broker.open.is_set()


def test_threads_that_put_at_once_lose_nothing(make: Callable[..., Outbox], broker: Broker) -> None:
    outbox = make()
    start = threading.Barrier(32)

    def work(thread: int) -> None:
        start.wait(10)
        for number in range(100):
            outbox.put(status(f"{thread} {number}", f"j{thread}"))
            outbox.put(progress(f"{thread} {number} progress", f"j{thread}"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outbox.flush(30)
    for number in range(32):
        mine = [name for name in broker.taken if name.startswith(f"{number} ")]
        assert [name for name in mine if "progress" not in name] == [f"{number} {count}" for count in range(100)]
        assert mine[-1] == f"{number} 99 progress"
    assert outbox.counts["sent"] + outbox.counts["coalesced"] == 6400


def run(script: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    prelude = """
        import json, os, sys, threading, time
        from celery_realtime.events import Outgoing
        from celery_realtime.outbox import Outbox

        def status(name): return Outgoing("p", "agent_status", name.encode(), "j", rank=1)
        def progress(name): return Outgoing("p", "agent_progress", name.encode(), "j", progress=True)
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(prelude) + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=True,
        cwd=ROOT,
    )


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


@needs_fork
def test_a_child_sends_its_own_events_and_none_of_its_parents() -> None:
    done = run("""
        taken = []
        def deliver(events):
            taken.extend(event.payload.decode() for event in events)
            return len(events)

        outbox = Outbox(deliver, linger=0.0)
        outbox.put(status("parent 1"))
        assert outbox.flush(10)
        outbox.put(progress("parent held"), time.monotonic() + 600)
        pid = os.fork()
        if pid == 0:
            assert outbox.size == 0 and not outbox.counts, "something was inherited"
            taken.clear()
            outbox.put(status("child"))
            ok = outbox.flush(10)
            os._exit(0 if ok and taken == ["child"] else 1)
        _, code = os.waitpid(pid, 0)
        outbox.put(status("parent 2"))
        assert outbox.flush(10)
        print(json.dumps([code, taken]))
    """)
    assert json.loads(done.stdout) == [0, ["parent 1", "parent held", "parent 2"]]


@needs_fork
def test_a_fork_in_the_midst_of_other_threads_sending_leaves_the_child_able_to_send() -> None:
    done = run("""
        import signal
        outbox = Outbox(len, linger=0.0)
        stop = threading.Event()
        def work():
            while not stop.is_set():
                outbox.put(status("s"))
        for _ in range(3):
            threading.Thread(target=work, daemon=True).start()
        codes = []
        for _ in range(10):
            pid = os.fork()
            if pid == 0:
                signal.alarm(10)
                outbox.put(status("child"))
                os._exit(0 if outbox.flush(5) else 1)
            codes.append(os.waitpid(pid, 0)[1])
        stop.set()
        print(json.dumps(codes))
    """)
    assert json.loads(done.stdout) == [0] * 10


@needs_fork
def test_a_child_of_a_child_sends_too() -> None:
    done = run("""
        outbox = Outbox(lambda events: (os.write(1, events[0].payload + b"\\n"), len(events))[1], linger=0.0)
        def generation(names):
            outbox.put(status(names[0]))
            assert outbox.flush(10)
            if names[1:]:
                pid = os.fork()
                if pid == 0:
                    generation(names[1:])
                    os._exit(0)
                assert os.waitpid(pid, 0)[1] == 0
        generation(["parent", "child", "grandchild"])
    """)
    assert done.stdout.split() == ["parent", "child", "grandchild"]


def test_what_waits_when_the_interpreter_ends_still_leaves() -> None:
    done = run("""
        def deliver(events):
            os.write(1, b"".join(event.payload + b"\\n" for event in events))
            return len(events)
        outbox = Outbox(deliver, linger=0.5)
        outbox.put(progress("held"), time.monotonic() + 600)
        outbox.put(status("last"))
        outbox.put(progress("newest"), time.monotonic() + 600)
    """)
    assert done.stdout.split() == ["held", "last", "newest"]


def test_an_interpreter_that_ends_does_not_wait_longer_than_it_may() -> None:
    done = run(
        """
        outbox = Outbox(lambda events: threading.Event().wait(600), flush_timeout=0.3)
        outbox.put(status("stuck"))
        print("ended")
        """,
        timeout=30,
    )
    assert done.stdout.split() == ["ended"]


def test_an_event_from_an_exit_handler_still_leaves() -> None:
    done = run("""
        import atexit
        outbox = Outbox(lambda events: os.write(1, events[0].payload) and len(events))
        outbox.put(status("early "))
        assert outbox.flush(10)
        atexit.register(lambda: outbox.put(status("late")))
        """)
    assert done.stdout == "early late"
    assert done.stderr == ""


def test_an_event_that_comes_when_no_thread_runs_any_more_neither_blocks_nor_raises() -> None:
    # Modules are torn down after the daemon threads were stopped, and a new one would never begin to run.
    done = run(
        """
        outbox = Outbox(len)
        class Late:
            def __del__(self, write=os.write, outbox=outbox, event=status("late")):
                outbox.put(event)
                write(1, b"went on")
        sys.modules["late"] = Late()
        for _ in range(20):
            outbox.put(status("early"))
        """,
        timeout=10,
    )
    assert done.stdout == "went on"
    assert done.stderr == ""


# -- any sequence at all ----------------------------------------------------------------------------------------

JOBS = st.sampled_from(["a", "b", "c"])
STEPS = st.lists(
    st.tuples(st.just("status"), JOBS)
    | st.tuples(st.just("custom"), JOBS)
    | st.tuples(st.just("progress"), JOBS)
    | st.tuples(st.just("held"), JOBS)
    | st.tuples(st.just("soon"), JOBS)
    | st.tuples(st.just("deliver"), st.integers(0, 4)),
    max_size=25,
)


class FlakyBroker:
    """Takes as many events of a batch as it is told, and waits to be told."""

    def __init__(self) -> None:
        self.taken: list[Outgoing] = []
        self._answers: list[int] = []
        self._told = threading.Condition()
        self._well = False

    def deliver(self, events: list[Outgoing]) -> int:
        with self._told:
            self._told.wait_for(lambda: self._answers or self._well, 30)
            count = len(events) if self._well or not self._answers else min(self._answers.pop(0), len(events))
        self.taken += events[:count]
        return count

    def answer(self, count: int) -> None:
        with self._told:
            self._answers.append(count)
            self._told.notify_all()

    def get_well(self) -> None:
        with self._told:
            self._well = True
            self._told.notify_all()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, batch_size=st.integers(1, 4))
def test_any_sequence_over_a_flaky_broker_arrives_in_order_once_and_with_the_last_progress(
    steps: list[tuple[str, Any]], batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "FIRST_PAUSE", 0.0005)
    monkeypatch.setattr(outbox_module, "LONGEST_PAUSE", 0.001)
    broker = FlakyBroker()
    outbox = Outbox(broker.deliver, batch_size=batch_size, linger=0.0)
    put: list[Outgoing] = []
    for number, (kind, what) in enumerate(steps):
        if kind == "deliver":
            broker.answer(what)
            continue
        make = {"status": status, "custom": custom}.get(kind, progress)
        due = {"held": time.monotonic() + LATER, "soon": time.monotonic() + 0.001}.get(kind, 0.0)
        put.append(make(str(number), what))
        outbox.put(put[-1], due)
    broker.get_well()
    assert outbox.flush(20)
    assert [event for event in broker.taken if not event.progress] == [event for event in put if not event.progress]
    for job in "abc":
        arrived = [int(event.payload) for event in broker.taken if event.progress and event.job_id == job]
        wanted = [int(event.payload) for event in put if event.progress and event.job_id == job]
        assert arrived[-1:] == wanted[-1:]
        assert arrived == sorted(set(arrived)), "older progress came after newer, or twice"
        ordered = [int(event.payload) for event in broker.taken if event.job_id == job and event.rank is None]
        assert set(arrived) <= set(ordered)
    counts = outbox.counts
    assert counts["sent"] == len(broker.taken)
    assert counts["dropped_lifecycle"] == counts["dropped_progress"] == counts["dropped_error"] == 0
