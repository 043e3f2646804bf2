"""A sender sends in order, in batches, at its own pace, and again what was not accepted."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

from celery_realtime.events import Outgoing
from celery_realtime.sending import sender
from celery_realtime.sending.outbox import Outbox
from celery_realtime.sending.pace import LONGEST_REST, SHARE
from tests.outboxes import LATER, Broker, custom, end, hang_with, new_outbox, progress, status
from tests.waiting import wait_for

Make = Callable[..., Outbox[Outgoing]]


# -- order ------------------------------------------------------------------------------------------------------


def test_events_leave_in_the_order_they_came(make: Make, broker: Broker) -> None:
    outbox = make()
    names = [str(number) for number in range(500)]
    for name in names:
        outbox.put(custom(name))
    assert outbox.flush(60)
    assert broker.taken == names
    assert outbox.counts["sent"] == 500
    assert outbox.size == 0


def test_a_batch_has_at_most_so_many_events(make: Make, broker: Broker) -> None:
    outbox = make(batch_size=10)
    hang_with(outbox, broker, custom("first"))
    for number in range(25):
        outbox.put(custom(str(number)))
    broker.go_on()
    assert outbox.flush(60)
    assert [len(batch) for batch in broker.batches] == [1, 10, 10, 5]


def test_after_a_silence_progress_leaves_at_once_and_the_next_waits_for_company(make: Make, broker: Broker) -> None:
    outbox = make(linger=2.0)
    outbox.put(progress("a", "j1"))
    wait_for(lambda: broker.taken == ["a"])
    outbox.put(progress("b", "j2"))
    outbox.put(progress("c", "j3"))
    wait_for(lambda: broker.taken == ["a", "b", "c"])
    assert broker.times[1] - broker.times[0] >= 2.0
    assert broker.batches == [["a"], ["b", "c"]]


def test_what_is_no_progress_hardly_waits(make: Make, broker: Broker) -> None:
    outbox = make(linger=60.0)
    outbox.put(progress("a", "j1"))
    wait_for(lambda: broker.taken == ["a"])
    outbox.put(progress("b", "j1"))
    outbox.put(end("c", "j1"))
    wait_for(lambda: broker.taken == ["a", "b", "c"])


def test_what_is_put_quietly_waits_for_a_call_and_then_does_not_rest_as_progress_does(
    make: Make, broker: Broker
) -> None:
    outbox = make(linger=600.0)
    outbox.wake()
    assert outbox.loops == []
    outbox.put(status("1", "j1", rank=0), quietly=True)
    outbox.wake()
    wait_for(lambda: broker.taken == ["1"])
    outbox.put(progress("2", "j2"))
    outbox.put(status("3", "j3", rank=0), quietly=True)
    outbox.put(status("4", "j4", rank=0), quietly=True)
    outbox.wake()
    wait_for(lambda: broker.taken == ["1", "2", "3", "4"])


def test_what_was_put_quietly_and_never_called_for_is_flushed(make: Make, broker: Broker) -> None:
    outbox = make()
    outbox.put(status("1", "j1", rank=0), quietly=True)
    assert outbox.flush(60)
    assert broker.taken == ["1"]


def test_waiting_for_an_event_to_leave_sends_it_at_once(make: Make, broker: Broker) -> None:
    outbox = make(linger=60.0)
    for name in ("a", "b", "c"):
        outbox.put(progress(name))
        assert outbox.flush(60)
    assert broker.taken == ["a", "b", "c"]


def test_a_thread_that_has_had_nothing_to_do_for_long_ends_and_the_next_event_starts_another(
    make: Make, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "IDLE_TURN", 0.05)
    outbox = make()
    outbox.put(custom("a"))
    wait_for(lambda: broker.taken == ["a"] and not outbox.loops)
    outbox.put(progress("held back", "j"), due=time.monotonic() + LATER)
    outbox.put(custom("b"))
    wait_for(lambda: broker.taken == ["a", "b"])
    assert outbox.flush(60)  # what is held back has a thread that waits for its time
    assert broker.taken == ["a", "b", "held back"]


def test_it_is_looked_again_and_again_while_progress_is_held_and_what_is_hastened_leaves(
    make: Make, broker: Broker
) -> None:
    looks: list[bool] = []

    def look(holds: bool) -> float:
        looks.append(holds)
        if looks.count(True) == 5:
            outbox.hasten(("p", "j"), 0.0)
        return 0.01 if holds else math.inf

    outbox = make()
    outbox.on_held(look)
    outbox.put(custom("a"))
    wait_for(lambda: broker.taken == ["a"])
    assert not any(looks)
    outbox.put(progress("held back", "j"), due=time.monotonic() + LATER)
    wait_for(lambda: broker.taken == ["a", "held back"])
    assert looks.count(True) >= 5


def test_a_thread_that_was_stopped_ends_without_the_one_that_has_taken_its_place(
    make: Make, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "IDLE_TURN", 0.2)
    before = set(threading.enumerate())
    outbox = make()
    outbox.put(custom("a"))
    wait_for(lambda: broker.taken == ["a"])
    [old] = set(threading.enumerate()) - before
    outbox.stop()
    hang_with(outbox, broker, custom("b"))
    wait_for(lambda: not old.is_alive() or old.name != "celery-realtime-outbox")
    assert outbox.loops
    broker.go_on()
    assert outbox.flush(60)


def test_the_more_there_is_to_send_the_fewer_batches_it_takes(broker: Broker) -> None:
    def laboriously(events: list[Outgoing]) -> int:
        until = time.thread_time() + 0.005
        while time.thread_time() < until:
            pass
        return broker.publish(events)

    outbox = new_outbox(laboriously, linger=0.001)
    wait_for(lambda: outbox.put(custom("one more")) or len(broker.times) > 4)
    gaps = [later - earlier for earlier, later in itertools.pairwise(broker.times)]
    assert min(gaps) >= min(0.005 / SHARE, LONGEST_REST)


def test_progress_is_held_back_until_it_is_due_and_then_leaves_by_itself(make: Make, broker: Broker) -> None:
    outbox = make()
    outbox.put(progress("1"), time.monotonic() + LATER)
    assert outbox.size == 1
    outbox.put(custom("unhindered"))
    wait_for(lambda: broker.taken == ["unhindered"])
    due = time.monotonic() + 0.3
    outbox.put(progress("2"), due)
    wait_for(lambda: broker.taken == ["unhindered", "2"])
    assert broker.left_at["2"] >= due


def test_every_job_has_its_own_time(make: Make, broker: Broker) -> None:
    outbox = make()
    outbox.put(progress("much later", "j1"), time.monotonic() + LATER)
    outbox.put(progress("at once", "j2"))
    wait_for(lambda: broker.taken == ["at once"])
    early, late = time.monotonic() + 0.2, time.monotonic() + 2.0
    outbox.put(progress("late", "j3"), late)
    outbox.put(progress("early", "j4"), early)
    wait_for(lambda: broker.taken == ["at once", "early", "late"])
    assert broker.left_at["early"] >= early
    assert broker.left_at["late"] >= late
    assert outbox.size == 1


def test_progress_that_is_never_due_leaves_with_its_jobs_end(make: Make, broker: Broker) -> None:
    outbox = make()
    outbox.put(progress("held"), math.inf)
    outbox.put(status("other", "k"))
    wait_for(lambda: broker.taken == ["other"], message="the sender does not go on")
    outbox.put(end("end"))
    wait_for(lambda: broker.taken == ["other", "held", "end"], message="the sender does not go on")


def test_no_older_progress_leaves_after_a_newer_one_when_a_batch_comes_back(make: Make, broker: Broker) -> None:
    outbox = make()
    broker.hang()
    outbox.put(progress("1"))
    assert broker.busy.wait(60)
    outbox.put(progress("2"), time.monotonic() + LATER)
    broker.down = True
    broker.go_on()
    wait_for(lambda: len(broker.batches) >= 2)
    outbox.put(progress("3"), time.monotonic() + LATER)
    broker.down = False
    assert outbox.flush(60)
    assert broker.taken[-1] == "3"
    assert broker.taken == sorted(broker.taken)


# -- outages ----------------------------------------------------------------------------------------------------


def test_what_was_not_sent_is_sent_again_and_the_rest_is_not(make: Make, broker: Broker) -> None:
    outbox = make()
    hang_with(outbox, broker, status("first"))
    for number in range(6):
        outbox.put(status(str(number)))
    broker.script = [1, 2, 0, 3]
    broker.go_on()
    assert outbox.flush(60)
    assert broker.batches == [["first"], ["0", "1", "2", "3", "4", "5"], *[["2", "3", "4", "5"]] * 2, ["5"]]
    assert broker.taken == ["first", "0", "1", "2", "3", "4", "5"]
    assert outbox.counts["sent"] == 7


def has_tried(broker: Broker, times: int) -> bool:
    return len(broker.batches) > times


def test_what_comes_during_an_outage_comes_after_what_was_there(make: Make, broker: Broker) -> None:
    broker.down = True
    outbox = make(batch_size=2)
    for number in range(10):
        outbox.put(status(str(number)))
        wait_for(partial(has_tried, broker, number // 2))
    broker.down = False
    assert outbox.flush(60)
    assert broker.taken == [str(number) for number in range(10)]


def test_a_newer_update_replaces_one_that_came_back(make: Make, broker: Broker) -> None:
    outbox = make()
    hang_with(outbox, broker, progress("1"))
    outbox.put(progress("2"))
    broker.script = [0]
    broker.go_on()
    assert outbox.flush(60)
    assert broker.taken == ["2"]
    assert outbox.counts["coalesced"] == 1


def test_the_pauses_between_tries_grow_to_a_limit(make: Make, broker: Broker) -> None:
    broker.down = True
    outbox = make(pauses=(0.04, 0.16))
    outbox.put(status("s"))
    wait_for(lambda: len(broker.times) >= 7)
    gaps = [later - earlier for earlier, later in zip(broker.times, broker.times[1:], strict=False)]
    for gap, pause in zip(gaps, [0.04, 0.08, 0.16, 0.16, 0.16, 0.16], strict=False):
        assert gap >= pause / 2


def test_new_events_do_not_cut_a_pause_short(make: Make, broker: Broker) -> None:
    broker.down = True
    outbox = make(pauses=(60.0, 60.0))
    outbox.put(status("first"))
    wait_for(lambda: broker.batches)
    for number in range(50):
        outbox.put(status(str(number)))
    assert not outbox.flush(0.2)
    assert len(broker.batches) == 1


def test_a_success_ends_the_pauses(make: Make, broker: Broker) -> None:
    broker.script = [0, 0, 0]
    outbox = make()
    outbox.put(status("1"))
    assert outbox.flush(60)
    broker.script = [0]
    start = time.monotonic()
    outbox.put(status("2"))
    assert outbox.flush(60)
    assert broker.taken == ["1", "2"]
    assert time.monotonic() - start >= 0.01


def test_an_outage_however_long_does_not_make_it_grow(make: Make, broker: Broker) -> None:
    broker.down = True
    outbox = make(queue_size=20, batch_size=5)
    for number in range(500):
        outbox.put(status(str(number), f"j{number}"))
        assert outbox.size <= 25
    wait_for(lambda: len(broker.batches) >= 3)
    broker.down = False
    assert outbox.flush(60)
    assert broker.taken == sorted(broker.taken, key=int)
    assert broker.taken[-15:] == [str(number) for number in range(485, 500)]
    assert outbox.counts["sent"] + outbox.counts["dropped_lifecycle"] == 500


def test_a_sender_that_breaks_loses_its_batch_and_goes_on(
    make: Make, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.script = [ValueError("broken")]
    outbox = make()
    hang_with(outbox, broker, status("lost"))
    outbox.put(status("kept"))
    broker.go_on()
    assert outbox.flush(60)
    assert broker.taken == ["kept"]
    assert "ValueError: broken" in caplog.text
    assert not any(record.exc_info for record in caplog.records)


def test_what_a_broken_sender_lost_is_counted_as_lost_and_not_as_sent(make: Make, broker: Broker) -> None:
    broker.script = [ValueError("broken")]
    outbox = make()
    outbox.put(status("lost"))
    assert outbox.flush(60)
    assert (outbox.counts["dropped_error"], outbox.counts["sent"]) == (1, 0)
