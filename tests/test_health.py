from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from celery_realtime import health
from celery_realtime.clocks import time
from celery_realtime.health import health_pages, page_of
from celery_realtime.loops import BackgroundLoop

logger = logging.getLogger(__name__)


def loop(state: str, name: str = "keeper") -> BackgroundLoop:
    """Make a loop in a state."""
    made = BackgroundLoop(name, logger, longest=0.0 if state == "stuck" else 600.0)
    if state != "idle":
        with made.turn():
            if state == "failing":
                raise ValueError("redis://:secret@redis.internal is away")
    assert made.state == state
    return made


def listener(state: str, *, is_hearing: bool = True, last_heard: float | None = None) -> Any:
    return SimpleNamespace(listening=loop(state), is_hearing=is_hearing, last_heard=last_heard)


def keeper(*lease_ages: float, state: str = "turning") -> Any:
    return SimpleNamespace(loop=loop(state), lease_ages=list(lease_ages), lease=20.0)


@pytest.mark.parametrize(
    ("states", "state"),
    [
        ([], "idle"),
        (["idle", "idle"], "idle"),
        (["idle", "turning"], "ok"),
        (["failing"], "ok"),
        (["turning", "stuck"], "failing"),
    ],
)
def test_loops_are_well_unless_one_stands_still(states: list[str], state: str) -> None:
    check = health.check_loops([loop(each, f"loop {number}") for number, each in enumerate(states)])
    assert check.state == state == health.check_loops([loop(each) for each in states]).state
    assert check.details["stuck"] == [f"loop {number}" for number, each in enumerate(states) if each == "stuck"]


@pytest.mark.parametrize(
    ("servers", "state"),
    [
        ([], "idle"),
        ([listener("idle", is_hearing=False)], "idle"),  # it was forked, and no client has come
        ([listener("turning")], "ok"),
        ([listener("turning", is_hearing=False)], "failing"),
        ([listener("turning"), listener("failing", is_hearing=False)], "failing"),
        ([listener("turning"), listener("idle", is_hearing=False)], "ok"),
    ],
)
def test_a_server_that_listens_has_to_hear(servers: list[Any], state: str) -> None:
    assert health.check_hearing(servers).state == state


def test_it_shows_how_long_the_longest_silence_is() -> None:
    servers = [listener("turning", last_heard=time.monotonic() - age) for age in (1.0, 5000.0)]
    assert health.check_hearing(servers).details["last_heard"] >= 5000.0


@pytest.mark.parametrize(
    ("states", "state"),
    [
        ([], "idle"),
        (["idle"], "idle"),
        (["turning"], "ok"),
        (["turning", "failing"], "failing"),
        (["stuck"], "failing"),
    ],
)
def test_the_history_is_as_well_as_those_who_use_it(states: list[str], state: str) -> None:
    assert health.check_history(map(loop, states)).state == state


@pytest.mark.parametrize(("age", "state"), [(0.0, "ok"), (health.LATE - 1, "ok"), (health.LATE + 1, "failing")])
def test_what_waits_for_long_is_late(age: float, state: str) -> None:
    check = health.check_outbox(SimpleNamespace(age=age, size=7))
    assert (check.state, check.details) == (state, {"waiting": 7, "age": age})


@pytest.mark.parametrize(
    ("state", "expected"), [("idle", "idle"), ("turning", "ok"), ("failing", "failing"), ("stuck", "failing")]
)
def test_the_keeper_is_as_well_as_its_loop(state: str, expected: str) -> None:
    assert health.check_keeper(keeper(state=state)).state == expected


@pytest.mark.parametrize(("ages", "state", "held"), [([], "idle", 0), ([1.0], "ok", 1), ([1.0, 21.0], "failing", 2)])
def test_a_lease_that_was_not_renewed_has_lapsed(ages: list[float], state: str, held: int) -> None:
    check = health.check_leases(keeper(*ages))
    assert (check.state, check.details["held"]) == (state, held)


# -- the whole ------------------------------------------------------------------------------------------------------


def whole(*checks: health.Check) -> dict[str, Any]:
    return health.report(checks, [])


@pytest.mark.parametrize(
    ("checks", "live", "ready"),
    [
        ([], True, True),
        ([health.Check("loops", "ok", is_vital=True), health.Check("hearing", "idle")], True, True),
        ([health.Check("loops", "ok", is_vital=True), health.Check("hearing", "failing")], True, False),
        ([health.Check("loops", "failing", is_vital=True)], False, False),
    ],
)
def test_an_outage_is_no_reason_to_start_a_process_anew(checks: list[health.Check], live: bool, ready: bool) -> None:
    assert (whole(*checks)["live"], whole(*checks)["ready"]) == (live, ready)


class Source:
    """Has a health."""

    def __init__(self, *checks: health.Check) -> None:
        self._checks = checks

    def health(self) -> dict[str, Any]:
        return health.report(self._checks, [loop("failing")])


@pytest.fixture
def away() -> Source:
    """Something whose history is away."""
    return Source(health.check_loops([loop("turning")]), health.check_history([loop("failing")]))


def test_strangers_see_states_and_names(away: Source) -> None:
    assert "redis.internal" in str(away.health())
    page = page_of(away, "ready")
    assert page.status == 503
    assert page.body == b'{"status":"failing","checks":{"loops":"ok","history":"failing"}}'
    page = page_of(away, "live")
    assert (page.status, page.body) == (200, b'{"status":"ok","checks":{"loops":"ok"}}')


def test_there_is_a_page_for_each_probe(away: Source) -> None:
    statuses = {path: make().status for path, make in health_pages(away, "/up").items()}
    assert statuses == {"/up": 503, "/up/ready": 503, "/up/live": 200}
