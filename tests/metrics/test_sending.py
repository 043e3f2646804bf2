"""What is counted where events come from: each test makes it happen, and reads a scrape."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import redis
from celery import Celery

import celery_realtime
from celery_realtime import Realtime
from celery_realtime.events import Job, outgoing_status, status_change
from celery_realtime.metrics.readings import DROPPED, DROPPED_BEFORE
from tests.metrics.conftest import Scrape, in_fork
from tests.recording import Studio, new_app, record
from tests.services import RedisServer
from tests.waiting import wait_for


@pytest.fixture
def studio(scrape: Scrape) -> Studio:
    return Studio(metrics=True, history_url=None)


def emit(studio: Studio, number: int = 1, project: str = "p") -> None:
    for place in range(number):
        studio.realtime.manager.emit_to_project(project, f"line{place}", {"number": place})


def dropped(scrape: Scrape) -> float:
    return scrape.value("events_dropped_total{reason=queue_full}") or 0


def start(job: str, studio: Studio, task: str = "studio.transcribe") -> None:
    studio.realtime.manager.put_status(status_change(Job(job_id=job, project_id="p", task=task), "STARTED"))


def test_what_is_put_and_published_is_counted_by_kind(studio: Studio, scrape: Scrape) -> None:
    """Custom events have the names that applications give them, and would be a label each."""
    emit(studio, 3)
    start("j", studio)
    assert len(studio.sent) == 4
    assert scrape.value("events_put_total") == 4
    assert scrape.value("events_published_total{event=custom}") == 3
    assert scrape.value("events_published_total{event=status}") == 1
    assert scrape.value("publish_seconds_count") == studio.wire.calls
    assert (scrape.value("publish_seconds_sum") or 0) > 0


def test_tasks_are_a_label_where_that_is_asked_for(scrape: Scrape) -> None:
    studio = Studio(metrics=True, metrics_tasks=True, history_url=None)
    start("j", studio)
    start("k", studio, "studio.other")
    emit(studio)
    assert studio.sent
    assert scrape.value("events_published_total{event=status,name=studio.transcribe}") == 1
    assert scrape.value("events_published_total{event=status,name=studio.other}") == 1
    assert scrape.value("events_published_total{event=custom}") == 1


def test_so_many_tasks_are_labels_and_no_more(scrape: Scrape, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery_realtime.metrics.recorder.MOST_TASKS", 2)
    studio = Studio(metrics=True, metrics_tasks=True, history_url=None)
    for name in ("a", "b", "c", "d", "a"):
        start(f"job of {name}", studio, name)
    assert studio.sent
    named = {name: value for name, value in scrape.samples().items() if name.startswith("events_published_total")}
    assert sorted(named.items()) == [
        ("events_published_total{event=status,name=(others)}", 2),
        ("events_published_total{event=status,name=a}", 2),
        ("events_published_total{event=status,name=b}", 1),
    ]


def test_progress_that_newer_progress_replaces_is_counted(scrape: Scrape) -> None:
    studio = Studio(metrics=True, history_url=None, progress_interval=600)

    @studio.app.task(bind=True, shared=False)
    def work(self: Any) -> None:
        for percent in range(10):
            self.update_progress(percent)

    work.apply(headers={"project_id": "p"})
    coalesced = scrape.value("events_coalesced_total") or 0
    assert studio.sent
    published = sum(value for name, value in scrape.samples().items() if name.startswith("events_published_total"))
    assert coalesced > 0
    assert scrape.value("events_put_total") == published + coalesced


def test_what_waits_and_what_is_dropped_for_want_of_room_is_counted_and_how_long_it_waits(scrape: Scrape) -> None:
    studio = Studio(metrics=True, history_url=None, queue_size=5)
    studio.wire.down = True
    emit(studio, 1)
    scrape.waits_for("broker_up", 0)
    emit(studio, 19)
    # A batch that is being tried again is in neither.
    wait_for(lambda: dropped(scrape) + (scrape.value("outbox_events") or 0) == 20)
    assert dropped(scrape) >= 14
    assert scrape.value("events_put_total") == 20
    first = scrape.value("outbox_age_seconds") or 0
    assert (scrape.value("outbox_age_seconds") or 0) > first > 0
    studio.wire.down = False
    assert studio.sent
    scrape.waits_for("broker_up", 1)
    assert scrape.value("outbox_events") == 0
    assert scrape.value("outbox_age_seconds") == 0


def test_progress_that_is_dropped_for_want_of_room_is_counted_by_itself(scrape: Scrape) -> None:
    studio = Studio(metrics=True, history_url=None, queue_size=2, progress_interval=600)
    for number in range(4):
        tracker = studio.realtime.progress_tracker(f"job {number}")
        studio.realtime.manager.track_job_for_project(f"job {number}", "p")
        tracker.set_progress(1)
        tracker.set_progress(2)
    emit(studio, 2)
    dropped = scrape.value("events_dropped_total{reason=queue_full_progress}") or 0
    assert dropped > 0
    assert studio.sent
    published = sum(value for name, value in scrape.samples().items() if name.startswith("events_published_total"))
    coalesced = scrape.value("events_coalesced_total") or 0
    lost = sum(value for name, value in scrape.samples().items() if name.startswith("events_dropped_total"))
    assert scrape.value("events_put_total") == published + coalesced + lost


def test_what_raises_is_counted(studio: Studio, scrape: Scrape, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(studio.wire, "publish_events", fail)
    emit(studio)
    scrape.waits_for("events_dropped_total{reason=error}", 1)


def test_what_a_filter_drops_and_what_has_no_project_is_counted(scrape: Scrape) -> None:
    studio = Studio(metrics=True, history_url=None, event_filter=lambda *_: None)

    @studio.app.task(shared=False)
    def work() -> None:
        """Do nothing."""

    work.apply()
    emit(studio, 2)
    assert studio.sent == []
    assert scrape.value("events_dropped_total{reason=filtered}") == 2
    assert (scrape.value("events_dropped_total{reason=no_project}") or 0) > 0


def test_what_is_stored_and_what_the_history_knows_better_is_counted(redis_url: str, scrape: Scrape) -> None:
    studio = Studio(metrics=True, history_url=redis_url)
    for state in ("SUCCESS", "STARTED"):
        studio.realtime.manager.put(outgoing_status(status_change(Job(job_id="j", project_id="p"), state)))
        assert studio.sent
    assert scrape.value("events_stored_total") == 1
    assert scrape.value("events_dropped_total{reason=stale}") == 1
    assert (scrape.value("append_seconds_count") or 0) >= 1
    assert scrape.value("history_up") == 1


def test_a_history_that_is_away_is_seen(start_redis: Any, scrape: Scrape) -> None:
    server: RedisServer = start_redis()
    studio = Studio(metrics=True, history_url=server.url())
    emit(studio)
    assert studio.sent
    server.stop()
    emit(studio)
    scrape.waits_for("history_up", 0)
    assert scrape.value("broker_up") == 1
    scrape.waits_for("outbox_events", 1)
    server.start()
    scrape.waits_for("history_up", 1)
    assert len(studio.sent) == 2


def test_what_a_history_refuses_is_counted_apart_from_what_it_stores(start_redis: Any, scrape: Scrape) -> None:
    server: RedisServer = start_redis()
    studio = Studio(metrics=True, history_url=server.url())
    emit(studio, 2)
    assert len(studio.sent) == 2
    client = redis.Redis.from_url(server.url())
    client.config_set("maxmemory", 1)
    emit(studio, 3)
    assert len(studio.sent) == 5
    assert scrape.value("events_unstored_total") == 3
    assert scrape.value("events_stored_total") == 2
    assert scrape.value("history_up") == 1
    client.config_set("maxmemory", 0)
    client.close()
    emit(studio)
    assert len(studio.sent) == 6
    assert scrape.value("events_stored_total") == 3
    assert scrape.value("events_unstored_total") == 3


def test_what_has_not_happened_yet_is_seen_as_0(studio: Studio, scrape: Scrape) -> None:
    """Else the first time is a series that begins at 1, and no increase."""
    assert studio.realtime.settings.metrics  # a process has metrics once it has read its settings
    silent = scrape.samples()
    reasons = (*DROPPED_BEFORE, *DROPPED.values())
    first = {f"events_dropped_total{{reason={reason}}}" for reason in reasons}
    first |= {f"events_published_total{{event={kind}}}" for kind in ("status", "progress", "workflow", "custom")}
    first |= {"events_stored_total", "events_unstored_total", "append_seconds_count", "publish_seconds_count"}
    assert {name: silent.get(name) for name in first} == dict.fromkeys(first, 0)
    emit(studio)
    assert studio.sent
    assert scrape.value("events_coalesced_total") == 0
    assert scrape.value("loop_failures_total{loop=outbox}") == 0
    assert not [name for name in scrape.samples() if name.startswith("hear_seconds")]  # of web servers


def test_each_process_says_which_version_it_has(studio: Studio, scrape: Scrape) -> None:
    assert studio.realtime.settings.metrics
    assert scrape.value(f"info{{version={celery_realtime.__version__}}}") == 1


def test_a_broker_that_is_away_is_seen_behind_a_history(redis_url: str, scrape: Scrape) -> None:
    studio = Studio(metrics=True, history_url=redis_url)
    studio.wire.down = True
    emit(studio)
    scrape.waits_for("broker_up", 0)
    assert scrape.value("history_up") == 1
    studio.wire.down = False
    scrape.waits_for("broker_up", 1)
    assert len(studio.sent) == 1


def test_what_could_not_be_published_for_want_of_room_is_counted(redis_url: str, scrape: Scrape) -> None:
    studio = Studio(metrics=True, history_url=redis_url, queue_size=3, batch_size=1)
    studio.wire.down = True
    for number in range(8):
        emit(studio)
        scrape.waits_for("events_stored_total", number + 1)
    scrape.waits_for("events_dropped_total{reason=backlog_full}", 5)
    studio.wire.down = False
    assert len(studio.sent) == 3


def test_two_realtimes_are_one_process(scrape: Scrape) -> None:
    studios = [Studio(metrics=True, history_url=None), Studio(metrics=True, history_url=None)]
    for studio in studios:
        emit(studio, 2)
        assert studio.sent
    assert scrape.value("events_put_total") == 4


def test_what_starts_over_goes_on_counting(studio: Studio, scrape: Scrape) -> None:
    emit(studio, 2)
    assert studio.sent
    scrape.waits_for("events_put_total", 2)
    record(studio.realtime)
    emit(studio, 1)
    assert studio.realtime.flush(60)
    scrape.waits_for("events_put_total", 3)


def test_without_the_setting_nothing_is_counted_or_loaded(scrape: Scrape) -> None:
    studio = Studio(history_url=None)
    emit(studio)
    assert studio.sent
    assert not [name for name, value in scrape.samples().items() if value]


def test_nothing_is_observed_where_nothing_is_enabled(scrape: Scrape) -> None:
    studio = Studio(metrics=True, enabled=False)
    emit(studio)
    assert not [name for name, value in scrape.samples().items() if value]


def test_loops_are_seen(studio: Studio, scrape: Scrape, monkeypatch: pytest.MonkeyPatch) -> None:
    emit(studio)
    assert studio.sent
    scrape.waits_for("loop_up{loop=outbox}", 1)
    monkeypatch.setattr(studio.wire, "publish_events", lambda _: 1 / 0)
    emit(studio)
    scrape.waits_for("loop_failures_total{loop=outbox}", 1)


def test_a_realtime_that_is_gone_leaves_what_it_has_counted(scrape: Scrape) -> None:
    import gc

    studio = Studio(metrics=True, history_url=None)
    emit(studio)
    assert studio.sent
    scrape.waits_for("events_put_total", 1)
    del studio
    gc.collect()
    scrape.waits_for("outbox_events", 0)
    assert scrape.value("events_put_total") == 1


def test_missing_prometheus_client_is_said_when_the_app_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    from celery_realtime.exceptions import ImproperlyConfigured

    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ImproperlyConfigured, match=r"pip install celery-realtime\[metrics\]"):
        Realtime(new_app(), metrics=True)


@pytest.mark.parametrize("value", [0, 65536, -1])
def test_a_port_is_one(value: int) -> None:
    from celery_realtime.exceptions import ImproperlyConfigured

    with pytest.raises(ImproperlyConfigured, match="realtime_metrics_port"):
        Realtime(Celery("app", set_as_current=False), metrics=True, metrics_port=value)


def test_a_port_without_metrics_is_a_mistake() -> None:
    from celery_realtime.exceptions import ImproperlyConfigured

    with pytest.raises(ImproperlyConfigured, match="realtime_metrics_port needs"):
        Realtime(Celery("app", set_as_current=False), metrics_port=9000)


def test_an_end_does_not_wait_for_whoever_cannot_go_on(
    studio: Studio, scrape: Scrape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that a signal has interrupted may hold a lock, and goes on only after the end."""
    emit(studio)
    assert studio.sent
    scrape.waits_for("events_put_total", 1)
    asked, over = threading.Event(), threading.Event()
    monkeypatch.setattr(scrape.exporter, "refresh", lambda: (asked.set(), over.wait(60)))
    studio.realtime.observers.end()
    assert asked.is_set()
    assert not over.is_set()
    over.set()


def test_a_child_of_a_fork_counts_only_its_own(studio: Studio, scrape: Scrape) -> None:
    """What its parent has counted and not brought over yet, the parent brings over."""
    emit(studio, 3)
    assert studio.sent
    wait_for(lambda: published(scrape) == 3)
    scrape.exporter.end(60)
    emit(studio)
    assert len(studio.sent) == 4

    def child() -> list[float]:
        before = published(scrape)
        emit(studio, 2)
        studio.realtime.flush(60)
        return [before, published(scrape)]

    assert in_fork(child) == [3, 5]
    assert published(scrape) == 4


def published(scrape: Scrape) -> float:
    return scrape.value("events_published_total{event=custom}") or 0
