"""Say what is known of an order to all web servers: whether it was accepted, and which of them have carried it out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery_realtime.clocks import time

if TYPE_CHECKING:
    from typing_extensions import Self

    from celery_realtime.history.access import Servers

#: Seconds between two looks at who has confirmed.
LOOK_INTERVAL = 0.01

#: Seconds of silence after which a server is not waited for: it confirms, or says that it is there, more often.
SILENT = 10.0


class OrderResult(int):
    """What is known of an order to all web servers.

    It is true, and the number 1, if the broker and the history (where there is one) have accepted the order; else it is
    false, and the number 0.

    Attributes:
        confirmed: The web servers that have carried it out, each as ``host:process:name``.
        unconfirmed: Those that are listed and have not said so, and for how many seconds each has said nothing.
            Servers are listed from their first client on, until 10 minutes after they were last heard of.
        knows_servers: Whether these are known to be all servers. It is not without a history, while that does not
            answer, before any server has been listed, for 10 minutes after the list was lost from Redis, and if the
            order itself has been lost from there.
        at: When it was noted, by the clock of Redis; None if it was not.
    """

    at: float | None
    confirmed: list[str]
    unconfirmed: dict[str, float]
    knows_servers: bool

    def __new__(cls, *, is_accepted: bool, at: float | None, read: Callable[[], Servers | None]) -> Self:
        """Make the result of an order.

        Args:
            is_accepted: Whether it was accepted.
            at: As the attribute.
            read: Returns how far each web server is; None where there is no list, or it cannot be read.
        """
        result = super().__new__(cls, is_accepted)
        result.at, result._read = at, read
        result.confirmed, result.unconfirmed, result.knows_servers = [], {}, False
        return result

    _read: Callable[[], Servers | None]

    @property
    def is_complete(self) -> bool:
        """Whether it was accepted, and all web servers are known to have carried it out."""
        return bool(self) and self.knows_servers and not self.unconfirmed

    def look(self) -> OrderResult:
        """Look again which servers have confirmed; return itself."""
        states = None if self.at is None else self._read()
        if states is None:
            self.knows_servers = False
            return self
        self.knows_servers = states.is_whole and states.has_order
        at = self.at or 0.0 if states.has_order else math.inf
        self.confirmed = sorted(name for name, state in states.items() if state.up_to >= at)
        self.unconfirmed = {name: state.silence for name, state in sorted(states.items()) if state.up_to < at}
        return self

    def wait(self, timeout: float) -> bool:
        """Wait until all servers that are alive have confirmed; return whether all that are listed have.

        Args:
            timeout: Longest wait in seconds.
        """
        deadline = time.monotonic() + timeout
        while self.look()._waits_for_somebody() and time.monotonic() < deadline:
            time.sleep(LOOK_INTERVAL)
        return self.is_complete

    def _waits_for_somebody(self) -> bool:
        return any(silence < SILENT for silence in self.unconfirmed.values())

    def __repr__(self) -> str:
        """Show all that is known."""
        servers: dict[str, Any] = {"confirmed": self.confirmed, "unconfirmed": self.unconfirmed}
        if not self.knows_servers:
            servers["others"] = "unknown"
        return f"<OrderResult accepted={bool(self)} servers={servers}>"

    __str__ = __repr__
