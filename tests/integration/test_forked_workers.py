"""Workers that begin as forks begin, are killed and end as others do."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.forks import CAN_FORK, Forked, fork_server
from tests.processes import ROOT, Worker, python_path
from tests.variants import long_unless
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(not CAN_FORK, reason="begins no process as a fork")

#: Nobody listens there, so a worker tries for ever.
NOWHERE = {
    "DEATHS_BROKER": "redis://127.0.0.1:1/0",
    "DEATHS_HISTORY": "redis://127.0.0.1:1/1",
    "DEATHS_LOST_AFTER": "5",
}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    workers: list[Worker] = []

    def start(pool: str, *, forks: bool | None = True) -> Worker:
        workers.append(Worker("tests.deaths.app", pool=pool, folder=tmp_path, env=NOWHERE, forks=forks))
        return workers[-1].start(wait=False)

    yield start
    for worker in workers:
        worker.kill()


def run(log: Path, *arguments: str, **env: str) -> Forked:
    whole = {**os.environ, **python_path(), **env}
    return fork_server().run(["-m", "celery", *arguments], env=whole, cwd=ROOT, stdout=log)


def test_a_fork_is_celery_with_its_arguments_and_its_own_log(tmp_path: Path) -> None:
    version, mistake = tmp_path / "version", tmp_path / "mistake"
    assert run(version, "--version").wait() == 0
    assert run(mistake, "--mistake").wait() == 2
    assert "5." in version.read_text()
    assert "--mistake" in mistake.read_text()


def test_a_fork_has_its_environment_and_the_next_one_does_not(tmp_path: Path) -> None:
    logs = tmp_path / "one", tmp_path / "other"
    for log, env in zip(logs, ({"CELERY_BROKER_URL": "redis://nowhere:7/7"}, {}), strict=True):
        assert run(log, "-A", "tests.deaths.app", "report", **env).wait() == 0
    assert ["redis" in log.read_text().split("transport:")[1].split()[0] for log in logs] == [True, False]


def test_it_can_be_killed_with_its_group(start: Callable[..., Worker]) -> None:
    worker = start("prefork")
    worker.wait_for_log("Cannot connect to redis")
    assert os.getpgid(worker.pid) == worker.pid
    children = wait_for(psutil.Process(worker.pid).children)
    assert worker.kill() == -signal.SIGKILL
    wait_for(lambda: not any(_lives(process) for process in children))
    assert not worker.running


def test_its_main_process_can_be_killed_and_it_can_start_again(start: Callable[..., Worker]) -> None:
    worker = start("prefork")
    worker.wait_for_log("Cannot connect to redis")
    first, children = worker.pid, psutil.Process(worker.pid).children()
    worker.kill_main()
    assert not worker.running
    worker.start(wait=False)
    assert worker.pid != first
    worker.wait_for_log("Cannot connect to redis")
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):  # they notice, and end
            child.kill()


@pytest.mark.parametrize("pool", long_unless(["eventlet"], ["gevent", "eventlet"]))
def test_a_green_pool_has_a_server_that_is_patched_for_it(start: Callable[..., Worker], pool: str) -> None:
    worker = start(pool)
    worker.wait_for_log(rf"concurrency: \d+ \({pool}\)")
    worker.wait_for_log("Cannot connect to redis")
    assert isinstance(worker._process, Forked)
    assert worker.stop() == 0


@pytest.mark.parametrize(("pool", "forks"), [("prefork", False), ("gevent", None)])
def test_without_forks_a_worker_is_an_interpreter_of_its_own(
    start: Callable[..., Worker], pool: str, forks: bool | None
) -> None:
    assert isinstance(start(pool, forks=forks)._process, subprocess.Popen)


def _lives(process: psutil.Process) -> bool:
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
