"""Workers, web servers and clients of two versions, on one broker and one history."""

from __future__ import annotations

import json
import shutil
import sys
import urllib.request
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import celery_realtime
from tests.client_recorder import Heard, Recorder
from tests.integration.stage import new_project
from tests.launcher import Launcher
from tests.processes import HOST, ManagedProcess, accepts_connections, free_port
from tests.services import Broker
from tests.waiting import PATIENCE, wait_for

SECRET = "a secret that both versions know"
APPS = ("studio.py", "studio_web.py")
ENDS = ("success", "error")


class Version(NamedTuple):
    """A version of the package.

    Attributes:
        name: What its processes are called.
        folder: Where its package is.
    """

    name: str
    folder: Path

    @property
    def home(self) -> str:
        """What its jobs and web servers say of where they are."""
        return str(self.folder / "celery_realtime")


PRESENT = Version("present", Path(celery_realtime.__file__).parents[1])


class Web(ManagedProcess):
    """A web server of ``studio``, which publishes jobs."""

    def __init__(self, *, folder: Path, name: str, env: dict[str, str], cwd: Path) -> None:
        self._port = free_port()
        self.url = f"http://{HOST}:{self._port}"
        super().__init__(
            [sys.executable, "-m", "studio_web"],
            folder=folder,
            name=name,
            env={**env, "HOST": HOST, "PORT": str(self._port)},
            cwd=cwd,
            ready=lambda: "Listening on http://" in self.current_log and accepts_connections(self._port),
        )

    def become(self, env: dict[str, str]) -> None:
        """Start again at the same address, in another environment."""
        self.env |= env
        self.start()

    def ask(self, path: str, **order: Any) -> dict[str, Any]:
        """Post an order, and return the answer."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/{path}", json.dumps(order).encode(), headers)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            answered: dict[str, Any] = json.load(answer)
            return answered


class Place:
    """A broker and a history, and what runs on them.

    Args:
        launcher: Starts and ends the processes.
        broker: The broker; the history is in the Redis of its results.
        env: Added to the environment of all processes.
    """

    def __init__(self, launcher: Launcher, broker: Broker, **env: str) -> None:
        self.launcher = launcher
        self.project = new_project()
        self._folder = launcher.folder / "studio"
        self._folder.mkdir()
        for name in APPS:
            shutil.copy(Path(__file__).parent / name, self._folder)
        self._env = {**broker.env, "SECRET": SECRET, **env}

    def file(self) -> Path:
        """Return where a job looks for a file."""
        return self._folder / uuid.uuid4().hex

    def env(self, version: Version) -> dict[str, str]:
        """Return the environment in which Python finds this version before any other."""
        return {**self._env, "PYTHONPATH": str(version.folder)}

    def worker(self, version: Version, *, wait: bool = True) -> ManagedProcess:
        """Start a worker with two children."""
        name = f"{version.name}@{uuid.uuid4().hex[:8]}"
        options = ["--loglevel", "INFO", "--concurrency", "2", "--without-mingle", "--without-gossip"]
        worker = self.command(version, name, "worker", *options, "--hostname", name)
        if wait:
            worker.wait_for_log(f"{name} ready.")
        return worker

    def command(self, version: Version, name: str, *arguments: str) -> ManagedProcess:
        """Start ``celery -A studio ...``."""
        argv = [sys.executable, "-m", "celery", "-A", "studio", *arguments]
        command = ManagedProcess(argv, folder=self.launcher.folder, name=name, env=self.env(version), cwd=self._folder)
        return self.launcher.start(command)

    def web(self, version: Version, *, wait: bool = True) -> Web:
        """Start a web server."""
        name = f"web-{version.name}-{uuid.uuid4().hex[:8]}"
        web = Web(folder=self.launcher.folder, name=name, env=self.env(version), cwd=self._folder)
        return self.launcher.start(web, wait=wait)

    def connect(self, web: Web, user: str = "ada") -> Recorder:
        """Connect a client with a token that the server has made."""
        token = web.ask("token", user=user, projects=[self.project])["token"]
        return self.launcher.connect(web.url, token=token)

    def start(self, web: Web, *steps: list[Any]) -> str:
        """Let a web server publish a job, or a chain of jobs; return the id of the last."""
        return str(web.ask("start", steps=steps, project=self.project)["job"])


class Follower:
    """A client that follows a project from one web server to the next, and has all of its events.

    Args:
        place: Where the project is.
        web: The first web server.
    """

    def __init__(self, place: Place, web: Web) -> None:
        self._place = place
        self._before: list[Heard] = []
        self._position: dict[str, Any] | None = None
        self._connect(web)

    def _connect(self, web: Web) -> None:
        self.client = self._place.connect(web)
        self.answer = self.client.subscribe(self._place.project, since=self._position)
        assert self.answer["ok"] is True, self.answer
        if self._position is None:
            self._first = self.answer["offset"] + 1
            self._epoch = self.answer["epoch"]
        else:
            assert self.answer["recovered"] is True, self.answer
            self._before += [Heard(item["event"], item["data"]) for item in self.answer["events"]]

    def move(self, web: Web) -> None:
        """Go on at another web server, behind what was heard last."""
        heard = self.heard
        offset = _place_of(heard[-1])["offset"] if heard else self._first - 1
        self.client.close()
        self._before, self._position = heard, {"epoch": self._epoch, "offset": offset}
        self._connect(web)

    @property
    def heard(self) -> list[Heard]:
        """All that it has heard, in order."""
        return [*self._before, *(one for one in self.client.events if _place_of(one))]

    def of_job(self, job: str) -> list[Heard]:
        """Return what it has heard of a job."""
        return [one for one in self.heard if _place_of(one).get("job_id") == job]

    def states(self, job: str) -> list[str]:
        """Return Celery's words for the states of a job, in order."""
        return [one.data["state"] for one in self.of_job(job) if one.event == "agent_status"]

    def progress(self, job: str) -> list[float]:
        """Return the progress of a job, in order."""
        return [one.data["progress"] for one in self.of_job(job) if one.event == "agent_progress"]

    def wait_for_state(self, job: str, state: str) -> dict[str, Any]:
        """Wait until a job has a state, and return what said so."""

        def told() -> list[dict[str, Any]]:
            statuses = [one.data for one in self.of_job(job) if one.event == "agent_status"]
            return [data for data in statuses if data["state"] == state]

        return wait_for(told, message=f"{job} is not {state}: {self.of_job(job)}")[-1]

    def wait_for_progress(self, job: str) -> None:
        """Wait until a job has reported progress."""
        wait_for(lambda: self.progress(job), message=f"{job} reports nothing: {self.of_job(job)}")

    def check(self) -> None:
        """Check that nothing is missing, double or out of order, and that each job has ended once, or not yet."""
        places = [_place_of(one) for one in self.heard]
        assert {place["epoch"] for place in places} <= {self._epoch}, "the history has begun anew"
        offsets = [place["offset"] for place in places]
        assert offsets == [*range(self._first, self._first + len(offsets))]
        for job in {place["job_id"] for place in places if place.get("job_id")}:
            statuses = [one.data["status"] for one in self.of_job(job) if one.event == "agent_status"]
            assert not any(status in ENDS for status in statuses[:-1]), f"{job} went on: {statuses}"


def _place_of(heard: Heard) -> dict[str, Any]:
    """Return what an event says of whose it is, and of its place in the history; nothing if it has none."""
    data = heard.data if isinstance(heard.data, dict) else {}
    owner = data.get("_realtime", data)
    return owner if isinstance(owner.get("offset"), int) else {}
