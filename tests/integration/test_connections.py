"""How many connections to a Redis each process has, and what happens where a Redis allows few."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import redis

from tests.connections import children_of, connections_to
from tests.integration.stage import Stage, new_project
from tests.launcher import Launcher
from tests.processes import ManagedProcess
from tests.services import Broker, RedisServer
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

#: As docs/deployment.md has it. Celery's own: one of each child, and of a worker's main process these.
OF_CELERY = 6
MAIN, CHILD, IDLE_CHILD, WEB = OF_CELERY + 3, 3, 1, 4


class Counted:
    """A stage on a Redis of its own.

    Args:
        launcher: Starts it.
        most: The clients that the Redis allows.
        concurrency: Of the worker.
    """

    def __init__(self, launcher: Launcher, most: int, concurrency: int) -> None:
        options = ["--maxclients", str(most)]
        self.server = launcher.start(RedisServer(launcher.folder / "counted", name="counted", options=options))
        self.broker = Broker("redis", self.server, self.server.url(0), self.server, self.server.url(1))
        self.stage = Stage(launcher, self.broker, concurrency=concurrency)
        self.web = launcher.web("tests.integration.asgi_web", broker=self.broker)

    def run(self, count: int) -> list[str | None]:
        """Run jobs until the browser knows of the end of each, and return their states in the result backend."""
        project, app = new_project(), self.broker.app()
        client = self.stage.watch(project)
        task, headers = "tests.integration.jobs.say_and_return", {"project_id": project}
        job_ids = [app.send_task(task, headers=headers).id for _ in range(count)]
        for job_id in job_ids:
            client.wait_for_event("agent_status", job_id=job_id, status="success", timeout=90)
        states = [app.AsyncResult(job_id).state for job_id in job_ids]
        app.close()
        client.close()
        return states

    def of(self, process: ManagedProcess) -> int:
        return connections_to(self.server.port, process.pid)

    def of_children(self) -> list[int]:
        return [connections_to(self.server.port, child) for child in children_of(self.stage.worker.pid)]


@pytest.fixture
def counted(launcher: Launcher) -> Iterator[Counted]:
    return Counted(launcher, 1000, 2)


def test_each_process_has_as_many_connections_as_the_documentation_says(counted: Counted) -> None:
    counts: list[int] = []
    for _ in range(3):
        assert set(counted.run(20)) == {"SUCCESS"}
        counts += counted.of_children()
        assert counted.of(counted.stage.worker) <= MAIN
    assert len(counts) == 6
    assert max(counts) <= CHILD
    for web in (counted.stage.web, counted.web):
        wait_for(lambda web=web: 2 <= counted.of(web) <= WEB, timeout=30)  # type: ignore[misc]


@pytest.mark.long
def test_an_idle_child_keeps_the_one_of_its_result_backend(counted: Counted) -> None:
    counted.run(20)
    wait_for(lambda: max(counted.of_children()) <= IDLE_CHILD, timeout=90)


def test_where_a_redis_allows_few_clients_no_job_fails_and_the_browser_hears_of_all(launcher: Launcher) -> None:
    counted = Counted(launcher, 30, 8)
    assert counted.run(24) == ["SUCCESS"] * 24
    with redis.Redis(port=counted.server.port) as look:
        assert look.info("clients")["connected_clients"] < 30
