"""A running job that says nothing for longer than it declared is said to be stalled, until it speaks again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration import jobs
from tests.integration.stage import Stage, new_project
from tests.integration.test_jobs import start
from tests.services import BROKERS
from tests.variants import long_unless

#: Stalled jobs are looked for every second.
QUICK = {"LOST_AFTER": "6"}


@pytest.mark.parametrize("kind", long_unless(["redis"], BROKERS))
def test_a_silent_job_is_stalled_until_its_next_update(
    shared_stage: Callable[..., Stage], tmp_path: Path, kind: str
) -> None:
    project, stage = new_project(), shared_stage(kind, env=QUICK)
    with stage.watch(project) as client:
        job = start(jobs.hold_twice, str(tmp_path / "go"), project=project)
        stalled = client.wait_for_event("agent_progress", job_id=job, stalled=True)
        with stage.connect(project) as late:
            snapshot = late.subscribe(project)["jobs"][0]
        (tmp_path / "go-1").touch()
        again = client.wait_for_event("agent_progress", job_id=job, message="again")
        with stage.connect(project) as later:
            after = later.subscribe(project)["jobs"][0]
        (tmp_path / "go-2").touch()
        client.wait_for_end(job)
        with stage.connect(project) as last:
            ended = last.subscribe(project)["jobs"][0]
    assert (stalled["event"], stalled["progress"]) == ("progress_update", 10)
    assert (snapshot["stalled"], snapshot["status"]) == (True, "running")
    assert "stalled" not in again
    assert (after["stalled"], after["progress"]) == (False, 60)
    assert (ended["stalled"], ended["status"]) == (False, "success")


def test_a_job_that_declares_nothing_is_never_stalled(shared_stage: Callable[..., Stage], tmp_path: Path) -> None:
    project, stage = new_project(), shared_stage(env=QUICK)
    with stage.watch(project) as client:
        quiet = start(jobs.hold, str(tmp_path / "go"), project=project)
        loud = jobs.hold.apply_async((str(tmp_path / "go"),), headers={"project_id": project, "stall_after": 0.5}).id
        client.wait_for_event("agent_progress", job_id=loud, stalled=True)
        (tmp_path / "go").touch()
        for job in (quiet, loud):
            client.wait_for_end(job)
        assert not [d for d in client.of("agent_progress") if d["job_id"] == quiet and "stalled" in d]
