"""Time the stages of an event's way, and count what only they see."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import msgspec

from celery_realtime.clocks import time
from celery_realtime.events import METADATA_EVENT, PROGRESS_EVENT, STATUS_EVENT, WORKFLOW_EVENT, Outgoing
from celery_realtime.forks import after_fork
from celery_realtime.metrics.catalogue import OF_CALLS
from celery_realtime.stages import Stages
from celery_realtime.timings import Timing

#: What the label ``event`` says of ours. Applications name as many others as they like, so those are all one.
KINDS = {STATUS_EVENT: "status", PROGRESS_EVENT: "progress", WORKFLOW_EVENT: "workflow", METADATA_EVENT: "metadata"}
CUSTOM = "custom"

#: Task names of which there are labels of their own, and the label of all further ones.
MOST_TASKS, OTHER_TASKS = 500, "(others)"

#: Of so many deliveries, one is timed: the clock costs a tenth of what emitting to one client does.
EVERY = 16

_event_of = attrgetter("event")


class _Task(msgspec.Struct):
    task: str | None = None


class Recorder:
    """Observes the stages.

    Args:
        by_task: Whether published events are counted by the name of their task too.
        begin: Called by the first stage that is observed in a process, and again in the child of a fork.

    Attributes:
        append, publish, hear, deliver: How long each stage took.
        published: By kind and task name, events that the broker has accepted.
        stages: What wraps each stage.
    """

    def __init__(self, *, by_task: bool, begin: Callable[[], object]) -> None:
        self.append, self.publish, self.hear, self.deliver = (Timing(OF_CALLS) for _ in range(4))
        # Prometheus has to see a 0 first; which tasks there are shows only later.
        known = () if by_task else ((kind, "") for kind in (*KINDS.values(), CUSTOM))
        self.published: Counter[tuple[str, str]] = Counter(dict.fromkeys(known, 0))
        self._names = self._by_task if by_task else _by_kind
        self._tasks: set[str] = set()
        self._decode_task = msgspec.json.Decoder(_Task).decode
        self._begin = begin
        self._has_begun = False
        self.stages = Stages(
            append=self._appending, publish=self._publishing, hear=self._hearing, deliver=self._delivering
        )
        after_fork(self._begin_again)

    def _begin_again(self) -> None:
        self._has_begun = False

    def _begin_once(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._begin()

    # What is called for each event has all that it needs at hand, which halves what it costs.

    def _appending(self, append: Callable[[list[Outgoing]], list[Outgoing] | None]) -> Callable[..., Any]:
        clock, observe = time.monotonic, self.append.observe

        def observed(batch: list[Outgoing]) -> list[Outgoing] | None:
            began = clock()
            stored = append(batch)
            observe(clock() - began)
            self._begin_once()
            return stored

        return observed

    def _publishing(self, publish: Callable[[list[Outgoing]], int]) -> Callable[..., Any]:
        clock, observe = time.monotonic, self.publish.observe

        def observed(batch: list[Outgoing]) -> int:
            began = clock()
            number = publish(batch)
            observe(clock() - began)
            self.published.update(self._names(batch[:number]))
            self._begin_once()
            return number

        return observed

    def _hearing(self, hear: Callable[[Any, Any], list[Any]]) -> Callable[..., Any]:
        clock, observe = time.monotonic, self.hear.observe

        def observed(message: Any, has_room: Any) -> list[Any]:
            if message is None:  # which comes first, and whenever nothing else does
                self._begin_once()
                return hear(message, has_room)
            began = clock()
            items = hear(message, has_room)
            observe(clock() - began)
            return items

        return observed

    def _delivering(self, deliver: Callable[..., Any]) -> Callable[..., Any]:
        clock, observe, turn = time.monotonic, self.deliver.observe, -1

        def observed(emit: Any) -> None:
            nonlocal turn
            turn = (turn + 1) % EVERY
            if turn:
                deliver(emit)
                return
            began = clock()
            deliver(emit)
            observe(clock() - began)

        async def observed_in_loop(emit: Any) -> None:
            began = clock()
            await deliver(emit)
            observe(clock() - began)

        def sampled(emit: Any) -> Any:
            nonlocal turn
            turn = (turn + 1) % EVERY
            return deliver(emit) if turn else observed_in_loop(emit)

        return sampled if inspect.iscoroutinefunction(deliver) else observed

    # -- labels -------------------------------------------------------------------------------------------------

    def _by_task(self, batch: list[Outgoing]) -> dict[tuple[str, str], int]:
        return Counter((KINDS.get(event.event, CUSTOM), self._task_of(event)) for event in batch)

    def _task_of(self, event: Outgoing) -> str:
        """Return the name of an event's task; empty where its data do not say."""
        if event.event not in (STATUS_EVENT, PROGRESS_EVENT):
            return ""
        name = self._decode_task(event.payload).task or ""
        if name not in self._tasks:
            if len(self._tasks) >= MOST_TASKS:
                return OTHER_TASKS
            self._tasks.add(name)
        return name


def _by_kind(batch: list[Outgoing]) -> dict[tuple[str, str], int]:
    counts: dict[tuple[str, str], int] = {}
    for event, number in Counter(map(_event_of, batch)).items():
        kind = KINDS.get(event, CUSTOM), ""
        counts[kind] = counts.get(kind, 0) + number
    return counts
