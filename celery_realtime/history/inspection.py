"""Ask a Redis about itself: what may keep it from doing its part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import redis

from celery_realtime.clocks import time


class RedisFacts(msgspec.Struct, frozen=True):
    """What a Redis says of itself.

    Attributes:
        version: Its version, as numbers; empty if it does not say.
        is_replica: Whether it takes no writes.
        policy: What it does when its memory is used up (``maxmemory-policy``).
        most_memory: Bytes that it may use; 0 for any.
        used_memory: Bytes that it uses.
        clients: What ``INFO clients`` says.
        ahead: Seconds by which its clock is ahead of that of this machine.
        tolerance: How exact that is, in seconds: the question took twice as long.
    """

    version: tuple[int, ...]
    is_replica: bool
    policy: str
    most_memory: int
    used_memory: int
    clients: Mapping[str, Any]
    ahead: float
    tolerance: float

    @property
    def evicts(self) -> bool:
        """Whether it drops keys when its memory is used up, instead of refusing to store."""
        return self.most_memory > 0 and self.policy not in ("", "noeviction")

    @property
    def evicts_any(self) -> bool:
        """Whether it drops keys that do not expire, too, as those of queues."""
        return self.evicts and not self.policy.startswith("volatile-")

    @property
    def used_part(self) -> float:
        """Of what it may use, the part that it uses."""
        return self.used_memory / self.most_memory if self.most_memory else 0.0


def facts_of(client: redis.Redis) -> RedisFacts | None:
    """Ask a Redis; returns None if its user may not ask.

    Args:
        client: Connected to it.

    Raises:
        redis.RedisError: It cannot be reached.
    """
    try:
        info: dict[str, Any] = client.info("everything")
        began = time.time()
        seconds, microseconds = client.time()
        took = time.time() - began
    except redis.exceptions.NoPermissionError:
        return None
    return RedisFacts(
        tuple(int(part) for part in str(info.get("redis_version", "")).split(".") if part.isdigit()),
        info.get("role") in ("slave", "replica"),
        str(info.get("maxmemory_policy", "")),
        int(info.get("maxmemory", 0)),
        int(info.get("used_memory", 0)),
        {name: info.get(name) for name in ("connected_clients", "maxclients")},
        seconds + microseconds / 1e6 - (began + took / 2),
        took / 2,
    )
