"""The brokers and workers that benchmarks run on: real ones, on loopback, in a temporary folder."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kombu
import redis

from tests.processes import Worker
from tests.programs import find
from tests.services import Broker, RabbitMQServer, RedisServer

if TYPE_CHECKING:
    from typing_extensions import Self

BROKERS = ("redis", "rabbitmq")


class Stage:
    """What all rows share.

    Redis is the result backend and has the history, also beside RabbitMQ. As a broker it is the same server.

    Args:
        rounds: How often each side is measured.
        quick: Do a twentieth of the work, to see that all runs; the figures mean nothing then.
        long: Do all of the work, which takes far longer; else as much as it takes to compare.
        brokers: The brokers to measure on; one that is not installed is left out.
        memory: Also fill a project with 100,000 jobs.
        processes: How many processes make a storm.
        base: The folder of an earlier version to compare storms with, or None.
        redis: A running Redis server; default: one of its own.
    """

    def __init__(
        self,
        *,
        rounds: int = 5,
        quick: bool = False,
        long: bool = False,
        brokers: tuple[str, ...] = BROKERS,
        memory: bool = False,
        processes: int = 48,
        base: Path | None = None,
        redis: RedisServer | None = None,
    ) -> None:
        self.rounds = rounds
        self.quick = quick
        self.long = long
        self.memory = memory
        self.processes = processes
        self.base = base
        self.brokers = tuple(name for name in brokers if find(name))
        for name in set(brokers) - set(self.brokers):
            print(f"{name} is not installed: its lines are missing", file=sys.stderr)
        self._stack = contextlib.ExitStack()
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        self._redis = redis
        self._rabbitmq: RabbitMQServer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def count(self, full: int, long: int | None = None) -> int:
        """Return how much of something is done.

        Args:
            full: That much; less when it has to be quick.
            long: That much when it may take long; default: as much.
        """
        if self.quick:
            return max(full // 20, 5)
        return long if self.long and long is not None else full

    @property
    def few(self) -> int:
        """How often each side is measured where rounds take long and hardly differ."""
        return self.rounds if self.long else min(self.rounds, 3)

    def versions(self) -> dict[str, str]:
        """Return the versions of the servers that have been started, by their names."""
        versions = {}
        if self._redis is not None:
            with redis.Redis.from_url(self._redis.url()) as client:
                info: Any = client.info("server")
            name = str(info.get("server_name") or "redis").capitalize()
            versions[name] = str(info.get(f"{name.lower()}_version") or info["redis_version"])
        if self._rabbitmq is not None:
            with kombu.Connection(self._rabbitmq.fresh_url()) as connection:
                properties = connection.connection.server_properties
            versions["RabbitMQ"] = str(properties.get("version"))
        return versions

    @property
    def redis(self) -> RedisServer:
        """The Redis server."""
        if self._redis is None:
            self._redis = RedisServer(self._folder / "redis").start()
            self._stack.callback(self._redis.stop)
        return self._redis

    @property
    def rabbitmq(self) -> RabbitMQServer:
        """The RabbitMQ node."""
        if self._rabbitmq is None:
            self._rabbitmq = RabbitMQServer(self._folder / "rabbitmq").start()
            self._stack.callback(self._rabbitmq.stop)
        return self._rabbitmq

    def broker(self, name: str) -> Broker:
        """Return an empty broker, with an empty result backend."""
        server = self.redis if name == "redis" else self.rabbitmq
        return Broker(name, server, server.fresh_url(), self.redis, self.redis.fresh_url())

    @contextlib.contextmanager
    def worker(
        self,
        broker: Broker,
        *,
        app: str = "benchmarks.app",
        pool: str = "prefork",
        concurrency: int = 2,
        queue: str = "celery",
        **env: str,
    ) -> Iterator[Worker]:
        """Run a worker meanwhile.

        Args:
            broker: The broker.
            app: The module of its app.
            pool: The worker's pool.
            concurrency: Tasks at a time.
            queue: The queue that it consumes from the start.
            **env: What that module reads.
        """
        worker = Worker(
            app,
            folder=self._folder,
            pool=pool,
            concurrency=concurrency,
            env={**broker.env, **env},
            options=["--queues", queue],
        )
        try:
            yield worker.start()
        finally:
            worker.stop()
