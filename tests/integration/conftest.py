"""A stage for jobs; and pytest-celery's matrix on local processes, or with ``CELERY_TEST_NODES=docker`` on Docker."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pytest_celery import CeleryTestBroker

import tests.integration.matrix_tasks
from tests.client_recorder import Recorder
from tests.integration.local_nodes import LocalRabbitMQ, LocalRedis, LocalWorker
from tests.integration.stage import Stage, Stages, new_project, producing
from tests.launcher import Brokers, Launcher
from tests.processes import ROOT
from tests.services import BROKERS, RabbitMQServer, RedisServer


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory, brokers: Brokers) -> Iterator[Stages]:
    """The stages that tests of all modules share."""
    with Launcher(tmp_path_factory.mktemp("stages")) as launcher:
        yield Stages(launcher, brokers)


@pytest.fixture
def shared_stage(stages: Stages) -> Iterator[Callable[..., Stage]]:
    """Get a stage that other tests use too, and publish on its broker: ``shared_stage("rabbitmq", pool="threads")``."""
    with ExitStack() as stack:

        def get(*args: str, **options: Any) -> Stage:
            stage = stages.get(*args, **options)
            stack.enter_context(producing(stage.broker))
            return stage

        yield get


@pytest.fixture(scope="module", params=BROKERS)
def stage(request: pytest.FixtureRequest, stages: Stages) -> Iterator[Stage]:
    """A stage that other tests use too, on each kind of broker in turn."""
    stage = stages.get(request.param)
    with producing(stage.broker):
        yield stage


@pytest.fixture
def project() -> str:
    return new_project()


@pytest.fixture
def client(stage: Stage, project: str) -> Iterator[Recorder]:
    """A client that watches the test's project."""
    with stage.watch(project) as recorder:
        yield recorder


@pytest.fixture
def default_worker_tasks(default_worker_tasks: set[ModuleType]) -> set[ModuleType]:
    return {*default_worker_tasks, tests.integration.matrix_tasks}


@pytest.fixture
def default_worker_command(default_worker_command: list[str]) -> list[str]:
    return [*default_worker_command, "--pool=prefork", "--concurrency=2", "--without-mingle", "--without-gossip"]


@pytest.fixture(params=["celery_redis_broker", "celery_rabbitmq_broker"])
def celery_broker(request: pytest.FixtureRequest) -> Iterator[CeleryTestBroker]:
    """Give the brokers a fixed order: pytest-celery has them in a set, and pytest-xdist insists on one order."""
    broker: CeleryTestBroker = request.getfixturevalue(request.param)
    yield broker
    broker.teardown()


if os.environ.get("CELERY_TEST_NODES") == "docker":
    from pytest_docker_tools import build

    # The image of pytest-celery lacks celery_realtime.
    celery_base_worker_image = build(
        path=str(ROOT), dockerfile="tests/integration/Dockerfile", tag="celery-realtime/worker:test"
    )

else:

    @pytest.fixture
    def default_redis_broker(redis_server: RedisServer) -> LocalRedis:
        redis_server.ensure_running()
        return LocalRedis(redis_server)

    @pytest.fixture
    def default_redis_backend(results_server: RedisServer) -> LocalRedis:
        results_server.ensure_running()
        return LocalRedis(results_server)

    @pytest.fixture
    def default_rabbitmq_broker(own_rabbitmq_server: RabbitMQServer) -> LocalRabbitMQ:
        own_rabbitmq_server.ensure_running()
        return LocalRabbitMQ(own_rabbitmq_server)

    @pytest.fixture
    def default_worker_container(
        tmp_path: Path,
        default_worker_command: list[str],
        default_worker_env: dict[str, str],
        default_worker_initial_content: dict[str, Any],
    ) -> Iterator[LocalWorker]:
        node = LocalWorker(
            tmp_path / "worker", default_worker_command, default_worker_env, default_worker_initial_content
        )
        node.process.start()
        yield node
        node.process.kill()
