from __future__ import annotations

import functools
import itertools
import math
import operator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from django.utils.functional import lazystr
from hypothesis import given
from hypothesis import strategies as st

from celery_realtime.events import Job, outgoing_progress
from celery_realtime.jobs.progress import Progress, Throttle, check_progress, progress_update, read_meta

JOB = Job(job_id="job_123", project_id="project_456")
FINITE = st.floats(allow_nan=False, allow_infinity=False)


# -- what users report ------------------------------------------------------------------------------------------


class Quantity:
    def __float__(self) -> float:
        return 12.5


class Count:
    def __index__(self) -> int:
        return 7


class Broken:
    def __float__(self) -> float:
        raise RuntimeError("cannot be converted")


@pytest.mark.parametrize(
    "percent",
    [
        *(0, 1, 50, 99.5, 100, 100.0, Fraction(1, 4), Decimal("12.5"), np.float32(0.5), np.int64(7), np.uint8(9)),
        *(np.float64(3), np.longdouble(2), np.array(5.5), Quantity(), Count()),
    ],
)
def test_a_percentage_is_between_0_and_100(percent: float) -> None:
    report = check_progress(percent)
    assert report == Progress(float(percent))
    assert type(report.progress) in (int, float)
    assert outgoing_progress(progress_update(JOB, report)).payload


@pytest.mark.parametrize(
    "percent",
    [
        *(250, -1, 100.01, -0.01, 101, 10**400, -(10**400), Fraction(10**400), Decimal(101), Decimal("sNaN")),
        *(np.int64(101), np.float32(100.5)),
    ],
    ids=lambda percent: f"{str(percent)[:6]}",
)
def test_a_percentage_beyond_is_refused_and_named(percent: float) -> None:
    with pytest.raises(ValueError, match="progress must be "):
        check_progress(percent)


def test_what_rounding_has_put_beyond_a_bound_is_put_back() -> None:
    sixths = functools.reduce(operator.add, [100 / 6] * 7) - 100 / 6
    assert sixths > 100  # what a loop comes to that adds its part each time; ``sum`` does not since Python 3.12
    assert check_progress(sixths) == Progress(100)
    assert check_progress(1 - 0.9 - 0.1) == Progress(0)
    assert check_progress(current=0.1 + 0.1 + 0.1, total=0.3) == Progress(100, None, 0.3, 0.3)
    with pytest.raises(ValueError, match="current must be between 0 and 10000000, not 10000001"):
        check_progress(current=10_000_001, total=10_000_000)


@pytest.mark.parametrize("percent", [math.nan, math.inf, -math.inf, np.float32("nan"), Decimal("inf")])
def test_a_percentage_that_is_no_finite_number_is_refused(percent: float) -> None:
    with pytest.raises(ValueError, match=f"progress must be finite, not {float(percent)}"):
        check_progress(percent)


@pytest.mark.parametrize(
    "percent", ["50", True, False, b"50", [50], 1j, object(), np.bool_(True), np.array([50]), Broken()]
)
def test_a_percentage_of_the_wrong_type_is_refused(percent: object) -> None:
    with pytest.raises(TypeError, match=f"progress must be a number, not {type(percent).__name__}"):
        check_progress(percent)


@pytest.mark.parametrize(
    ("current", "total", "percent"),
    [(3, 12, 25), (0, 12, 0), (12, 12, 100), (1, 3, 33.33), (0, 0, 100), (0.5, 2, 25), (1, 10**30, 0)],
)
def test_units_become_a_percentage(current: float, total: float, percent: float) -> None:
    assert check_progress(current=current, total=total) == Progress(percent, None, current, total)


@pytest.mark.parametrize(
    ("units", "named"),
    [
        ({"current": 5, "total": 3}, "current must be between 0 and 3, not 5"),
        ({"current": -1, "total": 3}, "current"),
        ({"current": 0, "total": -1}, "total must be 0 or more, not -1"),
        ({"current": math.nan, "total": 3}, "current"),
        ({"current": 1, "total": math.inf}, "total"),
        ({"current": 1, "total": 10**400}, "total"),
    ],
)
def test_units_out_of_range_are_refused_and_named(units: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        check_progress(**units)


@pytest.mark.parametrize(
    ("units", "named"),
    [
        ({"current": "3", "total": 12}, "current must be a number, not str"),
        ({"current": 3, "total": "12"}, "total must be a number, not str"),
        ({"current": True, "total": 12}, "current must be a number, not bool"),
    ],
)
def test_units_of_the_wrong_type_are_refused_and_named(units: dict[str, Any], named: str) -> None:
    with pytest.raises(TypeError, match=named):
        check_progress(**units)


@pytest.mark.parametrize("given_", [{"current": 3}, {"total": 12}, {"current": 3, "total": 12}])
def test_a_percentage_and_units_are_not_both_given(given_: dict[str, int]) -> None:
    with pytest.raises(TypeError, match="either progress, or current and total"):
        check_progress(50, **given_)


@pytest.mark.parametrize("given_", [{}, {"current": 3}, {"total": 12}, {"message": "on it"}])
def test_too_little_is_refused(given_: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"give progress \(0..100\), or both current and total"):
        check_progress(**given_)


class Mute:
    def __str__(self) -> str:
        raise RuntimeError("no application context")


@pytest.mark.parametrize(
    ("message", "text"),
    [
        *((5, "5"), (b"text", "text"), (["text"], "['text']"), (True, "True"), (lazystr("later"), "later")),
        (Mute(), "(its text cannot be read: RuntimeError)"),
    ],
)
def test_a_message_that_is_no_text_becomes_one_and_never_ends_a_job(message: object, text: str) -> None:
    assert check_progress(5, message).message == text
    assert check_progress(5, lazystr("x" * 1000)).message == "x" * 500


def test_a_message_is_kept_and_a_long_one_is_cut() -> None:
    assert check_progress(5, "on it").message == "on it"
    assert check_progress(5, "").message == ""
    assert check_progress(5, "x" * 1000).message == "x" * 500


def test_a_message_with_a_file_name_that_is_no_utf_8_can_be_sent() -> None:
    reports = [check_progress(5, "caf\udce9"), read_meta({"progress": 5, "message": "caf\udce9"})]
    for report in reports:
        assert report is not None
        assert b"caf" in outgoing_progress(progress_update(JOB, report)).payload


@given(st.integers() | FINITE, st.integers() | FINITE)
def test_units_in_range_always_give_a_percentage_in_range(one: float, other: float) -> None:
    current, total = sorted([abs(one), abs(other)])
    assert 0 <= check_progress(current=current, total=total).progress <= 100


ODD = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.fractions()
    | st.decimals()
    | st.lists(st.integers())
    | st.just(10**400)
)


@given(ODD, ODD, ODD, ODD)
def test_whatever_is_reported_is_accepted_or_refused_with_one_of_two_errors(
    progress: object, message: object, current: object, total: object
) -> None:
    try:
        report = check_progress(progress, message, current, total)
    except (TypeError, ValueError) as error:
        assert str(error)  # noqa: PT017 - some are good
    else:
        assert 0 <= report.progress <= 100
        assert outgoing_progress(progress_update(JOB, report)).payload


# -- what plain Celery code stores ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("meta", "report"),
    [
        ({"current": 3, "total": 12}, Progress(25, None, 3, 12)),
        ({"current": 3, "total": 12, "status": "on it"}, Progress(25, "on it", 3, 12)),
        ({"progress": 40, "message": "on it"}, Progress(40, "on it")),
        ({"percent": 60}, Progress(60)),
        ({"percent": 60, "message": "on it"}, Progress(60, "on it")),
        ({"progress": 40, "current": 1, "total": 2}, Progress(40)),
        ({"progress": 140}, Progress(100)),
        ({"progress": -5}, Progress(0)),
        ({"current": 13, "total": 12}, Progress(100, None, 12, 12)),
        ({"progress": 40, "message": 5}, Progress(40)),
        ({"progress": 40, "anything": object()}, Progress(40)),
        ({"done": 3, "total": 12}, Progress(25, None, 3, 12)),
        ({"completed": 3, "total": 12}, Progress(25, None, 3, 12)),
        ({"processed": np.int64(3), "total": np.int64(12)}, Progress(25, None, 3, 12)),
        ({"current": "3", "total": "12"}, Progress(25, None, 3, 12)),
        ({"progress": "40%"}, Progress(40)),
        ({"progress": "40.5 %"}, Progress(40.5)),
        ({"progress": "50"}, Progress(50)),
        ({"progress": "Downloading", "current": 3, "total": 12}, Progress(25, None, 3, 12)),
        ({"process_percent": 40}, Progress(40)),
        ({"progress_percent": 40, "time_remaining": 3}, Progress(40)),
        ({"percent_complete": 40}, Progress(40)),
        ({"percentage": Decimal("40.5")}, Progress(40.5)),
        ({"pct": "140%"}, Progress(100)),
        ({"progress": 40, "status": lazystr("later")}, Progress(40, "later")),
        ({"current": 3, "total": 12, "percent": 25.0, "description": "on it"}, Progress(25.0, "on it")),
    ],
)
def test_the_usual_shapes_of_meta_are_understood(meta: dict[str, Any], report: Progress) -> None:
    assert read_meta(meta) == report


@pytest.mark.parametrize(
    "meta",
    [
        *(None, 5, "50%", [50], {}, {"message": "on it"}, {"current": 3}, {"total": 12}, {"progress": "x%"}),
        *({"progress": True}, {"progress": math.nan}, {"current": "one", "total": 12}, {"current": 1, "total": None}),
        *({"step": 1, "steps": 5}, {"progress": None}, {"percent": [1]}, {"progress": "nan"}, {"progress": "inf%"}),
        *({"percent": 10**400}, {"percent": "9" * 5000}, {"current": 1, "total": math.inf}),
        *({"progress": Broken()}, {"current": 1, "total": Broken()}, {"current": np.array([1, 2]), "total": 3}),
    ],
)
def test_meta_that_tells_no_progress_is_passed_over(meta: object) -> None:
    assert read_meta(meta) is None


@given(
    ODD
    | st.dictionaries(st.sampled_from(["progress", "percent", "current", "done", "total", "message", "status"]), ODD)
)
def test_no_meta_whatever_breaks_the_task_that_stores_it(meta: object) -> None:
    report = read_meta(meta)
    assert report is None or 0 <= report.progress <= 100


# -- when it leaves ---------------------------------------------------------------------------------------------


def test_the_first_update_leaves_at_once() -> None:
    assert Throttle(5).due(100.0) == 100.0


def test_the_next_ones_leave_when_the_interval_is_over() -> None:
    throttle = Throttle(5)
    throttle.due(100.0)
    assert [throttle.due(clock) for clock in (101.0, 102.0, 104.9)] == [105.0] * 3
    assert throttle.due(105.5) == 110.0


def test_an_update_after_a_quiet_time_leaves_at_once() -> None:
    throttle = Throttle(5)
    throttle.due(100.0)
    assert throttle.due(105.0) == 105.0
    assert throttle.due(200.0) == 200.0


def test_without_an_interval_every_update_leaves_at_once() -> None:
    throttle = Throttle(0)
    assert [throttle.due(clock) for clock in (1.0, 1.0, 1.5)] == [1.0, 1.0, 1.5]


def test_an_update_that_left_outside_the_rule_starts_the_interval_anew() -> None:
    throttle = Throttle(5)
    throttle.due(100.0)
    throttle.due(101.0)
    throttle.sent(102.0)
    assert throttle.due(103.0) == 107.0


def test_an_interval_that_becomes_shorter_counts_from_the_last_that_left() -> None:
    throttle = Throttle(5)
    throttle.due(100.0)
    assert throttle.hasten(100.5) is None
    assert (throttle.due(101.0), throttle.holds(101.0)) == (105.0, True)
    throttle.interval = 2
    assert throttle.due(101.5) == 102.0
    throttle.interval = 0.5
    assert throttle.due(101.6) == 101.6
    assert not throttle.holds(101.6)


def test_what_waits_leaves_at_once_if_it_would_have_left_at_the_shorter_interval() -> None:
    throttle = Throttle(5)
    throttle.due(100.0)
    throttle.due(101.0)
    throttle.interval = 2
    assert throttle.hasten(101.5) == 102.0
    throttle.interval = 0.25
    assert throttle.hasten(101.5) == 101.5
    assert throttle.hasten(101.5) is None
    assert throttle.due(101.6) == 101.75


def test_what_waits_never_waits_longer_when_the_interval_grows() -> None:
    throttle = Throttle(0.25)
    throttle.due(100.0)
    assert throttle.due(100.1) == 100.25
    throttle.interval = 5
    assert throttle.hasten(100.1) == 100.25
    assert throttle.due(100.2) == 100.25
    assert throttle.due(100.3) == 105.25


@given(
    st.floats(0, 10),
    st.lists(st.floats(0, 20), min_size=1, max_size=30),
)
def test_updates_never_leave_closer_than_the_interval_and_the_newest_always_leaves(
    interval: float, gaps: list[float]
) -> None:
    throttle = Throttle(interval)
    left: list[tuple[float, int]] = []
    held: tuple[float, int] | None = None
    clock = 1000.0
    for number, gap in enumerate(gaps):
        clock += gap
        if held is not None and held[0] <= clock:
            left.append(held)
        due = throttle.due(clock)
        assert clock <= due <= clock + interval + 1e-6
        held = (due, number)
    assert held is not None
    left.append(held)
    assert left[-1][1] == len(gaps) - 1
    times = [time for time, _ in left]
    assert all(later - earlier >= interval - 1e-6 for earlier, later in itertools.pairwise(times))


# -- the event ----------------------------------------------------------------------------------------------------


def test_an_update_carries_its_job() -> None:
    job = Job(job_id="j", project_id="p", task="studio.transcribe", attempt=2)
    update = progress_update(job, Progress(25, "on it", 3, 12))
    assert (update.job_id, update.project_id, update.task, update.attempt) == ("j", "p", "studio.transcribe", 2)
    assert (update.progress, update.message, update.current, update.total) == (25, "on it", 3, 12)
