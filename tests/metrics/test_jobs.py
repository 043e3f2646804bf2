"""What is counted of leases, and of jobs whose workers have died."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from celery_realtime.events import Ending, Outgoing, name_of
from celery_realtime.history.leases import HeldJob
from celery_realtime.jobs.reconciler import Reconciler
from celery_realtime.metrics.readings import Source
from celery_realtime.metrics.recorder import Recorder
from celery_realtime.observers import Observed
from celery_realtime.sending.keeper import Keeper
from tests.appended import append, progress, status
from tests.jobs.test_reconciler import Play
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


def read(
    studio: Studio, scrape: Scrape, *, keeper: Keeper | None = None, reconciler: Reconciler | None = None
) -> Source:
    """Have parts read that a test has made; what is returned has to live."""
    observed = Observed(studio.realtime.manager, reconciler, keeper, [], [])
    source = Source(SimpleNamespace(observed=observed), Recorder(by_task=False, begin=lambda: None))
    scrape.exporter.add(source)
    return source


def test_an_end_that_was_not_on_record_is_counted(redis_url: str, scrape: Scrape) -> None:
    play = Play(Studio(history_url=redis_url))
    source = read(play.studio, scrape, reconciler=play.reconciler)
    play.store(status("STARTED", job="on record"), status("SUCCESS", job="on record"), status("STARTED", job="missing"))
    for job in ("on record", "missing"):
        play.leave(job)
    assert play.look() == [("missing", "SUCCESS")]
    assert scrape.value("jobs_reconciled_total") == 1
    del source


def test_a_job_of_a_dead_worker_that_has_ended_is_counted_as_that(redis_url: str, scrape: Scrape) -> None:
    studio = Studio(history_url=redis_url)
    keeper = Keeper(
        studio.realtime.manager,
        LOST_AFTER,
        find_ends=lambda jobs: {name_of(job): Ending("SUCCESS") for job in jobs},
    )
    source = read(studio, scrape, keeper=keeper)
    history = studio.realtime.manager.history
    assert history is not None
    append(history, status("STARTED", job="one", incarnation="dead"))
    history.leases.hold("dead", [held("one")], 0.05)
    keeper.start()
    try:
        scrape.waits_for("jobs_reaped_total{outcome=ended}", 1)
        assert scrape.value("jobs_reaped_total{outcome=lost}") == 0
    finally:
        keeper.stop()
    del source
