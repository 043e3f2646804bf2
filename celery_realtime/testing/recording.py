"""Lead what Realtimes report elsewhere while a test runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from celery_realtime.events import Outgoing
from celery_realtime.instances import instances
from celery_realtime.sending.outbox import Outbox

if TYPE_CHECKING:
    from celery_realtime.extension import Realtime
    from celery_realtime.testing.recorded import RecordedEvents


class RecordingOutbox(Outbox[Outgoing]):
    """An outbox that hands each event over at once, in the thread that reports it, and so never has any.

    Args:
        record: Takes the events.
    """

    def __init__(self, record: Callable[[Outgoing], None]) -> None:
        super().__init__(len, queue_size=1, batch_size=1, linger=0.0, flush_timeout=0.0)
        self._record = record

    def put(self, event: Outgoing, due: float = 0.0, *, quietly: bool = False) -> None:  # noqa: ARG002 - at once
        """Hand an event over, progress that would be held back too."""
        self._record(event)

    def put_all(self, events: Iterable[Outgoing]) -> None:
        """Hand events over, in order."""
        for event in events:
            self._record(event)


@contextlib.contextmanager
def recording(events: RecordedEvents) -> Iterator[None]:
    """Record what all Realtimes report inside the block, and those that are attached meanwhile."""
    counts: list[tuple[Any, int]] = []

    def count_without_project() -> int:
        return sum(manager.counts["no_project"] - before for manager, before in counts)

    def record(realtime: Realtime) -> None:
        counts.append((realtime.manager, realtime.manager.counts["no_project"]))
        stack.enter_context(realtime.manager.diverted(RecordingOutbox(events.record)))

    with contextlib.ExitStack() as stack, instances.observed(record):
        events.count_without_project(count_without_project)
        yield
