"""The main job on each kind of web server, and in each wire format, as a client sees it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.launcher import Launcher
from tests.services import Broker


def watch_a_job(stage: Stage, **options: Any) -> list[Any]:
    """Run one job of each end, and return what a client heard of the first."""
    project, other = new_project(), new_project()
    with stage.watch(project, **options) as client, stage.watch(other, user="grace", **options) as stranger:
        counted = jobs.count.apply_async((4, 0.05), headers={"project_id": project}).id
        failed = jobs.fail.apply_async(headers={"project_id": project}).id
        assert client.wait_for_end(counted)["result"] == {"counted": 4}
        assert client.wait_for_end(failed)["error"] == "ValueError: nothing works"
        client.wait_for_event("agent_progress", job_id=counted, progress=100)
        assert stranger.subscribe(project)["error"]["code"] == "forbidden"
        assert [event for event, _ in stranger.events] == ["error"]
        return [data for _, data in client.for_job(counted)]


@pytest.mark.parametrize("async_mode", ["threading", "eventlet", "gevent", "asgi"])
def test_every_host_hears_the_workers(launcher: Launcher, broker: Broker, async_mode: str) -> None:
    with producing(broker):
        stage = Stage(launcher, broker, async_mode=async_mode)
        told = watch_a_job(stage)
    assert {"epoch", "offset"} <= set(told[0])


def test_clients_that_only_poll_are_served_too(launcher: Launcher, redis_broker: Broker) -> None:
    with producing(redis_broker):
        watch_a_job(Stage(launcher, redis_broker), transports=["polling"])


def test_without_history_events_carry_neither_epoch_nor_offset(launcher: Launcher, rabbitmq_broker: Broker) -> None:
    with producing(rabbitmq_broker):
        jobs.realtime.manager.__dict__["_history"] = None  # this process produces, so it must not remember either
        stage = Stage(launcher, rabbitmq_broker, env={"HISTORY": "off"})
        told = watch_a_job(stage)
        with stage.connect("p") as client:
            assert client.subscribe("p") == {
                "ok": True,
                "project_id": "p",
                "epoch": None,
                "offset": None,
                "recovered": False,
                "jobs": [],
                "events": [],
                "jobs_total": 0,
                "workflows": [],
            }
    assert not {"epoch", "offset"} & set().union(*told)


def test_the_stock_wire_carries_the_same(launcher: Launcher, broker: Broker) -> None:
    with producing(broker):
        watch_a_job(Stage(launcher, broker, env={"WIRE": "stock"}))


@pytest.mark.parametrize("pool", ["threads", "solo", "eventlet", "gevent"])
def test_every_pool_is_heard(launcher: Launcher, broker: Broker, pool: str) -> None:
    with producing(broker):
        watch_a_job(Stage(launcher, broker, pool=pool))


def test_a_recycled_child_loses_nothing(launcher: Launcher, broker: Broker) -> None:
    project = new_project()
    with producing(broker):
        stage = Stage(launcher, broker, options=("--max-tasks-per-child", "2"))
        with stage.watch(project) as client:
            started = [jobs.count.apply_async((1, 0), headers={"project_id": project}).id for _ in range(20)]
            for job in started:  # Celery's pool takes most of a second to replace a child
                assert client.wait_for_end(job, timeout=30)["status"] == "success"


def test_a_warm_shutdown_loses_nothing(launcher: Launcher, broker: Broker) -> None:
    project = new_project()
    with producing(broker):
        stage = Stage(launcher, broker)
        with stage.watch(project) as client:
            job = jobs.count.apply_async((10, 0.05), headers={"project_id": project}).id
            client.wait_for_event("agent_status", job_id=job, status="running")
            stage.worker.stop()
            assert client.wait_for_end(job)["status"] == "success"
