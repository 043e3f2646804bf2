"""How a subscription stands with its server, and when it asks again; no input or output, no locks, no clock."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from celery_realtime.backoff import Backoff
from celery_realtime.client.protocol import TRANSIENT_CODES
from celery_realtime.client.timers import Timers

ACK_TIMEOUT = 5.0
GAP_TIMEOUT = 0.25
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 10.0


class SubscriptionState(ABC):
    """The state of a subscription to anything, over lost connections and refusals.

    Args:
        clock: Returns the time in seconds.
        first_pause: Seconds until the first retry; doubled each time, up to ``LONGEST_PAUSE``.

    Attributes:
        state: ``subscribing``, ``subscribed``, ``stale`` or ``refused``.
        error: What the server refused with, as ``{"code", "message"}``.
    """

    def __init__(self, clock: Callable[[], float], first_pause: float) -> None:
        self.state = "subscribing"
        self.error: dict[str, str] | None = None
        self._timers = Timers(clock)
        self._backoff = Backoff(first_pause, LONGEST_PAUSE)
        self._connected = self._closed = False
        #: The server has answered on this connection, and has not refused since.
        self._live = False

    @abstractmethod
    def _ask(self) -> None:
        """Ask for the subscription, if there is a connection."""

    @abstractmethod
    def _drop_requests(self) -> None:
        """Await no answer any more, and forget what has waited for one."""

    @abstractmethod
    def _state_changed(self) -> None:
        """Tell that the state, or the error, is another one."""

    def _reset(self) -> None:
        self._drop_requests()
        self._live = False
        self._backoff.reset()
        self._timers.clear()

    # -- the connection -----------------------------------------------------------------------------------------

    def connected(self) -> None:
        """Note that the client has connected."""
        self._connected = True
        self._ask()

    def disconnected(self) -> None:
        """Note that the client has lost its connection."""
        self._connected = False
        self._reset()
        if self.state != "refused":
            self._set_state("stale", self.error)

    def close(self) -> None:
        """Call no callback any more."""
        self._closed = True
        self._reset()

    @property
    def wakes_at(self) -> float | None:
        """When :meth:`wake` has to be called, by ``clock``; None for not at all."""
        return self._timers.next_at

    def wake(self) -> None:
        """Do what is due."""
        self._timers.run_due()

    def refused(self, error: dict[str, Any] | None) -> None:
        """Note that the server has refused the connection, or the subscription.

        Args:
            error: ``{"code", "message"}``; None for a failure that may be over in a moment.
        """
        transient = error is None or error.get("code") in TRANSIENT_CODES
        self._live = False
        self._timers.clear()
        pause = self._backoff.pause()
        if transient:
            self._timers.set("retry", pause, self._ask)
        self._set_state("stale" if transient else "refused", error)

    def _set_state(self, state: str, error: dict[str, str] | None) -> None:
        if (state, error) != (self.state, self.error):
            self.state, self.error = state, error
            self._state_changed()
