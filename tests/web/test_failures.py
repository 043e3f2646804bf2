"""New connections of an address wait while others of it show bad tokens all the time."""

from __future__ import annotations

import pytest

from celery_realtime.web import budgets, failures
from celery_realtime.web.budgets import Allowance, Budget
from celery_realtime.web.failures import ENTRY_RATE, FAILURE_RATE, LONGEST, MEMORY, MOST_FAILURES, Failures


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]

    class Clock:
        monotonic = staticmethod(lambda: now[0])

    monkeypatch.setattr(budgets, "time", Clock)
    monkeypatch.setattr(failures, "time", Clock)
    return now


def fail(seen: Failures, times: int = MOST_FAILURES + 1) -> None:
    for _ in range(times):
        seen.note("192.0.2.1")


def test_who_fails_now_and_then_waits_for_nothing(clock: list[float]) -> None:
    seen = Failures()
    for _ in range(5 * MOST_FAILURES):
        fail(seen, 1)
        clock[0] += 1 / FAILURE_RATE
    assert seen.pause_before_entry("192.0.2.1") == 0.0


def test_beyond_that_connections_of_the_address_begin_one_after_the_other(clock: list[float]) -> None:
    seen = Failures()
    fail(seen)
    pauses = [seen.pause_before_entry("192.0.2.1") for _ in range(3)]
    assert pauses == pytest.approx([0.0, 1 / ENTRY_RATE, 2 / ENTRY_RATE])
    assert seen.pause_before_entry("192.0.2.2") == 0.0


def test_too_many_are_refused_and_take_no_turn(clock: list[float]) -> None:
    seen = Failures()
    fail(seen)
    pauses = [seen.pause_before_entry("192.0.2.1") for _ in range(1000)]
    allowed = [pause for pause in pauses if pause is not None]
    assert len(allowed) == pytest.approx(1 + LONGEST * ENTRY_RATE, abs=1)
    clock[0] += 1.0
    assert seen.pause_before_entry("192.0.2.1") is not None


def test_a_connection_that_would_have_to_wait_is_refused_where_there_is_no_room(clock: list[float]) -> None:
    seen = Failures()
    fail(seen)
    allowance = Allowance(max_message=1000, byte_rate=1000, packet_rate=10, frame_rate=10)
    first, second, begun = (Budget(allowance, "192.0.2.1", lambda _: None) for _ in range(3))
    begun.eio_sid = "begun"
    assert seen.admit(first, may_wait=False)
    assert not seen.admit(second, may_wait=False)
    assert seen.admit(second, may_wait=True)
    assert second.pause > 0
    assert seen.admit(begun, may_wait=False)


def test_it_is_forgotten_soon(clock: list[float]) -> None:
    seen = Failures()
    fail(seen)
    clock[0] += MEMORY + 0.1
    assert [seen.pause_before_entry("192.0.2.1") for _ in range(100)] == [0.0] * 100
