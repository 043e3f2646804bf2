"""A plain socket.io-client in Node, as a page would have it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests.client_recorder import Heard
from tests.processes import ManagedProcess
from tests.programs import CLIENT, require
from tests.waiting import wait_for

T = TypeVar("T")


class NodeClient(ManagedProcess):
    """``seed_snippet.mjs``: it subscribes to a project, asks for no acknowledgement, and prints what it hears.

    Args:
        url: The web server.
        token: Goes into the query string.
        project_id: The project.
        folder: Where its log goes.
    """

    def __init__(self, url: str, token: str, project_id: str, *, folder: Path) -> None:
        require("socket.io-client")
        script = str(CLIENT / "seed_snippet.mjs")
        super().__init__([require("node"), script, url, token, project_id], folder=folder, name="node-client")

    @property
    def events(self) -> list[Heard]:
        """What it heard so far; ``connect``, ``connect_error`` and ``disconnect`` are among it."""
        lines = self.current_log.split("\n")[:-1]
        return [Heard(**json.loads(line)) for line in lines if line.startswith("{")]

    def wait(self, condition: Callable[[list[Heard]], T | None], *, timeout: float = 10.0) -> T:
        """Wait until ``condition`` returns something true for the events heard so far, and return that."""
        try:
            return wait_for(lambda: condition(self.events), timeout=timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\nit said:\n{self.log_tail}") from None
