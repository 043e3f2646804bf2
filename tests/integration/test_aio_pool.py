"""Tasks that are coroutines run, report and end in the pool of celery-aio-pool."""

from __future__ import annotations

from typing import Any

import pytest

from celery_realtime import Realtime
from tests.integration.stage import new_project
from tests.launcher import Brokers, Launcher
from tests.processes import Worker
from tests.waiting import wait_for

pytestmark = pytest.mark.long

pytest.importorskip("celery_aio_pool", reason="pip install celery-aio-pool")


def test_coroutines_and_plain_functions_run_report_and_end(launcher: Launcher, brokers: Brokers) -> None:
    broker = brokers.make("redis")
    env = {
        **broker.env,
        "HISTORY_URL": broker.backend_url,
        "CELERY_CUSTOM_WORKER_POOL": "celery_aio_pool.pool:AsyncIOPool",
    }
    # Celery reads the name of the pool when it is imported, which a fork does before it has its environment.
    worker = Worker("tests.integration.aio_jobs", folder=launcher.folder, pool="custom", env=env, forks=False)
    launcher.start(worker)
    app, project = broker.app(), new_project()
    history = Realtime(app, history_url=broker.backend_url).manager.history
    assert history is not None
    for task, args in (("work", (3,)), ("fail", ()), ("plain", ()), ("outer", ())):
        app.send_task(f"tests.integration.aio_jobs.{task}", args, headers={"project_id": project})

    def ended() -> list[dict[str, Any]]:
        jobs = history.read(project).jobs
        return jobs if len(jobs) == 5 and all(job["status"] in ("success", "error") for job in jobs) else []

    jobs = wait_for(ended)
    seen = [(job["task"].rpartition(".")[2], job["error"], job["progress"], job["message"]) for job in jobs]
    assert sorted(seen, key=str) == [
        ("fail", "ValueError: no", None, None),
        ("outer", None, None, None),
        ("plain", None, 50, "half"),
        ("work", None, 100, "done"),
        ("work", None, 100, "done"),
    ]
    lines = [entry["data"]["steps"] for entry in history.recent(project) if entry["event"] == "line"]
    assert sorted(lines) == [2, 3]
    app.realtime.manager.close()
