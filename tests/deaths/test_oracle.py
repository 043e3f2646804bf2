"""What may be shown of a job follows from what became of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.deaths.diary import Run
from tests.deaths.oracle import GONE, Truth, acceptable, must_be_heard, overwritten

FAILED = {"error:FAILURE"}
KILLED = {"error:LOST", "error:FAILURE"}


def run(end: str | None = None, **more: Any) -> Run:
    return Run(1, 2, 1.0, end, noted_at=2.0, **more)


ALIVE = run(alive=True, main_alive=True)
DEAD = run()
RETURNED = run("success")
REPORTED = run("success", stored=True, reported=True, alive=True, main_alive=True)
RAISED = run("error", stored=True, reported=True, alive=True, main_alive=True)
#: Its child died in the next job.
HANDED_OVER = run("success", stored=True, reported=True, handed_over=True, main_alive=True)
#: So did the main process.
GONE_WITH_ALL = run("success", stored=True, reported=True, handed_over=True)


@pytest.mark.parametrize(
    ("truth", "right"),
    [
        pytest.param(Truth(0, waiting=True), {"queued"}, id="waits"),
        pytest.param(Truth(0), GONE, id="its message is gone"),
        pytest.param(Truth(0, accepted=True), KILLED, id="was killed before it began"),
        pytest.param(
            Truth(0, accepted=True, waiting=True), KILLED | {"queued"}, id="was killed before it began, and waits"
        ),
        pytest.param(Truth(0, waiting=True, unannounced=True), {"queued", "absent"}, id="waits and nobody said so"),
        pytest.param(Truth(0, (ALIVE,)), {"running"}, id="runs"),
        pytest.param(Truth(0, (ALIVE,), stored="PROGRESS", waiting=True), {"running"}, id="runs, and says how far"),
        pytest.param(Truth(0, (REPORTED,), stored="SUCCESS"), {"success"}, id="returned"),
        pytest.param(Truth(0, (RAISED,), stored="FAILURE"), FAILED, id="raised"),
        pytest.param(Truth(0, (REPORTED,)), {"success"}, id="returned, stored nowhere"),
        pytest.param(Truth(0, (RAISED,)), FAILED, id="raised, stored nowhere"),
        pytest.param(Truth(0, (DEAD,)), KILLED, id="killed"),
        pytest.param(Truth(0, (DEAD,), stored="STARTED"), KILLED, id="killed, and the backend does not know"),
        pytest.param(Truth(0, (DEAD,), stored="FAILURE"), FAILED, id="killed, and Celery has said so"),
        pytest.param(Truth(0, (DEAD,), stored="REVOKED"), {"error:REVOKED"}, id="terminated"),
        pytest.param(Truth(0, (DEAD,), waiting=True), KILLED | {"queued"}, id="killed, to be delivered again"),
        pytest.param(Truth(0, (DEAD, ALIVE)), {"running"}, id="killed, and runs again"),
        pytest.param(Truth(0, (DEAD, REPORTED)), {"success"}, id="killed, and returned when it ran again"),
        pytest.param(Truth(0, (RETURNED, ALIVE)), {"running", "success"}, id="returned, unseen, and runs again"),
        pytest.param(Truth(0, (RETURNED,), stored="SUCCESS"), {"success"}, id="returned and died, stored"),
        pytest.param(Truth(0, (RETURNED,), stored="PENDING"), KILLED | {"success"}, id="returned and died, not stored"),
        pytest.param(Truth(0, (HANDED_OVER,)), {"success"}, id="its child died in the next job"),
        pytest.param(Truth(0, (GONE_WITH_ALL,)), KILLED | {"success"}, id="all died, and it is stored nowhere"),
        pytest.param(Truth(0, (GONE_WITH_ALL,), stored="SUCCESS"), {"success"}, id="all died, and it is stored"),
        pytest.param(Truth(0, (REPORTED,), forgot_at=3.0), {"success", "absent"}, id="ended before the history's loss"),
        pytest.param(Truth(0, (REPORTED,), forgot_at=1.5), {"success"}, id="ended after the history's loss"),
        pytest.param(Truth(0, (ALIVE,), forgot_at=3.0), {"running"}, id="runs through the history's loss"),
        pytest.param(
            Truth(0, waiting=True, forgot_at=3.0), {"queued", "absent"}, id="waits through the history's loss"
        ),
    ],
)
def test_what_may_be_shown(truth: Truth, right: set[str]) -> None:
    assert acceptable(truth) == right


@pytest.mark.parametrize(
    ("truth", "heard"),
    [
        (Truth(0, (REPORTED,), spoke=True), True),
        (Truth(0, (HANDED_OVER,), spoke=True), True),
        (Truth(0, (REPORTED,)), False),
        (Truth(0, (GONE_WITH_ALL,), spoke=True), False),
        (Truth(0, (ALIVE,), spoke=True), False),
        (Truth(0, (REPORTED,), spoke=True, forgot_at=3.0), False),
    ],
)
def test_a_job_s_own_event_must_be_heard_once_its_end_is_known(truth: Truth, heard: bool) -> None:
    assert must_be_heard(truth) is heard


def test_progress_over_a_stored_end_is_noticed() -> None:
    assert overwritten(Truth(0, (REPORTED,), stored="PROGRESS"))
    assert not overwritten(Truth(0, (REPORTED,), stored="SUCCESS"))
    assert not overwritten(Truth(0, (RETURNED,), stored="PROGRESS"))
    assert not overwritten(Truth(0, (REPORTED, ALIVE), stored="PROGRESS"))
    stored = replace(REPORTED, stored_at=2.0)
    assert overwritten(Truth(0, (stored,), stored="PROGRESS", results_forgot_at=1.0))
    assert not overwritten(Truth(0, (stored,), stored="PROGRESS", results_forgot_at=3.0))
