"""Start what the example's files for production start, as processes of this host, and use it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from celery_realtime.probe import problem_of
from tests.client_recorder import Recorder
from tests.deploy.files import here, placed
from tests.launcher import Launcher
from tests.processes import HOST, ROOT, ManagedProcess, accepts_connections, free_port
from tests.services import Broker
from tests.waiting import wait_for

BIN = Path(sys.executable).parent
LONG = 60.0
#: What the programs have of this host, and not from the files: coverage, say, finds its processes by them.
USER, PROJECT = "ada", "apollo"


class Place:
    """A container, a pod or a unit: a process with folders and ports of its own.

    Args:
        launcher: Starts it.
        name: What errors call it.
        broker: In place of the brokers that the files name.
        places: By what the files name, where that is on this host.

    Attributes:
        folder: Has its files.
        metrics_port: Where it serves its metrics, if it is a worker.
        port: Where it listens, if it is a web server.
    """

    def __init__(self, launcher: Launcher, name: str, broker: Broker, places: Mapping[str, object]) -> None:
        self._launcher, self._name, self._broker = launcher, name, broker
        self.folder = launcher.folder / name
        self.folder.mkdir()
        self.metrics_port, self.port = free_port(), free_port()
        self.places = {
            name: placed(str(place), {"FOLDER": self.folder, "PORT": self.port}) for name, place in places.items()
        }
        self.process: ManagedProcess

    def start(self, command: Sequence[str], env: Mapping[str, str], ready: Callable[[], bool]) -> ManagedProcess:
        """Start a command of the files in an environment of theirs."""
        program, *options = here([*command], self.places)
        own = {name: placed(value, self.places) for name, value in env.items()}
        # The two of the broker replace those of the files; PATH is that of an image, or what `exec` looks through.
        own |= {**self._broker.env, "PATH": f"{BIN}:/usr/bin:/bin"}
        if "METRICS_PORT" in own:
            own["METRICS_PORT"] = str(self.metrics_port)
        found = shutil.which(program, path=own["PATH"])
        assert found is not None, f"{program} is not there"
        self.process = ManagedProcess(
            [found, *options], folder=self.folder, name=self._name, env=own, cwd=ROOT, ready=ready, start_timeout=LONG
        )
        return self._launcher.start(self.process, wait=False)

    def listens(self) -> bool:
        return accepts_connections(self.port)

    def is_healthy(self) -> bool:
        """Tell whether a worker writes that it is well."""
        return problem_of(placed("/run/example/health.json", self.places), "ready", LONG) == ""

    def check(self, command: Sequence[str]) -> int:
        """Run a health check of the files, and return its exit code."""
        program, *options = here([*command], self.places)
        found = sys.executable if program.endswith("python") else shutil.which(program)
        assert found is not None, f"{program} is not there"
        return subprocess.run([found, *options], cwd=ROOT, capture_output=True, timeout=LONG, check=False).returncode


class Visitor:
    """A user of the example's routes.

    Args:
        url: Of a web server, or of what is in front of it.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor())
        self._ask("login", {"user": USER})

    def token(self) -> str:
        return str(self._ask("token")["token"])

    def start(self, kind: str, seconds: float) -> list[str]:
        """Start jobs, and return their ids."""
        return list(self._ask("jobs", {"project_id": PROJECT, "kind": kind, "options": {"seconds": seconds}})["jobs"])

    def follow(self, launcher: Launcher, route: str = "") -> Recorder:
        """Connect a client, and subscribe to the user's project."""
        url = f"{self.url}/?route={route}" if route else self.url
        client = launcher.connect(url, token=self.token(), transports=["websocket"])
        assert client.subscribe(PROJECT)["ok"] is True
        return client

    def _ask(self, path: str, data: dict[str, Any] | None = None) -> Any:
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(f"{self.url}/{path}", body, {"Content-Type": "application/json"})
        with self._http.open(request, timeout=LONG) as answer:
            return json.load(answer)


def read(port: int, path: str) -> str:
    """Return what a server of this host answers."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{HOST}:{port}{path}", timeout=LONG) as answer:
        return str(answer.read().decode())


#: In place of the files' seconds: Celery waits for all of them, however soon the jobs that ran have ended.
SOFT = {"SOFT_SHUTDOWN_SECONDS": "6"}


def check_soft_shutdown(place: Place, visitor: Visitor, client: Recorder, signal_number: int) -> None:
    """End a worker while a job runs: the job may go on to its end, and the worker says so."""
    [job] = visitor.start("transcribe", 2)
    client.wait_for_event("agent_status", job_id=job, status="running")
    place.process.send_signal(signal_number)
    assert client.wait_for_end(job)["status"] == "success"
    wait_for(lambda: not place.process.running)
    assert "Initiating Soft Shutdown" in place.process.current_log
