"""Lines of what is logged and printed: whole, short, and no more than so many."""

from __future__ import annotations

import logging
import random
import sys
import threading
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from celery_realtime.jobs import log_lines
from celery_realtime.jobs.log_lines import MOST_UNFINISHED, Line, LineGate, PrintedLines, message_of, within


def record(message: Any, *args: Any, exc_info: Any = None, stack_info: str | None = None) -> logging.LogRecord:
    return logging.LogRecord("studio", logging.INFO, __file__, 1, message, args, exc_info, sinfo=stack_info)


# -- texts of records -----------------------------------------------------------------------------------------------


class Rude:
    """A value whose own methods fail."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __str__(self) -> str:
        raise self.error

    __repr__ = __str__


@pytest.mark.parametrize(
    ("message", "args", "text"),
    [
        ("plain", (), "plain"),
        ("%d of %s", (3, "four"), "3 of four"),
        ("%(a)s", ({"a": 1},), "1"),
        ("100%", (), "100%"),
        (["a"], (), "['a']"),
        (b"bytes", (), "b'bytes'"),
        ("%d", ("four",), "%d (cannot be filled in: TypeError: %d format: a real number is required, not str)"),
        ("%s", (1, 2), "%s (cannot be filled in: TypeError: not all arguments converted during string formatting)"),
        ("%s", (Rude(KeyError("x")),), "%s (cannot be filled in: KeyError: 'x')"),
        (Rude(KeyError("x")), (), "(its text cannot be read: KeyError) (cannot be filled in: KeyError: 'x')"),
    ],
)
def test_a_record_says_what_it_says_whatever_its_arguments_are(message: Any, args: Any, text: str) -> None:
    said = message_of(record(message, *args), with_traceback=False)
    assert said == text


def test_a_time_limit_that_comes_in_the_middle_is_not_taken_for_a_mistake() -> None:
    for error in (SoftTimeLimitExceeded(), SystemExit()):
        with pytest.raises(type(error)):
            message_of(record("%s", Rude(error)), with_traceback=False)


def caught(error: BaseException) -> Any:
    try:
        raise error
    except type(error):
        return sys.exc_info()


def test_of_an_exception_the_last_line_is_shown_and_the_traceback_only_where_that_is_wanted() -> None:
    info = caught(ValueError("no\nway"))
    said = record("failed", exc_info=info, stack_info="Stack (most recent call last):\n  here")
    assert message_of(said, with_traceback=False) == "failed\nValueError: no way"
    whole = message_of(said, with_traceback=True)
    assert whole.startswith("failed\nTraceback (most recent call last):\n")
    assert "test_log_lines.py" in whole
    assert whole.endswith("ValueError: no\nway\nStack (most recent call last):\n  here")


@pytest.mark.parametrize("info", [None, (None, None, None), False])
def test_where_there_is_no_exception_none_is_shown(info: Any) -> None:
    assert message_of(record("failed", exc_info=info), with_traceback=True) == "failed"


def test_an_exception_may_stand_for_itself_and_its_methods_may_fail() -> None:
    said = record("failed", exc_info=ValueError("x"))
    assert message_of(said, with_traceback=False) == "failed\nValueError: x"

    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    for wants in (True, False):
        assert "Broken" in message_of(record("failed", exc_info=caught(Broken())), with_traceback=wants)


@pytest.mark.parametrize(
    ("text", "line"), [("", Line("")), ("abc", Line("abc")), ("abcd", Line("abc", 1)), ("abcdefg", Line("abc", 4))]
)
def test_a_long_text_is_cut_and_says_how_much_is_missing(text: str, line: Line) -> None:
    assert within(text, 3) == line
    assert within(text, 3, 5) == Line(line.text, line.cut + 5)


# -- prints ---------------------------------------------------------------------------------------------------------


def printed(*pieces: str, most: int = 20) -> list[Line]:
    lines = PrintedLines(most)
    return [line for piece in pieces for line in lines.add(piece)] + lines.finish()


@pytest.mark.parametrize(
    ("pieces", "texts"),
    [
        (["a", "\n"], ["a"]),
        (["a", " ", "b", "\n"], ["a b"]),
        (["a\nb\n", "c\n"], ["a", "b", "c"]),
        (["a\r\nb\r", "\n"], ["a", "b"]),
        (["\n", "", "\n\n"], []),
        (["  \n"], ["  "]),
        ([".", ".", "."], ["..."]),
        (["no end"], ["no end"]),
        (["\r 10%", "\r 20%", "\r 30%", "\n", "done\n"], [" 30%", "done"]),
        (["10%\r", "20%\r", "30%\r"], ["30%"]),
        (["10%\r20%\r30%"], ["30%"]),
        (["\r\r\r", "\n"], []),
        (["x" * 30 + "\r", "short", "\n"], ["short"]),
        (["x" * 30, "\rshort", "\n"], ["short"]),
    ],
)
def test_pieces_become_lines(pieces: list[str], texts: list[str]) -> None:
    assert [line.text for line in printed(*pieces)] == texts


def test_a_line_without_an_end_is_not_kept_for_ever() -> None:
    assert printed(*["0123456789"] * 1000) == [Line("01234567890123456789", 9980)]
    assert printed(*["0123456789"] * 1000, "\nnext\n") == [Line("01234567890123456789", 9980), Line("next")]
    assert printed("x" * 1000 + "\n" + "y" * 21) == [Line("x" * 20, 980), Line("y" * 20, 1)]


def test_however_a_text_is_cut_into_pieces_its_lines_are_the_same() -> None:
    numbers = random.Random(15)
    for _ in range(300):
        text = "".join(numbers.choice("ab\r\n") for _ in range(numbers.randrange(30)))
        places = sorted(numbers.randrange(len(text) + 1) for _ in range(numbers.randrange(6)))
        pieces = [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]
        for most in (100, 3):
            assert printed(*pieces, most=most) == printed(text, most=most), pieces


def test_threads_do_not_get_into_each_others_lines() -> None:
    lines, said, turns = PrintedLines(100), list[Line](), threading.Barrier(2)

    def write(word: str) -> None:
        for piece in (word, " and ", word, "\n"):
            turns.wait(60)
            said.extend(lines.add(piece))

    threads = [threading.Thread(target=write, args=(word,)) for word in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(line.text for line in said) == ["one and one", "two and two"]


def test_the_unfinished_lines_of_very_many_threads_are_not_kept() -> None:
    lines, said, over = PrintedLines(100), list[Line](), threading.Event()
    threads, is_added = list[threading.Thread](), threading.Semaphore(0)

    def work(number: int) -> None:
        said.extend(lines.add(f"line {number}"))
        is_added.release()
        over.wait(60)  # the next thread would have its number

    for number in range(MOST_UNFINISHED + 5):
        threads.append(threading.Thread(target=work, args=(number,)))
        threads[-1].start()
        assert is_added.acquire(timeout=60)
    over.set()
    for thread in threads:
        thread.join()
    assert [line.text for line in said] == [f"line {number}" for number in range(5)]
    assert len(lines.finish()) == MOST_UNFINISHED


def test_the_child_of_a_fork_begins_without_an_unfinished_line() -> None:
    lines = PrintedLines(100)
    lines.add("of the parent")
    lines.start_over()
    assert lines.finish() == []


# -- how many -------------------------------------------------------------------------------------------------------


class Clock:
    """Time that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(log_lines, "time", clock)
    return clock


def admitted(gate: LineGate, count: int) -> int:
    return sum(gate.admit() for _ in range(count))


def test_a_burst_passes_and_then_so_many_a_second_together(clock: Clock) -> None:
    gate = LineGate(10, 50)
    assert admitted(gate, 60) == 50
    clock.now += 0.5
    assert admitted(gate, 5) == 0  # it opens for a second's worth
    clock.now += 0.5
    assert admitted(gate, 60) == 10
    clock.now += 1000
    assert admitted(gate, 60) == 50


def test_what_is_within_the_rate_passes_for_ever(clock: Clock) -> None:
    gate = LineGate(10, 1)
    for _ in range(1000):
        clock.now += 0.1001
        assert gate.admit()


@pytest.mark.parametrize(("rate", "burst"), [(0.1, 1), (0.5, 5), (1000.0, 1)])
def test_few_lines_pass_where_few_may(clock: Clock, rate: float, burst: int) -> None:
    gate = LineGate(rate, burst)
    assert admitted(gate, 100) == burst
    clock.now += 1 / rate + 0.001
    assert admitted(gate, 100) == 1
