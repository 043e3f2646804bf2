"""Producers, a broker and two workers, each of which may die at any step."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TypeVar

import msgspec

from celery_realtime import events
from celery_realtime.events import Ending, Job, Outgoing, Step
from celery_realtime.jobs.progress import Progress, progress_update
from tests.fuzz.clocked import Clock
from tests.fuzz.job_workers import Message, Start, Worker, job_of, key_of, numbers

JOBS = ("one", "two", "three", "unmarked")
UNMARKED = "unmarked"

T = TypeVar("T")


class Site:
    """Producers, a broker and two workers."""

    def __init__(self) -> None:
        self.random = Random(0)
        self.queue: list[Message] = []
        self.producer: list[Outgoing] = []
        self.workers = [Worker(self.now), Worker(self.now)]
        self.latest_run: dict[str, str | None] = {}
        #: Reports whose senders have ended, and that come later all the same.
        self.left_behind: list[list[Outgoing]] = []
        #: Starts whose worker's main process is dead.
        self.orphans: list[Start] = []
        #: By (job, run, attempt), the worker that reports what has become of the latest start, and the rank after that.
        self.fates: dict[tuple[str, str | None, int], tuple[Worker, str]] = {}
        #: What a lease has lapsed of, and has not started since.
        self.reaped: set[tuple[str, str | None, int]] = set()

    @property
    def now(self) -> float:
        """The time of the test."""
        return Clock.now

    def pick(self, choices: Sequence[T]) -> T:
        """Return one of several."""
        return self.random.choice(choices)

    def publish(self) -> None:
        job, acks_late, expires = self.pick(JOBS), self.pick((False, True)), self.pick((False, True))
        number = next(numbers)
        run = None if job == UNMARKED else f"{1_700_000_000_000 + number}-{number % 16**8:08x}"
        message = Message(job, run, acks_late=acks_late, expires_at=self.now + 2 if expires else None)
        self.latest_run[job] = run
        self.queue.append(message)
        if run is not None:
            change = events.status_change(job_of(message), "PENDING")
            self.producer.append(events.outgoing_status(change, message.expires_at, job=job_of(message)))

    def receive(self) -> None:
        message = self.pick(self.queue)
        self.queue.remove(message)
        self.pick(self.workers).reserved.append(message)

    def start(self) -> None:
        worker = self.pick([worker for worker in self.workers if worker.reserved])
        start = Start(worker.reserved.pop(0), worker, self.now)
        worker.starts.append(start)
        self.fates.pop(key_of(start.message), None)
        self.reaped.discard(key_of(start.message))
        self.report(start, "STARTED")

    def starts(self) -> list[Start]:
        return [start for worker in self.workers for start in worker.starts]

    def report(self, start: Start, state: str) -> None:
        job = start.job()
        change = events.status_change(job, state)
        start.outbox.append(events.outgoing_status(change, incarnation=start.worker.incarnation, job=job))

    def progress(self) -> None:
        start = self.pick(self.starts())
        start.percent = min(100, start.percent + self.pick(range(50)))
        update = progress_update(start.job(), Progress(start.percent, f"{next(numbers)}"))
        start.outbox.append(events.outgoing_progress(update, 5.0, job=start.job()))

    def finish(self) -> None:
        start = self.pick(self.starts())
        start.worker.starts.remove(start)
        how = self.pick(("return", "return", "fail", "retry", "replace"))
        if how == "replace":
            again = start.message._replace(redelivered=False, continues=start.id)
            self.queue.append(again)
            start.outbox.append(events.outgoing_handed_on(start.job(), self.now, incarnation=start.worker.incarnation))
            if start.message.continues is None:  # else one that has handed it on before may not have said so
                self.fates[key_of(start.message)] = start.worker, "1"
        elif how == "retry":
            again = start.message._replace(attempt=start.message.attempt + 1, redelivered=False, expires_at=None)
            again = again._replace(continues=None)
            self.queue.append(again)
            change = events.status_change(job_of(again), "RETRY")
            incarnation = start.worker.incarnation
            start.outbox.append(events.outgoing_status(change, incarnation=incarnation, job=job_of(again)))
        else:
            self.report(start, "FAILURE" if how == "fail" else "SUCCESS")
        start.worker.outbox += start.outbox

    def kill_child(self) -> None:
        start = self.pick(self.starts())
        start.worker.starts.remove(start)
        self.leave(start, "FAILURE")

    def leave(self, start: Start, state: str) -> None:
        """Let a start end that has not finished: its worker reports what becomes of it, and its child or nobody more.

        Args:
            start: The start.
            state: In which the job ends if its message is acknowledged.
        """
        worker, message = start.worker, start.message
        is_salvaged = self.pick((True, True, False))
        if is_salvaged:
            worker.outbox += start.outbox
        else:
            self.left_behind.append(start.outbox)
        job = job_of(message)
        if message.acks_late:
            self.queue.append(message.again())
            end = events.outgoing_given_back(job, events.Execution("", self.now), incarnation=worker.incarnation)
        else:
            end = self.end_of(start, state)
        worker.outbox.append(end)
        # A start that is heard of after its message went back may pass for the next one, and is lost later.
        if is_salvaged or not message.acks_late:
            rank = {"LOST": "L", "FAILURE": "D"}[state]
            self.fates[key_of(message)] = worker, "0" if message.acks_late else rank

    def end_of(self, start: Start, state: str) -> Outgoing:
        """Return what a worker reports of a start that has not finished."""
        end, gate = Ending(state, "boom", died=state == "FAILURE"), "S" if state == "LOST" else ""
        since = start.started if gate else self.now
        incarnation = start.worker.incarnation
        return events.outgoing_end(job_of(start.message), end, incarnation=incarnation, gate=gate, since=since)

    def die_before_acknowledging(self) -> None:
        """Kill a child, and then its worker, which has reported the first and could not acknowledge the message."""
        start = self.pick([start for start in self.starts() if start.message.acks_late])
        worker = start.worker
        worker.starts.remove(start)
        if self.pick((True, False)):
            worker.outbox += start.outbox
        else:
            self.left_behind.append(start.outbox)
        self.left_behind.append([*worker.outbox, self.end_of(start, "FAILURE")])
        self.queue.append(start.message.again())
        self.kill(worker)

    def lose_main(self) -> None:
        """Kill a worker's main process alone: its children run on, and are heard of."""
        worker = self.pick([worker for worker in self.workers if worker.starts])
        self.orphans += worker.starts
        self.kill(worker)

    def kill_worker(self) -> None:
        self.kill(self.pick(self.workers))

    def kill(self, worker: Worker) -> None:
        """Let a worker be gone with its children, and another one begin in its place."""
        index = self.workers.index(worker)
        self.queue += [message.again() for message in worker.reserved]
        self.queue += [start.message.again() for start in worker.starts if start.message.acks_late]
        self.fates = {key: fate for key, fate in self.fates.items() if fate[0] is not worker}
        self.workers[index] = Worker(self.now)

    def shut_down(self) -> Worker:
        """Let a worker end that says what becomes of its jobs; returns it with its last reports."""
        index = self.pick(range(len(self.workers)))
        worker = self.workers[index]
        self.queue += [message.again() for message in worker.reserved]
        for start in worker.starts:
            self.leave(start, "LOST")
        self.workers[index] = Worker(self.now)
        return worker

    def expired(self, worker: Worker) -> list[Message]:
        return [message for message in worker.reserved if (message.expires_at or self.now) < self.now]

    def drop_expired(self) -> None:
        worker = self.pick([worker for worker in self.workers if self.expired(worker)])
        message = self.pick(self.expired(worker))
        worker.reserved.remove(message)
        self.fates.pop(key_of(message), None)
        change = events.status_change(job_of(message), "REVOKED", error=self.pick((None, "why")))
        worker.outbox.append(events.outgoing_status(change, incarnation=worker.incarnation, job=job_of(message)))

    def leave_unreached(self) -> None:
        job = self.pick(JOBS)
        step = Step(job_id=job, project_id="p", root_id="root", run=self.pick((None, self.latest_run.get(job))))
        before = Job(job_id="before", project_id="p")
        unreached = events.outgoing_unreached(step, before, Ending("FAILURE", "boom"))
        self.left_behind.append([unreached])

    def withdraw(self) -> None:
        job = Job(job_id=self.pick(JOBS), project_id="p")
        job = msgspec.structs.replace(job, run=self.latest_run.get(job.job_id), attempt=self.pick((0, 0, 1)))
        end = events.outgoing_end(job, Ending("REVOKED", "nobody has it"), incarnation="", gate=events.UNDELIVERED_GATE)
        self.left_behind.append([end])

    def end_orphan(self) -> None:
        """Let a start end whose worker's main process is dead, by itself or not."""
        orphan = self.pick(self.orphans)
        self.orphans.remove(orphan)
        how = self.pick(("SUCCESS", "FAILURE", "killed"))
        if how != "killed":
            self.report(orphan, how)
        self.left_behind.append(orphan.outbox)

    def kill_producer(self) -> None:
        self.producer.clear()

    def outboxes(self) -> list[list[Outgoing]]:
        lists = [worker.outbox for worker in self.workers] + [start.outbox for start in [*self.starts(), *self.orphans]]
        self.left_behind = [outbox for outbox in self.left_behind if outbox]
        return [self.producer, *lists, *self.left_behind]
