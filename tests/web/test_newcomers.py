"""A client that subscribes gets its snapshot first, then what is newer, and nothing that is older."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_realtime.channel.wire import Heard
from celery_realtime.web import newcomers as module
from celery_realtime.web.delivery import Emit
from celery_realtime.web.newcomers import Newcomer, Newcomers

ROOM, BATCH = "project:p", "batch:p"


def heard(offset: int | None, epoch: str | None = "e") -> Heard:
    return Heard("p", None, "step", offset, epoch if offset is not None else None, offset)


def emit(offset: int | None, epoch: str = "e", room: str = ROOM) -> Emit:
    return Emit("step", offset, "/", room, events=(heard(offset, epoch),))


def batch(*offsets: int) -> Emit:
    events = tuple(heard(offset) for offset in offsets)
    return Emit("agent_batch", list(offsets), "/", BATCH, events=events)


class Server:
    """The rooms of a server, and what each client has been sent."""

    def __init__(self) -> None:
        self.rooms: dict[str, set[str]] = {ROOM: {"old"}, BATCH: set()}
        self.sent: dict[str, list[Any]] = {"old": [], "new": []}
        self.newcomers = Newcomers(lambda sid, _namespace, room: sid in self.rooms.get(room, ()), "/")

    def come(self, sid: str = "new", room: str = ROOM, *, replays: bool = False) -> Newcomer:
        others = {ROOM, BATCH} - {room}
        newcomer = self.newcomers.hold(sid, "p", room, others, replays=replays)
        self.rooms.setdefault(room, set()).add(sid)
        return newcomer

    def emit(self, *emits: Emit) -> None:
        for whole in emits:
            for part in self.newcomers.split(whole):
                self.send(part)

    def send(self, part: Emit) -> None:
        skipped = part.skip_sid if isinstance(part.skip_sid, list) else [part.skip_sid]
        for sid in self.rooms.get(part.room, {part.room} & set(self.sent)) - set(skipped):
            self.sent[sid].append(part.data)

    def release(self, newcomer: Newcomer) -> None:
        for part in self.newcomers.release(newcomer):
            self.send(part)


@pytest.fixture
def server() -> Server:
    return Server()


def test_without_newcomers_everything_is_emitted_as_it_is(server: Server) -> None:
    whole = emit(1)

    assert list(server.newcomers.split(whole)) == [whole]


def test_events_wait_for_the_answer_and_those_that_it_has_are_left_out(server: Server) -> None:
    newcomer = server.come()
    server.emit(emit(1), emit(2), emit(3))
    newcomer.place("e", 2)
    assert server.sent == {"old": [1, 2, 3], "new": []}

    server.release(newcomer)
    server.emit(emit(4))

    assert server.sent == {"old": [1, 2, 3, 4], "new": [3, 4]}
    assert len(server.newcomers) == 0


def test_what_is_older_than_the_snapshot_is_left_out_after_the_answer_as_well(server: Server) -> None:
    newcomer = server.come()
    newcomer.place("e", 3)
    server.release(newcomer)

    server.emit(emit(2), emit(3), emit(None), emit(4), emit(5))

    assert server.sent == {"old": [2, 3, None, 4, 5], "new": [None, 4, 5]}
    assert len(server.newcomers) == 0


def test_of_a_batch_what_is_older_is_left_out(server: Server) -> None:
    newcomer = server.come(room=BATCH)
    server.rooms[BATCH].add("old")
    newcomer.place("e", 2)
    server.release(newcomer)

    server.emit(batch(1, 2), batch(2, 3), batch(4))

    assert server.sent == {"old": [[1, 2], [2, 3], [4]], "new": [[3], [4]]}


def test_what_an_earlier_epoch_still_had_to_say_is_left_out(server: Server) -> None:
    newcomer = server.come()
    newcomer.place("f", 1, older_epoch="e")
    server.release(newcomer)

    server.emit(emit(8, "e"), emit(1, "f"), emit(2, "f"), emit(1, "g"))

    assert server.sent["new"] == [2, 1]


def test_an_epoch_that_begins_right_after_the_snapshot_is_not_left_out(server: Server) -> None:
    newcomer = server.come()
    newcomer.place("f", 3)
    server.emit(emit(1, "g"))
    server.release(newcomer)

    server.emit(emit(2, "g"))

    assert server.sent["new"] == [1, 2]


def test_a_snapshot_that_has_come_long_ago_keeps_nothing_away(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_AFTERMATH", -1.0)
    newcomer = server.come()
    newcomer.place("e", 100)
    server.release(newcomer)

    server.emit(emit(1, "later"))

    assert server.sent["new"] == [1]


def test_without_a_history_all_that_was_held_comes(server: Server) -> None:
    newcomer = server.come()
    server.emit(emit(None), emit(None))
    newcomer.place(None, None)

    server.release(newcomer)

    assert server.sent["new"] == [None, None]


def test_a_client_that_was_refused_gets_nothing(server: Server) -> None:
    newcomer = server.come()
    server.emit(emit(1))
    server.rooms[ROOM].discard("new")

    server.release(newcomer)

    assert server.sent["new"] == []
    assert len(server.newcomers) == 0


def test_a_client_that_subscribes_again_loses_nothing_if_it_ignores_the_answer(server: Server) -> None:
    server.rooms[ROOM].add("new")
    newcomer = server.come()
    server.emit(emit(1), emit(2))
    newcomer.place("e", 1)

    server.release(newcomer)

    assert server.sent["new"] == [1, 2]


def test_a_client_that_is_replayed_the_snapshot_again_gets_nothing_older(server: Server) -> None:
    server.rooms[ROOM].add("new")
    newcomer = server.come(replays=True)
    server.emit(emit(1), emit(2))
    newcomer.place("e", 1)

    server.release(newcomer)

    assert server.sent["new"] == [2]


def test_of_two_answers_under_way_either_may_be_ignored(server: Server) -> None:
    first = server.come()
    server.emit(emit(1))
    second = server.come()
    server.emit(emit(2))
    second.place("e", 1)
    server.release(second)
    assert server.sent["new"] == []  # the other answer is still to come

    first.place("e", 2)
    server.release(first)

    assert server.sent["new"] == [1, 2]
    assert len(server.newcomers) == 0


def test_a_hanging_history_takes_nothing_from_a_client_that_subscribes_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.rooms[ROOM].add("new")
    newcomer = server.come()
    server.emit(emit(1), emit(2))
    assert server.sent["new"] == []

    monkeypatch.setattr(module, "LONGEST_HOLD", -1.0)
    server.emit(emit(3), emit(4))
    server.release(newcomer)

    assert server.sent["new"] == [1, 2, 3, 4]


@pytest.mark.parametrize(("read_at", "resync"), [(2, False), (1, True)])
def test_what_is_held_is_bounded_and_a_client_that_lacks_some_subscribes_again(
    server: Server, monkeypatch: pytest.MonkeyPatch, read_at: int, resync: bool
) -> None:
    monkeypatch.setattr(module, "MOST_HELD", 3)
    newcomer = server.come()
    server.emit(*(emit(number) for number in range(1, 6)))
    newcomer.place("e", read_at)

    server.release(newcomer)

    asked_again = [{"project_id": "p", "epoch": "e", "offset": 2}] if resync else []
    assert server.sent["new"] == [*asked_again, 3, 4, 5]


def test_a_client_that_has_gone_leaves_nothing(server: Server) -> None:
    server.come()

    server.newcomers.forget("new")

    assert len(server.newcomers) == 0


def test_what_is_meant_for_others_is_not_sent_to_a_newcomer(server: Server) -> None:
    newcomer = server.come()
    newcomer.place("e", 0)

    server.emit(msgspec.structs.replace(emit(1), skip_sid="new"))
    server.release(newcomer)

    assert server.sent == {"old": [1], "new": []}


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20), st.integers(0, 20))
def test_whenever_a_client_comes_it_gets_each_event_once(joined: int, more: int, waited: int, late: int) -> None:
    server = Server()
    offsets = itertools.count(1)

    def advance(count: int) -> None:
        server.emit(*(emit(next(offsets)) for _ in range(count)))

    advance(joined)
    newcomer = server.come()
    advance(more)
    read_at = joined + more + late  # what is late is stored, and has not come yet
    newcomer.place("e", read_at)
    advance(waited)
    server.release(newcomer)
    advance(late + 5)

    assert server.sent["new"] == list(range(read_at + 1, next(offsets)))


def test_held_events_come_before_those_that_are_emitted_meanwhile() -> None:
    server = Server()
    newcomer = server.come()
    count = 2000
    emitting = threading.Thread(target=lambda: server.emit(*(emit(n) for n in range(1, count + 1))), daemon=True)
    emitting.start()
    newcomer.place("e", 0)
    server.release(newcomer)
    emitting.join(60)

    assert not emitting.is_alive()
    numbers = [number for number in server.sent["new"] if isinstance(number, int)]
    assert numbers == sorted(numbers)


def test_of_two_answers_that_come_as_events_the_newer_one_counts_whichever_was_asked_for_first(server: Server) -> None:
    first = server.come(replays=True)
    second = server.come(replays=True)
    server.emit(emit(1), emit(2), emit(3))
    first.place("e", 1)
    second.place("e", 2)

    server.release(second)
    server.release(first)
    server.emit(emit(4))

    assert server.sent["new"] == [3, 4]


def test_access_that_is_decided_again_makes_no_client_one_that_was_here(server: Server) -> None:
    first = server.come()
    second = server.newcomers.hold("new", "p", ROOM, [BATCH], replays=False, earlier=first)
    server.emit(emit(1), emit(2))
    for newcomer in (first, second):
        newcomer.place("e", 1)
    for newcomer in (first, second):
        server.release(newcomer)

    assert server.sent["new"] == [2]


# -- streams --------------------------------------------------------------------------------------------------------


def chunk(position: int, text: str, generation: int = 1) -> Heard:
    data = {"stream": "answer", "generation": generation, "position": position, "chunk": text}
    return Heard("p", "job", "agent_stream", data)


def emitted(*chunks: Heard, room: str = ROOM) -> Emit:
    if len(chunks) == 1:
        return Emit("agent_stream", chunks[0].data, "/", room, events=chunks)
    items = [{"event": one.event, "data": one.data} for one in chunks]
    return Emit("agent_batch", items, "/", room, events=chunks)


def texts(sent: list[Any]) -> list[tuple[int, str]]:
    flat = [item["data"] for data in sent for item in (data if isinstance(data, list) else [{"data": data}])]
    return [(data["position"], data["chunk"]) for data in flat]


def test_of_a_stream_a_client_gets_what_its_answer_has_not(server: Server) -> None:
    newcomer = server.come()
    server.emit(emitted(chunk(0, "abc")), emitted(chunk(3, "def")))
    newcomer.place_streams({("job", "answer"): (1, 5)})
    server.release(newcomer)
    assert texts(server.sent["new"]) == [(5, "f")]
    server.emit(emitted(chunk(4, "ef")), emitted(chunk(6, "g")), emitted(chunk(0, "new", generation=2)))
    assert texts(server.sent["new"]) == [(5, "f"), (5, "f"), (6, "g"), (0, "new")]
    assert texts(server.sent["old"]) == [(0, "abc"), (3, "def"), (4, "ef"), (6, "g"), (0, "new")]


def test_a_client_that_goes_while_it_is_given_chunks_fails_nothing(server: Server) -> None:
    newcomer = server.come()
    server.emit(emitted(chunk(0, "abc")))
    newcomer.place_streams({("job", "answer"): (1, 0)})
    server.newcomers.forget("new")
    assert [texts([emit.data]) for emit in server.newcomers.release(newcomer)] == [[(0, "abc")]]


def test_of_chunks_that_come_in_a_list_too(server: Server) -> None:
    newcomer = server.come(room=BATCH)
    server.emit(emitted(chunk(0, "abc"), chunk(3, "def"), chunk(6, "g"), room=BATCH))
    newcomer.place_streams({("job", "answer"): (1, 4)})
    server.release(newcomer)
    assert texts(server.sent["new"]) == [(4, "ef"), (6, "g")]


def test_what_comes_late_of_an_earlier_start_is_known(server: Server) -> None:
    newcomer = server.come()
    newcomer.place_streams({("job", "answer"): (3, 2)})
    server.release(newcomer)
    server.emit(emitted(chunk(50, "late", generation=2)), emitted(chunk(2, "c", generation=3)))
    assert texts(server.sent["new"]) == [(2, "c")]
