"""Make lines of what a job logs and prints: texts of records, whole lines of prints, and no more than so many."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from celery.exceptions import SoftTimeLimitExceeded

from celery_realtime.clocks import time
from celery_realtime.encoding import describe_error, text_of

T = TypeVar("T")

#: Threads of a job whose lines may be unfinished at a time; beyond, the oldest counts as finished.
MOST_UNFINISHED = 100


class Line(NamedTuple):
    """A text that is not too long.

    Attributes:
        text: What is shown of it.
        cut: How many characters were behind that.
    """

    text: str
    cut: int = 0


def within(text: str, most: int, cut: int = 0) -> Line:
    """Return a text as a line of at most so many characters.

    Args:
        text: The text.
        most: How many characters are shown.
        cut: How many were behind it that are gone already.
    """
    return Line(text, cut) if len(text) <= most else Line(text[:most], cut + len(text) - most)


def message_of(record: logging.LogRecord, *, with_traceback: bool) -> str:
    """Return what a record says, whatever its arguments are, and its exception behind that.

    Args:
        record: The record.
        with_traceback: Whether the whole traceback is shown, and the stack that the record has; else the last line of
            the former alone, as of errors of jobs.
    """
    text = _formatted(record)
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else record.exc_info
    if isinstance(error, BaseException):
        text = f"{text}\n{_traceback_of(error) if with_traceback else describe_error(error)}"
    if with_traceback and record.stack_info:
        text = f"{text}\n{record.stack_info}"
    return text


def or_instead(call: Callable[[], T], instead: Callable[[Exception], T]) -> T:
    """Return what a call returns that runs code of the user's; where it fails, what is made of its error instead."""
    try:
        return call()
    except SoftTimeLimitExceeded:  # a signal's, which has come just now
        raise
    except Exception as error:  # noqa: BLE001 - a user's code may raise anything
        return instead(error)


def _formatted(record: logging.LogRecord) -> str:
    return or_instead(
        record.getMessage, lambda error: f"{text_of(record.msg)} (cannot be filled in: {describe_error(error)})"
    )


def _traceback_of(error: BaseException) -> str:
    def formatted() -> str:
        return "".join(traceback.format_exception(type(error), error, error.__traceback__)).rstrip("\n")

    return or_instead(formatted, lambda _: describe_error(error))


_EMPTY = Line("")


class PrintedLines:
    """Puts lines together of what is written to standard output, or error, piece by piece.

    Each thread has its own. As on a terminal, what follows a carriage return replaces what was before it in the line:
    of a progress bar its last state remains.

    Args:
        most: Characters of a line that are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._unfinished: dict[int, Line] = {}

    def add(self, text: str) -> list[Line]:
        """Add a piece, and return the lines that are finished by it; empty ones are none."""
        thread, unfinished = threading.get_ident(), self._unfinished
        before = unfinished.pop(thread, _EMPTY)
        if "\n" in text or "\r" in text or before.text.endswith("\r"):
            lines, rest = self._divided(before, text)
        else:
            lines, rest = [], self._longer(before, text)
        if rest.text:
            unfinished[thread] = rest
            if len(unfinished) > MOST_UNFINISHED:
                lines += self._oldest()
        return lines

    def _longer(self, before: Line, text: str) -> Line:
        if before.cut:
            return Line(before.text, before.cut + len(text))
        return within(before.text + text, self._most)

    def _divided(self, before: Line, text: str) -> tuple[list[Line], Line]:
        """Return the lines that a piece finishes, and what is not finished."""
        first, *others = text.split("\n")
        pieces = [self._shown(before.text + first, before.cut), *(self._shown(other) for other in others)]
        rest = pieces.pop()
        return [_without_return(piece) for piece in pieces if piece.text], rest

    def _shown(self, piece: str, cut: int = 0) -> Line:
        """Return what is visible of a piece; a return at its end may be one of a line's end, and stays."""
        body = piece.rstrip("\r")
        if "\r" in body:
            body, cut = body.rpartition("\r")[2], 0
        if not body:
            return _EMPTY
        line = within(body, self._most, cut)
        return Line(f"{line.text}\r", line.cut) if piece.endswith("\r") else line

    def _oldest(self) -> list[Line]:
        try:
            return [_without_return(self._unfinished.pop(next(iter(self._unfinished))))]
        except (KeyError, StopIteration, RuntimeError):  # another thread has changed it meanwhile
            return []

    def finish(self) -> list[Line]:
        """Return what is not finished, as lines."""
        lines = list[Line]()
        while self._unfinished:
            lines += self._oldest()
        return lines

    def start_over(self) -> None:
        """Forget what is not finished, in the child of a fork: its parent has it."""
        self._unfinished = {}


def _without_return(line: Line) -> Line:
    return Line(line.text.rstrip("\r"), line.cut) if line.text.endswith("\r") else line


class LineGate:
    """Lets so many lines pass a second, and more of them at once now and then.

    Once it has closed, it opens again for a second's worth: so lines that belong together stay together. Without a
    lock: a race costs, or gives, a line.

    Args:
        rate: Lines a second.
        burst: Most lines at once.
    """

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._reserve = self._burst
        self._enough = max(1.0, min(self._burst, rate))
        self._is_closed = False
        self._counted_at = time.monotonic()

    def admit(self) -> bool:
        """Return whether a line may pass."""
        clock = time.monotonic()
        reserve = min(self._burst, self._reserve + (clock - self._counted_at) * self._rate)
        self._counted_at = clock
        self._is_closed = reserve < (self._enough if self._is_closed else 1.0)
        self._reserve = reserve if self._is_closed else reserve - 1.0
        return not self._is_closed
