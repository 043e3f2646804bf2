"""Scripts on a real Redis, called as the package calls them, for tests of one script each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis

from celery_realtime.history.keys import Keys
from celery_realtime.history.lua import Runner, Script, call

KEYS = Keys("tests")


class Caller:
    """Calls one script, and looks at the keys that it writes.

    Args:
        name: Of the script.
        url: Of a Redis.
    """

    def __init__(self, name: str, url: str) -> None:
        self._script = Script(name)
        self.redis = redis.Redis.from_url(url)
        self._runner = Runner(self.redis)

    def __call__(self, keys: Sequence[str], *arguments: Any) -> Any:
        return self._runner.run(call(self._script, keys, arguments))

    def time(self) -> float:
        """Return the server's clock in seconds."""
        seconds, microseconds = self.redis.time()  # type: ignore[misc]
        return float(seconds + microseconds / 1e6)
