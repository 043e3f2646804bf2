"""A verdict is given when all has been right for long enough, or was due to be right."""

from __future__ import annotations

import time

from tests.deaths.verdict import Fault
from tests.deaths.watch import settle

FAULT = Fault("wrong", "job", "a page", "running")


class Scripted:
    """Shows one list of faults after the other, and then the last one for ever."""

    def __init__(self, *faults: list[Fault], due_in: float) -> None:
        self._faults = list(faults)
        self.due_at = time.time() + due_in
        self.looks = 0

    def faults(self) -> list[Fault]:
        self.looks += 1
        return self._faults.pop(0) if len(self._faults) > 1 else self._faults[0]


def verdict(watch: Scripted) -> list[Fault]:
    return settle({"it": watch}, settled=0.1, poll=0.01)["it"]


def test_what_stays_wrong_is_a_fault_once_it_is_due() -> None:
    assert verdict(Scripted([FAULT], due_in=0.1)) == [FAULT]


def test_what_becomes_right_in_time_is_right() -> None:
    assert verdict(Scripted([FAULT], [FAULT], [], due_in=60)) == []


def test_what_is_right_for_a_moment_only_is_not_right_yet() -> None:
    watch = Scripted([], [], [FAULT], due_in=0.2)
    assert verdict(watch) == [FAULT]
    assert watch.looks > 3


def test_each_watch_has_its_own_verdict() -> None:
    watches = {"right": Scripted([], due_in=60), "wrong": Scripted([FAULT], due_in=0.1)}
    assert settle(watches, settled=0.1, poll=0.01) == {"right": [], "wrong": [FAULT]}
