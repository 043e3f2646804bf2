"""Real workers and web servers that are scraped, also those of several processes."""

from __future__ import annotations

import contextlib
import socket
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.integration.test_child_turnover import children
from tests.integration.test_jobs import start
from tests.launcher import Launcher
from tests.metrics.conftest import samples_of
from tests.processes import HOST, ManagedProcess, accepts_connections, free_port, python_path
from tests.services import Broker
from tests.waiting import wait_for

pytestmark = pytest.mark.service


def scraped(port: int) -> dict[str, float]:
    """Scrape, again if the process that was to answer has just been killed."""

    def scrape() -> dict[str, float]:
        with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=60) as answer:
            return samples_of(answer.read().decode())

    return wait_for(scrape, ignoring=(OSError,))


def published(samples: dict[str, float]) -> float:
    return sum(value for name, value in samples.items() if name.startswith("events_published_total"))


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def make_stage(launcher: Launcher, redis_broker: Broker, tmp_path: Path, port: int) -> Iterator[Callable[..., Stage]]:
    shared = tmp_path / "metrics"
    shared.mkdir()

    def make(*options: str, pool: str = "prefork", **env: str) -> Stage:
        several = {"PROMETHEUS_MULTIPROC_DIR": str(shared)} if pool == "prefork" else {}
        of_worker = {"METRICS": "1", "METRICS_PORT": str(port), **several, **env}
        return Stage(launcher, redis_broker, pool=pool, options=options, worker_env=of_worker)

    with producing(redis_broker):
        yield make


@pytest.mark.long
def test_a_worker_of_threads_serves_what_its_jobs_have_said(make_stage: Callable[..., Stage], port: int) -> None:
    project = new_project()
    stage = make_stage(pool="threads")
    with stage.watch(project) as client:
        client.wait_for_end(start(jobs.count, 3, project=project))
    wait_for(lambda: published(scraped(port)) >= 2)
    samples = scraped(port)
    assert samples["leases"] == 1
    assert samples["append_seconds_count"] >= 1
    assert samples["loop_up{loop=keeper}"] == 1


def test_children_that_are_recycled_are_counted_and_those_that_are_killed_marked_dead(
    make_stage: Callable[..., Stage], port: int, tmp_path: Path
) -> None:
    """Counts of a child stay when it has gone, and its gauges go."""
    project, number = new_project(), 3
    stage = make_stage("--max-tasks-per-child", "1")
    with stage.watch(project) as client:
        for _ in range(number):
            client.wait_for_end(start(jobs.say_and_return, 3, project=project))
        wait_for(lambda: scraped(port).get("events_published_total{event=custom}", 0) >= number * 3)
        samples = scraped(port)
        assert samples["events_published_total{event=custom}"] == number * 3
        wait_for(lambda: scraped(port).get("events_published_total{event=status}", 0) >= number * 2)
        assert_children_do_not_hold(stage, port)
        job = start(jobs.hold, str(tmp_path / "never"), 600, project=project)
        client.wait_for_event("agent_status", job_id=job, status="running")
        for child in children(stage):
            child.kill()
        client.wait_for_end(job, timeout=120)
    wait_for(lambda: (scraped(port), pids(tmp_path / "metrics") <= living(stage))[1])


def assert_children_do_not_hold(stage: Stage, port: int) -> None:
    """They are forked from a process that listens, and may live on when it is gone."""
    for child in children(stage):
        with contextlib.suppress(psutil.NoSuchProcess):
            assert [one for one in child.net_connections() if one.laddr and one.laddr.port == port] == []


def living(stage: Stage) -> set[int]:
    return {child.pid for child in psutil.Process(stage.worker.pid).children()} | {stage.worker.pid}


def pids(folder: Path) -> set[int]:
    """Return the processes whose gauges are taken for those of living ones."""
    return {int(file.stem.rpartition("_")[2]) for file in folder.glob("gauge_live*.db")}


def test_a_port_that_is_taken_and_children_that_are_not_counted_are_said_once(
    launcher: Launcher, redis_broker: Broker, port: int
) -> None:
    with socket.create_server((HOST, port)):
        worker = launcher.worker(
            "tests.integration.jobs", broker=redis_broker, env={"METRICS": "1", "METRICS_PORT": str(port)}
        )
        worker.wait_for_log("are not served at")
        worker.wait_for_log("PROMETHEUS_MULTIPROC_DIR")
        assert worker.log.count("are not served at") == 1
        assert worker.log.count("PROMETHEUS_MULTIPROC_DIR") == 1


@pytest.mark.long
def test_the_processes_of_a_web_server_are_scraped_together_and_one_that_is_killed_leaves_its_counts(
    launcher: Launcher, redis_broker: Broker, tmp_path: Path, port: int
) -> None:
    shared = tmp_path / "metrics"
    shared.mkdir()
    options = ["--workers", "3", "--worker-class", "gthread", "--threads", "4", "--bind", f"{HOST}:{port}"]
    launcher.start(
        ManagedProcess(
            [sys.executable, "-m", "gunicorn", *options, "tests.metrics.gunicorn_web:application"],
            folder=tmp_path,
            name="gunicorn",
            env={
                **python_path(),
                **redis_broker.env,
                "PROMETHEUS_MULTIPROC_DIR": str(shared),
                "XDG_RUNTIME_DIR": str(tmp_path),  # gunicorn makes a socket there, else in the user's home
            },
            ready=lambda: accepts_connections(port),
        )
    )
    emitted: list[int] = []

    def emit() -> int:
        with urllib.request.urlopen(f"http://{HOST}:{port}/", timeout=60) as answer:
            emitted.append(int(answer.read()))
        return len(set(emitted))

    wait_for(lambda: emit() > 1)
    wait_for(lambda: published(scraped(port)) == len(emitted))
    assert scraped(port)["events_put_total"] == len(emitted)
    killed = emitted[-1]
    psutil.Process(killed).kill()
    wait_for(lambda: killed not in pids(shared) or (scraped(port), False)[1])
    assert published(scraped(port)) == len(emitted)
    assert scraped(port)["broker_up"] == 1
