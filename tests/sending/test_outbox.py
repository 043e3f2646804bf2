"""Any thread puts events into an outbox at once, and may wait until they have left."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_realtime.events import Outgoing
from celery_realtime.sending.outbox import Outbox
from tests.outboxes import LATER, Broker, FlakyBroker, custom, hang_with, new_outbox, progress, status
from tests.waiting import wait_for

Make = Callable[..., Outbox[Outgoing]]


def test_drops_are_logged_once_a_minute_and_not_once_each(
    make: Make, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = make(queue_size=2, destination="the broker of this test")
    hang_with(outbox, broker, status("first"))
    for number in range(200):
        outbox.put(status(str(number)))
    [record] = [record for record in caplog.records if "the broker of this test" in record.getMessage()]
    assert record.levelno == logging.ERROR
    assert "realtime_queue_size=2" in record.getMessage()


def test_no_payload_is_ever_logged(make: Make, broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    broker.script = [0, ValueError("broken"), 1]
    outbox = make(queue_size=2)
    for _ in range(20):
        outbox.put(status("hunter2"))
    outbox.flush(60)
    assert caplog.records
    assert "hunter2" not in caplog.text


def test_an_outage_is_logged_once_and_not_once_a_try(
    make: Make, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.down = True
    outbox = make(destination="the broker of this test")
    outbox.put(status("s"))
    wait_for(lambda: len(broker.batches) >= 5)
    lines = [line for line in caplog.messages if "the broker of this test" in line]
    assert lines == ["the broker of this test does not accept events, so 1 wait; they are sent when it does"]


def test_every_event_is_counted_as_what_became_of_it(make: Make, broker: Broker) -> None:
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
    assert outbox.flush(60)
    counts = outbox.counts
    assert counts["sent"] == len(broker.taken)
    assert put == counts["sent"] + counts["coalesced"] + counts["dropped_progress"] + counts["dropped_lifecycle"]


# -- flushing ---------------------------------------------------------------------------------------------------


def test_flushing_nothing_is_done_at_once_and_starts_no_thread(make: Make) -> None:
    before = set(threading.enumerate())
    assert make().flush(0)
    assert set(threading.enumerate()) <= before


def test_flushing_takes_along_what_is_held_back(make: Make, broker: Broker) -> None:
    outbox = make()
    outbox.put(progress("held"), time.monotonic() + LATER)
    assert outbox.flush(60)
    assert broker.taken == ["held"]


def test_flushing_gives_up_when_the_time_is_over_and_nothing_is_lost(make: Make, broker: Broker) -> None:
    outbox = make()
    hang_with(outbox, broker, status("1"))
    outbox.put(status("2"))
    start = time.monotonic()
    assert not outbox.flush(0.2)
    assert time.monotonic() - start >= 0.2
    broker.go_on()
    assert outbox.flush(60)
    assert broker.taken == ["1", "2"]


def test_flushing_waits_for_what_is_on_its_way(make: Make, broker: Broker) -> None:
    outbox = make()
    hang_with(outbox, broker, status("1"))
    assert outbox.size == 0
    assert not outbox.flush(0)


def test_flushing_waits_as_long_as_the_setting_says(make: Make, broker: Broker) -> None:
    outbox = make(flush_timeout=0.1)
    hang_with(outbox, broker, status("1"))
    start = time.monotonic()
    assert not outbox.flush()
    assert time.monotonic() - start >= 0.1


def test_flushing_may_wait_for_ever(make: Make, broker: Broker) -> None:
    outbox = make()
    hang_with(outbox, broker, status("1"))
    timer = threading.Timer(0.1, broker.go_on)
    timer.start()
    assert outbox.flush(math.inf)
    assert broker.taken == ["1"]


def test_flushing_starts_the_thread_that_could_not_be_had_before(
    make: Make, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    outbox = make()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        outbox.put(status("1"))
        assert not outbox.flush(60)
    assert outbox.flush(60)
    assert broker.taken == ["1"]


# -- waiting for one's own event ----------------------------------------------------------------------------------


def test_waiting_for_a_job_ends_when_its_status_has_left_though_others_still_wait(broker: Broker) -> None:
    outbox = new_outbox(broker.publish, linger=0.0, batch_size=1)
    hang_with(outbox, broker, status("mine", "mine"))
    for number in range(10):
        outbox.put(status(str(number), "other"))
    assert not outbox.waits.until_sent(("p", "mine"), 0.05)
    published = threading.Event()

    def hang_again(events: list[Outgoing]) -> None:
        published.set()
        broker.hang()

    broker.after = hang_again
    broker.go_on()
    assert published.wait(60)
    assert outbox.waits.until_sent(("p", "mine"), 60)
    assert outbox.size > 0
    assert not outbox.waits.until_sent(("p", "other"), 0.05)


def test_waiting_ends_beside_a_thread_that_never_stops_to_emit(make: Make) -> None:
    outbox = make()
    stopped = threading.Event()

    def emit() -> None:
        while not stopped.is_set():
            outbox.put(custom("line", "chatty"))

    thread = threading.Thread(target=emit)
    thread.start()
    try:
        for number in range(20):
            outbox.put(status("queued", f"job {number}", rank=0))
            assert outbox.waits.until_sent(("p", f"job {number}"), 30)
    finally:
        stopped.set()
        thread.join()


def test_waiting_for_a_job_of_which_nothing_waits_is_over_at_once_and_starts_no_thread(make: Make) -> None:
    before = set(threading.enumerate())
    assert make().waits.until_sent(("p", "nobody"), 60)
    assert set(threading.enumerate()) <= before


def test_waiting_gives_up_when_the_time_is_over(make: Make, broker: Broker) -> None:
    outbox = make()
    hang_with(outbox, broker, status("1"))
    assert not outbox.waits.until_sent(("p", "j"), 0.05)


def test_nothing_is_waited_for_during_an_outage(make: Make, broker: Broker) -> None:
    broker.down = True
    outbox = make(pauses=(600.0, 600.0))
    outbox.put(status("1"))
    assert outbox.waits.until_sent(("p", "j"), 60)
    assert broker.taken == []
    outbox.put(status("2", "k"))
    assert outbox.waits.until_sent(("p", "k"), 600)


def test_custom_events_and_progress_of_a_job_are_not_waited_for(make: Make, broker: Broker) -> None:
    outbox = make()
    hang_with(outbox, broker, custom("first"))
    outbox.put(custom("second"))
    outbox.put(progress("50"))
    assert outbox.waits.until_sent(("p", "j"), 60)


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


@settings(max_examples=60)
@given(steps=STEPS, batch_size=st.integers(1, 4))
def test_any_sequence_over_a_flaky_broker_arrives_in_order_once_and_with_the_last_progress(
    steps: list[tuple[str, Any]], batch_size: int
) -> None:
    broker = FlakyBroker()
    outbox = new_outbox(broker.publish, batch_size=batch_size, linger=0.0, pauses=(0.0005, 0.001))
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
    assert outbox.flush(60)
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


def test_what_could_not_be_published_is_tried_again_as_the_same_batch(make: Make, broker: Broker) -> None:
    outbox = make()
    expected = [f"{number}" for number in range(20)]
    broker.down = True
    outbox.put_all([custom(name) for name in expected])
    wait_for(lambda: len(broker.batches) >= 3)
    broker.down = False
    assert outbox.flush(60)
    assert broker.batches[:3] == [expected] * 3
    assert broker.taken == expected
