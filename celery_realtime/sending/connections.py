"""Keep the connections of a process that sends few."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery_realtime.channel.kombu_manager import RealtimeKombuManager
    from celery_realtime.history.store import History


class Connections:
    """The connections to the broker, for publishing, and to the history.

    Args:
        made: Returns what events are published through, and the history; None for what has not been made.
    """

    def __init__(self, made: Callable[[], tuple[RealtimeKombuManager | None, History | None]]) -> None:
        self._made = made

    def confine(self) -> None:
        """Make do with one to the history, in a process that has sent nothing yet."""
        _, history = self._made()
        if history is not None:
            history.confine()

    def close_publisher(self) -> None:
        """Close that to the broker; the next event makes a new one."""
        publisher, _ = self._made()
        if publisher is not None:
            publisher.close()

    def close_idle(self) -> None:
        """Close those that nobody uses; whoever needs one connects again."""
        _, history = self._made()
        if history is not None:
            history.close_free()
        self.close_publisher()
