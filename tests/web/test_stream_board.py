"""The streams that clients of a server read: in order, read from the history where chunks are missing, and ended."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from celery_realtime.channel.wire import Heard
from celery_realtime.history.streams import StreamReading
from celery_realtime.web.stream_board import LOOK_AFTER, StreamBoard
from tests.waiting import wait_for
from tests.web.test_stream_order import data, shown


class History:
    """What is stored of one text, and its state."""

    def __init__(self) -> None:
        self.value, self.state, self.generation = "", "open", 1
        self.is_away = False
        self.reads: list[int] = []
        self.go_on = threading.Event()
        self.go_on.set()

    def read(
        self, project_id: str, job_id: str, name: str, *, start: int, generation: int, most: int
    ) -> StreamReading | None:
        assert (project_id, job_id, name) == ("p", "job", "answer")
        self.reads.append(start)
        assert self.go_on.wait(60)
        if self.is_away:
            raise ConnectionError("away")
        start = start if generation == self.generation else 0
        value, end = self.value[start : start + most], len(self.value)
        return StreamReading(name, "text", self.generation, 0, self.state, start, start + len(value), end, value)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def history() -> History:
    return History()


@pytest.fixture
def readers() -> set[tuple[str, str]]:
    """The projects and jobs whose streams somebody reads."""
    return {("p", "job")}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def board(history: History, readers: set[tuple[str, str]], clock: Clock) -> Iterator[StreamBoard]:
    board = StreamBoard(history, lambda _, *job: job in readers, "/", clock=clock)
    yield board
    board.close()


def event(position: int, text: str, state: str = "open", generation: int = 1) -> Heard:
    return Heard("p", "job", "agent_stream", data(position, text, state, generation))


def status(state: str, status: str = "error") -> Heard:
    return Heard("p", "job", "agent_status", {"job_id": "job", "status": status, "state": state, "attempt": 0}, "e", 5)


def missed(board: StreamBoard) -> list[tuple[int, Any, str]]:
    return shown([one for events in board.missed() for one in events])


def read_on(board: StreamBoard, expected: list[tuple[int, Any, str]]) -> None:
    """Take turns until the history has been read."""
    told: list[tuple[int, Any, str]] = []

    def turn() -> bool:
        told.extend(missed(board))
        return len(told) >= len(expected)

    wait_for(turn)
    assert told == expected


def test_chunks_are_emitted_in_order_each_once(board: StreamBoard) -> None:
    assert shown(board.sort([event(0, "ab"), event(0, "ab"), event(2, "c", "closed")])) == [
        (0, "ab", "open"),
        (2, "c", "closed"),
    ]


def test_nothing_is_kept_of_what_nobody_reads(board: StreamBoard, readers: set[tuple[str, str]]) -> None:
    readers.clear()
    assert board.sort([event(0, "ab")]) == []
    assert len(board) == 0
    readers.add(("p", "job"))
    board.sort([event(2, "cd")])
    assert len(board) == 1
    readers.clear()
    assert missed(board) == []
    assert len(board) == 0


def test_what_is_missing_is_read(board: StreamBoard, history: History) -> None:
    board.sort([event(0, "ab")])
    history.value = "abcdef"
    assert board.sort([event(4, "ef")]) == []
    assert board.turns_in <= 0
    read_on(board, [(2, "cdef", "open")])
    assert shown(board.sort([event(6, "g")])) == [(6, "g", "open")]


def test_what_follows_what_a_client_was_given_is_expected(board: StreamBoard, history: History) -> None:
    history.value = "abcd"
    reading = history.read("p", "job", "answer", start=0, generation=0, most=100)
    assert reading is not None
    board.seed("p", "job", [reading])
    history.value = "abcdefgh"
    assert board.sort([event(6, "gh")]) == []
    read_on(board, [(4, "efgh", "open")])


def test_after_a_gap_what_came_last_is_looked_for(board: StreamBoard, history: History) -> None:
    board.sort([event(0, "ab")])
    history.value, history.state = "abcd", "closed"
    board.fall_behind()
    read_on(board, [(2, "cd", "closed")])


def test_what_was_read_before_the_gap_is_no_answer(board: StreamBoard, history: History) -> None:
    board.sort([event(0, "ab")])
    history.go_on.clear()
    history.value = "abcd"
    board.fall_behind()
    missed(board)
    wait_for(lambda: history.reads)
    board.fall_behind()
    history.go_on.set()
    wait_for(lambda: missed(board) and True)
    history.value = "abcdef"
    read_on(board, [(4, "ef", "open")])


def test_a_silent_stream_is_looked_at_now_and_then(board: StreamBoard, history: History, clock: Clock) -> None:
    board.sort([event(0, "ab")])
    history.value = "abc"
    assert missed(board) == []
    assert history.reads == []
    clock.now += LOOK_AFTER + 1
    missed(board)
    wait_for(lambda: history.reads)
    clock.now += 1
    read_on(board, [(2, "c", "open")])


def test_while_the_history_is_away_what_comes_is_emitted_with_its_position(
    board: StreamBoard, history: History, clock: Clock
) -> None:
    board.sort([event(0, "ab")])
    history.is_away = True
    board.sort([event(4, "ef")])
    clock.now += 60
    read_on(board, [(4, "ef", "open")])
    assert shown(board.sort([event(6, "g")])) == [(6, "g", "open")]


def test_a_job_that_ends_ends_its_streams(board: StreamBoard, history: History) -> None:
    board.sort([event(0, "ab")])
    history.value, history.state = "abc", "failed"
    assert board.note([status("STARTED", "running")]) == []
    assert board.note([status("LOST")]) == []
    read_on(board, [(2, "c", "failed")])
    board.note([status("LOST")])
    assert missed(board) == []


@pytest.mark.parametrize(("state", "ended"), [("REVOKED", "cancelled"), ("FAILURE", "failed"), ("SUCCESS", "closed")])
def test_without_a_history_the_end_says_how(readers: set[tuple[str, str]], state: str, ended: str) -> None:
    board = StreamBoard(None, lambda _, *job: job in readers, "/")
    assert shown(board.sort([event(0, "ab"), event(5, "f")])) == [(0, "ab", "open"), (5, "f", "open")]
    end = status(state, "success" if state == "SUCCESS" else "error")
    assert shown(board.note([end])) == [(6, "", ended)]
    assert board.note([end]) == []
    assert [*board.missed()] == []


def test_what_is_no_chunk_is_dropped(board: StreamBoard) -> None:
    assert board.sort([Heard("p", "job", "agent_stream", {"chunk": "x"})]) == []
    assert board.sort([Heard("p", "job", "agent_stream", data(0, "x"), namespace="/other")]) == []


def test_of_a_stream_that_has_begun_since_a_client_came_all_is_expected(board: StreamBoard, history: History) -> None:
    board.seed("p", "job", [])
    history.value = "abcdef"
    assert board.sort([event(3, "def")]) == []
    read_on(board, [(0, "abcdef", "open")])
    assert board.sort([event(0, "abc")]) == []


def test_whoever_reads_all_jobs_hears_of_a_stream_from_where_it_is(
    board: StreamBoard, readers: set[tuple[str, str]]
) -> None:
    assert shown(board.sort([event(3, "def")])) == [(3, "def", "open")]
    board.seed("p", "job", [])
    readers.clear()
    assert missed(board) == []
    readers.add(("p", "job"))
    assert shown(board.sort([event(6, "g")])) == [(6, "g", "open")]


def reading(value: str, state: str = "open", name: str = "answer") -> StreamReading:
    return StreamReading(name, "text", 1, 0, state, 0, len(value), len(value), value)


def test_what_one_client_was_given_is_on_its_way_to_those_who_came_before_the_stream(
    board: StreamBoard, history: History
) -> None:
    board.seed("p", "job", [])
    history.value, history.state = "abc", "closed"
    board.seed("p", "job", [reading("abc", "closed")])
    assert shown(board.sort([event(0, "abc", "closed")])) == [(0, "abc", "closed")]
    assert board.sort([event(0, "abc", "closed")]) == []


def test_and_is_read_if_it_does_not_come(board: StreamBoard, history: History, clock: Clock) -> None:
    board.seed("p", "job", [])
    history.value, history.state = "abc", "closed"
    board.seed("p", "job", [reading("abc", "closed")])
    clock.now += LOOK_AFTER
    read_on(board, [(0, "abc", "closed")])


@pytest.mark.parametrize("are_all", [True, False])
def test_what_one_client_was_given_is_on_its_way_to_readers_of_all_jobs(board: StreamBoard, are_all: bool) -> None:
    board.seed("p", "job", [reading("abcd", "closed")], are_all=are_all)
    assert shown(board.sort([event(2, "cd"), event(4, "", "closed")])) == [(2, "cd", "open"), (4, "", "closed")]
    assert board.sort([event(0, "ab"), event(2, "cd"), event(4, "", "closed")]) == []


def test_whoever_is_given_one_stream_expects_nothing_of_others(board: StreamBoard) -> None:
    board.seed("p", "job", [reading("abc", name="log")], are_all=False)
    assert shown(board.sort([event(6, "g")])) == [(6, "g", "open")]
