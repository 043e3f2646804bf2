"""Where the outcomes are played: a broker, a web server and a worker that stay from test to test."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from kombu import Producer, Queue

from celery_realtime.events import RANK_OF_STATUS, TERMINAL_RANK
from tests.client_recorder import Recorder
from tests.launcher import Launcher
from tests.matrix import outcome_tasks
from tests.processes import WebServer, Worker
from tests.services import Broker

MODULE = "tests.matrix.outcome_tasks"
CONCURRENCY = {"prefork": 2, "threads": 2, "solo": 1, "eventlet": 10, "gevent": 10}
PATIENCE = 30.0


class Told(NamedTuple):
    """One status of a job, as its project was told."""

    status: str
    state: str
    attempt: int

    @property
    def place(self) -> tuple[int, int]:
        return self.attempt, RANK_OF_STATUS[self.status]

    @property
    def terminal(self) -> bool:
        return RANK_OF_STATUS[self.status] == TERMINAL_RANK


class Configuration(NamedTuple):
    """What a worker is started with."""

    pool: str
    env: tuple[tuple[str, str], ...] = ()
    options: tuple[str, ...] = ()


class Stage:
    """A broker, a web server, and one worker at a time: the last that was asked for, as long as it lives.

    Args:
        launcher: Starts and ends the processes.
        broker: What they talk over.
        history: Whether projects have one.
    """

    def __init__(self, launcher: Launcher, broker: Broker, *, history: bool = True) -> None:
        self.launcher = launcher
        self.broker = broker
        self.history = history
        self._env = {} if history else {"HISTORY": "off"}
        self._worker: Worker | None = None
        self._configuration: Configuration | None = None
        self._own_redis: str | None = None
        self.web: WebServer = launcher.web("tests.matrix.outcome_web", broker=broker, env=self._env)

    def worker(self, configuration: Configuration) -> Worker:
        """Return the running worker of this kind; end one of another kind, and start one where there is none."""
        if self._worker is not None and self._worker.running and self._configuration == configuration:
            return self._worker
        if self._worker is not None:
            self._worker.kill()
        pool, env, options = configuration
        given = {name: self.stopped_redis() if value == "stopped redis" else value for name, value in env}
        self._configuration = configuration
        self._worker = self.launcher.worker(
            MODULE,
            broker=self.broker,
            pool=pool,
            concurrency=CONCURRENCY[pool],
            env={**self._env, "TELL_SIGNALS": "1", "HISTORY_URL": self.broker.backend_url, **given},
            options=options,
        )
        return self._worker

    @property
    def log(self) -> str:
        return "" if self._worker is None else self._worker.log_tail

    def end_worker(self) -> None:
        if self._worker is not None:
            self._worker.kill()

    def stopped_redis(self) -> str:
        """Return the address of a Redis of our own that is down."""
        if self._own_redis is None:
            server = self.launcher.redis()
            self._own_redis = server.fresh_url()
            server.kill()
        return self._own_redis

    def connect(self, project: str) -> Recorder:
        """Connect a client that watches a project."""
        token = outcome_tasks.realtime.issue_token("ada", [project])
        client = self.launcher.connect(self.web.url, token=token, transports=["websocket"])
        assert client.subscribe(project)["ok"] is True
        return client


class Play:
    """One test's project: it starts jobs there, and hears what becomes of them.

    Args:
        stage: Where the jobs run.
        configuration: Of the worker.
        folder: For the files that jobs wait for.
    """

    def __init__(self, stage: Stage, configuration: Configuration, folder: Path) -> None:
        self.stage = stage
        self.pool = configuration.pool
        self.folder = folder
        self.project = f"project-{uuid.uuid4().hex[:8]}"
        self._configuration = configuration
        self.worker: Worker = stage.worker(configuration)
        self.client = stage.connect(self.project)
        self.markers: list[str] = []

    # -- acting ---------------------------------------------------------------------------------------------------

    def id(self, name: str = "job") -> str:
        return f"{self.project}/{name}"

    def file(self, name: str = "go") -> str:
        return str(self.folder / name)

    def touch(self, name: str = "go") -> None:
        (self.folder / name).touch()

    def start(self, task: Any, *args: Any, name: str = "job", **options: Any) -> str:
        """Publish a job of the project."""
        task.apply_async(args, task_id=self.id(name), headers=self.header, **options)
        return self.id(name)

    @property
    def header(self) -> dict[str, str]:
        return {"project_id": self.project}

    def send_raw(self, headers: dict[str, Any], body: Any) -> None:
        """Publish what Celery itself would not."""
        with outcome_tasks.celery.connection_for_write() as connection:
            Producer(connection).publish(
                body,
                headers={"lang": "py", **self.header, **headers},
                routing_key="celery",
                declare=[Queue("celery", routing_key="celery")],
                serializer="json",
                correlation_id=headers.get("id"),
            )

    def next_worker(self) -> Worker:
        """Start a worker in the place of one that has ended."""
        assert not self.worker.running
        self.worker = self.stage.worker(self._configuration)
        return self.worker

    @property
    def control(self) -> Any:
        return outcome_tasks.celery.control

    def heed(self) -> None:
        """Wait until the worker has done what the remote commands before this one told it."""
        assert self.control.ping(destination=[self.worker.hostname], timeout=PATIENCE, limit=1)

    def end_worker(self, number: int) -> None:
        self.worker.send_signal(number)

    def wait_worker_ended(self) -> None:
        self.worker._started.wait(PATIENCE)

    # -- hearing --------------------------------------------------------------------------------------------------

    def wait_state(self, state: str, name: str = "job") -> Any:
        return self.client.wait_for_event("agent_status", job_id=self.id(name), state=state, timeout=PATIENCE)

    def wait_running(self, name: str = "job") -> Any:
        return self.wait_state("STARTED", name)

    def wait_end(self, name: str = "job") -> Any:
        return self.client.wait_for_end(self.id(name), timeout=PATIENCE)

    def wait_signals(self, signal: str, count: int = 1, name: str = "job") -> None:
        """Wait until the worker has heard a signal of a job so often, and told what it makes of it."""
        wanted = {"job": self.id(name), "name": signal}

        def heard(events: list[Any]) -> bool:
            told = [data for event, data in events if event == "signal" and wanted.items() <= data.items()]
            return len(told) >= count

        self.client.wait(heard, timeout=PATIENCE)

    def settle(self) -> None:
        """Run one more job to its end, so that what is yet on its way of the others gets its chance."""
        if not self.worker.running:
            self.next_worker()
        name = f"marker-{len(self.markers)}"
        self.markers.append(self.start(outcome_tasks.succeed_unstored, name=name))
        assert self.wait_end(name)["status"] == "success"

    def events(self) -> list[tuple[str, Any]]:
        """Return what the project was told: in the order of offsets, or of arrival without history."""
        events = list(self.client.events)
        if self.stage.history:
            events.sort(key=lambda heard: int(_realtime(heard.data)["offset"]))
        return [(event, data) for event, data in events]

    def statuses(self) -> dict[str, list[Any]]:
        """Return the status events of each job but the markers."""
        found: dict[str, list[Any]] = {}
        for event, data in self.events():
            if event == "agent_status" and data["job_id"] not in self.markers:
                found.setdefault(data["job_id"], []).append(data)
        return found

    def progress(self) -> dict[str, list[tuple[int, Any]]]:
        """Return of each job the (attempt, percent) of its progress."""
        found: dict[str, list[tuple[int, Any]]] = {}
        for event, data in self.events():
            if event == "agent_progress":
                found.setdefault(data["job_id"], []).append((data["attempt"], data["progress"]))
        return found


def told(statuses: list[Any]) -> list[Told]:
    return [Told(data["status"], data["state"], data["attempt"]) for data in statuses]


def _realtime(data: Any) -> Any:
    return data.get("_realtime", data)


@contextlib.contextmanager
def producing(broker: Broker, *, history: bool = True) -> Iterator[None]:
    """Let this process publish the outcomes' tasks to a broker."""
    app, realtime = outcome_tasks.celery, outcome_tasks.realtime
    before = {name: os.environ.get(name) for name in broker.env}
    os.environ.update(broker.env)
    app.set_current()
    app._after_fork()
    app._local.backend = app._backend_cache = None
    realtime.start_over(**({} if history else {"history_url": None}))
    try:
        yield
    finally:
        realtime.flush()
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


class Theatre:
    """Opens a stage when it is first asked for, and closes the one before: tests that share one come in a row.

    Args:
        make_broker: Makes a new broker of a kind.
        make_folder: Makes a new folder for logs.
    """

    def __init__(self, make_broker: Callable[[str], Broker], make_folder: Callable[[str], Path]) -> None:
        self._make_broker = make_broker
        self._make_folder = make_folder
        self._open: tuple[str, bool] | None = None
        self._stage: Stage | None = None
        self._stack = contextlib.ExitStack()

    def stage(self, broker_name: str, *, history: bool = True) -> Stage:
        if self._stage is None or self._open != (broker_name, history):
            self.close()
            broker = self._make_broker(broker_name)
            self._stack.enter_context(producing(broker, history=history))
            launcher = self._stack.enter_context(Launcher(self._make_folder("matrix")))
            self._stage = Stage(launcher, broker, history=history)
            self._open = (broker_name, history)
        return self._stage

    @property
    def log(self) -> str:
        """The end of what the worker said."""
        return "" if self._stage is None else self._stage.log

    def end_worker(self) -> None:
        """Let the next test have a new worker."""
        if self._stage is not None:
            self._stage.end_worker()

    def close(self) -> None:
        self._stack.close()
        self._stage = None
