"""Servers that Celery stores results in, beside Redis."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
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


class PostgresServer(ManagedProcess):
    """A PostgreSQL. What has been committed is there when it is started again, also after it was killed."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        # It refuses root, and another user cannot see what is below pytest's folders.
        self._data = Path(tempfile.mkdtemp(prefix="celery-realtime-postgres-"))
        self._as_user = ["setpriv", "--reuid", "postgres", "--clear-groups"] if os.geteuid() == 0 else []
        if self._as_user:
            shutil.chown(self._data, "postgres")
        program = require("postgres")
        initdb = [*self._as_user, str(Path(program).with_name("initdb")), "-D", str(self._data), "-U", "tests"]
        subprocess.run([*initdb, "-A", "trust", "--no-sync"], check=True, capture_output=True, cwd="/", timeout=240)
        options = ["-D", str(self._data), "-p", str(self.port), "-h", HOST, "-k", str(self._data)]
        super().__init__(
            [*self._as_user, program, *options],
            folder=folder,
            name="postgres",
            cwd=Path("/"),
            ready=lambda: "ready to accept connections" in self.current_log,
        )

    def remove(self) -> None:
        """Kill it if it runs, and remove its data."""
        self.kill()
        shutil.rmtree(self._data, ignore_errors=True)

    @property
    def address(self) -> str:
        """Its database, for drivers."""
        return f"postgresql://tests@{HOST}:{self.port}/postgres"
