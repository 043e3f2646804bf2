"""A server emits each project's events in order, and recovers what it has missed: once, and without waiting for it."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_realtime.channel.wire import Heard, heard
from celery_realtime.history.store import Snapshot
from celery_realtime.web import catchup, history_reader
from celery_realtime.web.catchup import CatchUp
from celery_realtime.web.ordering import PATIENCE
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator


def event(offset: int, epoch: str = "e", project: str = "p") -> Heard:
    data = {"n": offset, "_realtime": {"project_id": project, "epoch": epoch, "offset": offset}}
    return heard(project, "step", data)


def status(word: str, job: str = "one", *, offset: int | None = None, **more: Any) -> Heard:
    place = {} if offset is None else {"epoch": "e", "offset": offset}
    return heard("p", "agent_status", {"n": word, "job_id": job, "status": word, "attempt": 0, **place, **more})


class Past:
    """A history of projects: their offset, and how many of the last events can be read."""

    def __init__(self, epoch: str = "e", most: int = 1000) -> None:
        self.epoch = epoch
        self.offset = 0
        self.most = most
        self.reads: list[tuple[str, str, int, int]] = []
        self.looks: list[list[str]] = []
        self.down = False
        #: Reads of these projects wait for :attr:`answers`.
        self.hanging: set[str] = set()
        self.answers = threading.Event()

    def __call__(self, project_id: str, epoch: str, offset: int, most_jobs: int) -> Snapshot:
        self.reads.append((project_id, epoch, offset, most_jobs))
        if project_id in self.hanging:
            assert self.answers.wait(60)
        if self.down:
            raise ConnectionError("away")
        whole = epoch == self.epoch and 0 <= self.offset - offset <= self.most
        missed = [event(n, self.epoch, project_id) for n in range(offset + 1, self.offset + 1)] if whole else []
        entries = [{"event": each.event, "data": each.data} for each in missed]
        return Snapshot(self.epoch, self.offset, whole, [], 0, [], entries)

    def positions(self, project_ids: list[str]) -> dict[str, tuple[str, int]]:
        self.looks.append(project_ids)
        return dict.fromkeys(project_ids, (self.epoch, self.offset))


class Server:
    """A catch-up with a clock of its own, the past that it reads, and what is emitted."""

    def __init__(self, *, looks: bool = False) -> None:
        self.past = Past()
        self.watched = {"p"}
        self.clock = 100.0
        self.catch_up = CatchUp(
            self.read,
            lambda _namespace, project: project in self.watched,
            "/",
            positions=self._positions if looks else None,
            clock=lambda: self.clock,
        )
        self.emitted: list[Any] = []

    def read(self, *args: Any) -> Snapshot:
        return self.past(*args)

    def _positions(self, project_ids: list[str]) -> dict[str, tuple[str, int]]:
        return self.past.positions(project_ids)

    def subscribe(self, offset: int = 0, project: str = "p") -> None:
        self.catch_up.expect(project)
        self.catch_up.seed(project, self.past.epoch, offset)

    def note(self, events: list[Heard]) -> None:
        self.emitted += [each.data.get("n", each.event) for each in events]

    def receive(self, *offsets: int, epoch: str = "e", project: str = "p") -> None:
        self.hear(*(event(offset, epoch, project) for offset in offsets))

    def hear(self, *events: Heard) -> None:
        self.note(self.catch_up.sort(events))

    def turn(self) -> None:
        for events in self.catch_up.missed():
            self.note(events)

    def turn_until(self, *emitted: Any) -> None:
        """Let time pass until all this, and nothing else, has been emitted."""

        def has_turned() -> bool:
            self.clock += 0.02
            self.turn()
            return len(self.emitted) >= len(emitted)

        wait_for(has_turned)
        assert self.emitted == list(emitted)

    def heal(self) -> None:
        self.catch_up.fall_behind()
        assert self.catch_up.turns_in <= 0
        self.turn()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.past.answers.set()
    server.catch_up.close()


@pytest.fixture
def looking_server() -> Iterator[Server]:
    server = Server(looks=True)
    yield server
    server.catch_up.close()


# -- in order -----------------------------------------------------------------------------------------------------


def test_what_comes_in_order_is_emitted_at_once_and_nothing_is_read(server: Server) -> None:
    server.subscribe()

    server.receive(1, 2)
    server.receive(3)

    assert server.emitted == [1, 2, 3]
    server.turn()
    assert server.past.reads == []


def test_a_hole_is_waited_for_and_then_read(server: Server) -> None:
    server.subscribe()
    server.turn()
    server.past.offset = 3

    server.receive(1, 3)
    assert server.emitted == [1]
    assert 0 < server.catch_up.turns_in <= PATIENCE
    server.turn()
    assert server.past.reads == []
    server.clock += PATIENCE
    assert server.catch_up.turns_in <= 0

    server.turn_until(1, 2, 3)
    assert server.past.reads == [("p", "e", 1, 0)]


def test_what_was_missed_is_emitted_in_order_and_once(server: Server) -> None:
    server.subscribe()
    server.receive(1, 2, 4)
    server.past.offset = 7

    server.heal()
    server.turn_until(1, 2, 3, 4, 5, 6, 7)
    server.receive(5, 6, 7, 8)

    assert server.emitted[7:] == [8]


def test_what_the_first_snapshot_had_is_not_passed_on_again(server: Server) -> None:
    server.past.offset = 10
    server.subscribe(10)
    server.past.offset = 12

    server.heal()

    server.turn_until(11, 12)


def test_a_later_subscriber_takes_nothing_from_an_earlier_one(server: Server) -> None:
    server.subscribe()
    server.past.offset = 3
    server.subscribe(3)

    server.turn_until(1, 2, 3)


def test_what_comes_between_joining_and_reading_waits_for_the_snapshot(server: Server) -> None:
    server.catch_up.expect("p")
    server.receive(1, 2)
    server.turn()
    assert server.emitted == []
    assert server.catch_up.turns_in < 0.1

    server.catch_up.seed("p", "e", 1)
    assert server.catch_up.turns_in <= 0
    server.turn()

    assert server.emitted == [2]


def test_what_the_snapshot_released_comes_before_what_comes_next(server: Server) -> None:
    server.catch_up.expect("p")
    server.receive(2)
    server.catch_up.seed("p", "e", 1)

    server.receive(3)

    assert server.emitted == [2, 3]


def test_a_snapshot_that_never_comes_is_not_waited_for_for_ever(server: Server) -> None:
    server.catch_up.expect("p")
    server.receive(2, 1)

    server.turn()
    assert server.emitted == []
    server.clock += catchup.LONGEST_WAIT + 1
    server.turn()

    assert server.emitted == [1, 2]


def test_a_client_that_was_placed_in_a_room_hears_at_once_and_in_order(server: Server) -> None:
    server.receive(5, 7, 6, 4)

    assert server.emitted == [5, 6, 7, 4]  # of which 4 had not been emitted: it is no status


def test_what_nobody_follows_passes_and_leaves_no_trace(server: Server) -> None:
    server.watched.clear()

    server.receive(5, 4, 5)

    assert server.emitted == [5, 4, 5]
    assert server.catch_up.turns_in <= 0  # the first turn; there is no other reason
    server.turn()
    assert server.catch_up.turns_in > PATIENCE


def test_an_event_of_another_namespace_is_none_of_the_projects(server: Server) -> None:
    server.subscribe()

    server.hear(heard("p", "step", event(9).data, namespace="/other"))

    assert server.emitted == [9]
    assert server.catch_up.sort([event(1)])


def test_nothing_is_read_for_projects_that_nobody_watches_any_more(server: Server) -> None:
    server.subscribe()
    server.watched.clear()

    server.heal()
    server.clock += 1
    server.turn()

    assert server.past.reads == []


def test_when_too_much_was_missed_the_clients_have_to_subscribe_again(server: Server) -> None:
    server.subscribe()
    server.past.offset, server.past.most = 50, 10

    server.heal()
    server.turn_until("agent_resync")
    server.receive(51)
    server.past.offset = 51
    server.heal()

    server.turn_until("agent_resync", 51)


def test_the_first_events_of_a_new_epoch_that_were_missed_come_first(server: Server) -> None:
    server.subscribe(9)
    server.past.epoch, server.past.offset = "new", 3

    server.receive(3, epoch="new")
    assert server.emitted == []
    server.turn_until(1, 2, 3)
    server.receive(10, epoch="e")

    assert server.emitted == [1, 2, 3, 10]


def test_only_the_projects_that_fell_behind_are_read(server: Server) -> None:
    server.watched = {"p", "q"}
    for project in ("p", "q"):
        server.subscribe(project=project)
    server.past.offset = 2

    server.catch_up.fall_behind(["q", "nobody's"])
    server.turn_until(1, 2)

    assert {read[:3] for read in server.past.reads} == {("q", "e", 0)}


# -- how far histories go -----------------------------------------------------------------------------------------


def test_what_was_stored_and_never_published_is_noticed(looking_server: Server) -> None:
    server = looking_server
    server.subscribe()
    server.receive(1)
    server.past.offset = 2

    server.turn_until(1, 2)

    assert server.clock - 100.0 < 4.0
    assert server.past.reads[0] == ("p", "e", 1, 0)


def test_no_history_is_looked_at_for_projects_that_nobody_follows(looking_server: Server) -> None:
    server = looking_server
    server.subscribe()
    server.watched.clear()

    for _ in range(10):
        server.clock += 1
        server.turn()

    assert server.past.looks == []


def test_very_many_projects_are_looked_at_in_turn(looking_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catchup, "MOST_LOOKED_AT", 3)
    server = looking_server
    names = [f"p{number}" for number in range(7)]
    server.watched = set(names)
    for name in names:
        server.subscribe(project=name)

    def has_looked_at_all() -> bool:
        server.clock += 3
        server.turn()
        return {name for look in server.past.looks for name in look} == set(names)

    wait_for(has_looked_at_all)

    assert max(map(len, server.past.looks)) == 3


def test_a_new_epoch_that_nothing_shows_is_noticed(looking_server: Server) -> None:
    server = looking_server
    server.subscribe(9)
    server.past.epoch, server.past.offset = "new", 2

    server.turn_until(1, 2)


# -- without offsets ----------------------------------------------------------------------------------------------


def test_without_a_history_statuses_come_by_attempt_and_rank() -> None:
    catch_up = CatchUp(None, lambda *_: True, "/")
    events = [event(1), event(1), status("running"), status("queued"), status("success"), status("running")]

    assert [each.data["n"] for each in catch_up.sort(events)] == [1, 1, "running", "success"]
    catch_up.fall_behind()
    assert list(catch_up.missed()) == []
    assert catch_up.turns_in > 0
    assert catch_up.loops == []


def test_an_event_without_an_offset_takes_no_job_back_behind_one_that_has_it(server: Server) -> None:
    server.subscribe()

    server.hear(status("success", offset=1), status("running"), status("queued", "two"), event(2))

    assert server.emitted == ["success", "queued", 2]


def test_an_event_with_an_offset_is_emitted_whatever_was_before(server: Server) -> None:
    """The history knows of redeliveries, and of jobs that were published again."""
    server.subscribe()

    server.hear(status("success", offset=1), status("running", offset=2), status("success"), status("queued"))

    assert server.emitted == ["success", "running", "success"]


# -- a history that does not answer -------------------------------------------------------------------------------


def test_a_history_that_is_away_holds_up_nothing_and_is_asked_again(server: Server) -> None:
    server.subscribe()
    server.past.offset, server.past.down = 4, True
    server.receive(1, 3)

    server.turn_until(1, 3)
    server.receive(4)
    assert server.emitted == [1, 3, 4]
    server.past.down = False

    server.turn_until(1, 3, 4, 2)  # late, but it takes no job backwards


def test_while_the_history_hangs_live_events_of_all_projects_are_emitted(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_reader, "LONGEST_PROMPT", 0.02)
    server.watched = {"p", "q"}
    server.past.hanging = {"p"}
    for project in ("p", "q"):
        server.subscribe(project=project)
    server.past.offset = 5

    server.catch_up.fall_behind(["p"])
    server.turn()
    server.receive(1, 2, project="q")
    server.receive(4)
    assert server.emitted == [1, 2]  # 4 has a moment
    server.turn_until(1, 2, 4)
    server.receive(5)

    server.past.answers.set()
    server.turn_until(1, 2, 4, 5, 1, 2, 3)


def test_what_came_live_while_the_history_was_read_is_not_repeated(server: Server) -> None:
    server.past.hanging = {"p"}
    server.subscribe()
    server.heal()
    wait_for(lambda: server.past.reads)

    server.receive(1, 2)
    server.past.offset = 4
    server.past.answers.set()

    server.turn_until(1, 2, 3, 4)


def test_what_is_missed_while_the_history_is_read_is_read_too(server: Server) -> None:
    server.past.hanging = {"p"}
    server.past.offset = 1
    server.subscribe()
    server.heal()
    wait_for(lambda: server.past.reads)

    server.catch_up.fall_behind()  # and what that read returns may be from before
    server.past.answers.set()
    wait_for(lambda: server.turn() or len(server.past.reads) == 2)

    server.turn_until(1)


def test_a_child_process_begins_with_no_clients() -> None:
    server = Server()
    server.subscribe()
    server.past.offset = 2

    server.catch_up.after_fork()
    server.heal()

    assert server.past.reads == []


# -- whatever comes -----------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.randoms(use_true_random=False), st.integers(1, 60), st.integers(0, 20))
def test_in_whatever_order_events_come_all_are_emitted_in_order(rng: random.Random, count: int, seeded: int) -> None:
    server = Server()
    server.past.offset = seeded + count
    server.subscribe(seeded)
    offsets = list(range(seeded + 1, seeded + count + 1))
    come = rng.sample(offsets, rng.randint(0, count))
    again = [rng.choice(come) for _ in range(5)] if come else []

    server.receive(*come, *again)
    server.heal()
    server.receive(*rng.sample(offsets, count))
    server.turn_until(*offsets)
    server.catch_up.close()


def test_very_much_that_waits_in_all_projects_together_is_read_instead(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catchup, "MOST_HELD", 10)
    names = [f"p{number}" for number in range(5)]
    server.watched, server.past.offset = set(names), 5
    for name in names:
        server.subscribe(project=name)
        server.receive(2, 3, 4, 5, project=name)

    wait_for(lambda: server.turn() or len(server.emitted) == 25)

    assert sorted(server.emitted) == sorted([1, 2, 3, 4, 5] * 5)
    assert server.clock == 100.0


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
        server.clock += 1
    ended.set()
    coming.join(60)
    assert not coming.is_alive()
