"""With the result backend of Django, progress replaces no end, and no thread of ours keeps a connection open."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.processes import ROOT

pytest.importorskip("django_celery_results", reason="pip install django-celery-results")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the script has seen: Django can be set up once in a process."""
    file = tmp_path_factory.mktemp("django") / "results.db"
    command = [sys.executable, "-m", "tests.jobs.django_results", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("before", ["none", "STARTED"])
def test_progress_is_stored_where_nothing_or_less_is(seen: dict[str, Any], before: str) -> None:
    assert seen[before] == ["PROGRESS", {"progress": 40}]


@pytest.mark.parametrize("before", ["SUCCESS", "ABORTED"])
def test_progress_replaces_no_end_and_no_state_of_the_user_s_own(seen: dict[str, Any], before: str) -> None:
    assert seen[before] == [before, {"by": "celery"}]


def test_newer_progress_replaces_older_and_the_end_replaces_both(seen: dict[str, Any]) -> None:
    assert seen["twice"] == ["PROGRESS", {"progress": 20}]
    assert seen["ended"] == ["SUCCESS", "done"]


def test_progress_of_a_job_that_runs_in_its_caller_is_not_stored_outside_of_the_transaction_there(
    seen: dict[str, Any],
) -> None:
    assert seen["by a worker"][0] == "PROGRESS"
    assert seen["by its caller"] == ["PENDING", None]


def test_a_thread_of_ours_opens_a_connection_for_each_question_and_closes_it(seen: dict[str, Any]) -> None:
    assert seen["asked"] == ["SUCCESS", "SUCCESS"]
    assert seen["opened"] == ["celery-realtime-results"] * 2
    assert seen["left open"] == []
