"""Leave the last connections of a Redis to others: Celery cannot run jobs without its own, and these can wait."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Of the clients that a Redis allows (``maxclients``), the part that is left free, and the most that is.
FREE_PART, MOST_FREE = 4, 64


class CrowdedError(ConnectionError):
    """A Redis has room for others, and not for a connection of this package."""


class Crowd:
    """How many clients a Redis has, and how many it allows.

    Args:
        clients: What ``INFO clients`` says; a server that does not say it counts as one that takes any number.
    """

    def __init__(self, clients: Mapping[str, Any]) -> None:
        self._count = int(clients.get("connected_clients") or 0)
        self._most = int(clients.get("maxclients") or 0)
        self._reserve = min(self._most // FREE_PART, MOST_FREE)

    @property
    def is_dense(self) -> bool:
        """Whether connections are to be closed after each use, so that others can have their turn."""
        return bool(self._most) and self._most - self._count < 2 * self._reserve

    @property
    def is_full(self) -> bool:
        """Whether there is no room for the latest connection."""
        return bool(self._most) and self._most - self._count < self._reserve

    def check(self) -> None:
        """Refuse a connection that there is no room for.

        Raises:
            CrowdedError: There is none.
        """
        if self.is_full:
            raise CrowdedError(
                f"{self._count} of {self._most} clients at most (maxclients) are connected; the rest is left to others"
            )


def clients_of(info: bytes | str) -> dict[str, str]:
    """Return what the text of ``INFO clients`` says, by name."""
    text = info.decode(errors="replace") if isinstance(info, bytes) else info
    pairs = (line.strip().partition(":") for line in text.splitlines())
    return {name: value for name, colon, value in pairs if colon}
