"""The requests for one subscription: their numbers, what they say, and which of them is still to be answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

#: Sends a request for a subscription; whoever gets the answer is told the request's number.
Ask = Callable[[int, dict[str, Any]], None]


class SubscriptionRequests:
    """Asks a server for a project, one request at a time.

    Args:
        project_id: The project.
        ask: Sends a request.
        batch: Whether events are to come as lists.
        also: What each request says beside.

    Attributes:
        count: How many requests there have been, which numbers them.
        is_due_again: Whether to ask once more after the answer that is awaited.
    """

    def __init__(
        self, project_id: str, ask: Ask, *, batch: bool, also: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        self._also = also
        self._project_id = project_id
        self._ask = ask
        self._batch = batch
        self.count = 0
        self.is_due_again = False
        self._awaited: int | None = None

    @property
    def is_awaiting(self) -> bool:
        """Whether an answer is awaited."""
        return self._awaited is not None

    def begin(self) -> int:
        """Await the answer to a further request, and no other; returns its number."""
        self.count += 1
        self._awaited, self.is_due_again = self.count, False
        return self.count

    def send(self, epoch: str | None, offset: int | None) -> None:
        """Send the request that has begun, from a position; an epoch of None for none."""
        request: dict[str, Any] = {"project_id": self._project_id, **self._also}
        if epoch is not None:
            request["since"] = {"epoch": epoch, "offset": offset}
        self._ask(self.count, {**request, "batch": True} if self._batch else request)

    def settle(self, number: int) -> bool:
        """Await nothing more if the answer to a request is the one that is awaited; returns whether it is."""
        if number != self._awaited:
            return False
        self.drop()
        return True

    def drop(self) -> None:
        """Await nothing more."""
        self._awaited = None
