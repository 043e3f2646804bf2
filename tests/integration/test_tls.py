"""Brokers, result backends and histories behind TLS, with a certificate that only this test trusts."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from celery import Celery

from celery_realtime import Realtime
from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.launcher import Launcher
from tests.services import Broker
from tests.tls import TlsProxy, make_certificate

Wrap = Callable[[str], int]


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    return make_certificate(tmp_path, "ours")


@pytest.fixture
def wrap(certificate: tuple[Path, Path]) -> Iterator[Wrap]:
    """Put TLS before a server, and return the port."""
    with ExitStack() as stack:
        yield lambda url: stack.enter_context(TlsProxy(url, certificate)).port


def secure_redis(url: str, port: int, authority: Path) -> str:
    return f"rediss://127.0.0.1:{port}/{url.rpartition('/')[2]}?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={authority}"


def watch_a_job(launcher: Launcher, broker: Broker, **env: str) -> None:
    project = new_project()
    stage = Stage(launcher, broker, env=env)
    with stage.watch(project) as client:
        job = jobs.count.apply_async((3, 0.01), headers={"project_id": project}).id
        end = client.wait_for_end(job, timeout=40)
        assert end["result"] == {"counted": 3}
        answer = client.subscribe(project, since={"epoch": end["epoch"], "offset": 0})
        assert answer["recovered"]
        assert len(answer["events"]) == answer["offset"]


def test_redis_over_tls_carries_tasks_results_events_and_history(
    launcher: Launcher, redis_broker: Broker, wrap: Wrap, certificate: tuple[Path, Path]
) -> None:
    authority = certificate[0]
    broker = dataclasses.replace(
        redis_broker,
        url=secure_redis(redis_broker.url, wrap(redis_broker.url), authority),
        backend_url=secure_redis(redis_broker.backend_url, wrap(redis_broker.backend_url), authority),
    )
    with producing(broker):
        watch_a_job(launcher, broker)


def test_rabbitmq_over_tls_carries_tasks_and_events(
    launcher: Launcher, rabbitmq_broker: Broker, wrap: Wrap, certificate: tuple[Path, Path]
) -> None:
    """Celery's own ``broker_use_ssl`` is obeyed."""
    port, plain = wrap(rabbitmq_broker.url), rabbitmq_broker.url
    login, _, place = plain.removeprefix("amqp://").partition("@")
    broker = dataclasses.replace(rabbitmq_broker, url=f"amqps://{login}@127.0.0.1:{port}/{place.partition('/')[2]}")
    authority = str(certificate[0])
    jobs.celery.conf.broker_use_ssl = jobs.verified_by(authority)
    try:
        with producing(broker):
            watch_a_job(launcher, broker, BROKER_AUTHORITY=authority)
    finally:
        jobs.celery.conf.broker_use_ssl = None


@pytest.mark.parametrize("name", ["redis", "rabbitmq"])
def test_a_server_that_shows_a_foreign_certificate_hears_nothing(
    brokers: object,
    wrap: Wrap,
    tmp_path: Path,
    name: str,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
) -> None:
    caplog.set_level(logging.ERROR)
    broker: Broker = request.getfixturevalue(f"{name}_broker")
    foreign, _ = make_certificate(tmp_path, "foreign")
    port = wrap(broker.url)
    settings = {"history_url": None, "flush_timeout": 3.0}
    if name == "redis":
        app = Celery("tls", broker=secure_redis(broker.url, port, foreign), set_as_current=False)
    else:
        app = Celery("tls", broker=f"amqps://guest:guest@127.0.0.1:{port}//", set_as_current=False)
        app.conf.broker_use_ssl = jobs.verified_by(str(foreign))
    realtime = Realtime(app, **settings)
    realtime.manager.emit_to_project("apollo", "note", {"text": "hush"})
    assert not realtime.flush(3)
    assert "certificate verify failed" in caplog.text
    realtime.manager.outbox._thread = None  # nobody will ever take it, so it need not be tried for ever


def test_a_history_that_shows_a_foreign_certificate_is_not_used(
    redis_broker: Broker, wrap: Wrap, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    foreign, _ = make_certificate(tmp_path, "foreign")
    url = secure_redis(redis_broker.url, wrap(redis_broker.url), foreign)
    realtime = Realtime(Celery("tls", broker=redis_broker.url, set_as_current=False), history_url=url)
    assert realtime.manager.position("apollo") is None
    assert "certificate verify failed" in caplog.text
