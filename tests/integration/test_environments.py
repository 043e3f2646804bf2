"""Environments that share a broker and a result backend see nothing of each other, and cancel nothing of each other."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import redis
from celery import Celery

from tests.integration.stage import Stage, new_project
from tests.integration.test_sentinel import MASTER, Pair
from tests.integration.test_tls import secure_redis
from tests.launcher import Brokers, Launcher
from tests.services import Broker, RedisServer
from tests.tls import TlsProxy, make_certificate
from tests.variants import long_unless

PREFIXES = ("prod:", "staging:")


def producer(broker: Broker, **options: str) -> Celery:
    """Return an app without the extension."""
    app = broker.app()
    app.conf.broker_transport_options = app.conf.result_backend_transport_options = options
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


Shared = tuple[Broker, dict[str, str]]


@contextlib.contextmanager
def over_tcp(_launcher: Launcher, server: RedisServer, _folder: Path) -> Iterator[Shared]:
    url = server.fresh_url()
    yield Broker("redis", server, url, server, url), {}


@contextlib.contextmanager
def over_a_unix_socket(launcher: Launcher, _server: RedisServer, folder: Path) -> Iterator[Shared]:
    server = launcher.start(RedisServer(folder / "redis", options=["--unixsocket", str(folder / "s")]))
    url = f"redis+socket://{folder / 's'}?virtual_host=2"
    yield Broker("redis", server, url, server, url), {}


@contextlib.contextmanager
def behind_sentinels(launcher: Launcher, _server: RedisServer, _folder: Path) -> Iterator[Shared]:
    pair = Pair(launcher)
    yield Broker("redis", pair.master, pair.url(0), pair.master, pair.url(0)), {"master_name": MASTER}


@contextlib.contextmanager
def over_tls(_launcher: Launcher, server: RedisServer, folder: Path) -> Iterator[Shared]:
    certificate, url = make_certificate(folder, "ours"), server.fresh_url()
    with TlsProxy(url, certificate) as proxy:
        secure = secure_redis(url, proxy.port, certificate[0])
        yield Broker("redis", server, secure, server, secure), {}


def keys_of(server: RedisServer) -> list[str]:
    with redis.Redis.from_url(server.url(), decode_responses=True) as client:
        databases = [int(name.removeprefix("db")) for name in client.info("keyspace")]
    keys: list[str] = []
    for number in databases:
        with redis.Redis.from_url(server.url(number), decode_responses=True) as client:
            keys += client.scan_iter()
    return keys


@pytest.mark.parametrize("way", long_unless([over_tcp], [over_tcp, over_a_unix_socket, behind_sentinels, over_tls]))
def test_two_prefixes_on_one_redis_are_two_environments(
    way: Callable[..., AbstractContextManager[Shared]],
    launcher: Launcher,
    results_server: RedisServer,
    tmp_path: Path,
) -> None:
    with way(launcher, results_server, tmp_path) as (broker, options):
        names = {"MASTER_NAME": options["master_name"]} if options else {}
        before = set(keys_of(broker.backend))
        stages = [Stage(launcher, broker, env={**names, "KEY_PREFIX": prefix}, concurrency=1) for prefix in PREFIXES]
        apps = [producer(broker, **options, global_keyprefix=prefix) for prefix in PREFIXES]
        check_that_nothing_is_shared(*stages, apps[0], tmp_path / "go")
        check_that_nothing_is_shared(*reversed(stages), apps[1], tmp_path / "go on")
        keys = set(keys_of(broker.backend)) - before
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
