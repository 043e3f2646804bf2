"""Children of a pool that are recycled flush their spans, and their events name the trace of their task."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from tests.launcher import Launcher
from tests.services import Broker
from tests.waiting import wait_for

JOBS = 3

pytestmark = pytest.mark.long


@pytest.mark.parametrize("instrumented", [False, True], ids=["by-hand", "instrumented"])
def test_no_span_of_a_recycled_child_is_lost(
    launcher: Launcher, redis_broker: Broker, tmp_path: Path, instrumented: bool
) -> None:
    needed = "opentelemetry.instrumentation.celery" if instrumented else "opentelemetry.sdk"
    if not _is_there(needed):
        pytest.skip("pip install opentelemetry-sdk opentelemetry-instrumentation-celery")
    file = tmp_path / "spans"
    file.touch()
    env = {"SPANS": str(file), **({"INSTRUMENTED": "1"} if instrumented else {})}
    worker = launcher.worker(
        "tests.integration.traced_jobs",
        broker=redis_broker,
        env=env,
        options=["--max-tasks-per-child", "1"],
        concurrency=1,
    )
    app = redis_broker.app()
    jobs = [
        app.send_task("tests.integration.traced_jobs.work", headers={"project_id": "p"}, ignore_result=False)
        for _ in range(JOBS)
    ]
    processes = {job.get(timeout=120) for job in jobs}
    assert len(processes) == JOBS

    def spans() -> list[dict[str, Any]]:
        return [json.loads(line) for line in file.read_text().splitlines()]

    wait_for(lambda: {span["pid"] for span in spans() if span["name"].startswith("run")} >= processes)
    of_tasks = {span["trace"] for span in spans() if span["name"].startswith("run")}
    for name in ("append", "publish"):
        wait_for(lambda name=name: linked(spans(), name) >= of_tasks)
    assert "Traceback" not in worker.log


def linked(spans: list[dict[str, Any]], name: str) -> set[str]:
    return {link for span in spans if span["name"].startswith(name) for link in span["links"]}


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
