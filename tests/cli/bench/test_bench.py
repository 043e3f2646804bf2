from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import redis
from click.testing import CliRunner, Result

from celery_realtime import Realtime
from celery_realtime.cli.bench import command
from tests.appended import append, status
from tests.cli.doctor.looking import NOWHERE, new_realtime
from tests.launcher import Brokers
from tests.services import BROKERS, Broker, RabbitMQServer
from tests.web_servers import Web

if TYPE_CHECKING:
    from tests.launcher import Launcher
    from tests.processes import Worker

pytestmark = pytest.mark.service

#: What makes a measurement short.
QUICKLY = ("--seconds", "0.4", "--clients", "3")


@pytest.fixture(scope="module")
def broker(request: pytest.FixtureRequest) -> Broker:
    """One for all tests of the module, a Redis unless they say otherwise; the history is in the result backend."""
    return Brokers(request.getfixturevalue).make(getattr(request, "param", "redis"))


@pytest.fixture(scope="module")
def worker(module_launcher: Launcher, broker: Broker) -> Worker:
    """A worker that is well."""
    env = {"REALTIME_SETTINGS": "{}"}
    return module_launcher.worker("tests.cli.doctor.worker_app", broker=broker, concurrency=1, env=env)


@contextlib.contextmanager
def serving(broker: Broker, **rules: Any) -> Iterator[Web]:
    web = Web("asgi", broker.url, history_url=broker.backend_url).attach(**rules).start()
    try:
        yield web
    finally:
        web.stop()


def here(broker: Broker, **settings: Any) -> Realtime:
    realtime = new_realtime(broker.url, **{"history_url": broker.backend_url, **settings})
    realtime.app.conf.result_backend = broker.backend_url
    return realtime


def run(realtime: Realtime, *arguments: str) -> Result:
    return CliRunner().invoke(command, arguments, obj=realtime)


def keys(broker: Broker) -> set[str]:
    """Return what the history, and the broker, have of measurements."""
    with contextlib.closing(redis.Redis.from_url(broker.backend_url, decode_responses=True)) as client:
        found = {*client.scan_iter("*bench*", count=1000)}
        for name in client.scan_iter("*{places}*", count=1000):
            found |= {f"{name}: {job}" for job in client.hgetall(name)}
    if isinstance(broker.server, RabbitMQServer):
        vhost = urlsplit(broker.url).path[1:]
        found |= {queue["name"] for queue in broker.server.manage("GET", f"queues/{vhost}")}
    else:
        with contextlib.closing(redis.Redis.from_url(broker.url, decode_responses=True)) as client:
            found |= {*client.scan_iter("*bench*", count=1000)}
    return {name for name in found if "bench" in name}


@pytest.mark.parametrize("broker", BROKERS, indirect=True)
def test_a_set_up_is_measured_and_nothing_of_it_stays(broker: Broker, worker: Worker) -> None:
    with serving(broker) as web:
        done = run(here(broker), "--url", web.url, "--json", *QUICKLY)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["ok"], found["notes"], found["project"]) == (True, [], "celery-realtime-bench")
    sources = {"here", worker.hostname}
    assert {*found["update_progress"]} == sources
    assert all(0 < spans["p50_us"] <= spans["p99_us"] for spans in found["update_progress"].values())
    publish = found["publish"]
    assert publish["with"]["calls"] == publish["without"]["calls"] == 250
    assert publish["extra_us"] == pytest.approx(publish["with"]["p50_us"] - publish["without"]["p50_us"], abs=0.11)
    for place in ("channel", "client"):
        assert {*found["lag"][place]} == sources
        for lag in found["lag"][place].values():
            assert (lag["events"], lag["lost"]) == (20, 0)
            assert lag["p50_ms"] <= lag["p99_ms"]
    assert found["lag"]["client"]["here"]["p50_ms"] > 0
    deliveries = found["deliveries"]
    assert (deliveries["clients"], deliveries["lost"]) == (3, 0)
    assert deliveries["delivered"] > 0
    assert deliveries["delivered"] % (3 * 50) == 0
    assert deliveries["per_second"] > 0
    assert keys(broker) == set()
    assert worker.running


def test_people_read_what_was_measured(broker: Broker, worker: Worker) -> None:
    done = run(here(broker), *QUICKLY)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert [line[:20].strip() for line in lines] == [
        *(["update_progress"] * 2),
        "publishing a job",
        *(["lag to the channel"] * 2),
    ]
    assert worker.hostname in lines[1]
    assert "its clock is known to" in lines[4]


def test_a_worker_that_does_not_answer_is_named(broker: Broker, worker: Worker) -> None:
    done = run(here(broker), "--json", *QUICKLY, "-d", "nobody@nowhere")
    found = json.loads(done.stdout)
    assert (done.exit_code, found["ok"]) == (3, False)
    assert found["notes"] == ["nobody@nowhere does not answer"]
    assert {*found["update_progress"]} == {"here"}
    assert worker.running


def test_a_project_that_somebody_uses_is_not_measured_in(broker: Broker) -> None:
    realtime = here(broker)
    append(realtime.manager.history, status("STARTED", project="apollo"))
    done = run(realtime, "--project", "apollo")
    assert done.exit_code == 1
    assert "the project 'apollo' has jobs" in done.output
    assert [job["status"] for job in realtime.manager.history.read("apollo").jobs] == ["running"]


def test_a_project_of_ones_own_is_as_it_was(broker: Broker, worker: Worker) -> None:
    realtime = here(broker)
    with serving(broker, authorize=lambda _user, project: project == "mine") as web:
        assert "refuses the project" in run(realtime, "--url", web.url, *QUICKLY).output
        done = run(realtime, "--url", web.url, "--project", "mine", "--json", *QUICKLY)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["lag"]["client"][worker.hostname]["lost"] == 0
    assert realtime.manager.history.positions(["mine"]) == {}


def test_a_refused_token_ends_it_with_the_servers_reason(broker: Broker) -> None:
    with serving(broker) as web:
        done = run(here(broker), "--url", web.url, "--token", "nonsense")
    assert done.exit_code == 1
    assert "cannot be connected to: the token" in done.output


@pytest.mark.parametrize(
    ("url", "settings", "reason"),
    [
        (NOWHERE, {}, f"the broker at {NOWHERE} cannot be used"),
        (NOWHERE, {"enabled": False}, "realtime_enabled is False"),
        (None, {"secret_key": None}, "pass --token"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_line(
    broker: Broker, url: str | None, settings: dict[str, Any], reason: str
) -> None:
    done = run(new_realtime(url or broker.url, **settings), "--url", "http://127.0.0.1:1")
    assert done.exit_code == 1
    assert reason in done.output
    assert done.output.startswith("Error: ")


def test_a_web_server_that_is_away_is_named(broker: Broker) -> None:
    done = run(here(broker), "--url", "http://127.0.0.1:1")
    assert done.exit_code == 1
    assert "http://127.0.0.1:1 cannot be connected to: " in done.output


def test_a_mistaken_address_is_refused(broker: Broker) -> None:
    done = run(here(broker), "--url", "studio.example")
    assert done.exit_code == 2
    assert "begins with http:// or https://" in done.output
