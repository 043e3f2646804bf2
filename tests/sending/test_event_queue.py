"""Of progress the newest waits, and goes first for want of room; everything else keeps its order."""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_realtime.jobs.progress import Throttle
from celery_realtime.sending import event_queue
from celery_realtime.sending.event_queue import EventQueue, HeldProgress, items_of
from celery_realtime.sending.ledger import Ledger
from tests.outboxes import LATER, custom, end, progress, status

if TYPE_CHECKING:
    from celery_realtime.events import Outgoing


JOB = ("p", "j")


class Queue:
    """A queue, and the names of what leaves it."""

    def __init__(self, size: int = 1000) -> None:
        self.ledger = Ledger(logging.getLogger("test"), "the broker", size)
        self.queue: EventQueue[Outgoing] = EventQueue(size, self.ledger)

    def put(self, *events: Outgoing) -> None:
        for event in events:
            self.queue.put(event)

    def hold(self, event: Outgoing, seconds: float = LATER) -> bool:
        return self.queue.put(event, time.monotonic() + seconds)

    def take(self, most: int = 1000) -> list[str]:
        return [event.payload.decode() for event in items_of(self.queue.take(most))]

    @property
    def size(self) -> int:
        return len(self.queue) + self.queue.held


@pytest.fixture
def waiting() -> Queue:
    return Queue()


# -- progress ---------------------------------------------------------------------------------------------------


def test_of_the_progress_that_waits_only_the_newest_leaves(waiting: Queue) -> None:
    for number in range(10):
        waiting.put(progress(f"one {number}", "j1"), progress(f"two {number}", "j2"))
    assert waiting.take() == ["one 9", "two 9"]
    assert waiting.ledger.counts["coalesced"] == 18


def test_progress_does_not_replace_what_was_before_a_status_of_its_job(waiting: Queue) -> None:
    waiting.put(progress("1"), status("retry", rank=0), progress("2"), end("end"), progress("other", "k"))
    assert waiting.take() == ["1", "retry", "2", "end", "other"]


def test_of_the_progress_that_is_held_back_only_the_newest_leaves(waiting: Queue) -> None:
    due = time.monotonic() + LATER
    for number in range(5):
        waiting.queue.put(progress(str(number)), due)
    assert waiting.size == 1
    waiting.queue.release_due(due)
    assert waiting.take() == ["4"]
    assert waiting.ledger.counts["coalesced"] == 4


def test_progress_that_is_due_at_once_replaces_what_is_held_back(waiting: Queue) -> None:
    waiting.hold(progress("held"))
    waiting.put(progress("complete"))
    assert waiting.take() == ["complete"]
    assert waiting.size == 0
    assert waiting.ledger.counts["coalesced"] == 1


def test_every_job_has_its_own_time(waiting: Queue) -> None:
    due = time.monotonic() + LATER
    waiting.queue.put(progress("late", "j1"), due + 4)
    waiting.queue.put(progress("early", "j2"), due + 1)
    waiting.put(progress("at once", "j3"))
    assert waiting.take() == ["at once"]
    assert waiting.queue.next_due == due + 1
    waiting.queue.release_due(due + 1)
    assert waiting.take() == ["early"]
    assert waiting.queue.next_due == due + 4
    waiting.queue.release_due(due + 4)
    assert waiting.take() == ["late"]
    assert waiting.queue.next_due == math.inf


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_status_takes_the_held_back_progress_of_its_job_along_in_front(waiting: Queue, rank: int) -> None:
    waiting.hold(progress("99"))
    waiting.put(status("end", rank=rank))
    assert waiting.take() == ["99", "end"]


def test_custom_events_and_other_jobs_leave_held_back_progress_where_it_is(waiting: Queue) -> None:
    waiting.hold(progress("99", "mine"))
    waiting.put(custom("line", "mine"), end("end", "other"))
    assert waiting.take() == ["line", "end"]
    assert waiting.size == 1


def test_progress_that_is_never_due_leaves_with_its_jobs_end(waiting: Queue) -> None:
    waiting.hold(progress("held"), math.inf)
    assert waiting.queue.next_due == math.inf
    waiting.put(end("end"))
    assert waiting.take() == ["held", "end"]


def test_the_sender_is_to_look_again_only_when_something_leaves_earlier_than_it_knew(waiting: Queue) -> None:
    assert waiting.hold(progress("1", "a"), 10)
    assert not waiting.hold(progress("2", "a"), 20)
    assert not waiting.hold(progress("1", "b"), 30)
    assert waiting.hold(progress("1", "c"), 5)
    assert waiting.queue.put(status("s"))
    assert waiting.queue.put(progress("now", "d"))
    assert not waiting.queue.put(progress("newer", "d"))


def test_the_due_time_of_held_back_progress_never_moves_later(waiting: Queue) -> None:
    due = time.monotonic() + LATER
    waiting.queue.put(progress("older"), due)
    waiting.queue.put(progress("newer"), due + 60)
    assert waiting.queue.next_due == due
    waiting.queue.release_due(due)
    assert waiting.take() == ["newer"]


def test_held_back_progress_can_be_let_out_earlier_and_never_later(waiting: Queue) -> None:
    soon, late = time.monotonic() + LATER, time.monotonic() + 2 * LATER
    waiting.queue.put(progress("of a", "a"), soon)
    waiting.queue.put(progress("of b", "b"), late)
    assert not waiting.queue.hasten(("p", "nothing is held of it"), 0.0)
    assert not waiting.queue.hasten(("p", "a"), late)
    assert waiting.queue.next_due == soon
    assert not waiting.queue.hasten(("p", "b"), soon + 1)
    assert waiting.queue.hasten(("p", "b"), soon - 1)
    assert waiting.queue.next_due == soon - 1
    waiting.queue.release_due(soon - 1)
    assert waiting.take() == ["of b"]
    assert waiting.queue.held == 1


def test_a_job_that_reports_all_the_time_is_heard_each_interval_however_late_the_sender_looks(
    waiting: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop that computes lets the sender look only some milliseconds after the time at which it was to look."""
    clock = 1000.0
    monkeypatch.setattr(event_queue.time, "monotonic", lambda: clock)
    throttle, taken, looks_at = Throttle(1.0), [], math.inf
    for number in range(20_000):  # 40 seconds, a report every 2 ms
        clock += 0.002
        if waiting.queue.put(progress(str(number)), throttle.due(clock)):
            looks_at = min(looks_at, max(waiting.queue.next_due, clock) + 0.005) if not waiting.queue else clock
        if clock >= looks_at:
            waiting.queue.release_due(clock)
            taken += waiting.take()
            looks_at = math.inf
    assert 39 <= len(taken) <= 41


# -- the bound --------------------------------------------------------------------------------------------------


def test_progress_is_dropped_before_any_other_event() -> None:
    waiting = Queue(size=4)
    waiting.put(status("s1"), progress("p2", "j2"))
    waiting.hold(progress("p3", "j3"))
    waiting.put(custom("c4"))
    for number in range(5, 9):
        waiting.put(custom(f"c{number}"))
        assert waiting.size == 4
    assert waiting.take() == ["c5", "c6", "c7", "c8"]
    assert waiting.ledger.counts == {"dropped_progress": 2, "dropped_lifecycle": 2}


def test_progress_of_a_job_that_has_ended_is_dropped_before_any_other_event_too() -> None:
    waiting = Queue(size=3)
    waiting.put(status("s1", "other"), progress("99"), end("end"), custom("c", "other"))
    assert waiting.take() == ["s1", "end", "c"]
    assert waiting.ledger.counts == {"dropped_progress": 1}


def test_when_only_other_events_wait_the_oldest_are_dropped() -> None:
    waiting = Queue(size=3)
    waiting.put(*(status(str(number), f"j{number}") for number in range(10)))
    assert waiting.take() == ["7", "8", "9"]
    assert waiting.ledger.counts["dropped_lifecycle"] == 7


def test_held_back_progress_counts_and_is_bounded() -> None:
    waiting = Queue(size=5)
    for number in range(20):
        waiting.hold(progress(str(number), f"j{number}"))
        assert waiting.size <= 5
    assert waiting.ledger.counts["dropped_progress"] == 15
    waiting.queue.release_all()
    assert waiting.take() == ["15", "16", "17", "18", "19"]


def test_a_dropped_status_waits_no_more() -> None:
    waiting = Queue(size=1)
    waiting.put(status("1", "a"), status("2", "b"))
    assert not waiting.queue.has_status(("p", "a"))
    assert waiting.queue.has_status(("p", "b"))


# -- one id in two projects -------------------------------------------------------------------------------------


def test_progress_replaces_none_of_another_project(waiting: Queue) -> None:
    for project in ("p", "q"):
        waiting.put(progress(f"{project} 1", project=project))
        waiting.hold(progress(f"{project} 2", "held", project))
    waiting.put(progress("p 3"))
    waiting.hold(progress("p 4", "held"))
    waiting.queue.release_all()
    assert sorted(waiting.take()) == ["p 3", "p 4", "q 1", "q 2"]


def test_a_status_takes_along_the_progress_of_its_own_job_alone(waiting: Queue) -> None:
    waiting.hold(progress("p 1"))
    waiting.hold(progress("q 1", project="q"))
    waiting.put(status("q ends", project="q"))
    assert waiting.take() == ["q 1", "q ends"]
    assert waiting.queue.held == 1
    waiting.put(progress("p 2"), status("p ends"))
    assert waiting.queue.has_status(("p", "j"))
    assert not waiting.queue.has_status(("q", "j"))


def test_what_comes_back_is_replaced_by_none_of_another_project(waiting: Queue) -> None:
    waiting.put(progress("p 1"), progress("q 1", project="q"))
    batch = waiting.queue.take(10)
    waiting.put(progress("q 2", project="q"))
    waiting.queue.put_back(batch)
    assert waiting.take() == ["p 1", "q 2"]


# -- what comes back --------------------------------------------------------------------------------------------


def test_what_comes_back_goes_in_front(waiting: Queue) -> None:
    waiting.put(custom("1"), custom("2"))
    batch = waiting.queue.take(10)
    waiting.put(custom("3"))
    waiting.queue.put_back(batch[1:])
    assert waiting.take() == ["2", "3"]


def test_progress_that_comes_back_is_replaced_by_newer_progress_that_waits_or_is_held(waiting: Queue) -> None:
    waiting.put(progress("1", "a"), progress("1", "b"))
    batch = waiting.queue.take(10)
    waiting.put(progress("2", "a"))
    waiting.hold(progress("2", "b"))
    waiting.queue.put_back(batch)
    assert sorted(waiting.take()) == ["2", "2"]
    assert waiting.size == 0
    assert waiting.ledger.counts["coalesced"] == 2


def test_a_batch_that_comes_back_keeps_the_progress_on_both_sides_of_a_status(waiting: Queue) -> None:
    waiting.put(progress("1"), status("retry", rank=0), progress("2"))
    waiting.queue.put_back(waiting.queue.take(10))
    assert waiting.take() == ["1", "retry", "2"]
    assert not waiting.ledger.counts


def test_progress_that_comes_back_behind_a_newer_status_is_not_replaced(waiting: Queue) -> None:
    waiting.put(progress("1"))
    batch = waiting.queue.take(10)
    waiting.put(status("retry", rank=0), progress("2"))
    waiting.queue.put_back(batch)
    assert waiting.take() == ["1", "retry", "2"]


def test_a_status_waits_from_when_it_is_put_or_put_back_until_it_is_taken(waiting: Queue) -> None:
    assert not waiting.queue.has_status(("p", "j"))
    waiting.put(custom("line"), progress("1"), status("1"), status("2"))
    assert waiting.queue.has_status(("p", "j"))
    first = waiting.queue.take(3)
    assert waiting.queue.has_status(("p", "j"))
    second = waiting.queue.take(3)
    assert not waiting.queue.has_status(("p", "j"))
    waiting.queue.put_back(second)
    waiting.queue.put_back(first)
    assert waiting.queue.has_status(("p", "j"))
    assert waiting.take(3) == ["line", "1", "1"]
    assert waiting.queue.has_status(("p", "j"))
    assert waiting.take() == ["2"]
    assert not waiting.queue.has_status(("p", "j"))


# -- held-back progress by itself -------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["hold", "pop", "due"]), st.integers(1, 20))))
def test_the_next_due_time_is_the_least_of_those_that_are_held(steps: list[tuple[str, str, int]]) -> None:
    held: HeldProgress[Outgoing] = HeldProgress()
    expected: dict[str, float] = {}
    for job, what, number in steps:
        if what == "hold":
            due = float(number)
            is_first = due < min(expected.values(), default=math.inf)
            assert held.hold(("p", job), progress(str(number), job), due) == is_first
            expected[job] = min(due, expected.get(job, math.inf))
        elif what == "pop":
            assert (held.pop(("p", job)) is None) == (expected.pop(job, None) is None)
        else:
            jobs = [job for _, job in held.jobs_due(number)]
            assert sorted(jobs) == sorted(job for job, due in expected.items() if due <= number)
            for due_job in jobs:
                assert held.pop(("p", due_job)) is not None
                del expected[due_job]
        assert held.next_due == min(expected.values(), default=math.inf)
        assert len(held) == len(expected)


def test_a_job_that_is_held_twice_for_the_same_time_is_due_once() -> None:
    held: HeldProgress[Outgoing] = HeldProgress()
    held.hold(JOB, progress("1"), 5.0)
    held.pop(JOB)
    held.hold(JOB, progress("2"), 5.0)
    assert held.jobs_due(5.0) == [JOB]


def test_a_job_that_is_held_and_released_for_ever_takes_no_more_room() -> None:
    held: HeldProgress[Outgoing] = HeldProgress()
    for number in range(100_000):
        held.hold(JOB, progress("1"), LATER + number)
        held.pop(JOB)
    assert held.scheduled < 1000
