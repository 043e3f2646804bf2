from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celery_realtime import Realtime
from celery_realtime.cli.top import feeds
from celery_realtime.cli.top.follower import Follower
from celery_realtime.history.watches import Watches
from tests.appended import append, custom, progress, status
from tests.cli.doctor.looking import new_realtime
from tests.services import Broker, RedisServer
from tests.waiting import wait_for

pytestmark = pytest.mark.service


@contextlib.contextmanager
def following(realtime: Realtime, project: str | None = None, max_jobs: int = 10_000) -> Iterator[Follower]:
    with Follower(realtime, project, max_jobs) as follower:
        yield follower


def shown(follower: Follower) -> dict[tuple[str, str], str]:
    return {(project, job["job_id"]): job["status"] for project, job in follower.feeds.jobs()}


def is_ready(follower: Follower) -> bool:
    return follower.is_hearing and follower.feeds.are_whole


def here(broker: Broker, **settings: Any) -> Realtime:
    return new_realtime(broker.url, **{"history_url": broker.backend_url, "linger": 0.0, **settings})


def tell(realtime: Realtime, *events: Any) -> None:
    """Let events go where those of workers go."""
    for event in events:
        realtime.manager.outbox.put(event)


def test_jobs_of_all_projects_are_shown_as_they_are_and_as_they_change(broker: Broker) -> None:
    realtime = here(broker)
    append(realtime.manager.history, status("STARTED", project="apollo"), status("SUCCESS", project="gemini"))
    with following(realtime) as follower:
        before = {("apollo", "job"): "running", ("gemini", "job"): "success"}
        wait_for(lambda: shown(follower) == before)
        wait_for(lambda: is_ready(follower))
        tell(realtime, status("FAILURE", project="apollo"), status("PENDING", job="new", project="mercury"))
        wait_for(lambda: shown(follower) == {**before, ("apollo", "job"): "error", ("mercury", "new"): "queued"})
        assert follower.feeds.projects == 3


def test_one_project_is_shown_alone(broker: Broker) -> None:
    realtime = here(broker)
    with following(realtime, "apollo") as follower:
        wait_for(lambda: is_ready(follower))
        tell(realtime, status("STARTED", project="gemini"), status("STARTED", project="apollo"))
        wait_for(lambda: shown(follower) == {("apollo", "job"): "running"})
        assert follower.feeds.projects == 1


@pytest.mark.parametrize("project", [None, "apollo"])
def test_shards_are_listened_to(broker: Broker, project: str | None) -> None:
    realtime = here(broker, shards=4)
    with following(realtime, project) as follower:
        wait_for(lambda: is_ready(follower))
        tell(realtime, status("STARTED", project="apollo"))
        wait_for(lambda: shown(follower) == {("apollo", "job"): "running"})


def test_without_a_history_what_happens_from_now_on_is_shown(broker: Broker) -> None:
    realtime = here(broker, history_url=None)
    with following(realtime) as follower:
        assert not follower.has_history
        wait_for(lambda: is_ready(follower))
        tell(realtime, status("STARTED", project="apollo"))
        wait_for(lambda: shown(follower) == {("apollo", "job"): "running"})


def test_what_happens_while_the_broker_is_away_is_read_and_heard_when_it_is_back(
    start_redis: Callable[..., RedisServer], redis_url: str
) -> None:
    broker = start_redis()
    realtime = new_realtime(broker.url(), history_url=redis_url, linger=0.0)
    with following(realtime, "apollo") as follower:
        wait_for(lambda: is_ready(follower))
        broker.kill()
        wait_for(lambda: not follower.is_hearing)
        append(realtime.manager.history, status("STARTED", job="meanwhile", project="apollo"))
        wait_for(lambda: shown(follower) == {("apollo", "meanwhile"): "running"})
        assert not follower.is_hearing
        broker.start()
        wait_for(lambda: is_ready(follower))
        tell(realtime, status("STARTED", job="afterwards", project="apollo"))
        wait_for(lambda: ("apollo", "afterwards") in shown(follower))
        assert all(loop.failures == 0 for loop in follower.loops)


def test_a_broker_that_is_away_from_the_start_keeps_nothing_stored_from_being_shown(redis_url: str) -> None:
    realtime = new_realtime("redis://127.0.0.1:1/0", history_url=redis_url)
    append(realtime.manager.history, status("STARTED", project="apollo"))
    with following(realtime) as follower:
        wait_for(lambda: shown(follower) == {("apollo", "job"): "running"})
        assert not follower.is_hearing


def test_what_happens_while_the_history_is_away_is_read_when_it_is_back(
    start_redis: Callable[..., RedisServer], redis_url: str
) -> None:
    results = start_redis(persist=True)
    realtime = new_realtime(redis_url, history_url=results.url())
    append(realtime.manager.history, status("STARTED", project="apollo"))
    with following(realtime) as follower:
        wait_for(lambda: is_ready(follower) and shown(follower))
        results.kill()
        followed = follower.follow(("apollo", "job"))
        wait_for(lambda: follower.reading_error)
        results.start()
        wait_for(lambda: followed.events)
        wait_for(lambda: follower.reading_error is None)


def test_five_thousand_jobs_are_read_page_by_page(redis_url: str) -> None:
    realtime = new_realtime(redis_url, history_url=redis_url)
    append(realtime.manager.history, *(status("STARTED", job=f"job-{n}", project="apollo") for n in range(5000)))
    with following(realtime, "apollo") as follower:
        wait_for(lambda: len(shown(follower)) == 5000)


def test_of_more_jobs_than_are_kept_those_that_run_are(redis_url: str) -> None:
    realtime = new_realtime(redis_url, history_url=redis_url)
    ended = [status("SUCCESS", job=f"ended-{n}", project="apollo") for n in range(50)]
    append(realtime.manager.history, *ended, status("STARTED", job="runs", project="apollo"))
    with following(realtime, "apollo", max_jobs=10) as follower:
        wait_for(lambda: is_ready(follower))
        tell(realtime, *(status("SUCCESS", job=f"more-{n}", project="apollo") for n in range(20)))
        wait_for(lambda: ("apollo", "more-19") in shown(follower))
        assert shown(follower)["apollo", "runs"] == "running"


def test_of_too_many_projects_those_are_forgotten_in_which_nothing_runs(
    monkeypatch: pytest.MonkeyPatch, redis_url: str
) -> None:
    monkeypatch.setattr(feeds, "MOST_PROJECTS", 2)
    realtime = new_realtime(redis_url, history_url=redis_url, linger=0.0)
    with following(realtime) as follower:
        wait_for(lambda: is_ready(follower))
        for state, project in (("STARTED", "runs"), ("SUCCESS", "ended"), ("STARTED", "new")):
            tell(realtime, status(state, project=project))
            wait_for(lambda project=project: (project, "job") in shown(follower))  # type: ignore[misc]
        assert {*shown(follower)} == {("runs", "job"), ("new", "job")}


def test_the_events_of_one_job_are_followed_each_once_in_order(broker: Broker) -> None:
    realtime = here(broker)
    append(realtime.manager.history, status("STARTED", project="apollo"), status("STARTED", job="x", project="apollo"))
    append(realtime.manager.history, progress(10, project="apollo"), custom([1], project="apollo"))
    with following(realtime) as follower:
        wait_for(lambda: is_ready(follower))
        followed = follower.follow(("apollo", "job"))
        tell(realtime, progress(20, project="apollo"), progress(20, job="x", project="apollo"))
        tell(realtime, custom({"line": 1}, project="apollo"), status("SUCCESS", project="apollo"))
        names = ["agent_status", "agent_progress", "agent_progress", "line", "agent_status"]
        wait_for(lambda: [name for name, _ in followed.events] == names)
        assert [data.get("progress") for _, data in followed.events] == [None, 10, 20, None, None]
        follower.feeds.unfollow(followed)
        tell(realtime, status("STARTED", attempt=1, project="apollo"))
        wait_for(lambda: shown(follower)["apollo", "job"] == "running")
        assert [name for name, _ in followed.events] == names


def test_projects_that_are_looked_at_are_marked_as_watched(redis_url: str) -> None:
    realtime = new_realtime(redis_url, history_url=redis_url)
    watches: Watches = realtime.manager.history.watches
    with following(realtime) as follower:
        assert watches.of(["apollo"]) == set()
        follower.visible = {"apollo"}
        wait_for(lambda: watches.of(["apollo", "gemini"]) == {"apollo"})
