"""A filter says which jobs are wanted, in Python as in the browser, and what is no filter is named."""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_realtime.job_filters import LONGEST_ALTERNATIVE, MOST_ALTERNATIVES, JobFilter, is_like

VECTORS = json.loads((Path(__file__).parent / "client" / "filter_vectors.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("wanted", "job", "fits"), VECTORS["matches"])
def test_a_job_matches_as_in_the_browser(wanted: Any, job: dict[str, Any], *, fits: bool) -> None:
    chosen = JobFilter.of(wanted)
    assert (chosen is None or chosen.matches(job)) is fits


@pytest.mark.parametrize(("wanted", "named"), VECTORS["refused"])
def test_what_is_no_filter_is_named(wanted: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named.replace(".", r"\.")):
        JobFilter.of(wanted)


@pytest.mark.parametrize("nothing", [None, {}, {"status": []}, {"task": None, "label": []}])
def test_a_filter_without_a_condition_is_none(nothing: Any) -> None:
    assert JobFilter.of(nothing) is None


def test_alternatives_are_bounded_in_number_and_length() -> None:
    assert JobFilter.of({"task": ["a" * LONGEST_ALTERNATIVE] * MOST_ALTERNATIVES})
    with pytest.raises(ValueError, match=r"filter\.task has at most 50"):
        JobFilter.of({"task": ["a"] * (MOST_ALTERNATIVES + 1)})
    with pytest.raises(ValueError, match=r"filter\.label has texts of 1 to 255 characters, but not 'aaa.*\.\.\.$"):
        JobFilter.of({"label": ["a" * (LONGEST_ALTERNATIVE + 1)]})


def test_a_filter_is_sent_as_it_was_given() -> None:
    given = {"status": ["running"], "label": ["a", "b*"]}
    chosen = JobFilter.of({**given, "task": []})
    assert chosen is not None
    assert chosen.as_wire() == given
    assert JobFilter.of(chosen.as_wire()) == chosen


@pytest.mark.parametrize(
    ("status", "live", "ended"),
    [([], True, True), (["queued"], True, False), (["error"], False, True), (["running", "success"], True, True)],
)
def test_it_knows_which_jobs_it_can_leave_out(status: list[str], *, live: bool, ended: bool) -> None:
    chosen = JobFilter(tuple(status))
    assert (chosen.wants_live, chosen.wants_ended) == (live, ended)


@given(st.text("ab", max_size=12), st.text("ab*", max_size=8))
def test_a_star_is_the_star_of_the_shell(text: str, pattern: str) -> None:
    assert is_like(text, pattern) is fnmatch.fnmatchcase(text, pattern)


def test_a_pattern_with_many_stars_takes_no_longer_for_that() -> None:
    # What backtracks would not come to an end.
    assert not is_like("a" * 5000, "*a" * 120 + "*b")
