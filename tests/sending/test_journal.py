from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from celery_realtime.events import Origin, Outgoing, pack, unpack
from celery_realtime.sending.journal import Journal
from celery_realtime.sending.outbox import Outbox
from celery_realtime.sending.spool import Spool, Spools
from tests.appended import custom, progress, status
from tests.outboxes import new_outbox
from tests.waiting import wait_for


class Desk:
    """An outbox with a journal, and a broker that takes nothing until it may."""

    def __init__(self, size: int = 64 * 1024, **options: Any) -> None:
        self.is_open = threading.Event()
        self.outbox: Outbox[Outgoing] = new_outbox(self._publish, linger=0.0, pauses=(0.01, 0.02), **options)
        self.spools = Spools()
        self.spool = self.spools.mine = Spool(size)
        self.journal = Journal(self.outbox, self.spools, pack)

    def _publish(self, events: list[Outgoing]) -> int:
        return len(events) if self.is_open.is_set() else 0

    def spooled(self) -> list[str]:
        return [event.event for event in map(unpack, self.spool.unsent())]


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.is_open.set()
    desk.outbox.flush(60)
    desk.outbox.stop()


def test_what_waits_is_written_once_and_in_order(desk: Desk) -> None:
    for event in (status("STARTED"), progress(50), custom({"n": 1})):
        desk.outbox.put(event)
    desk.journal.write()
    desk.outbox.put(status("SUCCESS"))
    desk.journal.write()
    desk.journal.write()
    assert desk.spooled() == ["agent_status", "agent_progress", "line", "agent_status"]


def test_what_has_been_sent_is_not_in_the_spool_any_more(desk: Desk) -> None:
    desk.outbox.put(status("STARTED"))
    desk.journal.write()
    desk.is_open.set()
    assert desk.outbox.flush(60)
    wait_for(lambda: desk.spool.is_empty)


def test_a_spool_that_is_full_makes_room_and_says_so_when_it_cannot(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk(size=4096)
    try:
        for number in range(20):
            desk.outbox.put(custom({"text": f"{number}" * 200}))
            desk.journal.write()
        assert 0 < len(desk.spooled()) < 20
        assert caplog.text.count("more events wait than the spool has room for") == 1
        desk.is_open.set()
        assert desk.outbox.flush(60)
        wait_for(lambda: desk.spool.is_empty)
        desk.is_open.clear()
        desk.outbox.put(custom({}))
        desk.journal.write()
        assert desk.spooled() == ["line"]
    finally:
        desk.is_open.set()
        desk.outbox.flush(60)


def test_what_was_dropped_for_want_of_room_is_not_in_the_spool_any_more() -> None:
    desk = Desk(queue_size=4)
    try:
        for number in range(12):
            desk.outbox.put(custom({"number": number}))
            desk.journal.write()
        desk.is_open.set()
        assert desk.outbox.flush(60)
        assert desk.outbox.counts["dropped_lifecycle"] > 0
        wait_for(lambda: desk.spool.is_empty)
    finally:
        desk.is_open.set()
        desk.outbox.flush(60)


def test_nor_is_progress_that_could_not_be_sent_and_of_which_there_is_newer() -> None:
    is_taken, may_fail = threading.Event(), threading.Event()

    def publish(events: list[Outgoing]) -> int:
        if is_taken.is_set():
            return len(events)
        is_taken.set()
        assert may_fail.wait(60)
        return 0

    outbox: Outbox[Outgoing] = new_outbox(publish, linger=0.0, pauses=(0.01, 0.02))
    spools = Spools()
    spool = spools.mine = Spool()
    journal = Journal(outbox, spools, pack)
    outbox.put(progress(10))
    assert is_taken.wait(60)
    journal.write()
    outbox.put(progress(20))
    may_fail.set()
    assert outbox.flush(60)
    assert outbox.counts["coalesced"] == 1
    wait_for(lambda: spool.is_empty)


def test_an_event_that_has_no_such_form_is_left_out(desk: Desk) -> None:
    desk.outbox.put(replace(status("STARTED"), project_id="\udc80"))
    desk.outbox.put(status("SUCCESS"))
    desk.journal.write()
    assert desk.spooled() == ["agent_status"]


def test_without_a_spool_nothing_is_written(desk: Desk) -> None:
    desk.spools.mine = None
    desk.outbox.put(status("STARTED"))
    desk.journal.write()
    assert desk.spool.is_empty


def test_packed_events_come_back_with_what_they_were_in_the_process_that_packed_them() -> None:
    for event in (status("STARTED", stall_after=1.0), progress(50), custom([1])):
        copy = unpack(pack(event, "child"))
        assert copy == replace(event, number=copy.number, origin=Origin("child", event.number))
        assert copy.number != event.number
        assert unpack(pack(event)).origin is None


def test_the_spool_says_since_when_the_oldest_that_has_not_been_sent_is_in_it() -> None:
    batches: list[list[str]] = []
    is_open = threading.Semaphore(0)

    def publish(events: list[Outgoing]) -> int:
        is_open.acquire()
        batches.append([event.event for event in events])
        return 1

    outbox: Outbox[Outgoing] = new_outbox(publish, linger=0.0, pauses=(0.01, 0.02))
    spools = Spools()
    spool = spools.mine = Spool()
    journal = Journal(outbox, spools, pack)
    for event in (status("STARTED"), status("SUCCESS")):
        outbox.put(event)
        between = time.monotonic()
        journal.write()
    assert spool.unsent_since is not None
    assert spool.unsent_since < between
    is_open.release()
    wait_for(lambda: spool.unsent_since is not None and spool.unsent_since >= between)
    is_open.release()
    wait_for(lambda: spool.is_empty)
    assert outbox.flush(60)
    outbox.stop()
