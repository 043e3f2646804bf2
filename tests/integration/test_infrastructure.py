"""The servers, workers and clients of the tests do what the tests trust them to do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import redis
from socketio.exceptions import ConnectionError as Refused

from tests.client_recorder import Recorder
from tests.launcher import Brokers, Launcher
from tests.processes import ROOT, ManagedProcess, ProcessError, WebServer, Worker, accepts_connections
from tests.services import Broker, RedisServer
from tests.variants import any_broker
from tests.waiting import wait_for

TOKEN = "ada:secret"
POOLS = ["prefork", "threads", "eventlet", "gevent"]

APP = "tests.integration.plain_app"

StartWorker = Callable[..., Worker]
StartWeb = Callable[..., WebServer]


@pytest.mark.long  # in test_hosts.py a worker of each pool does more on each broker
@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_of_each_pool_runs_tasks_on_each_broker(start_worker: StartWorker, broker: Broker, pool: str) -> None:
    start_worker(APP, broker=broker, pool=pool)

    app = broker.app()

    waiting = [app.send_task(f"{APP}.add", (number, 1)) for number in range(20)]

    assert [result.get(timeout=60) for result in waiting] == list(range(1, 21))


# Of RabbitMQ, tests/channel/test_broker_outages.py shows it; one of its own would have to start for this alone.
@any_broker
@pytest.mark.own_rabbitmq
def test_a_worker_goes_on_after_a_pause_of_the_broker(start_worker: StartWorker, broker: Broker) -> None:
    worker = start_worker(APP, broker=broker)
    app = broker.app()

    broker.server.pause()
    wait_for(lambda: psutil.Process(broker.server.pid).status() == psutil.STATUS_STOPPED)
    broker.server.resume()

    assert app.send_task(f"{APP}.where").get(timeout=60)["parent"] == worker.pid


def test_a_killed_server_comes_back_on_its_port(redis_broker: Broker) -> None:
    redis_broker.server.kill()
    assert not accepts_connections(redis_broker.server.port)

    redis_broker.server.restart()

    assert accepts_connections(redis_broker.server.port)


def test_what_a_test_does_to_a_server_is_undone_for_the_next(redis_server: RedisServer, brokers: Brokers) -> None:
    redis_server.kill()

    assert brokers.make("redis").server.running


def test_two_brokers_share_nothing(brokers: Brokers) -> None:
    first, second = brokers.make("redis"), brokers.make("redis")

    assert first.url != second.url
    assert first.backend_url != second.backend_url


def test_a_persistent_redis_keeps_its_data_over_a_kill(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis(persist=True)
    redis.Redis.from_url(server.url()).set("key", "kept")
    server.kill()
    server.start()

    assert redis.Redis.from_url(server.url()).get("key") == b"kept"


def test_killing_the_main_process_leaves_the_children_of_a_worker(
    start_worker: StartWorker, redis_broker: Broker
) -> None:
    worker = start_worker(APP, broker=redis_broker)
    children = psutil.Process(worker.pid).children()

    worker.kill_main()
    assert children

    worker.kill()
    psutil.wait_procs(children, timeout=5)
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)


def test_a_stopped_worker_says_goodbye(start_worker: StartWorker, redis_broker: Broker) -> None:
    worker = start_worker(APP, broker=redis_broker)

    assert worker.stop() == 0
    assert "Warm shutdown" in worker.log


def test_a_process_that_does_not_start_shows_its_log(tmp_path: Path) -> None:
    process = ManagedProcess(
        [sys.executable, "-c", "raise SystemExit('no such luck')"],
        folder=tmp_path,
        name="luckless",
        ready=lambda: False,
    )

    with pytest.raises(ProcessError, match="luckless ended with 1:\nno such luck"):
        process.start()


def test_a_process_that_is_late_is_ended(tmp_path: Path) -> None:
    process = ManagedProcess(
        [sys.executable, "-c", "import signal; signal.pause()"],
        folder=tmp_path,
        name="slow",
        ready=lambda: False,
        start_timeout=0.5,
    )

    with pytest.raises(ProcessError, match="slow is not ready"):
        process.start()
    assert not process.running


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_a_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    script = (
        "import pathlib, os, sys, signal\n"
        "from tests.processes import ManagedProcess\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "child = ManagedProcess([sys.executable, '-c', 'import signal; print(1, flush=True); signal.pause()'],\n"
        "    folder=folder, name='child').start()\n"
        "child.wait_for_log('1')\n"
        "print(child.pid, flush=True)\n"
        "signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = psutil.Process(int(parent.stdout.readline()))
        os.kill(parent.pid, signal.SIGKILL)

    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


@pytest.mark.undescribed
@pytest.mark.parametrize("via", ["auth", "query"])
def test_the_recorder_shows_its_token_and_hears_every_event(
    start_web: StartWeb, connect: Callable[..., Recorder], via: str
) -> None:
    web = start_web("tests.integration.plain_web")
    recorder = connect(web.url, token=TOKEN, via=via)

    assert recorder.subscribe("apollo")["project_id"] == "apollo"

    assert recorder.wait_for_event("agent_status", job_id="job-1")["status"] == "queued"
    assert recorder.wait_for_end("job-1")["status"] == "success"
    assert recorder.statuses("job-1") == ["queued", "success"]
    assert recorder.wait_for_event("transcript_line") == {"text": "hello", "_realtime": {"job_id": "job-1"}}
    assert [event for event, _ in recorder.for_job("job-1")] == ["agent_status", "transcript_line", "agent_status"]


def test_a_refused_recorder_knows_why(start_web: StartWeb) -> None:
    web = start_web("tests.integration.plain_web")
    with Recorder() as recorder, pytest.raises(Refused):
        recorder.connect(web.url, token="wrong", transports=["polling"])
    assert "unauthorized" in str(recorder.refusals)


def test_a_plain_socketio_client_in_node_hears_every_event(launcher: Launcher, start_web: StartWeb) -> None:
    client = launcher.node_client(start_web("tests.integration.plain_web").url, TOKEN, "apollo")

    client.wait(lambda events: ("agent_status", {"job_id": "job-1", "status": "success"}) in events)

    assert [event for event, _ in client.events] == ["connect", "agent_status", "agent_progress", "agent_status"]


def test_a_refused_client_in_node_says_so(launcher: Launcher, start_web: StartWeb) -> None:
    client = launcher.node_client(start_web("tests.integration.plain_web").url, "wrong", "apollo")

    assert client.wait(lambda events: [data for event, data in events if event == "connect_error"])[0] == {
        "message": "unauthorized",
        "data": None,
    }
