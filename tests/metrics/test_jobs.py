"""What is counted of leases, and of jobs whose workers have died."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from celery_realtime.events import Outgoing
from celery_realtime.history.leases import HeldJob
from tests.appended import append, progress, status
from tests.metrics.conftest import Scrape
from tests.recording import Studio

LOST_AFTER = 0.6


@pytest.fixture
def studio(redis_url: str, scrape: Scrape) -> Iterator[Studio]:
    studio = Studio(metrics=True, history_url=redis_url, lost_after=LOST_AFTER)
    yield studio
    studio.realtime.keeper.stop()
    del scrape


def held(name: str, *, running: bool = True) -> HeldJob:
    return HeldJob(job_id=name, project_id="p", worker="w@host", running=running, attempt=0)


def test_leases_and_what_their_workers_hold_are_seen(studio: Studio, scrape: Scrape) -> None:
    studio.realtime.keeper.hold("i", lambda: [held("one"), held("two", running=False)])
    scrape.waits_for("jobs_held", 2)
    assert scrape.value("leases") == 1
    studio.realtime.keeper.release("i", is_settled=True)
    scrape.waits_for("leases", 0)
    assert scrape.value("jobs_held") == 0


def test_a_lease_that_has_lapsed_is_counted_with_its_jobs(studio: Studio, scrape: Scrape) -> None:
    history = studio.realtime.manager.history
    assert history is not None
    append(history, status("STARTED", job="one", incarnation="dead"))
    history.leases.hold("dead", [held("one"), held("two")], 0.05)
    studio.realtime.keeper.start()
    scrape.waits_for("jobs_reaped_total{outcome=lost}", 2)
    assert scrape.value("leases_lost_total") == 1


@pytest.mark.parametrize(
    ("event", "outcome"),
    [
        (lambda: status("PENDING", expires_at=time.time() - 60), "expired"),
        (lambda: progress(50, stall_after=0.001), "stalled"),
    ],
    ids=["expired", "stalled"],
)
def test_jobs_that_nobody_else_reports_are_counted(
    studio: Studio, scrape: Scrape, event: Callable[[], Outgoing], outcome: str
) -> None:
    history = studio.realtime.manager.history
    assert history is not None
    if outcome == "stalled":
        append(history, status("STARTED"))
    append(history, event())
    studio.realtime.keeper.start()
    scrape.waits_for(f"jobs_reaped_total{{outcome={outcome}}}", 1)
