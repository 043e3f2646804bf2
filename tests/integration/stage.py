"""Workers, web servers and clients, for tests that watch jobs."""

from __future__ import annotations

import gc
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery_realtime.jobs import publishing
from tests.client_recorder import Recorder
from tests.integration import jobs
from tests.launcher import Brokers, Launcher
from tests.processes import ManagedProcess, WebServer, Worker
from tests.services import Broker


class Stage:
    """Where a test starts jobs and watches a project of its own.

    Args:
        launcher: Starts and ends the processes.
        broker: What they talk over.
        env: Added to the environment of both.
        worker_env: Added to the worker's alone.
        pool: The worker's pool.
        async_mode: Of the web server.
        options: More options of the worker.
    """

    def __init__(
        self,
        launcher: Launcher,
        broker: Broker,
        *,
        env: dict[str, str] | None = None,
        worker_env: dict[str, str] | None = None,
        pool: str = "prefork",
        async_mode: str = "threading",
        concurrency: int = 2,
        options: tuple[str, ...] = (),
    ) -> None:
        self.launcher = launcher
        self.broker = broker
        self.worker: Worker = launcher.worker(
            "tests.integration.jobs",
            broker=broker,
            env={**(env or {}), **(worker_env or {})},
            pool=pool,
            concurrency=concurrency,
            options=options,
            wait=False,
        )
        self.web: WebServer = launcher.web(
            f"tests.integration.{'asgi' if async_mode == 'asgi' else 'jobs'}_web",
            broker=broker,
            env={**(env or {}), "ASYNC_MODE": async_mode},
        )
        self.worker.wait_ready()
        self._disturbances = self._count_disturbances()

    @property
    def processes(self) -> list[ManagedProcess]:
        """Its worker and its web server."""
        return [self.worker, self.web]

    def is_unharmed(self) -> bool:
        """Tell whether all that it consists of, its broker included, has run without a break."""
        return all(process.running for process in self.processes) and (self._count_disturbances() == self._disturbances)

    def end(self) -> None:
        """End its processes."""
        for process in self.processes:
            process.kill()

    def _count_disturbances(self) -> int:
        servers = (self.broker.server, self.broker.backend)
        return sum(process.disturbances for process in (*self.processes, *servers))

    def watch(self, *projects: str, user: str = "ada", **options: Any) -> Recorder:
        """Connect a client of a user who may see these projects, and subscribe it to them."""
        recorder = self.connect(*projects, user=user, **options)
        for project in projects:
            assert recorder.subscribe(project)["ok"] is True
        return recorder

    def connect(self, *projects: str, user: str = "ada", **options: Any) -> Recorder:
        """Connect a client of a user who may see these projects."""
        token = jobs.realtime.issue_token(user, projects)
        return self.launcher.connect(self.web.url, token=token, **options)


class Stages:
    """The stages that tests share: each is made for the first test that asks for it.

    A test that kills, stops or pauses a worker or a web server makes a ``Stage`` of its own. What tests do to the
    brokers is noticed: the next test gets a new stage.

    Args:
        launcher: Starts and ends the processes.
        brokers: Makes brokers.
    """

    #: More are not kept: each is four processes or so.
    MOST = 5

    def __init__(self, launcher: Launcher, brokers: Brokers) -> None:
        self._launcher = launcher
        self._brokers = brokers
        self._stages: dict[tuple[Any, ...], Stage] = {}

    def get(self, broker: str = "redis", *, pool: str = "prefork", env: dict[str, str] | None = None) -> Stage:
        """Return the stage with these processes.

        Args:
            broker: redis or rabbitmq.
            pool: The worker's pool.
            env: Added to the environment of both.
        """
        key = (broker, pool, *sorted((env or {}).items()))
        stage = self._stages.pop(key, None)
        if stage is not None and not stage.is_unharmed():
            stage.end()
            stage = None
        if stage is None:
            stage = Stage(self._launcher, self._brokers.make(broker), pool=pool, env=env)
        self._stages[key] = stage
        while len(self._stages) > self.MOST:
            self._stages.pop(next(iter(self._stages))).end()
        return stage

    @property
    def processes(self) -> list[ManagedProcess]:
        """Those of the stage that was asked for last."""
        return list(self._stages.values())[-1].processes if self._stages else []


def new_project() -> str:
    """Name a project that no other test watches."""
    return f"project-{uuid.uuid4().hex[:8]}"


@contextmanager
def producing(broker: Broker, *, results: str | None = None, **settings: Any) -> Iterator[None]:
    """Let this process publish the jobs' tasks to a broker.

    Args:
        broker: The broker, and where results are.
        results: The address of another result backend.
        **settings: Of the Realtime, beside those of the jobs' module.
    """
    env = broker.env if results is None else {**broker.env, "CELERY_RESULT_BACKEND": results}
    before = {name: os.environ.get(name) for name in env}
    os.environ.update(env)
    begin_anew(**settings)
    jobs.realtime.manager.preload()  # else the first job does not wait for its own event, which may come too late
    overtaking, publishing.OVERTAKING = publishing.OVERTAKING, 10.0  # which a busy machine may take
    try:
        yield
    finally:
        publishing.OVERTAKING = overtaking
        jobs.realtime.flush()
        gc.collect()  # results take leave of their backend when they are collected: while it is still there
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        begin_anew()


def begin_anew(**settings: Any) -> None:
    """Forget what was made with earlier settings, and add these to those that the jobs' module gives."""
    forget_connections(jobs.celery)
    jobs.realtime.start_over(**settings)


def forget_connections(app: Any) -> None:
    """Let an app connect anew, with its present settings."""
    app.set_current()
    app._after_fork()
    app._local.backend = None
    app._backend_cache = None
