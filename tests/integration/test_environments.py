"""Environments that share a broker and a result backend see nothing of each other, and cancel nothing of each other."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import redis
from celery import Celery

from tests.integration.stage import Stage, new_project
from tests.launcher import Brokers, Launcher
from tests.services import Broker, RedisServer

PREFIXES = ("prod:", "staging:")


def producer(broker: Broker, prefix: str | None = None) -> Celery:
    """Return an app without the extension."""
    app = broker.app()
    if prefix is not None:
        app.conf.broker_transport_options = {"global_keyprefix": prefix}
        app.conf.result_backend_transport_options = {"global_keyprefix": prefix}
    return app


def check_that_nothing_is_shared(prod: Stage, staging: Stage, app: Celery, path: Path) -> None:
    """Run a job in one environment, and look at it, and try to cancel it, from the other."""
    project = new_project()
    here, there = prod.watch(project), staging.watch(project)
    held = app.send_task("tests.integration.jobs.hold_late", (str(path), 120.0), headers={"project_id": project})
    here.wait_for_event("agent_status", job_id=held.id, status="running", timeout=60)
    assert there.call("subscribe_project", {"project_id": project}, timeout=30)["jobs"] == []
    assert there.call("get_result", {"job_id": held.id}, timeout=30)["ok"] is False
    assert there.call("cancel_job", {"job_id": held.id}, timeout=30)["ok"] is False
    path.touch()
    here.wait_for_event("agent_status", job_id=held.id, status="success", timeout=60)
    assert here.call("get_result", {"job_id": held.id}, timeout=30)["result"] == "let go"
    assert there.call("subscribe_project", {"project_id": project}, timeout=30)["jobs"] == []
    assert there.statuses(held.id) == []
    app.close()


def test_two_prefixes_on_one_redis_are_two_environments(
    launcher: Launcher, results_server: RedisServer, tmp_path: Path
) -> None:
    url = results_server.fresh_url()
    broker = Broker("redis", results_server, url, results_server, url)
    stages = [Stage(launcher, broker, env={"KEY_PREFIX": prefix}, concurrency=1) for prefix in PREFIXES]
    check_that_nothing_is_shared(*stages, producer(broker, PREFIXES[0]), tmp_path / "go")
    check_that_nothing_is_shared(*reversed(stages), producer(broker, PREFIXES[1]), tmp_path / "go on")
    with redis.Redis.from_url(url, decode_responses=True) as client:
        keys = list(client.scan_iter())
    assert any("celery-realtime:" in key for key in keys)
    assert [key for key in keys if not key.startswith(PREFIXES)] == []


@pytest.mark.parametrize("name", ["redis", "rabbitmq"])
def test_two_databases_or_virtual_hosts_of_a_broker_are_two_environments_with_one_result_backend(
    name: str, launcher: Launcher, brokers: Brokers, tmp_path: Path
) -> None:
    one = brokers.make(name)
    two = dataclasses.replace(brokers.make(name), backend_url=one.backend_url)
    stages = [Stage(launcher, broker, concurrency=1) for broker in (one, two)]
    check_that_nothing_is_shared(*stages, producer(one), tmp_path / "go")
