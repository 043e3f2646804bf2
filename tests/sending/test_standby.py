"""A thread that begins to send waits for the publication that has started it, and for nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from celery_realtime.sending import standby
from celery_realtime.sending.standby import Standby, publication
from tests.outboxes import Broker, new_outbox, status
from tests.waiting import wait_for

FOR_EVER = 600.0


@pytest.fixture(autouse=True)
def _for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "LONGEST_STANDBY", FOR_EVER)


@pytest.fixture
def broker() -> Iterator[Broker]:
    return Broker()


def test_what_starts_in_a_publication_is_sent_after_it(broker: Broker) -> None:
    outbox = new_outbox(broker.publish)
    with publication():
        outbox.put(status("queued"))
        [loop] = outbox.loops
        assert not loop.is_turning
        outbox.put(status("queued too"))
        assert (outbox.size, broker.taken) == (2, [])
    wait_for(lambda: broker.taken == ["queued", "queued too"])


def test_the_thread_is_there_before_what_was_put_quietly_may_leave(broker: Broker) -> None:
    outbox = new_outbox(broker.publish)
    with publication():
        outbox.put(status("queued"), quietly=True)
        [loop] = outbox.loops
        assert (loop.is_turning, broker.taken) == (False, [])
    wait_for(lambda: broker.taken == ["queued"])


def test_one_that_fails_is_over_too(broker: Broker) -> None:
    outbox = new_outbox(broker.publish)

    def publish() -> None:
        with publication():
            outbox.put(status("queued"))
            raise OSError("no broker")

    with pytest.raises(OSError, match="no broker"):
        publish()
    wait_for(lambda: broker.taken == ["queued"])


def test_nothing_waits_outside_of_one_nor_where_the_thread_is_there_already(broker: Broker) -> None:
    outbox = new_outbox(broker.publish)
    outbox.put(status("outside"))
    wait_for(lambda: broker.taken == ["outside"])
    with publication():
        outbox.put(status("inside"))
        wait_for(lambda: broker.taken == ["outside", "inside"])


def test_a_publication_that_waits_for_its_own_event_gets_it(broker: Broker) -> None:
    outbox = new_outbox(broker.publish)
    with publication():
        outbox.put(status("queued"))
        assert outbox.waits.until_sent(("p", "j"), FOR_EVER)
    assert broker.taken == ["queued"]


def test_a_publication_in_another_thread_keeps_nothing_waiting(broker: Broker) -> None:
    outbox, is_publishing, may_end = new_outbox(broker.publish), threading.Event(), threading.Event()

    def publish() -> None:
        with publication():
            is_publishing.set()
            may_end.wait(FOR_EVER)

    other = threading.Thread(target=publish, daemon=True)
    other.start()
    assert is_publishing.wait(60)
    outbox.put(status("progress"))
    wait_for(lambda: broker.taken == ["progress"])
    may_end.set()
    other.join(60)


def test_one_that_takes_long_is_waited_for_no_longer(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "LONGEST_STANDBY", 0.01)
    outbox = new_outbox(broker.publish)
    with publication():
        outbox.put(status("queued"))
        wait_for(lambda: broker.taken == ["queued"])


def test_a_publication_inside_another_ends_by_itself() -> None:
    with publication():
        outer, is_over = Standby(), threading.Event()
        thread = threading.Thread(target=lambda: (outer.wait(), is_over.set()), daemon=True)
        thread.start()
        with publication():
            inner = Standby()
        inner.wait()
        assert not is_over.is_set()
    assert is_over.wait(60)
    thread.join(60)
