"""Connections without a token end a few at a time, and those with one at once."""

from __future__ import annotations

import threading

import pytest

from celery_realtime.web import exits
from celery_realtime.web.budgets import Allowance, Budget
from celery_realtime.web.exits import AT_ONCE, Exits
from tests.waiting import wait_for


def budget() -> Budget:
    allowance = Allowance(max_message=1000, byte_rate=1000, packet_rate=10, frame_rate=10)
    return Budget(allowance, "192.0.2.1", lambda _: None)


def test_the_next_ends_when_another_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exits, "LONGEST", 600.0)
    room = Exits()
    first = [budget() for _ in range(AT_ONCE)]
    for one in first:
        room.enter(one)
    late = budget()
    thread = threading.Thread(target=room.enter, args=[late], daemon=True)
    thread.start()
    assert not late.is_leaving
    room.leave(first[0])
    wait_for(lambda: late.is_leaving)
    thread.join(60)


def test_one_with_a_token_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exits, "LONGEST", 600.0)
    room = Exits()
    for _ in range(AT_ONCE):
        room.enter(budget())
    member = budget()
    member.admit(Allowance(max_message=1000, byte_rate=1000, packet_rate=10, frame_rate=10))
    room.enter(member)  # at once: all places are taken
    room.leave(member)
    assert not member.is_leaving


def test_an_end_that_takes_its_time_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exits, "LONGEST", 0.01)
    room = Exits()
    for _ in range(2 * AT_ONCE):
        room.enter(budget())  # half of them have no room, and go on
