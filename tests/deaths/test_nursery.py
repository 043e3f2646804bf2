"""Workers that begin as forks begin, are killed and end as others do."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.deaths.nursery import ForkedWorker, Nursery, Zygote
from tests.processes import Worker
from tests.waiting import wait_for

pytestmark = pytest.mark.service

#: Nobody listens there, so a worker tries for ever.
NOWHERE = {
    "DEATHS_BROKER": "redis://127.0.0.1:1/0",
    "DEATHS_HISTORY": "redis://127.0.0.1:1/1",
    "DEATHS_LOST_AFTER": "5",
}


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    zygote = Zygote("prefork", tmp_path_factory.mktemp("zygote"))
    yield zygote
    zygote.close()


@pytest.fixture
def worker(zygote: Zygote, tmp_path: Path) -> Iterator[Worker]:
    worker = ForkedWorker(zygote, "tests.deaths.app", folder=tmp_path, env=NOWHERE)
    yield worker.start(wait=False)
    worker.kill()


def test_a_fork_is_celery_with_its_arguments_and_its_own_log(zygote: Zygote, tmp_path: Path) -> None:
    logs = [tmp_path / "version", tmp_path / "mistake"]
    for log in logs:
        log.touch()
    forks = [zygote.start([args], log=log, env={}) for args, log in zip(("--version", "--mistake"), logs, strict=True)]
    assert [fork.wait() for fork in forks] == [0, 2]
    assert [text in log.read_text() for text, log in zip(("5.", "--mistake"), logs, strict=True)] == [True, True]


def test_a_fork_has_its_environment_and_the_next_one_does_not(zygote: Zygote, tmp_path: Path) -> None:
    log = tmp_path / "log"
    for env, broker in (({"CELERY_BROKER_URL": "redis://nowhere:7/7"}, "redis://nowhere:7/7"), ({}, "amqp")):
        log.write_text("")
        assert zygote.start(["-A", "tests.deaths.app", "report"], log=log, env=env).wait() == 0
        assert f"transport:{broker.split(':')[0]}" in log.read_text().replace("transport: ", "transport:")


def test_it_connects_tries_again_and_can_be_killed_with_its_group(worker: Worker) -> None:
    worker.wait_for_log("Cannot connect", timeout=30)
    assert worker.running
    group = psutil.Process(worker.pid)
    assert os.getpgid(worker.pid) == worker.pid
    children = wait_for(group.children)
    assert worker.kill() == -signal.SIGKILL
    wait_for(lambda: not any(_lives(process) for process in children))
    assert not worker.running


def test_its_main_process_can_be_killed_and_it_can_start_again(worker: Worker) -> None:
    worker.wait_for_log("Cannot connect", timeout=30)
    first, children = worker.pid, psutil.Process(worker.pid).children()
    worker.kill_main()
    assert not worker.running
    worker.start(wait=False)
    assert worker.pid != first
    worker.wait_for_log("Cannot connect", timeout=30)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):  # they notice, and end
            child.kill()


def test_a_fork_ends_with_its_zygote(tmp_path: Path) -> None:
    nursery = Nursery(tmp_path, forks=True)
    worker = nursery.worker("tests.deaths.app", pool="solo", folder=tmp_path, env=NOWHERE).start(wait=False)
    worker.wait_for_log("Cannot connect", timeout=30)
    process = psutil.Process(worker.pid)
    nursery.close()
    wait_for(lambda: not _lives(process), timeout=30)


@pytest.mark.parametrize("pool", ["threads", "gevent", "eventlet"])
def test_each_pool_has_a_zygote_that_is_patched_as_it_needs(pool: str, tmp_path: Path) -> None:
    nursery = Nursery(tmp_path, forks=True)
    worker = nursery.worker("tests.deaths.app", pool=pool, folder=tmp_path, env=NOWHERE).start(wait=False)
    worker.wait_for_log(rf"concurrency: \d+ \({'thread' if pool == 'threads' else pool}\)", timeout=30)
    worker.wait_for_log("Cannot connect", timeout=30)
    nursery.close()


def test_without_forks_a_worker_is_an_interpreter_of_its_own(tmp_path: Path) -> None:
    assert type(Nursery(tmp_path, forks=False).worker("tests.deaths.app", pool="solo", folder=tmp_path)) is Worker


def _lives(process: psutil.Process) -> bool:
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
