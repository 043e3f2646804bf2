"""Divide the projects of a channel into shards, so that a web server need not hear of those that it does not serve."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import NamedTuple

from celery_realtime.events import Outgoing


class Shard(NamedTuple):
    """One part of the projects of a channel.

    Attributes:
        total: How many parts there are.
        number: Which one it is, from 0 on.
    """

    total: int
    number: int

    @property
    def routing_key(self) -> str:
        """What its messages are addressed with."""
        return str(self.number)


def shard_of(project_id: str, total: int) -> Shard | None:
    """Return the shard of a project; None if there are no shards, so that its events go to every server.

    Args:
        project_id: The project, already normalised.
        total: How many shards there are.
    """
    return None if total == 1 else Shard(total, zlib.crc32(project_id.encode()) % total)


def by_shard(events: Iterable[Outgoing], total: int) -> list[list[Outgoing]]:
    """Return events in groups, one a shard, each in its order."""
    groups: dict[Shard | None, list[Outgoing]] = {}
    for event in events:
        groups.setdefault(shard_of(event.project_id, total), []).append(event)
    return list(groups.values())
