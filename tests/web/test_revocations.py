"""Revoked access holds for tokens from before, is looked up on the record, and is not remembered for ever."""

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


class Record:
    """A record that counts how often it is read."""

    def __init__(self) -> None:
        self.is_there = True
        self.has_been_read = False
        self.time: float | None = None
        self.read = 0

    def catch_up(self) -> None:
        self.read += 1


@pytest.fixture
def record() -> Record:
    return Record()


@pytest.fixture
def on_record(record: Record) -> Revocations:
    return Revocations(record)


def test_the_record_is_read_for_a_token_that_opens_the_project(record: Record, on_record: Revocations) -> None:
    assert on_record.has_to_read(user(99.0), "alpha", is_read_later=False)
    assert not on_record.has_to_read(user(99.0), "beta", is_read_later=False)
    assert not on_record.has_to_read("ada", "alpha", is_read_later=False)
    record.is_there = False
    assert not on_record.has_to_read(user(99.0), "alpha", is_read_later=False)
    assert not Revocations().has_to_read(user(99.0), "alpha", is_read_later=False)


def test_if_it_is_read_later_it_need_not_be_read_now_unless_it_never_was(
    record: Record, on_record: Revocations
) -> None:
    assert on_record.has_to_read(user(99.0), "alpha", is_read_later=True)
    record.has_been_read = True
    assert not on_record.has_to_read(user(99.0), "alpha", is_read_later=True)
    on_record.read()
    assert record.read == 1


def test_what_was_noted_can_be_noted_on_another_record() -> None:
    revocations = Revocations()
    revocations.note("ada", "alpha", 100.0)
    assert [(one.user, one.project, one.at) for one in revocations.remembered()] == [("ada", "alpha", 100.0)]


def test_a_token_was_not_made_after_it_was_shown(record: Record, on_record: Revocations) -> None:
    assert on_record.date(user(200.0)).issued_at == 200.0
    record.time = 150.0
    assert on_record.date(user(200.0)).issued_at == 150.0
    assert on_record.date(user(100.0)).issued_at == 100.0
    assert on_record.date("ada") == "ada"


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
