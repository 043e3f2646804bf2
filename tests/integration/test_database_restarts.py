"""A database that is killed and started again between two jobs: nothing of ours holds on to a connection of before."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.integration.test_jobs import start
from tests.launcher import Launcher
from tests.processes import ROOT
from tests.result_servers import PostgresServer
from tests.services import Broker
from tests.waiting import wait_for

pytestmark = [pytest.mark.long, pytest.mark.service]

#: By result backend, where the state of a job is.
TABLES = {"database": "celery_taskmeta", "django-db": "django_celery_results_taskresult"}
LONG = "x" * 100_000


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[PostgresServer]:
    pytest.importorskip("psycopg2", reason="pip install psycopg2-binary")
    server = PostgresServer(tmp_path).start()
    yield server
    server.remove()


def environment(backend: str, postgres: PostgresServer, broker: Broker) -> dict[str, str]:
    env = {"LOST_AFTER": "6", "HISTORY_URL": broker.backend_url}
    if backend == "database":
        url = postgres.address.replace("postgresql:", "postgresql+psycopg2:")
        return {**env, "CELERY_RESULT_BACKEND": f"db+{url}"}
    env |= {"DJANGO_SETTINGS_MODULE": "tests.integration.django_database", "DATABASE": postgres.address}
    migrate = [sys.executable, "-m", "django", "migrate", "--verbosity", "0"]
    subprocess.run(migrate, env={**os.environ, **env}, cwd=ROOT, check=True, timeout=240)
    return {**env, "CELERY_RESULT_BACKEND": "django-db"}


def state_of(job: str, postgres: PostgresServer, backend: str) -> str | None:
    """Return the state that is stored of a job, as whoever polls sees it."""
    import psycopg2

    connection = psycopg2.connect(postgres.address)
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT status FROM {TABLES[backend]} WHERE task_id = %s", (job,))
            row = cursor.fetchone()
            return None if row is None else str(row[0])
    finally:
        connection.close()


@pytest.mark.parametrize("backend", TABLES)
def test_progress_results_and_ends_come_over_new_connections(
    backend: str, launcher: Launcher, redis_broker: Broker, postgres: PostgresServer, tmp_path: Path
) -> None:
    project = new_project()
    with producing(redis_broker, history_url=redis_broker.backend_url):
        env = environment(backend, postgres, redis_broker)
        stage = Stage(launcher, redis_broker, env=env, concurrency=1)
        with stage.watch(project) as client:

            def is_stored(job: str, state: str) -> None:
                wait_for(lambda: state_of(job, postgres, backend) == state)

            def whole(job: str) -> Any:
                return client.call("get_result", {"job_id": job})

            def run(name: str) -> str:
                """Run jobs that use each connection of ours; returns one whose result is not in its event."""
                held = start(jobs.hold, str(tmp_path / name), 60.0, project=project)
                is_stored(held, "PROGRESS")
                (tmp_path / name).touch()
                assert client.wait_for_end(held)["state"] == "SUCCESS"
                is_stored(held, "SUCCESS")
                killed = start(jobs.succeed_and_die, project=project)
                assert client.wait_for_end(killed)["state"] == "SUCCESS"
                long = start(jobs.named, project=project, project_id=LONG)
                assert client.wait_for_end(long)["truncated"] is True
                for _ in range(20):  # each thread that may answer
                    assert whole(long)["result"] == LONG
                return long

            before = run("first")
            postgres.kill()
            postgres.start()
            assert [whole(before)["result"] for _ in range(20)] == [LONG] * 20
            run("second")
