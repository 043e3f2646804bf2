"""Timers run when they are due."""

from __future__ import annotations

import random

from celery_realtime.client.timers import Timers, spread


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_timer_runs_once_when_it_is_due() -> None:
    clock = Clock()
    timers = Timers(clock)
    ran: list[str] = []
    timers.set("late", 5.0, lambda: ran.append("late"))
    timers.set("early", 1.0, lambda: ran.append("early"))
    assert timers.next_at == 1.0
    clock.now = 1.0
    timers.run_due()
    timers.run_due()
    assert ran == ["early"]
    assert "late" in timers
    assert "early" not in timers


def test_a_timer_that_is_replaced_or_cancelled_does_not_run() -> None:
    clock = Clock()
    timers = Timers(clock)
    ran: list[str] = []
    timers.set("a", 1.0, lambda: ran.append("first"))
    timers.set("a", 2.0, lambda: ran.append("second"))
    timers.set("b", 1.0, lambda: ran.append("b"))
    timers.cancel("b")
    timers.cancel("b")
    clock.now = 3.0
    timers.run_due()
    assert ran == ["second"]
    assert timers.next_at is None


def test_an_action_may_cancel_what_is_due_too() -> None:
    timers = Timers(Clock())
    ran: list[str] = []

    def clear() -> None:
        ran.append("clear")
        timers.clear()

    timers.set("a", 0.0, clear)
    timers.set("b", 0.0, lambda: ran.append("b"))
    timers.run_due()
    assert ran == ["clear"]


def test_a_program_that_seeds_its_generator_gets_its_own_numbers() -> None:
    random.seed(7)
    expected = [random.random() for _ in range(2)]
    random.seed(7)
    numbers = [random.random()]
    spread(1.0, 0.5, 1.0)
    numbers.append(random.random())
    assert numbers == expected
