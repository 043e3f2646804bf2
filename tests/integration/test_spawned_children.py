"""Children of a prefork pool that are started anew, as on macOS, and not forked: they do all that forked ones do."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from celery.app.defaults import NAMESPACES

from celery_realtime.events import STATUS_EVENT
from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.integration.test_child_turnover import children, ends_well, numbers, reached
from tests.integration.test_jobs import start
from tests.launcher import Launcher
from tests.services import Broker
from tests.variants import any_broker
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(
    "pool_start_method" not in NAMESPACES["worker"], reason="this Celery always forks where it can"
)


@pytest.fixture
def make_stage(launcher: Launcher, broker: Broker) -> Iterator[Callable[..., Stage]]:
    with producing(broker):
        yield lambda: Stage(launcher, broker, concurrency=1, env={"START_METHOD": "spawn"})


def spawned(stage: Stage) -> list[psutil.Process]:
    return [child for child in children(stage) if "billiard.spawn" in " ".join(child.cmdline())]


@any_broker
def test_their_jobs_are_told_whole_and_nothing_is_lost_with_one_that_is_killed(
    make_stage: Callable[..., Stage], tmp_path: Path
) -> None:
    project, gate = new_project(), tmp_path / "go"
    stage = make_stage()
    with stage.watch(project) as client:
        said = start(jobs.say_and_return, 3, project=project)
        ends_well(client, said, timeout=120)
        wait_for(lambda: numbers(client, said) == [0, 1, 2])
        assert reached(client, said) == [90]
        assert spawned(stage)

        parent = start(jobs.parent, project=project)  # what a job publishes is of its project
        ends_well(client, parent, timeout=60)
        wait_for(lambda: len([end for end in client.of(STATUS_EVENT) if end["status"] == "success"]) == 6)

        said, died = start(jobs.say_and_return, 3, project=project), start(jobs.die, project=project)
        assert "WorkerLostError" in client.wait_for_end(died, timeout=60)["error"]
        ends_well(client, said)
        wait_for(lambda: numbers(client, said) == [0, 1, 2])

        held = start(jobs.hold, str(gate), 60.0, project=project)
        client.wait_for_event("agent_progress", job_id=held, timeout=60)
        os.kill(spawned(stage)[0].pid, signal.SIGKILL)
        assert "WorkerLostError" in client.wait_for_end(held, timeout=60)["error"]
        gate.touch()
        ends_well(client, start(jobs.hold, str(gate), 60.0, project=project), timeout=60)
