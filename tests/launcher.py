"""Start what a test needs, and end it whatever happened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from tests.client_recorder import Recorder
from tests.node_client import NodeClient
from tests.processes import ManagedProcess, WebServer, Worker
from tests.services import Broker, RedisServer

if TYPE_CHECKING:
    from typing_extensions import Self

P = TypeVar("P", bound=ManagedProcess)


class Brokers:
    """Make brokers that are new to whoever gets them, on the servers of the test run.

    Args:
        get_server: Returns the running server of a fixture's name.
    """

    def __init__(self, get_server: Callable[[str], Any]) -> None:
        self._get_server = get_server

    def make(self, name: str) -> Broker:
        """Make a broker.

        Args:
            name: redis or rabbitmq; own_rabbitmq for one on a server that no other process uses.
        """
        server = self._get_server(f"{name}_server")
        backend: RedisServer = self._get_server("results_server")
        server.ensure_running()
        backend.ensure_running()
        return Broker(name.removeprefix("own_"), server, server.fresh_url(), backend, backend.fresh_url())


class Launcher:
    """Start workers, web servers and clients, and end them all on ``close``, the last one first.

    Args:
        folder: Where logs go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[ManagedProcess] = []
        self._stack = ExitStack()

    def worker(
        self,
        app: str,
        *,
        broker: Broker | None = None,
        pool: str = "prefork",
        concurrency: int = 2,
        env: dict[str, str] | None = None,
        options: Sequence[str] = (),
        name: str = "worker",
        hostname: str | None = None,
        wait: bool = True,
    ) -> Worker:
        """Start a ``celery -A app worker`` on a broker; ``wait=False`` returns before it is ready."""
        worker = Worker(
            app,
            folder=self.folder,
            pool=pool,
            concurrency=concurrency,
            env=_environment(broker, env),
            options=options,
            name=name,
            hostname=hostname,
        )
        return self.start(worker, wait=wait)

    def web(
        self,
        module: str,
        *,
        broker: Broker | None = None,
        env: dict[str, str] | None = None,
        args: Sequence[str] = (),
        wait: bool = True,
    ) -> WebServer:
        """Start ``python -m module`` on a broker; its ``url`` says where it listens."""
        return self.start(
            WebServer(module, folder=self.folder, env=_environment(broker, env), args=args),
            wait=wait,
        )

    def redis(self, *, name: str = "own-redis", persist: bool = False) -> RedisServer:
        """Start a Redis of the test's own."""
        return self.start(RedisServer(self.folder / name, name=name, persist=persist))

    def connect(
        self, url: str, *, token: str | None = None, via: str = "auth", reconnection: bool = False, **options: Any
    ) -> Recorder:
        """Connect a client that remembers what it hears."""
        recorder = Recorder(reconnection=reconnection)
        self._stack.callback(recorder.close)
        return recorder.connect(url, token=token, via=via, **options)

    def closes(self, recorder: Recorder) -> None:
        """Close a client that somebody else connects, on ``close``."""
        self._stack.callback(recorder.close)

    def node_client(self, url: str, token: str, project_id: str) -> NodeClient:
        """Start a plain socket.io-client in Node."""
        return self.start(NodeClient(url, token, project_id, folder=self.folder))

    def start(self, process: P, *, wait: bool = True) -> P:
        """Start any process, and end it on ``close``."""
        self.processes.append(process)
        process.start(wait=False)
        self._stack.callback(process.kill)
        if wait:
            process.wait_ready()
        return process

    def close(self) -> None:
        """End all that was started."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _environment(broker: Broker | None, env: dict[str, str] | None) -> dict[str, str]:
    return {**(broker.env if broker else {}), **(env or {})}
