"""Task messages, the workers that have them, and the starts of their tasks."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from celery_realtime.events import Execution, Job, Outgoing


class Numbers:
    """The numbers of all that has to differ within one life; each life begins with the same."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin again: what is tried a second time must not go another way, as by the order of names."""
        self._latest = -1

    def __next__(self) -> int:
        self._latest += 1
        return self._latest


numbers = Numbers()


class Message(NamedTuple):
    """A task message on the broker, or in a worker."""

    job: str
    run: str | None
    attempt: int = 0
    redelivered: bool = False
    acks_late: bool = False
    expires_at: float | None = None
    continues: str | None = None

    def again(self) -> Message:
        """Return it as the broker delivers it a second time."""
        return self._replace(redelivered=True)


class Start:
    """A start of a task in a child, which reports in order."""

    def __init__(self, message: Message, worker: Worker, started: float) -> None:
        self.message = message
        self.worker = worker
        self.started = started
        continued = None if message.redelivered else message.continues
        self.id = continued or f"x{next(numbers)}"
        self.percent = 0
        self.outbox: list[Outgoing] = []

    def job(self) -> Job:
        """Return the job that it reports."""
        execution = Execution(self.id, self.started, self.message.redelivered)
        return msgspec.structs.replace(job_of(self.message), worker="w", execution=execution)


class Worker:
    """One life of a worker's main process."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.has_renewed = False
        self.incarnation = f"i{next(numbers)}"
        self.reserved: list[Message] = []
        self.starts: list[Start] = []
        self.outbox: list[Outgoing] = []


def job_of(message: Message) -> Job:
    return Job(job_id=message.job, project_id="p", attempt=message.attempt, root_id="root", run=message.run, worker="w")


def key_of(message: Message) -> tuple[str, str | None, int]:
    return message.job, message.run, message.attempt
