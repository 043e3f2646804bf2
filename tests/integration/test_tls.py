"""Brokers, result backends and histories behind TLS, with a certificate that only this test trusts."""

from __future__ import annotations

import dataclasses
import logging
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_realtime import Realtime
from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.launcher import Launcher
from tests.processes import HOST
from tests.services import Broker, RabbitMQServer
from tests.tls import TlsProxy, make_certificate
from tests.waiting import wait_for
from tests.web_servers import Web, steps

Wrap = Callable[[str], int]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"), "ours")


@pytest.fixture(scope="module")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]) -> Iterator[RabbitMQServer]:
    """A RabbitMQ that speaks TLS itself; the Redis that tests bring along has none, and gets it from a proxy."""
    node = RabbitMQServer(tmp_path_factory.mktemp("secure-rabbitmq"), certificate=certificate).start()
    yield node
    node.kill()


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
        end = client.wait_for_end(job)
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
    launcher: Launcher, rabbitmq: RabbitMQServer, redis_broker: Broker, certificate: tuple[Path, Path]
) -> None:
    """Celery's own ``broker_use_ssl`` is obeyed."""
    broker = dataclasses.replace(redis_broker, name="rabbitmq", server=rabbitmq, url=secure_rabbitmq(rabbitmq))
    authority = str(certificate[0])
    jobs.celery.conf.broker_use_ssl = jobs.verified_by(authority)
    try:
        with producing(broker):
            watch_a_job(launcher, broker, BROKER_AUTHORITY=authority)
    finally:
        jobs.celery.conf.broker_use_ssl = None


def secure_rabbitmq(node: RabbitMQServer) -> str:
    return f"amqps://guest:guest@{HOST}:{node.tls_port}//"


def hear_something(url: str, tls: dict[str, Any], history_url: str) -> None:
    web = Web("sync", url, connection_options={"ssl": tls}, history_url=history_url).attach().start()
    try:
        client = web.subscriber("alpha")
        web.emit("alpha", 1)
        client.wait(lambda _: steps(client) == [1])
        here = web.realtime.manager.position("alpha")
        assert here is not None
        assert client.subscribe("alpha", since={**here, "offset": 0})["recovered"]
    finally:
        web.stop()


def test_events_have_a_redis_of_their_own_over_tls(
    redis_broker: Broker, wrap: Wrap, certificate: tuple[Path, Path]
) -> None:
    authority = str(certificate[0])
    url = secure_redis(redis_broker.url, wrap(redis_broker.url), certificate[0])
    hear_something(url.partition("?")[0], {"ssl_ca_certs": authority}, url)


def test_events_have_a_rabbitmq_of_their_own_over_tls(
    rabbitmq: RabbitMQServer, redis_url: str, certificate: tuple[Path, Path]
) -> None:
    tls = {"ca_certs": str(certificate[0]), "server_hostname": None}  # the certificate's name is checked too
    hear_something(secure_rabbitmq(rabbitmq), tls, redis_url)


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_the_history_obeys_the_tls_settings_of_the_result_backend(
    redis_broker: Broker, wrap: Wrap, certificate: tuple[Path, Path], scheme: str
) -> None:
    backend = f"{scheme}://{HOST}:{wrap(redis_broker.url)}/0"
    app = Celery("tls", broker="memory://", backend=backend, set_as_current=False)
    app.conf.redis_backend_use_ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": str(certificate[0])}
    history = Realtime(app).manager.history
    assert history is not None
    with closing(history):
        wait_for(history.ping)  # a busy machine may take too long for one


@pytest.mark.parametrize("trusted", ["another authority", "all that the system trusts"])
@pytest.mark.parametrize("name", ["redis", "rabbitmq"])
def test_a_server_that_shows_a_foreign_certificate_hears_nothing(
    wrap: Wrap, redis_url: str, tmp_path: Path, name: str, trusted: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither server is asked for more than its certificate, so any may stand behind the proxy."""
    caplog.set_level(logging.ERROR)
    authority = None if trusted.startswith("all") else str(make_certificate(tmp_path, "foreign")[0])
    schemes = {"redis": f"rediss://{HOST}:{wrap(redis_url)}/0", "rabbitmq": f"amqps://g:g@{HOST}:{wrap(redis_url)}//"}
    app = Celery("tls", broker=schemes[name], set_as_current=False)
    if authority:
        app.conf.broker_use_ssl = jobs.verified_by(authority) if name == "rabbitmq" else {"ssl_ca_certs": authority}
    realtime = Realtime(app, history_url=None, flush_timeout=0.1)
    realtime.manager.emit_to_project("apollo", "note", {"text": "hush"})
    wait_for(lambda: "certificate verify failed" in caplog.text)
    assert not realtime.flush(0.1)
    realtime.manager.outbox.stop()  # nobody will ever take it, so it need not be tried for ever


def test_a_history_that_shows_a_foreign_certificate_is_not_used(
    redis_broker: Broker, wrap: Wrap, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    foreign, _ = make_certificate(tmp_path, "foreign")
    url = secure_redis(redis_broker.url, wrap(redis_broker.url), foreign)
    realtime = Realtime(Celery("tls", broker=redis_broker.url, set_as_current=False), history_url=url)
    assert realtime.manager.position("apollo") is None
    assert "certificate verify failed" in caplog.text
