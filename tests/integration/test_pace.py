"""Progress leaves at the pace that is promised, whatever the task does between two reports."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration import jobs
from tests.integration.stage import Stage, new_project
from tests.integration.test_jobs import start
from tests.variants import long_unless
from tests.waiting import wait_for

GetStage = Callable[..., Stage]

#: Seconds between two updates that leave.
INTERVAL = 0.25


#: The same while somebody watches, by default.
WATCHED_INTERVAL = 0.25

#: Jobs of which one is to be reported at once.
TRIES = 5


def progress_of(client: Any, job: str) -> list[dict[str, Any]]:
    """Return the progress that was heard of a job."""
    return [data for name, data in client.for_job(job) if name == "agent_progress"]


def time_of(event: dict[str, Any]) -> float:
    return dt.datetime.fromisoformat(event["timestamp"].replace("Z", "+00:00")).timestamp()


@pytest.mark.parametrize(
    "pool", long_unless(["prefork", "gevent"], ["prefork", "threads", "solo", "gevent", "eventlet"])
)
@pytest.mark.parametrize("how", long_unless(["spin", "thread"], ["spin", "sleep", "thread"]))
def test_an_update_leaves_at_once_then_one_in_each_interval_and_the_last_with_the_end(
    shared_stage: GetStage, tmp_path: Path, pool: str, how: str
) -> None:
    project, path = new_project(), tmp_path / "enough"
    stage = shared_stage(pool=pool)
    firsts: list[int] = []
    with stage.watch(project) as client:
        # The next ones replace the first until it is sent, which a busy machine may delay: not each time.
        while not firsts or (firsts[-1] >= INTERVAL / jobs.REPORT_PAUSE and len(firsts) < TRIES):
            job = start(jobs.report_busily, str(path), INTERVAL, how, project=project)
            client.wait(lambda _, job=job: len(progress_of(client, job)) >= 5)
            path.touch()
            end = client.wait_for_end(job)
            path.unlink()
            updates = progress_of(client, job)
            firsts.append(int(updates[0]["message"].split()[1]))
    # Counted in reports: where the machine is slow, the task is.
    assert firsts[-1] < INTERVAL / jobs.REPORT_PAUSE, firsts
    [running] = [data for _, data in client.for_job(job) if data.get("status") == "running"]
    times = [time_of(event) - time_of(running) for event in updates]
    assert updates[-1]["message"] == f"report {end['result']}"
    # The last is outside the pace; a machine that is busy may have fewer.
    of_interval = Counter(int(at / INTERVAL) for at in times[:-1])
    assert max(of_interval.values()) <= 2, times
    assert len(times) <= (time_of(end) - time_of(running)) / INTERVAL + 3, times


@pytest.mark.parametrize("pool", long_unless(["prefork"], ["prefork", "threads", "gevent"]))
def test_updates_leave_more_often_from_when_on_somebody_watches(
    shared_stage: GetStage, tmp_path: Path, pool: str
) -> None:
    """The worker's processes would send one update in ten minutes, and nobody tells them but the history."""
    project, path = new_project(), tmp_path / "enough"
    stage = shared_stage(pool=pool, env={"PROGRESS_INTERVAL": "600"})
    job = start(jobs.report_busily, str(path), None, "sleep", project=project)
    with stage.connect(project) as client:
        history = jobs.realtime.manager.history
        assert history is not None
        first_shown = wait_for(lambda: (history.job(project, job) or {}).get("message"))
        answer = client.subscribe(project)
        [shown] = answer["jobs"]
        client.wait(lambda _: len(progress_of(client, job)) >= 6)
        path.touch()
        end = client.wait_for_end(job)
        updates = progress_of(client, job)
    assert shown["message"] == first_shown
    first, last = time_of(updates[0]), time_of(end)
    assert len(updates) <= (last - first) / WATCHED_INTERVAL + 3
