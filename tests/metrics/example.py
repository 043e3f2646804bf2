"""The example project as a whole, with metrics: a worker, a web server, their servers, a client, and Prometheus."""

from __future__ import annotations

import contextlib
import json
import shutil
import urllib.request
from typing import Any

from celery_realtime.client import ProjectSubscription
from tests.client_recorder import Recorder
from tests.launcher import Launcher
from tests.metrics.prometheus import Prometheus
from tests.processes import HOST, Worker, free_port
from tests.proxy import Proxy
from tests.waiting import wait_for

USER, PROJECT = "ada", "apollo"
SECRET_KEY = "the example's secret in these tests"


class Example:
    """All that runs.

    Args:
        launcher: Starts and ends it.

    Attributes:
        broker: Carries tasks and events.
        history: Has the history and the results.
        road: The web server's way to the broker.
        worker, web, prometheus: The processes.
    """

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self._stack = contextlib.ExitStack()
        self.broker, self.history = launcher.redis(name="broker"), launcher.redis(name="history")
        self.road = self._stack.enter_context(Proxy(self.broker.url()))
        self._metrics, self._metrics_port = launcher.folder / "metrics", free_port()
        self._env = {
            "CELERY_BROKER_URL": self.broker.url(),
            "CELERY_RESULT_BACKEND": self.history.url(1),
            "METRICS_PORT": str(self._metrics_port),
            "SECRET_KEY": SECRET_KEY,
        }
        self.worker = self.start_worker(wait=False)
        self.web = launcher.web("example_project.app", env={**self._env, "CELERY_BROKER_URL": self.road.url})
        self.worker.wait_ready()
        targets = {"127.0.0.1:9808": f"{HOST}:{self._metrics_port}", "127.0.0.1:8080": self.web.url.partition("//")[2]}
        self.prometheus = launcher.start(Prometheus(launcher.folder / "prometheus", targets))
        wait_for(lambda: len(self.prometheus.query("celery_realtime_info")) == len(targets))
        self._http = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        self._ask("login", {"user": USER})

    def start_worker(self, *, wait: bool = True) -> Worker:
        """Start a worker, in place of one that there may have been."""
        shutil.rmtree(self._metrics, ignore_errors=True)
        self._metrics.mkdir()
        env = {**self._env, "PROMETHEUS_MULTIPROC_DIR": str(self._metrics)}
        self.worker = self._launcher.worker("example_project.tasks", env=env, wait=wait)
        return self.worker

    def follow(self) -> ProjectSubscription:
        """Follow the user's project with a client that connects again when it has to."""
        recorder = self._stack.enter_context(Recorder(reconnection=True))
        recorder.connect(self.web.url, token=self.token(), transports=["websocket"])
        subscription = self._stack.enter_context(ProjectSubscription(recorder.sio, PROJECT))
        assert subscription.wait_for(lambda feed: feed.state == "subscribed", 60)
        return subscription

    def keep_busy(self, subscription: ProjectSubscription) -> None:
        """Start a job of half a second, unless one that a client knows of has not ended."""
        if all(job["status"] in ("success", "error") for job in dict(subscription.feed.jobs).values()):
            [job_id] = self.start_jobs("transcribe", 0.5)
            wait_for(lambda: job_id in subscription.feed.jobs)

    def token(self) -> str:
        """Return a token of the user, as the page gets it."""
        return str(self._ask("token")["token"])

    def start_jobs(self, kind: str, seconds: float) -> list[str]:
        """Start jobs as the page does, and return their ids."""
        job = {"project_id": PROJECT, "kind": kind, "options": {"seconds": seconds}}
        return list(self._ask("jobs", job)["jobs"])

    def _ask(self, path: str, data: dict[str, Any] | None = None) -> Any:
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(f"{self.web.url}/{path}", body, {"Content-Type": "application/json"})
        with self._http.open(request, timeout=60) as answer:
            return json.load(answer)

    def close(self) -> None:
        """End what is not a process."""
        self._stack.close()
