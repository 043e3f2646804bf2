"""Children come and go while a worker lives: each job ends as it did, with all that it has said, and none is lost."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.client_recorder import Recorder
from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.integration.test_jobs import start, states
from tests.launcher import Launcher
from tests.services import Broker
from tests.variants import any_broker
from tests.waiting import wait_for

#: A busy machine takes a second or more for a fork, in which no lease is renewed.
LOST_AFTER = 9.0
#: Longer than a lease that is not renewed lasts.
LONG = LOST_AFTER + 1

JOBS = 8


@pytest.fixture
def make_stage(launcher: Launcher, broker: Broker) -> Iterator[Callable[..., Stage]]:
    def make(*options: str, **env: str) -> Stage:
        return Stage(launcher, broker, options=options, env={"LOST_AFTER": str(LOST_AFTER), **env})

    with producing(broker):
        yield make


def children(stage: Stage) -> list[psutil.Process]:
    """Return the children of the worker that run jobs; the main process has a helper of multiprocessing too."""
    found = []
    for child in psutil.Process(stage.worker.pid).children():
        with contextlib.suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            if "resource_tracker" not in " ".join(child.cmdline()):
                found.append(child)
    return found


def reached(client: Recorder, job: str) -> list[Any]:
    return [data["progress"] for event, data in client.for_job(job) if event == "agent_progress"]


def numbers(client: Recorder, job: str) -> list[int]:
    return sorted(data["number"] for event, data in client.for_job(job) if event == "line")


def ends_well(client: Recorder, job: str, *, timeout: float = 60.0) -> None:
    assert client.wait_for_end(job, timeout=timeout)["state"] == "SUCCESS"
    assert [state for _, state, _ in states(client, job)] == ["PENDING", "STARTED", "SUCCESS"]


@any_broker
@pytest.mark.parametrize(
    "options",
    [("--max-tasks-per-child", "1"), pytest.param(("--max-memory-per-child", "1"), marks=pytest.mark.long)],
)
def test_what_a_job_has_said_outlives_a_child_that_ends_after_it(
    make_stage: Callable[..., Stage], tmp_path: Path, options: tuple[str, str]
) -> None:
    project, gate = new_project(), tmp_path / "go"
    stage = make_stage(*options)
    with stage.watch(project) as client:
        long = start(jobs.hold, str(gate), LONG, project=project)
        said = [start(jobs.say_and_return, 3, project=project) for _ in range(JOBS)]
        first = children(stage)
        for job in said:
            ends_well(client, job)
            wait_for(lambda job=job: numbers(client, job) == [0, 1, 2])
            assert reached(client, job) == [90]
        ends_well(client, long)
        wait_for(lambda: not set(first) & set(children(stage)))


@any_broker
def test_a_child_that_is_killed_takes_its_own_job_with_it_and_no_other(
    make_stage: Callable[..., Stage], tmp_path: Path
) -> None:
    """SIGKILL from outside: what the kernel's OOM killer sends is the same signal, and leaves nothing to say."""
    project, gate = new_project(), tmp_path / "go"
    stage = make_stage()
    with stage.watch(project) as client:
        holding = [start(jobs.hold, str(gate), 60.0, project=project) for _ in range(2)]
        for job in holding:
            client.wait_for_event("agent_progress", job_id=job)
        os.kill(children(stage)[0].pid, signal.SIGKILL)
        killed = wait_for(
            lambda: [job for job in holding if states(client, job)[-1][1] == "FAILURE"],
        )
        gate.touch()
        [other] = set(holding) - set(killed)
        assert "WorkerLostError" in client.wait_for_end(killed[0])["error"]
        ends_well(client, other)
        assert reached(client, killed[0]) == reached(client, other) == [10]
        ends_well(client, start(jobs.hold, str(tmp_path / "never"), LONG, project=project))


@any_broker
def test_a_pool_that_is_restarted_goes_on(make_stage: Callable[..., Stage], tmp_path: Path) -> None:
    project, gate = new_project(), tmp_path / "go"
    stage = make_stage(POOL_RESTARTS="yes")
    with stage.watch(project) as client:
        early = [start(jobs.say_and_return, 3, project=project) for _ in range(2)]
        for job in early:
            ends_well(client, job)
        first = children(stage)
        holding = start(jobs.hold, str(gate), 60.0, project=project)
        client.wait_for_event("agent_progress", job_id=holding)
        assert jobs.celery.control.pool_restart(reply=True, limit=1, timeout=20)
        gate.touch()  # a child ends when it has done what it was doing
        ends_well(client, holding)
        later: list[str] = []

        def is_renewed() -> bool:
            later.append(start(jobs.say_and_return, 3, project=project))
            ends_well(client, later[-1])
            return not set(first) & set(children(stage))

        wait_for(is_renewed, timeout=60)
        for job in later:
            wait_for(lambda job=job: numbers(client, job) == [0, 1, 2])
            assert reached(client, job) == [90]
        ends_well(client, start(jobs.hold, str(tmp_path / "never"), LONG, project=project))


@any_broker
def test_a_pool_that_grows_and_shrinks_ends_each_job(make_stage: Callable[..., Stage], tmp_path: Path) -> None:
    project = new_project()
    stage = make_stage("--autoscale", "4,1", "--prefetch-multiplier", "4", AUTOSCALE_KEEPALIVE="1")
    with stage.watch(project) as client:
        for turn in range(2):
            gate = tmp_path / f"go-{turn}"
            holding = [start(jobs.hold, str(gate), 60.0, project=project) for _ in range(4)]
            for job in holding:
                client.wait_for_event("agent_progress", job_id=job)
            assert len(children(stage)) == 4
            gate.touch()
            for job in holding:
                ends_well(client, job)
                assert reached(client, job) == [10]
            if turn == 0:
                long = start(jobs.hold, str(tmp_path / "never"), LONG, project=project)
                wait_for(lambda: len(children(stage)) == 1, timeout=60)
                ends_well(client, long)
