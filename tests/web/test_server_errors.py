"""Tracebacks of web servers' own are written once a minute and kind; those of the application always."""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from celery_realtime.web.server_errors import (
    RareLines,
    RareTracebacks,
    RepeatedServerErrors,
    ServerLogs,
    is_of_servers,
)


def raised(call: Callable[[], Any], *, is_ours: bool = False) -> BaseException:
    """Return what a call raises, without the frame of this test unless it is to be part of it."""
    try:
        call()
    except BaseException as error:
        return error if is_ours else error.with_traceback(error.__traceback__ and error.__traceback__.tb_next.tb_next)  # type: ignore[union-attr]
    raise AssertionError


def unreadable() -> Any:
    return raised(lambda: json.loads("{"))


def unreadable_to_us() -> Any:
    return raised(lambda: json.loads("{"), is_ours=True)


def record_of(error: BaseException, message: str = "failed", name: str = "asyncio") -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, "", 1, message, (), (type(error), error, error.__traceback__))


def test_an_error_is_of_servers_if_no_line_of_an_application_has_led_to_it() -> None:
    assert is_of_servers(unreadable())
    assert not is_of_servers(unreadable_to_us())
    assert is_of_servers(asyncio.TimeoutError())


class Group(Exception):
    """As an ExceptionGroup, which Python 3.10 lacks."""

    def __init__(self, *exceptions: BaseException) -> None:
        super().__init__("several")
        self.exceptions = exceptions


def test_an_error_of_several_is_of_servers_if_each_is() -> None:
    assert is_of_servers(Group(unreadable(), Group(unreadable())))
    assert not is_of_servers(Group(unreadable(), Group(unreadable_to_us())))


def test_only_errors_of_servers_are_rare_in_logs() -> None:
    repeated = RepeatedServerErrors()
    passed = [repeated.filter(record_of(unreadable(), f"from {number}")) for number in range(3)]
    assert passed == [True, False, False]
    assert repeated.filter(record_of(unreadable(), name="uvicorn.error"))
    assert all(repeated.filter(record_of(unreadable_to_us())) for _ in range(3))
    assert all(repeated.filter(logging.makeLogRecord({"msg": "a line"})) for _ in range(3))


def test_groups_are_told_apart_by_what_is_in_them() -> None:
    repeated = RepeatedServerErrors()
    groups = [Group(unreadable()), Group(ValueError("another")), Group(unreadable())]
    assert [repeated.filter(record_of(group)) for group in groups] == [True, True, False]


def text_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


def test_tracebacks_are_known_in_text_too() -> None:
    tracebacks = RareTracebacks()
    assert [tracebacks.is_text_due(text_of(unreadable())) for _ in range(3)] == [True, False, False]
    assert all(tracebacks.is_text_due(text_of(unreadable_to_us())) for _ in range(3))
    assert all(tracebacks.is_text_due('127.0.0.1 "GET / HTTP/1.1" 200') for _ in range(3))
    assert [tracebacks.is_due(unreadable()) for _ in range(3)] == [True, False, False]


def test_a_log_of_eventlet_has_its_other_lines() -> None:
    written: list[str] = []

    class Log:
        debug = written.append

        def info(self, message: str) -> None:
            written.append(message)

    log = RareLines(Log(), RareTracebacks())
    error = text_of(unreadable())
    for line in (error, "a", error, "a"):
        log.info(line)
    log.debug("b")
    assert written == [error, "a", "a", "b"]


def test_outside_of_a_server_nothing_is_changed() -> None:
    before = logging.getLogger("asyncio").handlers[:]
    ServerLogs().install()
    assert logging.getLogger("asyncio").handlers == before


def test_the_application_is_no_server(caplog: pytest.LogCaptureFixture) -> None:
    """A handler of a task of its own, which fails in a library that servers use, too."""

    async def fail() -> None:
        json.loads("{")

    async def run() -> BaseException | None:
        task = asyncio.ensure_future(fail())
        await asyncio.wait([task])
        return task.exception()

    error = asyncio.run(run())
    assert error is not None
    assert not is_of_servers(error)
