"""pytest-celery's matrix: the same tests on local processes and on Docker containers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pytest_celery import RESULT_TIMEOUT, CeleryTestSetup

from tests.integration.matrix_tasks import count, report, worker_pid
from tests.variants import long_unless
from tests.waiting import wait_for
from tests.web_servers import Web

SETUPS = ["celery_redis_broker", "celery_rabbitmq_broker"]
#: For tests of pytest-celery's setups and of Celery itself; browsers hear of jobs on both brokers.
any_setup = pytest.mark.parametrize("celery_broker", long_unless(SETUPS[:1], SETUPS), indirect=True)


@any_setup
def test_a_setup_answers_and_a_child_of_its_prefork_worker_runs_the_task(celery_setup: CeleryTestSetup) -> None:
    assert celery_setup.ready(ping=True, control=True)
    answer = count.s(5).apply_async().get(timeout=RESULT_TIMEOUT)

    assert answer["total"] == 5
    assert answer["pid"] != answer["parent"]
    celery_setup.worker.assert_log_exists("concurrency: 2 (prefork)")
    celery_setup.worker.assert_log_exists("Task tests.integration.matrix_tasks.count")


@pytest.mark.long  # tests/integration/test_shutdowns restarts workers of every pool
@any_setup
def test_a_restarted_worker_runs_what_was_sent_while_it_was_dead(celery_setup: CeleryTestSetup) -> None:
    worker_pid.s().apply_async().get(timeout=RESULT_TIMEOUT)
    celery_setup.worker.kill()
    wait_for(lambda: celery_setup.worker.container.status == "exited")

    waiting = worker_pid.s().apply_async()
    celery_setup.worker.restart()

    assert waiting.get(timeout=RESULT_TIMEOUT)


@pytest.mark.long  # test_a_browser_hears_of_a_job_until_its_end_and_again runs a task again, too
def test_tasks_run_again_after_the_broker_was_restarted(celery_setup: CeleryTestSetup) -> None:
    before = worker_pid.s().apply_async().get(timeout=RESULT_TIMEOUT)

    celery_setup.broker.restart()

    assert worker_pid.s().apply_async().get(timeout=RESULT_TIMEOUT) == before


@pytest.fixture
def web(celery_setup: CeleryTestSetup) -> Iterator[Web]:
    """A web server on the same broker, which shares nothing else with the worker."""
    web = Web("flask", celery_setup.app.conf.broker_url).attach().start()
    yield web
    web.stop()


@any_setup
def test_a_browser_hears_of_a_job_until_its_end_and_again_after_the_broker_was_restarted(
    celery_setup: CeleryTestSetup, web: Web
) -> None:
    client, stranger = web.subscriber("alpha"), web.subscriber("beta")

    job = report.s(4).apply_async(headers={"project_id": "alpha"})

    assert client.wait_for_end(job.id, timeout=RESULT_TIMEOUT)["result"] == 4
    assert client.wait_for_event("agent_progress", job_id=job.id, progress=100)["message"] == "counting"
    assert "running" in client.statuses(job.id)
    assert stranger.for_job(job.id) == []

    heard = web.manager.generation
    celery_setup.broker.restart()
    wait_for(lambda: web.manager.generation > heard, timeout=RESULT_TIMEOUT)

    after = report.s(1).apply_async(headers={"project_id": "alpha"})
    assert client.wait_for_end(after.id, timeout=RESULT_TIMEOUT)["status"] == "success"
