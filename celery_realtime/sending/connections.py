"""Keep the connections of a process that sends few."""

from __future__ import annotations

from typing import Protocol


class ToBroker(Protocol):
    """What events are published through."""

    def close(self) -> None:
        """Close the connection; whoever needs it connects again."""


class ToHistory(Protocol):
    """What the history talks to Redis through."""

    def confine(self) -> None:
        """Make do with one connection from now on."""

    def close_free(self) -> None:
        """Close the connections that no thread uses now."""


class Connections:
    """The connections to the broker, for publishing, and to the history.

    It knows nothing of whose they are: the thread that closes them outlives that.

    Attributes:
        broker: What events are published through; None until it has been made.
        history: What the history talks to Redis through; None until it has been made.
    """

    def __init__(self) -> None:
        self.broker: ToBroker | None = None
        self.history: ToHistory | None = None
        self._is_confined = False

    def add_history(self, history: ToHistory) -> None:
        """Note what the history talks to Redis through, when that has been made."""
        self.history = history
        if self._is_confined:
            history.confine()

    def confine(self) -> None:
        """Make do with one to the history, in a process that has sent nothing yet."""
        self._is_confined = True
        if self.history is not None:
            self.history.confine()

    def close_publisher(self) -> None:
        """Close that to the broker; the next event makes a new one."""
        if self.broker is not None:
            self.broker.close()

    def close_idle(self) -> None:
        """Close those that nobody uses; whoever needs one connects again."""
        if self.history is not None:
            self.history.close_free()
        self.close_publisher()
