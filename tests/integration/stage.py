"""A worker, a web server and clients, for tests that watch jobs."""

from __future__ import annotations

import gc
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.client_recorder import Recorder
from tests.integration import jobs
from tests.launcher import Launcher
from tests.processes import WebServer, Worker
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


def new_project() -> str:
    """Name a project that no other test watches."""
    return f"project-{uuid.uuid4().hex[:8]}"


@contextmanager
def producing(broker: Broker, **settings: Any) -> Iterator[None]:
    """Let this process publish the jobs' tasks to a broker, with these settings beside its own."""
    app = jobs.celery
    before = dict(os.environ)
    os.environ.update(broker.env)
    forget_connections(app)
    jobs.realtime.start_over(**settings)
    try:
        yield
    finally:
        jobs.realtime.flush()
        jobs.realtime.start_over()
        gc.collect()  # results take leave of their backend when they are collected: while it is still there
        for name in broker.env:
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]


def forget_connections(app: Any) -> None:
    """Let an app connect anew, with its present settings."""
    app.set_current()
    app._after_fork()
    app._local.backend = None
    app._backend_cache = None
