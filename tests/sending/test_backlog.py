"""What is persisted before it is delivered is on record at once, and delivered in order, whatever the broker does."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_realtime.events import Outgoing
from celery_realtime.sending.backlog import STUCK
from celery_realtime.sending.outbox import Outbox
from tests.outboxes import Broker, custom, end, hang_with, new_outbox, progress, status
from tests.waiting import wait_for

Make = Callable[..., Outbox[Outgoing]]


class Record:
    """Keeps what is persisted; each event comes out numbered."""

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.down = False
        self.error: Exception | None = None
        self.threads: set[str] = set()

    def append(self, events: list[Outgoing]) -> list[Outgoing] | None:
        self.threads.add(threading.current_thread().name)
        if self.error is not None:
            raise self.error
        if self.down:
            return None
        self.kept += [event.payload.decode() for event in events]
        return [event for event in events if not event.payload.startswith(b"stale")]


@pytest.fixture
def record() -> Iterator[Record]:
    record = Record()
    yield record
    record.down, record.error = False, None


@pytest.fixture
def make(make: Make, record: Record) -> Make:
    """Make outboxes that store events on the record before they publish them."""
    return partial(make, append=record.append)


def names(count: int) -> list[str]:
    return [f"event {number}" for number in range(count)]


def test_what_is_persisted_is_delivered_and_what_is_stale_is_not(make: Make, broker: Broker, record: Record) -> None:
    outbox = make()
    for name in ("a", "stale b", "c"):
        outbox.put(custom(name))
    assert outbox.flush(60)
    assert record.kept == ["a", "stale b", "c"]
    assert broker.taken == ["a", "c"]
    assert outbox.counts["sent"] == 2


def test_one_thread_does_both_while_all_is_well(make: Make, record: Record) -> None:
    outbox = make()
    before = set(threading.enumerate())
    for name in names(50):
        outbox.put(custom(name))
        assert outbox.flush(60)
    assert len(set(threading.enumerate()) - before) == 1
    assert record.threads == {"celery-realtime-outbox"}


def test_while_the_broker_takes_nothing_all_is_persisted_and_then_delivered_in_order(
    make: Make, broker: Broker, record: Record
) -> None:
    others = recoveries()
    outbox = make()
    broker.down = True
    for name in names(30):
        outbox.put(custom(name))
    wait_for(lambda: record.kept == names(30))
    assert not outbox.flush(0.1)
    assert outbox.size == 30
    broker.down = False
    assert outbox.flush(60)
    assert broker.taken == names(30)
    wait_for(lambda: not recoveries() - others)


def recoveries() -> set[threading.Thread]:
    """Return the threads that wait for a broker, those of other tests among them."""
    return {thread for thread in threading.enumerate() if thread.name == "celery-realtime-recovery"}


def test_a_delivery_that_does_not_come_back_keeps_nothing_from_being_persisted(
    make: Make, broker: Broker, record: Record
) -> None:
    outbox = make()
    hang_with(outbox, broker, custom("first"))
    began = time.monotonic()
    wait_for(lambda: time.monotonic() - began > STUCK)
    for name in names(20):
        outbox.put(custom(name))
    wait_for(lambda: record.kept == ["first", *names(20)])
    broker.go_on()
    assert outbox.flush(60)
    assert broker.taken == ["first", *names(20)]


def test_waiting_for_an_event_to_leave_ends_when_it_is_stored_though_a_delivery_hangs(
    make: Make, broker: Broker, record: Record
) -> None:
    outbox = make()
    hang_with(outbox, broker, custom("first"))
    outbox.put(status("queued"))
    assert outbox.waits.until_sent(("p", "j"), 60)
    assert record.kept == ["first", "queued"]


def test_a_delivery_that_hangs_and_then_fails_loses_nothing(make: Make, broker: Broker, record: Record) -> None:
    outbox = make()
    hang_with(outbox, broker, custom("first"))
    broker.script = [0, 0]
    began = time.monotonic()
    wait_for(lambda: time.monotonic() - began > STUCK)
    outbox.put(custom("second"))
    wait_for(lambda: record.kept == ["first", "second"])
    broker.go_on()
    assert outbox.flush(60)
    assert broker.taken == ["first", "second"]


def test_what_the_broker_takes_a_part_of_is_not_delivered_twice(make: Make, broker: Broker) -> None:
    outbox = make()
    hang_with(outbox, broker, custom("first"))
    for name in names(10):
        outbox.put(custom(name))
    broker.script = [1, 3, 0, 2]
    broker.go_on()
    assert outbox.flush(60)
    assert broker.taken == ["first", *names(10)]


def test_a_record_that_is_away_holds_up_delivery_and_loses_nothing(make: Make, broker: Broker, record: Record) -> None:
    outbox = make()
    record.down = True
    for name in names(10):
        outbox.put(custom(name))
    outbox.put(progress("10"))
    outbox.put(progress("20"))
    assert not outbox.flush(0.1)
    assert broker.taken == []
    record.down = False
    assert outbox.flush(60)
    assert broker.taken == [*names(10), "20"]


def test_a_record_that_fails_is_counted_and_the_next_event_goes_on(make: Make, broker: Broker, record: Record) -> None:
    outbox = make()
    record.error = ValueError("broken")
    outbox.put(custom("lost"))
    assert outbox.flush(60)
    record.error = None
    outbox.put(custom("kept"))
    assert outbox.flush(60)
    assert broker.taken == ["kept"]
    assert outbox.counts["dropped_error"] == 1


def test_what_has_piled_up_is_bounded_and_progress_goes_first(make: Make, broker: Broker, record: Record) -> None:
    outbox = make(queue_size=10)
    broker.down = True
    for number in range(8):
        outbox.put(progress(f"progress {number}", f"job {number}"))
        outbox.put(end(f"end {number}", f"job {number}"))
        wait_for(lambda: len(record.kept) == 2 * number + 2)  # noqa: B023 - it is over at once
    broker.down = False
    assert outbox.flush(60)
    assert [name for name in broker.taken if name.startswith("end")] == [f"end {number}" for number in range(8)]
    assert [name for name in broker.taken if name.startswith("progress")] == ["progress 6", "progress 7"]
    assert outbox.counts["dropped_persisted"] == 6


@given(st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_whatever_fails_for_a_while_everything_leaves_once_and_in_order(rng: random.Random) -> None:
    broker, record = Broker(), Record()
    outbox = new_outbox(
        broker.publish, append=record.append, linger=0.0, batch_size=rng.randint(1, 5), pauses=(0.02, 0.08)
    )
    broker.script = [rng.randint(0, 3) for _ in range(rng.randint(0, 6))]
    told = names(rng.randint(1, 30))
    for name in told:
        record.down = rng.random() < 0.2
        outbox.put(custom(name))
        if rng.random() < 0.3:
            outbox.waits.until_sent(("p", "j"), 0.01)
    record.down = False
    assert outbox.flush(60)
    assert record.kept == told
    assert broker.taken == told
