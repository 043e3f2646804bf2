"""Jobs end as they do, whatever Celery keeps their results in: no result is consumed, and no connection is stale."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery.backends import cache
from celery.result import AsyncResult

from tests.client_recorder import Recorder
from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.integration.test_jobs import start
from tests.launcher import Launcher
from tests.result_servers import MemcachedServer
from tests.services import Broker
from tests.variants import long_unless
from tests.waiting import wait_for

LOST_AFTER = 6.0
#: A longer result is not sent with the end of a job.
LONG = "x" * 100_000

Backend = Callable[[Launcher, Path], str]


def memcached(launcher: Launcher, _folder: Path) -> str:
    pytest.importorskip("pymemcache", reason="pip install pymemcache")
    if not hasattr(cache, "get_memcache_client"):
        pytest.skip("Celery up to 5.6 has another client")
    return launcher.start(MemcachedServer(launcher.folder)).url


def files(_launcher: Launcher, folder: Path) -> str:
    (folder / "results").mkdir()
    return f"file://{folder / 'results'}"


#: Those that others can read, too.
SHARED: dict[str, Backend] = {"files": files, "memcached": memcached}
#: Those whose results are the caller's alone, or the process's.
UNSHARED: dict[str, Backend] = {
    "rpc": lambda _launcher, _folder: "rpc://",
    "memory": lambda _launcher, _folder: "cache+memory://",
}


@contextmanager
def stage_with(url: str, launcher: Launcher, broker: Broker) -> Iterator[Stage]:
    """Make a stage whose results are there; this process reads them, too."""
    env = {"LOST_AFTER": str(LOST_AFTER), "HISTORY_URL": broker.backend_url, "CELERY_RESULT_BACKEND": url}
    with producing(broker, results=url, history_url=broker.backend_url):
        yield Stage(launcher, broker, env=env)


def ended(client: Recorder, task: Any, *args: Any, project: str) -> dict[str, Any]:
    """Run a job, and return what a browser is told of its end."""
    return client.wait_for_end(start(task, *args, project=project))


def result_of(client: Recorder, job: str) -> dict[str, Any]:
    return client.call("get_result", {"job_id": job})


@pytest.mark.parametrize("kind", long_unless(["memcached"], [*SHARED, *UNSHARED]))
def test_jobs_are_shown_and_their_callers_get_what_they_return(
    kind: str, launcher: Launcher, redis_broker: Broker, tmp_path: Path
) -> None:
    project, url = new_project(), {**SHARED, **UNSHARED}[kind](launcher, tmp_path)
    with stage_with(url, launcher, redis_broker) as stage, stage.watch(project) as client:
        called = jobs.add.apply_async((1, 2), headers={"project_id": project})
        long = jobs.named.apply_async((), {"project_id": LONG}, headers={"project_id": project})
        assert client.wait_for_end(called.id)["result"] == 3
        assert client.wait_for_end(long.id)["truncated"] is True
        failed = ended(client, jobs.fail, project=project)
        assert (failed["state"], failed["error"]) == ("FAILURE", "ValueError: nothing works")
        counted = ended(client, jobs.count, 3, project=project)
        assert client.wait_for_event("agent_progress", job_id=counted["job_id"], current=3)["progress"] == 100
        answers = [result_of(client, long.id) for _ in range(3)]
        assert result_of(client, called.id)["result"] == 3
        if kind in SHARED:
            assert [answer["result"] for answer in answers] == [LONG] * 3
            assert AsyncResult(counted["job_id"], app=jobs.celery).state == "SUCCESS"
        elif kind == "rpc":
            assert {answer["error"]["code"] for answer in answers} == {"unavailable"}
        else:  # it is in another process
            assert {(answer["result"], answer["truncated"]) for answer in answers} == {(None, True)}
        if kind != "memory":
            assert (called.get(timeout=60), long.get(timeout=60)) == (3, LONG)


@pytest.mark.parametrize("kind", long_unless(["files"], [*SHARED, *UNSHARED]))
def test_the_job_of_a_killed_worker_ends_as_its_backend_says_if_that_can_be_asked(
    kind: str, launcher: Launcher, redis_broker: Broker, tmp_path: Path
) -> None:
    project, stored = new_project(), tmp_path / "stored"
    url = {**SHARED, **UNSHARED}[kind](launcher, tmp_path)
    with stage_with(url, launcher, redis_broker) as stage, stage.watch(project) as client:
        ended_in_child = ended(client, jobs.succeed_and_die, project=project)
        job = jobs.succeed_and_die.apply_async((str(stored),), headers={"project_id": project})
        wait_for(stored.exists)
        stage.worker.kill()
        end = client.wait_for_end(job.id)
        if kind == "rpc":
            assert job.get(timeout=60) == {"made": 1}
    assert end["state"] == ("SUCCESS" if kind in SHARED else "LOST")
    assert end["result"] == ({"made": 1} if kind in SHARED else None)
    assert ended_in_child["state"] == ("SUCCESS" if kind in SHARED else "FAILURE")


@pytest.mark.long
def test_a_memcached_that_was_started_again_is_asked_over_new_connections(
    launcher: Launcher, redis_broker: Broker, tmp_path: Path
) -> None:
    project, url = new_project(), memcached(launcher, tmp_path)
    server = launcher.processes[-1]
    with stage_with(url, launcher, redis_broker) as stage, stage.watch(project) as client:
        long = start(jobs.named, project=project, project_id=LONG)
        client.wait_for_end(long)
        for _ in range(20):  # each of the threads that may answer has a connection
            assert result_of(client, long)["result"] == LONG
        server.restart()
        answers = [result_of(client, long) for _ in range(20)]
    assert {(answer["ok"], answer["status"], answer["truncated"]) for answer in answers} == {(True, "success", True)}
