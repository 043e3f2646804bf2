from __future__ import annotations

import os

from celery_realtime.events import pack, unpack
from celery_realtime.history.writer import LAST_WRITE, Stored, Writer
from tests.appended import custom, status


def test_what_is_written_is_in_doubt_until_it_is_answered() -> None:
    writer, events = Writer(), [custom(1), custom(2, project="other"), custom(3)]
    assert writer.doubts(events) == []
    assert writer.begin(events) == 1
    doubts = writer.doubts(events)
    assert [(doubt.writer, doubt.project_id, doubt.write, list(doubt.numbers)) for doubt in doubts] == [
        (writer.id, "p", 1, [events[0].number, events[2].number]),
        (writer.id, "other", 1, [events[1].number]),
    ]
    assert writer.doubts(events) == doubts
    writer.end(events)
    assert writer.doubts(events) == []
    assert writer.begin(events) == 2


def test_a_doubt_that_is_settled_says_what_was_stored_until_somebody_needs_it() -> None:
    writer, events = Writer(), [custom(1), custom(2), custom(3)]
    writer.begin(events)
    [doubt] = writer.doubts(events)
    numbers = f"{events[0].number} {events[1].number}"
    writer.settle(doubt, [b"e", numbers.encode(), b"7 0", [(1, b"{}", 8)], 0])
    assert writer.doubts(events) == []
    expected = [Stored("e", 7, []), Stored("e", 0, [(b"{}", 8)]), None]
    assert [writer.stored(event) for event in events] == expected
    writer.begin(events[2:])
    assert [writer.stored(event) for event in events] == expected
    writer.end([events[0], events[2]])
    assert [writer.stored(event) for event in events] == [None, expected[1], None]


def test_what_an_answered_write_has_stored_says_nothing_of_the_events_in_doubt() -> None:
    writer, earlier, later = Writer(), custom(1), custom(2)
    writer.begin([earlier])
    writer.end([earlier])
    writer.begin([later])
    [doubt] = writer.doubts([later])
    writer.settle(doubt, [b"e", str(earlier.number).encode(), b"7", [], 0])
    assert (writer.stored(earlier), writer.stored(later)) == (None, None)


def test_an_event_of_another_process_is_in_doubt_under_the_number_that_it_had_there() -> None:
    writer, event = Writer(), status("STARTED")
    inherited = unpack(pack(event, "dead"))
    assert inherited.number != event.number
    [doubt] = writer.doubts([inherited, custom(1)])
    assert doubt == ("dead", "p", LAST_WRITE, {event.number: inherited.number})
    writer.settle(doubt, [b"e", str(event.number).encode(), b"3", [], 0])
    assert writer.stored(inherited) == Stored("e", 3, [])


def test_a_child_is_a_writer_of_its_own_and_inherits_no_doubt() -> None:
    writer, events = Writer(), [custom(1)]
    writer.begin(events)
    with writer.lock:
        read, write = os.pipe()
        if os.fork() == 0:
            is_free = writer.lock.acquire(timeout=60)
            os.write(write, f"{writer.id} {len(writer.doubts(events))} {is_free}".encode())
            os._exit(0)
        os.wait()
    id_, doubts, is_free = os.read(read, 100).decode().split()
    assert id_ != writer.id
    assert (doubts, is_free) == ("0", "True")
