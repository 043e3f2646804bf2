"""pytest-celery's matrix: the same tests on local processes and on Docker containers."""

from __future__ import annotations

from pytest_celery import RESULT_TIMEOUT, CeleryTestSetup

from tests.integration.matrix_tasks import count, worker_pid
from tests.waiting import wait_for


def test_a_setup_answers_by_task_and_by_remote_control(celery_setup: CeleryTestSetup) -> None:
    assert celery_setup.ready(ping=True, control=True)


def test_a_child_of_the_prefork_worker_runs_the_task(celery_setup: CeleryTestSetup) -> None:
    answer = count.s(5).apply_async().get(timeout=RESULT_TIMEOUT)

    assert answer["total"] == 5
    assert answer["pid"] != answer["parent"]
    celery_setup.worker.assert_log_exists("concurrency: 2 (prefork)")
    celery_setup.worker.assert_log_exists("Task tests.integration.matrix_tasks.count")


def test_a_restarted_worker_runs_what_was_sent_while_it_was_dead(celery_setup: CeleryTestSetup) -> None:
    worker_pid.s().apply_async().get(timeout=RESULT_TIMEOUT)
    celery_setup.worker.kill()
    wait_for(lambda: celery_setup.worker.container.status == "exited")

    waiting = worker_pid.s().apply_async()
    celery_setup.worker.restart()

    assert waiting.get(timeout=RESULT_TIMEOUT)


def test_tasks_run_again_after_the_broker_was_restarted(celery_setup: CeleryTestSetup) -> None:
    before = worker_pid.s().apply_async().get(timeout=RESULT_TIMEOUT)

    celery_setup.broker.restart()

    assert worker_pid.s().apply_async().get(timeout=RESULT_TIMEOUT) == before
