from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker.control import Panel

from celery_realtime.jobs import measuring
from celery_realtime.jobs.measuring import (
    MEASURE_COMMAND,
    MEASURED_EVENT,
    MOST_CALLS,
    MOST_PROBES,
    PROBE_EVENT,
    SHORTEST_PAUSE,
    Plan,
    percentile,
    register_measuring,
    summary,
    time_reports,
)
from tests.recording import Studio
from tests.waiting import wait_for

PLAN = {"project_id": "p", "run": "r", "calls": 300, "probes": 3, "pause": 0.01}


def measure(studio: Studio, **plan: Any) -> Any:
    """Answer as a worker of this process does."""
    register_measuring()
    return Panel.data[MEASURE_COMMAND](SimpleNamespace(app=studio.app, hostname="worker@here"), **{**PLAN, **plan})


def begin(studio: Studio, **plan: Any) -> Any:
    """Do so as soon as an earlier measurement is over."""
    return wait_for(lambda: answer if (answer := measure(studio, **plan))["begun"] else None)


def test_a_worker_measures_and_tells_what_it_has_found() -> None:
    studio = Studio()
    assert begin(studio)["reason"] is None
    (found,) = wait_for(lambda: studio.wire.named(MEASURED_EVENT))
    assert (found["run"], found["source"], found["reports"]["calls"]) == ("r", "worker@here", 300)
    assert 0 < found["reports"]["p50_us"] <= found["reports"]["p99_us"]
    assert [probe["number"] for probe in studio.wire.named(PROBE_EVENT)] == [0, 1, 2]


def test_one_measures_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    studio, may_end = Studio(), threading.Event()
    monkeypatch.setattr(measuring, "time_reports", lambda *_: [1.0] if may_end.wait(60) else [])
    begin(studio)
    assert measure(studio)["reason"] == "another measurement is under way there"
    may_end.set()
    begin(studio, probes=0)
    wait_for(lambda: len(studio.wire.named(MEASURED_EVENT)) == 2)


def test_what_keeps_a_worker_from_measuring_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: Any) -> list[float]:
        raise RuntimeError("the result backend is away")

    studio = Studio()
    monkeypatch.setattr(measuring, "time_reports", breaks)
    begin(studio)
    (found,) = wait_for(lambda: studio.wire.named(MEASURED_EVENT))
    assert found["error"] == "RuntimeError: the result backend is away"


def test_a_worker_with_much_to_say_of_an_error_measures_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: Any) -> list[float]:
        raise RuntimeError("\x00" * 10_000)

    studio = Studio()
    monkeypatch.setattr(measuring, "time_reports", breaks)
    for number in (1, 2):
        begin(studio)
        wait_for(lambda number=number: len(studio.wire.named(MEASURED_EVENT)) == number)  # type: ignore[misc]


@pytest.mark.parametrize("plan", [{"project_id": ""}, {"project_id": 3}, {"calls": "many"}, {"run": None}])
def test_what_is_no_plan_is_refused_with_the_reason(plan: dict[str, Any]) -> None:
    answer = measure(Studio(), **plan)
    assert not answer["begun"]
    assert answer["reason"]


def test_where_nothing_is_sent_nothing_is_measured() -> None:
    assert measure(Studio(enabled=False)) == {"begun": False, "reason": "realtime_enabled is False there"}


def test_nobody_can_ask_for_more_than_a_worker_can_bear() -> None:
    asked = Plan("p", "r" * 1000, calls=10**9, probes=10**9, pause=0.0).bounded()
    assert (asked.calls, asked.probes, asked.pause, len(asked.run)) == (MOST_CALLS, MOST_PROBES, SHORTEST_PAUSE, 64)
    assert Plan("p", "r", calls=-1, probes=-1, pause=100.0).bounded() == Plan("p", "r", calls=1, probes=0, pause=1.0)


def test_a_measured_job_reports_as_others_do_and_nothing_after_its_last_report() -> None:
    studio = Studio(progress_interval=60)
    spans = time_reports(studio.realtime, Plan("p", "r", calls=500))
    assert len(spans) == 500
    assert studio.realtime.flush(60)
    updates = [sent for sent in studio.sent if sent.event == "agent_progress"]
    assert updates[-1].data["progress"] == 100
    assert {sent.data["project_id"] for sent in updates} == {"p"}
    assert len(updates) <= 3  # the first, one that was held back, the last


def test_percentiles_are_values_that_were_measured() -> None:
    assert [percentile([1.0, 2.0, 3.0, 4.0], percent) for percent in (0, 25, 50, 51, 99, 100)] == [1, 1, 2, 3, 4, 4]
    assert percentile([7.0], 99) == 7.0
    assert summary([0.000_002, 0.000_001]) == {"calls": 2, "p50_us": 1.0, "p99_us": 2.0}
