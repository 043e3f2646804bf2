"""The servers of a cell: a broker, a result backend, a history and a web server; and the applications that publish."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import redis
from celery import Celery

from celery_realtime.history.keys import Keys
from tests.deaths import app as apps
from tests.deaths.plan import SLOTS, PlannedJob
from tests.deaths.queues import waiting_in_rabbitmq, waiting_in_redis
from tests.processes import ManagedProcess, WebServer, Worker
from tests.services import RabbitMQServer, RedisServer

#: Time, in seconds, within which a job has to be known as lost.
LOST_AFTER = float(os.environ.get("DEATHS_LOST_AFTER", "5"))


class Stage:
    """A broker and a result backend of two kinds, a Redis for the history, and a web server.

    Args:
        broker: redis or rabbitmq.
        backend: redis, database or none.
        folder: For data and logs.
        get_rabbitmq: Returns the RabbitMQ of the test run, which takes long to start.
    """

    def __init__(self, broker: str, backend: str, *, folder: Path, get_rabbitmq: Callable[[], RabbitMQServer]) -> None:
        self.folder = folder
        self.kind = broker
        #: When the broker was killed last, in seconds since the epoch.
        self.broker_killed_at = 0.0
        self.results = RedisServer(folder / "results", name="results", persist=True).start()
        self.broker: RedisServer | RabbitMQServer
        if broker == "redis":
            self.broker = RedisServer(folder / "broker", name="broker", persist=True).start()
            self.broker_url = self.broker.url()
        else:
            self.broker = get_rabbitmq()
            self.broker.ensure_running()
            self.broker_url = self.broker.fresh_url()
        self.history_url = self.results.url(1)
        self.backend_url = {
            "redis": self.results.url(2),
            "database": f"db+sqlite:///{folder / 'results.sqlite'}",
            "none": None,
        }[backend]
        self._watcher = self._app("watcher")
        self._plain = self._app("plain")
        self._producer = self._app("producer")
        self._realtime = apps.realtime_for(self._producer, self.history_url, None, LOST_AFTER)
        self.stored_state("nobody")  # makes the tables of a database, which processes cannot do at the same time
        self.web = WebServer("tests.deaths.web", folder=folder, env=self.environment()).start()

    def _app(self, name: str) -> Celery:
        app = Celery(f"deaths-{name}", set_as_current=False)
        # Only the watcher reads results: a publisher would listen for them.
        return apps.configure(app, self.broker_url, self.backend_url if name == "watcher" else None)

    def environment(self, **more: str) -> dict[str, str]:
        """Return what tells workers and web servers where everything is."""
        backend = {} if self.backend_url is None else {"DEATHS_BACKEND": self.backend_url}
        return {
            "DEATHS_BROKER": self.broker_url,
            "DEATHS_HISTORY": self.history_url,
            "DEATHS_LOST_AFTER": str(LOST_AFTER),
            **backend,
            **more,
        }

    def worker(self, pool: str, queue: str, *, folder: Path, **more: str) -> Worker:
        """Make a worker that reads one queue; it is not started yet.

        Args:
            pool: Its pool.
            queue: The queue.
            folder: For its log.
            **more: Of its environment.
        """
        return Worker(
            "tests.deaths.app",
            pool=pool,
            folder=folder,
            forks="DEATHS_EXEC" not in os.environ,
            concurrency=SLOTS[pool],
            env=self.environment(DEATHS_POOL=pool, **more),
            options=["-Q", queue],
        )

    @property
    def keeps_results_with_history(self) -> bool:
        """Whether the result backend is the Redis that has the history."""
        return self.backend_url is not None and self.backend_url.startswith("redis:")

    @property
    def servers(self) -> dict[str, ManagedProcess]:
        """The servers by the names of the victims."""
        return {"redis": self.results, "broker": self.broker, "web": self.web, "host": self.web}

    def publish(self, job: PlannedJob, project: str, queue: str) -> None:
        """Publish a job: with the extension, or, for a task that has the project as an argument, without."""
        job.published_at = time.time()
        if job.task == "named":
            publisher, kwargs, headers = self._plain, {"project_id": project}, {}
        else:
            publisher, kwargs, headers = self._producer, {}, {"project_id": project}
        publisher.send_task(f"deaths.{job.task}", (job.part,), kwargs, task_id=job.job_id, queue=queue, headers=headers)

    def token(self, project: str) -> str:
        return self._realtime.issue_token("ada", [project])

    def stored_state(self, job: str) -> str | None:
        """Return a job's state in the result backend; None where none is kept."""
        if self.backend_url is None:
            return None
        with contextlib.suppress(Exception):  # it may just have died, and is asked again
            return str(self._watcher.AsyncResult(job).state)
        return "PENDING"

    def waiting(self, queues: Sequence[str]) -> set[str]:
        """Return the ids of the jobs whose messages the broker has."""
        if isinstance(self.broker, RabbitMQServer):
            return waiting_in_rabbitmq(self.broker, self.broker_url, list(queues))
        return waiting_in_redis(self.broker_url, list(queues))

    def noted(self) -> set[str]:
        """Return the ids of the jobs of which the history has a note that some worker runs them."""
        keys = Keys(self._realtime.settings.history_channel)
        with redis.Redis.from_url(self.history_url, socket_timeout=5, decode_responses=True) as connection:
            incarnations = [name for key in keys.leases("alive", "noted") for name in connection.zrange(key, 0, -1)]
            notes = keys.leases(*(f"{kind}:{name}" for name in incarnations for kind in ("held", "running")))
            jobs = [json.loads(note) for key in notes for note in connection.hvals(key)]
        return {job["job_id"] for job in jobs if job.get("running")}

    # -- deaths -------------------------------------------------------------------------------------------------

    def kill(self, victim: str) -> None:
        """Kill a server; one that is to come back empty loses its data."""
        server = self.servers[victim.removesuffix("-empty")]
        server.kill()
        if server is self.broker:
            self.broker_killed_at = time.time()
        if victim.endswith("-empty"):
            shutil.rmtree(server.folder / "appendonlydir", ignore_errors=True)

    def start(self, victim: str) -> None:
        """Start a server that was killed."""
        self.servers[victim.removesuffix("-empty")].start()

    def mend(self) -> None:
        """Have all servers run."""
        for server in (self.results, self.broker, self.web):
            server.ensure_running()

    def close(self) -> None:
        self._realtime.flush(1)
        self.web.kill()
        self.results.kill()
        if isinstance(self.broker, RedisServer):
            self.broker.kill()


class Stages:
    """Keeps one stage at a time: flights that share one come in a row.

    Args:
        make_folder: Makes a new folder.
        get_rabbitmq: Returns the RabbitMQ of the test run.
    """

    def __init__(self, make_folder: Callable[[str], Path], get_rabbitmq: Callable[[], RabbitMQServer]) -> None:
        self._make_folder = make_folder
        self._get_rabbitmq = get_rabbitmq
        self._stage: Stage | None = None
        self._kinds: tuple[str, str] | None = None

    def stage(self, kinds: tuple[str, str]) -> Stage:
        """Return the stage with these kinds of broker and backend, all of whose servers run."""
        if self._stage is None or self._kinds != kinds:
            self.close()
            self._stage = Stage(*kinds, folder=self._make_folder("stage"), get_rabbitmq=self._get_rabbitmq)
            self._kinds = kinds
        self._stage.mend()
        return self._stage

    def close(self) -> None:
        if self._stage is not None:
            self._stage.close()
        self._stage = None
