"""A plain socket.io-client in Node, as a page would have it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tests.client_recorder import Heard
from tests.processes import ManagedProcess
from tests.programs import CLIENT, require
from tests.waiting import PATIENCE, wait_for

T = TypeVar("T")


def run_node(*arguments: str, **environment: str) -> None:
    """Run a program of ``tests/client`` to its end, which has to be a good one."""
    done = subprocess.run(
        [require("node"), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=CLIENT,
    )
    assert done.returncode == 0, done.stdout + done.stderr


class NodeClient(ManagedProcess):
    """``seed_snippet.mjs``: it subscribes to a project, asks for no acknowledgement, and prints what it hears.

    Args:
        url: The web server.
        token: Goes into the query string.
        project_id: The project.
        folder: Where its log goes.
        script: Another program that takes the same arguments.
        name: What errors call it.
        options: More arguments.
    """

    def __init__(
        self,
        url: str,
        token: str,
        project_id: str,
        *options: str,
        folder: Path,
        script: str = "seed_snippet.mjs",
        name: str = "node-client",
    ) -> None:
        require("socket.io-client")
        command = [require("node"), str(CLIENT / script), url, token, project_id, *options]
        super().__init__(command, folder=folder, name=name)

    @property
    def events(self) -> list[Heard]:
        """What it heard so far; ``connect``, ``connect_error`` and ``disconnect`` are among it."""
        lines = self.current_log.split("\n")[:-1]
        return [Heard(**json.loads(line)) for line in lines if line.startswith("{")]

    def wait(self, condition: Callable[[list[Heard]], T | None], *, timeout: float = PATIENCE) -> T:
        """Wait until ``condition`` returns something true for the events heard so far, and return that."""
        try:
            return wait_for(lambda: condition(self.events), timeout=timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\nit said:\n{self.log_tail}") from None


class Follower(NodeClient):
    """``follow.mjs``: it follows a project with ``celery-realtime.js``, and prints what that tells.

    Args:
        url: The web server.
        token: Goes into the ``auth`` object.
        project_id: The project.
        folder: Where its log goes.
        name: What errors call it.
        javascript: Another ``celery-realtime.js``.
        **options: Of ``subscribeProject``.
    """

    def __init__(
        self,
        url: str,
        token: str,
        project_id: str,
        *,
        folder: Path,
        name: str,
        javascript: Path | None = None,
        **options: object,
    ) -> None:
        super().__init__(url, token, project_id, json.dumps(options), folder=folder, script="follow.mjs", name=name)
        if javascript is not None:
            self.env["CELERY_REALTIME_JS"] = str(javascript)

    def __repr__(self) -> str:
        return f"a follower that is {self.state}, after {self._of('snapshot')}"

    def drop(self) -> None:
        """Break its connection; it comes back by itself."""
        self.send_signal(signal.SIGUSR2)

    def jobs(self) -> dict[str, dict[str, Any]]:
        """Return what it knows of each job."""
        count = len(self._of("jobs"))
        self.send_signal(signal.SIGHUP)
        wait_for(lambda: len(self._of("jobs")) > count)
        return {job["job_id"]: job for job in self._of("jobs")[-1]}

    @property
    def state(self) -> str | None:
        """The state of its subscription, as it said last."""
        states = self.states()
        return states[-1] if states else None

    def states(self) -> list[str]:
        """All states of its subscription, in order."""
        return [data["state"] for data in self._of("state")]

    def places(self) -> list[tuple[str, int]]:
        """Return epoch and offset of each event that it was told, in order."""
        marks = [data.get("_realtime", data) for data in self._told()]
        return [(mark["epoch"], mark["offset"]) for mark in marks]

    def told_count(self) -> int:
        """Return how many events it was told."""
        return len(self._told())

    def _told(self) -> list[Any]:
        return [data for event, data in self.events if event not in ("state", "snapshot", "jobs")]

    def _of(self, name: str) -> list[Any]:
        return [data for event, data in self.events if event == name]
