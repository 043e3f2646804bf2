"""Jobs that are retried at once, on an idle worker: what a project is told of them comes in the order in which it was.

On such a worker the next attempt often runs, and even ends, before Celery's signals of the one before have been sent.
``RETRY_JOBS=40 pytest tests/matrix/test_retry_order.py`` is a short run.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.matrix import outcome_tasks
from tests.matrix.outcomes import BROKERS, POOLS
from tests.matrix.stage import Configuration, Play, Theatre, Told, told

JOBS = int(os.environ.get("RETRY_JOBS", "400"))
EXPECTED = [
    Told("queued", "PENDING", 0),
    Told("running", "STARTED", 0),
    Told("queued", "RETRY", 1),
    Told("running", "STARTED", 1),
    Told("success", "SUCCESS", 1),
]


@pytest.mark.timeout(60 + JOBS)
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("broker_name", BROKERS)
def test_retries_arrive_in_order(theatre: Theatre, tmp_path: Path, broker_name: str, pool: str) -> None:
    play = Play(theatre.stage(broker_name), Configuration(pool), tmp_path)
    for number in range(JOBS):
        play.start(outcome_tasks.retry_at_once, name=f"job{number}")
        play.wait_end(f"job{number}")  # so the worker is idle again
    play.settle()
    statuses = {job: told(found) for job, found in play.statuses().items()}
    assert len(statuses) == JOBS
    assert Counter(job[-1] for job in statuses.values()) == {EXPECTED[-1]: JOBS}
    others = Counter(_words(job) for job in statuses.values() if job != EXPECTED)
    assert not others, f"{others.total()} of {JOBS} jobs were told of differently: {others}"


def _words(statuses: list[Told]) -> str:
    return " > ".join(f"{status.state} {status.attempt}" for status in statuses)
