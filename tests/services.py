"""Brokers and result servers as child processes, on loopback, in folders of their own."""

from __future__ import annotations

import base64
import itertools
import json
import os
import socket
import subprocess
import urllib.request
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import quote

import redis
from celery import Celery

from tests.processes import HOST, ManagedProcess, accepts_connections, free_port
from tests.programs import require

if TYPE_CHECKING:
    from typing_extensions import Self

#: The kinds that every test with ``broker`` runs on.
BROKERS = ["redis", "rabbitmq"]

DATABASES = 10000

#: What a pool of redis-py is given when it is asked for a connection: up to 5.2 it wants the name of a command.
TAKING = () if redis.VERSION >= (5, 3) else ("_",)


class RedisServer(ManagedProcess):
    """A Redis, or Valkey, server.

    Args:
        folder: Where its log and data go.
        name: What errors call it.
        persist: Keep the data over a restart or a kill.
        options: More options of the server.
    """

    def __init__(
        self, folder: Path, *, name: str = "redis", persist: bool = False, options: Sequence[str] = ()
    ) -> None:
        self.port = free_port()
        self._numbers = itertools.cycle(range(DATABASES))
        network = ["--port", str(self.port), "--bind", HOST]
        storage = ["--dir", str(folder), "--save", "", "--databases", str(DATABASES)]
        # What was written outlives a killed process, though not its host: no need to wait for the disk.
        durability = ["--appendonly", "yes", "--appendfsync", "no"] if persist else ["--appendonly", "no"]
        super().__init__(
            [require("redis"), *network, *storage, *durability, *options],
            folder=folder,
            name=name,
            ready=self.answers,
        )

    def url(self, database: int = 0) -> str:
        return f"redis://{HOST}:{self.port}/{database}"

    def fresh_url(self) -> str:
        """Return the address of an empty database that nobody was given yet (or 10000 tests ago)."""
        number = next(self._numbers)
        self._ask(f"SELECT {number}", "FLUSHDB")
        return self.url(number)

    def answers(self) -> bool:
        try:
            return self._ask("PING").startswith("+PONG")
        except OSError:
            return False

    def close_connections(self) -> None:
        """Cut off every client that listens."""
        self.disturbances += 1
        self._ask("CLIENT KILL TYPE pubsub")

    def _ask(self, *commands: str) -> str:
        with socket.create_connection((HOST, self.port), timeout=30) as connection:
            connection.sendall("".join(f"{command}\r\n" for command in commands).encode())
            lines = connection.makefile("r")
            return "".join(lines.readline() for _ in commands)


class RabbitMQServer(ManagedProcess):
    """A RabbitMQ node. It takes 5 to 8 seconds to start.

    Args:
        folder: Where its log, data and configuration go.
        certificate: Its file and that of its key, to speak TLS on another port too.
        ports: Those to choose its own from; by default those of this process.

    Attributes:
        management_port: Where the management plugin listens.
        tls_port: That of TLS.
    """

    KILLED_WITH_PARENT = True

    def __init__(
        self, folder: Path, *, certificate: tuple[Path, Path] | None = None, ports: range | None = None
    ) -> None:
        self._certificate = certificate
        self.port, self.management_port, self.tls_port, self._distribution_port, names_port = (
            free_port(ports) for _ in range(5)
        )
        # Without one on its port, RabbitMQ starts an epmd of its own, which outlives it.
        self._epmd = ManagedProcess(
            [require("epmd"), "-port", str(names_port), "-address", HOST],
            folder=folder,
            name="epmd",
            ready=lambda: accepts_connections(names_port),
        )
        self._write_configuration(folder)
        program = require("rabbitmq")
        self._control = str(Path(program).with_name("rabbitmqctl"))
        self._env = {**self._environment(folder), "ERL_EPMD_PORT": str(names_port)}
        super().__init__(
            [program],
            folder=folder,
            name="rabbitmq",
            env=self._env,
            cwd=folder,
            ready=self.answers,
            start_timeout=90,
        )

    def start(self, *, wait: bool = True) -> Self:
        if not self._epmd.running:
            self._epmd.start()
        return super().start(wait=wait)

    def stop(self, *, timeout: float = 2.0) -> int:
        """Stop it in order, and cut short what comes after: 5 idle seconds of the management plugin."""
        return super().stop(timeout=timeout)

    def kill(self) -> int:
        code = super().kill()
        self._epmd.kill()
        return code

    def url(self, vhost: str = "") -> str:
        return f"amqp://guest:guest@{HOST}:{self.port}/{vhost}"

    def fresh_url(self) -> str:
        """Make a new virtual host, and return its address."""
        vhost = f"test-{uuid.uuid4().hex[:12]}"
        self.manage("PUT", f"vhosts/{vhost}", {})
        self.manage("PUT", f"permissions/{vhost}/guest", {"configure": ".*", "write": ".*", "read": ".*"})
        return self.url(vhost)

    def answers(self) -> bool:
        return "startup complete" in self.current_log and all(
            accepts_connections(port) for port in (self.port, self.management_port)
        )

    def close_connections(self) -> int:
        """Cut off every client that the node knows of for half a second or more; returns how many there were."""
        self.disturbances += 1
        connections = self.manage("GET", "connections")
        for connection in connections:
            try:
                self.manage("DELETE", f"connections/{quote(connection['name'], safe='')}")
            except HTTPError as error:
                if error.code != HTTPStatus.NOT_FOUND:  # it has gone by itself
                    raise
        return len(connections)

    def set_memory_alarm(self, on: bool) -> None:
        """Let the node believe that it is short of memory, which blocks who publishes, or no more."""
        watermark = "0" if on else "0.4"
        command = [self._control, "--quiet", "set_vm_memory_high_watermark", watermark]
        subprocess.run(command, env={**os.environ, **self._env}, check=True, capture_output=True, timeout=240)

    def listen_only_url(self, url: str) -> str:
        """Make a user who may listen to exchanges of a virtual host, not publish to them, and return the address."""
        vhost = url.rpartition("/")[2]
        rights = {"configure": ".*", "write": "python-socketio\\..*", "read": ".*"}
        user = f"listener-{vhost}"  # users are those of all virtual hosts
        self.manage("PUT", f"users/{user}", {"password": "listener", "tags": ""})
        self.manage("PUT", f"permissions/{vhost}/{user}", rights)
        return url.replace("guest:guest@", f"{user}:listener@")

    def manage(self, method: str, path: str, body: object = None) -> Any:
        """Ask the management plugin, and return its answer."""
        request = urllib.request.Request(
            f"http://{HOST}:{self.management_port}/api/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": "Basic " + base64.b64encode(b"guest:guest").decode(),
                "Content-Type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def _write_configuration(self, folder: Path) -> None:
        (folder / "home").mkdir(parents=True, exist_ok=True)
        (folder / "env.conf").write_text("")
        (folder / "enabled_plugins").write_text("[rabbitmq_management].")
        (folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = {HOST}:{self.port}\n"
            f"management.tcp.ip = {HOST}\n"
            f"management.tcp.port = {self.management_port}\n"
            "log.console = true\n"
            "log.file = false\n"
            "disk_free_limit.absolute = 50MB\n"
            # Milliseconds until the management plugin knows a new connection.
            "collect_statistics_interval = 500\n" + self._tls_configuration()
        )

    def _tls_configuration(self) -> str:
        if self._certificate is None:
            return ""
        certificate, key = self._certificate
        return (
            f"listeners.ssl.1 = {HOST}:{self.tls_port}\n"
            f"ssl_options.cacertfile = {certificate}\n"
            f"ssl_options.certfile = {certificate}\n"
            f"ssl_options.keyfile = {key}\n"
        )

    def _environment(self, folder: Path) -> dict[str, str]:
        return {
            "HOME": str(folder / "home"),
            "ERL_CRASH_DUMP_SECONDS": "0",
            "LC_ALL": "C.UTF-8",
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODE_IP_ADDRESS": HOST,
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            # Its script becomes the node, and is no shell before it: what kills the one kills the other.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_START_ARGS": "-noinput",
            # Its schedulers give the processor to others at once when they have nothing to do.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none"
            ),
        }


@dataclass(frozen=True)
class Broker:
    """A broker and a result backend that are new to whoever gets them.

    Args:
        name: redis or rabbitmq.
        server: The broker's process: a test may pause, kill or restart it.
        url: The broker's address: an empty Redis database, or a new virtual host.
        backend: The process of the result backend, never the same as the broker's.
        backend_url: An empty Redis database.
    """

    name: str
    server: RedisServer | RabbitMQServer
    url: str
    backend: RedisServer
    backend_url: str

    @property
    def env(self) -> dict[str, str]:
        """What tells Celery in a child process to use it: these two win over the app's own settings."""
        return {"CELERY_BROKER_URL": self.url, "CELERY_RESULT_BACKEND": self.backend_url}

    def app(self, name: str = "test") -> Celery:
        """Make a new app in the test's own process: a used one keeps the broker that it met first."""
        return Celery(name, broker=self.url, backend=self.backend_url, set_as_current=False)
