"""Revoked access holds for tokens from before, is read again when in doubt, and is not remembered for ever."""

from __future__ import annotations

import time

import pytest

from celery_realtime.auth import TokenUser
from celery_realtime.web.revocations import FEWEST_SEARCHED, RETENTION, Revocations


def user(issued_at: float, name: str = "ada") -> TokenUser:
    made = TokenUser(name)
    made.issued_at, made.projects = issued_at, frozenset(["alpha"])
    return made


def test_a_token_from_before_is_covered_and_one_from_after_is_not() -> None:
    revocations = Revocations()
    revocations.note("ada", "alpha", 100.0)
    assert revocations.cover(user(99.0), "alpha")
    assert revocations.cover(user(100.0), "alpha")
    assert not revocations.cover(user(101.0), "alpha")
    assert not revocations.cover(user(99.0, "bob"), "alpha")


@pytest.mark.parametrize("somebody", ["ada", 7, user(99.0)])
def test_rules_of_ones_own_and_other_projects_are_not_covered(somebody: object) -> None:
    revocations = Revocations()
    revocations.note("ada", "alpha", 100.0)
    assert not revocations.cover(somebody, "beta")


def test_the_later_of_two_times_counts() -> None:
    revocations = Revocations()
    for at in (100.0, 50.0):
        revocations.note("ada", "alpha", at)
    assert revocations.cover(user(99.0), "alpha")


def test_the_record_is_read_once_and_again_when_in_doubt() -> None:
    reads = []

    def load() -> dict[tuple[str, str], float]:
        reads.append(True)
        return {("ada", "alpha"): 100.0}

    revocations = Revocations(load)
    assert [revocations.cover(user(99.0), "alpha") for _ in range(3)] == [True] * 3
    assert len(reads) == 1
    revocations.doubt()
    assert revocations.cover(user(99.0), "alpha")
    assert len(reads) == 2


def test_old_ones_are_forgotten_when_there_are_many() -> None:
    revocations = Revocations()
    clock = time.time()
    for number in range(10 * FEWEST_SEARCHED):
        revocations.note(f"old-{number}", "alpha", clock - RETENTION - 60)
    revocations.note("ada", "alpha", clock)
    assert len(revocations) <= FEWEST_SEARCHED + 1
    assert revocations.cover(user(clock - 1), "alpha")


def test_new_ones_are_all_remembered() -> None:
    revocations = Revocations()
    clock = time.time()
    for number in range(5 * FEWEST_SEARCHED):
        revocations.note(f"user-{number}", "alpha", clock)
    assert len(revocations) == 5 * FEWEST_SEARCHED
