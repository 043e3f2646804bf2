"""A server knows what it has emitted, in whatever order it came, and recovers what it has missed: once."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_realtime.channel.wire import Heard, heard
from celery_realtime.history.store import Snapshot
from celery_realtime.web import catchup
from celery_realtime.web.catchup import CatchUp, Position
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator


def event(offset: int, epoch: str = "e", project: str = "p") -> Heard:
    data = {"n": offset, "_realtime": {"project_id": project, "epoch": epoch, "offset": offset}}
    return heard(project, "step", data)


class Past:
    """A history of projects: their offset, and how many of the last events can be read."""

    def __init__(self, epoch: str = "e", kept: int = 1000) -> None:
        self.epoch = epoch
        self.offset = 0
        self.kept = kept
        self.reads: list[tuple[str, str, int, int]] = []
        self.down = False
        #: Reads of these projects wait for :attr:`answers`.
        self.hanging: set[str] = set()
        self.answers = threading.Event()

    def __call__(self, project_id: str, epoch: str, offset: int, most_jobs: int) -> Snapshot:
        self.reads.append((project_id, epoch, offset, most_jobs))
        if project_id in self.hanging:
            assert self.answers.wait(30)
        if self.down:
            raise ConnectionError("away")
        whole = epoch == self.epoch and 0 <= self.offset - offset <= self.kept
        missed = [event(n, self.epoch, project_id) for n in range(offset + 1, self.offset + 1)] if whole else []
        entries = [{"event": one.event, "data": one.data} for one in missed]
        return Snapshot(self.epoch, self.offset, whole, [], 0, [], entries)


class Server:
    """A catch-up, the past that it reads, and what is emitted."""

    def __init__(self) -> None:
        self.past = Past()
        self.watched = {"p"}
        self.catch_up = CatchUp(self.read, lambda _namespace, project: project in self.watched, "/")
        self.emitted: list[Any] = []

    def read(self, *args: Any) -> Snapshot:
        return self.past(*args)

    def subscribe(self, offset: int = 0, project: str = "p") -> None:
        self.catch_up.expect(project)
        self.catch_up.seed(project, self.past.epoch, offset)

    def receive(self, *offsets: int, epoch: str = "e", project: str = "p") -> None:
        for offset in offsets:
            if self.catch_up.is_news(event(offset, epoch, project)):
                self.emitted.append(offset)

    def heal(self) -> None:
        self.catch_up.fall_behind()
        self.turn()

    def turn(self) -> None:
        for events in self.catch_up.missed():
            self.emitted += [recovered.data.get("n", recovered.event) for recovered in events]


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.past.answers.set()
    server.catch_up.close()


def test_what_was_missed_is_emitted_in_order_and_once(server: Server) -> None:
    server.subscribe()
    server.receive(1, 2, 4)
    server.past.offset = 7

    server.heal()
    server.receive(5, 6, 7, 8)

    assert server.emitted == [1, 2, 4, 3, 5, 6, 7, 8]
    assert server.past.reads == [("p", "e", 2, 0)]


def test_what_the_first_snapshot_had_is_not_passed_on_again(server: Server) -> None:
    server.past.offset = 10
    server.subscribe(10)
    server.past.offset = 12

    server.heal()

    assert server.emitted == [11, 12]


def test_a_later_subscriber_takes_nothing_from_an_earlier_one(server: Server) -> None:
    server.subscribe()
    server.past.offset = 3
    server.subscribe(3)

    server.heal()

    assert server.emitted == [1, 2, 3]


def test_what_comes_between_joining_and_reading_is_counted(server: Server) -> None:
    server.catch_up.expect("p")
    server.receive(1, 2)
    server.catch_up.seed("p", "e", 1)
    server.past.offset = 3

    server.heal()

    assert server.emitted == [1, 2, 3]


def test_nothing_is_read_for_projects_that_nobody_watches_any_more(server: Server) -> None:
    server.subscribe()
    server.watched.clear()

    server.heal()

    assert server.past.reads == []


def test_when_too_much_was_missed_the_clients_have_to_subscribe_again(server: Server) -> None:
    server.subscribe()
    server.past.offset, server.past.kept = 50, 10

    server.heal()
    server.receive(51)
    server.past.offset = 51
    server.heal()

    assert server.emitted == ["agent_resync", 51]


def test_the_first_events_of_a_new_epoch_that_were_missed_are_passed_on(server: Server) -> None:
    server.subscribe(9)
    server.past.epoch, server.past.offset = "new", 3

    server.receive(3, epoch="new")
    server.heal()
    server.receive(10, epoch="e")

    assert server.emitted == [3, 1, 2, 10]


def test_a_hole_that_stays_is_filled(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.subscribe()
    server.past.offset = 3
    server.receive(1, 3)

    server.turn()
    assert server.emitted == [1, 3]
    monkeypatch.setattr(catchup, "HOLE_TIMEOUT", 0.0)
    server.turn()
    server.turn()

    assert server.emitted == [1, 3, 2]
    assert len(server.past.reads) == 1


def test_when_the_epoch_has_changed_the_clients_have_to_subscribe_again(server: Server) -> None:
    server.subscribe(9)
    server.past = Past("new")
    server.past.offset = 4

    server.heal()
    server.receive(5, epoch="new")

    assert server.emitted == ["agent_resync", 5]


def test_events_without_an_offset_are_emitted_and_not_repeated_later() -> None:
    def read(*_: Any) -> Snapshot:
        entries = [{"event": "step", "data": "text", "epoch": "e", "offset": n} for n in (2, 3, 4)]
        return Snapshot("e", 4, True, [], 0, [], entries)

    catch_up = CatchUp(read, lambda *_: True, "/")
    catch_up.expect("p")
    catch_up.seed("p", "e", 0)

    assert catch_up.is_news(heard("p", "step", "text"))
    assert catch_up.is_news(event(1))
    assert catch_up.is_news(event(3))
    catch_up.fall_behind()
    [[recovered]] = catch_up.missed()

    assert (recovered.epoch, recovered.offset, recovered.data) == ("e", 4, "text")
    assert recovered.mark == {"epoch": "e", "offset": 4, "project_id": "p"}
    catch_up.close()


def test_without_a_history_everything_is_emitted() -> None:
    catch_up = CatchUp(None, lambda *_: True, "/")
    catch_up.expect("p")
    catch_up.fall_behind()

    assert catch_up.is_news(event(1))
    assert catch_up.is_news(event(1))
    assert list(catch_up.missed()) == []
    assert catch_up.loops == []


def test_only_the_projects_that_fell_behind_are_read(server: Server) -> None:
    server.watched = {"p", "q"}
    for project in ("p", "q"):
        server.subscribe(project=project)
    server.past.offset = 2

    server.catch_up.fall_behind(["q", "nobody's"])
    server.turn()

    assert server.past.reads == [("q", "e", 0, 0)]
    assert server.emitted == [1, 2]


# -- a history that does not answer -------------------------------------------------------------------------------


def test_a_history_that_is_away_is_asked_again(server: Server) -> None:
    server.subscribe()
    server.past.offset, server.past.down = 2, True

    server.heal()
    server.turn()
    assert server.emitted == []
    server.past.down = False
    wait_for(lambda: server.turn() or server.emitted)
    server.turn()

    assert server.emitted == [1, 2]


def test_while_the_history_hangs_live_events_of_all_projects_are_emitted(server: Server) -> None:
    server.watched = {"p", "q"}
    server.past.hanging = {"p"}
    for project in ("p", "q"):
        server.subscribe(project=project)
    server.past.offset = 3

    server.catch_up.fall_behind(["p"])
    turning = threading.Thread(target=lambda: [server.turn() for _ in range(10)], daemon=True)
    turning.start()
    turning.join(30)
    assert not turning.is_alive()
    server.receive(4)
    server.receive(1, 2, project="q")
    assert server.emitted == [4, 1, 2]

    server.past.answers.set()
    wait_for(lambda: server.turn() or len(server.emitted) > 3)
    assert server.emitted == [4, 1, 2, 1, 2, 3]
    assert [read[0] for read in server.past.reads] == ["p"]


def test_what_came_live_while_the_history_was_read_is_not_repeated(server: Server) -> None:
    server.past.hanging = {"p"}
    server.subscribe()
    server.heal()
    wait_for(lambda: server.past.reads)

    server.receive(1, 2)
    server.past.offset = 4
    server.past.answers.set()
    wait_for(lambda: server.turn() or len(server.emitted) >= 4)

    assert server.emitted == [1, 2, 3, 4]


def test_what_is_missed_while_the_history_is_read_is_read_too(server: Server) -> None:
    server.past.hanging = {"p"}
    server.past.offset = 1
    server.subscribe()
    server.heal()
    wait_for(lambda: server.past.reads)

    server.catch_up.fall_behind()  # and what that read returns may be from before
    server.past.answers.set()
    wait_for(lambda: server.turn() or len(server.past.reads) == 2)

    wait_for(lambda: server.turn() or server.emitted == [1])


def test_a_read_that_is_overtaken_by_a_new_epoch_is_dropped(server: Server) -> None:
    old = server.past
    old.hanging, old.offset = {"p"}, 9
    server.subscribe()
    server.heal()
    wait_for(lambda: old.reads)

    server.past = Past("new")
    server.past.offset = 2
    server.receive(2, epoch="new")
    old.answers.set()
    wait_for(lambda: server.turn() or server.past.reads)
    wait_for(lambda: server.turn() or len(server.emitted) == 2)

    assert server.emitted == [2, 1]
    assert server.past.reads == [("p", "new", 0, 0)]


def test_a_child_process_begins_with_no_clients() -> None:
    server = Server()
    server.subscribe()
    server.past.offset = 2

    server.catch_up.after_fork()
    server.heal()

    assert server.past.reads == []


# -- positions ----------------------------------------------------------------------------------------------------


@given(st.randoms(use_true_random=False), st.integers(1, 60), st.integers(0, 20))
def test_in_whatever_order_events_come_each_is_emitted_once(rng: random.Random, count: int, seeded: int) -> None:
    server = Server()
    server.past.offset = seeded + count
    server.subscribe(seeded)
    offsets = list(range(seeded + 1, seeded + count + 1))
    come = rng.sample(offsets, rng.randint(0, count))
    again = [rng.choice(come) for _ in range(5)] if come else []

    server.receive(*come, *again)
    server.heal()
    server.receive(*rng.sample(offsets, count))
    server.catch_up.close()

    assert sorted(server.emitted) == offsets


def test_a_position_does_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catchup, "MOST_ABOVE", 10)
    position = Position()
    position.seed("e", 0)

    for offset in range(2, 200, 2):
        position.note("e", offset)

    assert position.held <= 10
    assert position.highest == 198
    assert not position.note("e", 100)


def test_subscribers_may_come_while_the_listener_looks_for_what_is_missing(server: Server) -> None:
    ended = threading.Event()

    def come() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            server.watched = {f"project {number % 100}"}
            server.subscribe(project=f"project {number % 100}")

    coming = threading.Thread(target=come, daemon=True)
    coming.start()
    for _ in range(300):
        server.catch_up.fall_behind()
        list(server.catch_up.missed())
    ended.set()
    coming.join(10)
    assert not coming.is_alive()
