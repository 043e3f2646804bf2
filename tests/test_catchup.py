"""A server knows what it has passed on, in whatever order it came, and passes on what it has missed: once."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_realtime import catchup
from celery_realtime.catchup import CatchUp, Position, place_of
from celery_realtime.store import Snapshot


def event(offset: int, epoch: str = "e", project: str = "p") -> dict[str, Any]:
    data = {"n": offset, "_realtime": {"project_id": project, "epoch": epoch, "offset": offset}}
    return {"method": "emit", "event": "step", "room": f"project:{project}", "data": [data], "namespace": "/"}


class Past:
    """A history of one project: its offsets, of which the last ``kept`` can be read."""

    def __init__(self, epoch: str = "e", kept: int = 1000) -> None:
        self.epoch = epoch
        self.offset = 0
        self.kept = kept
        self.reads: list[tuple[str, str, int, int]] = []
        self.down = False

    def __call__(self, project_id: str, epoch: str, offset: int, most_jobs: int) -> Snapshot:
        self.reads.append((project_id, epoch, offset, most_jobs))
        if self.down:
            raise ConnectionError("away")
        whole = epoch == self.epoch and 0 <= self.offset - offset <= self.kept
        missed = [event(n, self.epoch, project_id) for n in range(offset + 1, self.offset + 1)] if whole else []
        told = [{"event": one["event"], "data": one["data"][0]} for one in missed]
        return Snapshot(self.epoch, self.offset, whole, [], 0, [], told)


class Server:
    """A catch-up, the past that it reads, and what it passes on."""

    def __init__(self) -> None:
        self.past = Past()
        self.occupied = {"project:p"}
        self.catch_up = CatchUp(lambda _namespace, room: room in self.occupied, "/")
        self.catch_up.read_with(self.past)
        self.told: list[Any] = []

    def subscribe(self, offset: int = 0, project: str = "p") -> None:
        self.catch_up.expect(project)
        self.catch_up.seed(project, self.past.epoch, offset)

    def hear(self, *offsets: int, epoch: str = "e") -> None:
        for offset in offsets:
            if self.catch_up.is_news(event(offset, epoch)):
                self.told.append(offset)

    def heal(self) -> None:
        self.catch_up.fall_behind()
        self.turn()

    def turn(self) -> None:
        for message in self.catch_up.missed():
            data = message["data"][0]
            self.told.append(data["n"] if "n" in data else message["event"])


@pytest.fixture
def server() -> Server:
    return Server()


def test_what_was_missed_is_passed_on_in_order_and_once(server: Server) -> None:
    server.subscribe()
    server.hear(1, 2, 4)
    server.past.offset = 7

    server.heal()
    server.hear(5, 6, 7, 8)

    assert server.told == [1, 2, 4, 3, 5, 6, 7, 8]
    assert server.past.reads == [("p", "e", 2, 0)]


def test_what_the_first_snapshot_had_is_not_passed_on_again(server: Server) -> None:
    server.past.offset = 10
    server.subscribe(10)
    server.past.offset = 12

    server.heal()

    assert server.told == [11, 12]


def test_a_later_subscriber_takes_nothing_from_an_earlier_one(server: Server) -> None:
    server.subscribe()
    server.past.offset = 3
    server.subscribe(3)

    server.heal()

    assert server.told == [1, 2, 3]


def test_what_comes_between_joining_and_reading_is_counted(server: Server) -> None:
    server.catch_up.expect("p")
    server.hear(1, 2)
    server.catch_up.seed("p", "e", 1)
    server.past.offset = 3

    server.heal()

    assert server.told == [1, 2, 3]


def test_nothing_is_read_for_projects_that_nobody_watches_any_more(server: Server) -> None:
    server.subscribe()
    server.occupied.clear()

    server.heal()

    assert server.past.reads == []


def test_who_hears_batches_counts_as_watching(server: Server) -> None:
    server.subscribe()
    server.occupied = {"batch:p"}
    server.past.offset = 1

    server.heal()

    assert server.told == [1]


def test_a_history_that_is_away_is_asked_again(server: Server) -> None:
    server.subscribe()
    server.past.offset, server.past.down = 2, True

    server.heal()
    server.turn()
    assert server.told == []
    server.past.down = False
    server.turn()
    server.turn()

    assert server.told == [1, 2]
    assert len(server.past.reads) == 3


def test_when_too_much_was_missed_the_clients_are_told_to_subscribe_again(server: Server) -> None:
    server.subscribe()
    server.past.offset, server.past.kept = 50, 10

    server.heal()
    server.hear(51)
    server.past.offset = 51
    server.heal()

    assert server.told == ["agent_resync", 51]


def test_when_the_epoch_has_changed_the_clients_are_told_to_subscribe_again(server: Server) -> None:
    server.subscribe(9)
    server.past = Past("new")
    server.past.offset = 4
    server.catch_up.read_with(server.past)

    server.heal()
    server.hear(5, epoch="new")

    assert server.told == ["agent_resync", 5]


def test_the_first_events_of_a_new_epoch_that_were_missed_are_passed_on(server: Server) -> None:
    server.subscribe(9)
    server.past.epoch, server.past.offset = "new", 3

    server.hear(3, epoch="new")
    server.heal()
    server.hear(10, epoch="e")

    assert server.told == [3, 1, 2, 10]


def test_a_hole_that_stays_is_filled(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.subscribe()
    server.past.offset = 3
    server.hear(1, 3)

    server.turn()
    assert server.told == [1, 3]
    monkeypatch.setattr(catchup, "PATIENCE", 0.0)
    server.turn()
    server.turn()

    assert server.told == [1, 3, 2]
    assert len(server.past.reads) == 1


def test_events_without_an_offset_are_passed_on_and_not_repeated_later(server: Server) -> None:
    server.subscribe()
    bare = {**event(2), "data": ["text"]}
    assert server.catch_up.is_news(bare)
    server.hear(1, 3)

    def read(*_: Any) -> Snapshot:
        told = [{"event": "step", "data": "text", "epoch": "e", "offset": n} for n in (2, 3, 4)]
        return Snapshot("e", 4, True, [], 0, [], told)

    server.catch_up.read_with(read)
    server.catch_up.fall_behind()
    assert [message["mark"]["offset"] for message in server.catch_up.missed()] == [4]


def test_without_a_history_everything_is_passed_on() -> None:
    catch_up = CatchUp(lambda *_: True, "/")
    catch_up.expect("p")
    catch_up.fall_behind()

    assert catch_up.is_news(event(1))
    assert catch_up.is_news(event(1))
    assert list(catch_up.missed()) == []


@given(st.randoms(use_true_random=False), st.integers(1, 60), st.integers(0, 20))
def test_in_whatever_order_events_come_each_is_passed_on_once(rng: random.Random, count: int, seeded: int) -> None:
    server = Server()
    server.past.offset = seeded + count
    server.subscribe(seeded)
    offsets = list(range(seeded + 1, seeded + count + 1))
    come = rng.sample(offsets, rng.randint(0, count))
    again = [rng.choice(come) for _ in range(5)] if come else []

    server.hear(*come, *again)
    server.heal()
    server.hear(*rng.sample(offsets, count))

    assert sorted(server.told) == offsets


def test_a_position_does_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catchup, "MOST_ABOVE", 10)
    position = Position()
    position.seed("e", 0)

    for offset in range(2, 200, 2):
        position.note("e", offset)

    assert len(position._above) <= 10
    assert position.highest == 198
    assert not position.note("e", 100)


@pytest.mark.parametrize(
    "change",
    [
        {"data": []},
        {"data": [1, 2]},
        {"data": "text"},
        {"data": [{"n": 1}]},
        {"data": [{"_realtime": 5}]},
        {"data": [{"_realtime": {"epoch": "e", "offset": "1"}}]},
        {"data": [{"_realtime": {"epoch": 5, "offset": 1}}]},
        {"data": [{"_realtime": {"epoch": "e", "offset": True}}]},
        {"data": [{"epoch": "e", "offset": 1}]},
        {"event": "agent_status", "data": ["text"]},
        {"mark": {"epoch": "e"}},
    ],
)
def test_what_says_no_place_has_none(change: dict[str, Any]) -> None:
    assert place_of({**event(1), **change}) is None
