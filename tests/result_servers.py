"""Servers that Celery stores results in, beside Redis."""

from __future__ import annotations

from pathlib import Path

from tests.processes import HOST, ManagedProcess, accepts_connections, free_port
from tests.programs import require


class MemcachedServer(ManagedProcess):
    """A memcached. What it has is gone when it is started again.

    Args:
        folder: Where its log goes.
    """

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        super().__init__(
            # As root it wants to be told that it may be.
            [require("memcached"), "-u", "root", "-l", HOST, "-p", str(self.port), "-U", "0"],
            folder=folder,
            name="memcached",
            ready=lambda: accepts_connections(self.port),
        )

    @property
    def url(self) -> str:
        """What ``result_backend`` is."""
        return f"cache+memcached://{HOST}:{self.port}/"
