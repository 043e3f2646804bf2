from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

import celery_realtime
from celery_realtime import Realtime
from celery_realtime.cli.doctor.channel_checks import ANSWER_TIMEOUT
from celery_realtime.jobs import reporting
from tests.cli.doctor.looking import findings, names, new_realtime
from tests.launcher import Brokers
from tests.services import Broker
from tests.waiting import wait_for

if TYPE_CHECKING:
    from tests.launcher import Launcher
    from tests.processes import Worker

pytestmark = pytest.mark.service

Here = Callable[..., Realtime]


@pytest.fixture(scope="module")
def broker(request: pytest.FixtureRequest) -> Broker:
    """One for all workers of the module; the history is in the result backend."""
    return Brokers(request.getfixturevalue).make("redis")


@pytest.fixture(scope="module")
def workers(module_launcher: Launcher, broker: Broker) -> dict[str, Worker]:
    """Workers on one broker: one that is well, and others that are not."""
    elsewhere = module_launcher.redis()
    settings: dict[str, dict[str, Any] | None] = {
        "well": {},
        "disabled": {"enabled": False},
        "without": None,
        "silent": {"url": elsewhere.url(int(broker.url.rpartition("/")[2]))},
    }
    started = {
        name: module_launcher.worker(
            "tests.cli.doctor.worker_app",
            broker=broker,
            pool="prefork" if name == "well" else "solo",
            concurrency=1,
            env={} if chosen is None else {"REALTIME_SETTINGS": json.dumps(chosen)},
            name=name,
            wait=False,
        )
        for name, chosen in settings.items()
    }
    for worker in started.values():
        worker.wait_ready()
    realtime = new_realtime(broker.url)
    hostnames = {worker.hostname for worker in started.values()}
    wait_for(lambda: {name for pong in realtime.app.control.ping(timeout=1) for name in pong} == hostnames, timeout=120)
    return started


@pytest.fixture
def here(broker: Broker) -> Here:
    """Make the other side, which is where the workers send to unless a setting says otherwise."""
    return lambda **settings: new_realtime(broker.url, **{"history_url": broker.backend_url, **settings})


def of(worker: Worker, realtime: Realtime, **options: Any) -> list[str]:
    """Return what is found of one worker: the others are not asked."""
    options = {"echo_wait": 120.0, "timeout": 600.0, **options}
    return names(realtime, "workers", workers=[worker.hostname], **options)


def test_a_worker_that_is_well_sends_an_event_to_here(workers: dict[str, Worker], here: Here) -> None:
    assert of(workers["well"], here()) == []


@pytest.mark.parametrize(
    ("name", "found"), [("without", ["worker-without-realtime"]), ("disabled", ["worker-disabled"])]
)
def test_a_worker_that_is_set_up_wrongly_is_found(
    workers: dict[str, Worker], here: Here, name: str, found: list[str]
) -> None:
    assert of(workers[name], here()) == found


def test_a_worker_that_sends_to_another_server_of_the_same_name_is_found(
    workers: dict[str, Worker], here: Here
) -> None:
    assert of(workers["silent"], here(), echo_wait=0.5) == ["pool-cannot-cancel", "worker-silent"]


@pytest.mark.parametrize("settings", [{"channel": "other"}, {"namespace": "/other"}, {"wire": "stock"}])
def test_a_worker_that_sends_elsewhere_is_found(
    workers: dict[str, Worker], here: Here, settings: dict[str, Any]
) -> None:
    assert of(workers["well"], here(**settings)) == ["worker-elsewhere"]


def test_a_worker_that_uses_another_database_is_found(workers: dict[str, Worker], here: Here, broker: Broker) -> None:
    (found,) = findings(here(url=broker.server.url(9999)), "workers", workers=[workers["well"].hostname])
    assert found.name == "worker-elsewhere"
    assert broker.url in found.text


def test_a_worker_that_stores_in_another_history_is_found(
    workers: dict[str, Worker], here: Here, broker: Broker
) -> None:
    realtime = here(history_url=broker.backend.fresh_url())
    assert of(workers["well"], realtime) == ["worker-history-elsewhere"]


def test_a_worker_with_another_number_of_shards_is_found(workers: dict[str, Worker], here: Here) -> None:
    assert of(workers["well"], here(shards=4)) == ["worker-shards"]


def test_a_worker_of_another_version_is_found(
    monkeypatch: pytest.MonkeyPatch, workers: dict[str, Worker], here: Here
) -> None:
    monkeypatch.setattr(celery_realtime, "__version__", "9.9.9")
    assert of(workers["well"], here()) == ["worker-version"]


def test_a_worker_with_another_clock_is_found(
    monkeypatch: pytest.MonkeyPatch, workers: dict[str, Worker], here: Here
) -> None:
    describe = reporting.describe

    def early(settings: Any) -> dict[str, Any]:
        described = describe(settings)
        return {**described, "time": described["time"] - 600.0 - ANSWER_TIMEOUT}

    monkeypatch.setattr("celery_realtime.cli.doctor.channel_checks.describe", early)
    assert of(workers["well"], here()) == ["clock-skew"]


def test_where_no_worker_is_none_is_found(redis_url: str) -> None:
    assert names(new_realtime(redis_url), "workers") == ["no-worker"]
