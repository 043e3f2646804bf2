"""Events for an outbox, and brokers that take them as a test says."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from celery_realtime.events import Outgoing
from celery_realtime.sending.outbox import Outbox
from celery_realtime.settings import Settings

LATER = 600.0


def status(name: str, job: str = "j", rank: int = 1, project: str = "p") -> Outgoing:
    return Outgoing(project, "agent_status", name.encode(), job, rank=rank)


def end(name: str, job: str = "j") -> Outgoing:
    return status(name, job, rank=2)


def progress(name: str, job: str = "j", project: str = "p") -> Outgoing:
    return Outgoing(project, "agent_progress", name.encode(), job, progress=True)


def custom(name: str, job: str = "j") -> Outgoing:
    return Outgoing("p", "line", name.encode(), job)


def new_outbox(publish: Callable[[list[Outgoing]], int], **options: Any) -> Outbox[Outgoing]:
    """Return an outbox with the default settings, but for some options."""
    defaults = Settings()
    names = ("queue_size", "batch_size", "linger", "flush_timeout")
    return Outbox(publish, **{**{name: getattr(defaults, name) for name in names}, **options})


class Broker:
    """Takes events as a test says, and keeps what it took."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.times: list[float] = []
        self.taken: list[str] = []
        self.left_at: dict[str, float] = {}
        self.down = False
        self.script: list[int | Exception] = []
        self.open = threading.Event()
        self.open.set()
        self.busy = threading.Event()
        #: Called with what it has taken.
        self.after: Callable[[list[Outgoing]], object] = len

    def publish(self, events: list[Outgoing]) -> int:
        names = [event.payload.decode() for event in events]
        self.batches.append(names)
        self.times.append(time.monotonic())
        self.busy.set()
        assert self.open.wait(60)
        answer = self.script.pop(0) if self.script else len(events)
        if isinstance(answer, Exception):
            raise answer
        if self.down:
            answer = 0
        self.taken += names[:answer]
        self.left_at.update(dict.fromkeys(names[:answer], time.monotonic()))
        self.after(events[:answer])
        return min(answer, len(events))

    def hang(self) -> None:
        """Take a batch and keep it, until :meth:`go_on`."""
        self.busy.clear()
        self.open.clear()

    def go_on(self) -> None:
        self.open.set()

    def recover(self) -> None:
        """Take everything from now on."""
        self.down, self.script, self.after = False, [], len
        self.go_on()


class FlakyBroker:
    """Takes as many events of a batch as it is told, and waits to be told."""

    def __init__(self) -> None:
        self.taken: list[Outgoing] = []
        self._answers: list[int] = []
        self._told = threading.Condition()
        self._well = False

    def publish(self, events: list[Outgoing]) -> int:
        with self._told:
            self._told.wait_for(lambda: self._answers or self._well, 30)
            count = len(events) if self._well or not self._answers else min(self._answers.pop(0), len(events))
        self.taken += events[:count]
        return count

    def answer(self, count: int) -> None:
        with self._told:
            self._answers.append(count)
            self._told.notify_all()

    def get_well(self) -> None:
        with self._told:
            self._well = True
            self._told.notify_all()


def hang_with(outbox: Outbox[Outgoing], broker: Broker, event: Outgoing) -> None:
    """Let the broker hang with one event in hand, so that all that follows waits in the outbox."""
    broker.hang()
    outbox.put(event)
    assert broker.busy.wait(60)
