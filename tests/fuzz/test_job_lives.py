"""Whoever dies when, and in whatever order reports arrive: what is shown of each job is true, and every rule holds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from random import Random
from typing import Any, ClassVar, NamedTuple, TypeVar

import msgspec
import pytest
import redis
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from celery_realtime import events
from celery_realtime.client.entries import Entries
from celery_realtime.events import WORKFLOW_EVENT, Ending, Execution, Job, Outgoing, Step
from celery_realtime.history.appending import WORKFLOW_PAUSE
from celery_realtime.history.keys import PROJECT
from celery_realtime.history.leases import HeldJob
from celery_realtime.history.lua import Command, Runner, Script
from celery_realtime.history.store import History
from celery_realtime.jobs.progress import Progress, progress_update
from tests.fuzz.budget import tried
from tests.fuzz.job_model import Known, Report, apply
from tests.fuzz.job_model import note as noted

LEASE = 10.0
JOBS = ("one", "two", "three", "unmarked")
UNMARKED = "unmarked"
#: What a connection may lose: commands, their answers, or the answers of commands that still arrive.
LOSSES = ("command", "answer", "late")
numbers = itertools.count()

T = TypeVar("T")


class Clock:
    """In place of the module ``time``."""

    now = 0.0

    @classmethod
    def time(cls) -> float:
        """Return the time of the test."""
        return cls.now


class ClockedScript(Script):
    """A script whose clock stands in a key."""

    @property
    def source(self) -> str:  # type: ignore[override]
        """Its text."""
        return Script(self.name).source.replace("redis.call('TIME')", "redis.call('HMGET', 'clock', 's', 'us')")


class ClockedRunner(Runner):
    """Runs scripts by the clock of the test, and loses what the test says."""

    #: What becomes of the next commands, the last first: see LOSSES. Those that are late come after the others.
    losses: ClassVar[list[str]] = []
    late: ClassVar[list[tuple[Runner, Any]]] = []

    def run_all(self, commands: Any) -> list[Any]:
        """Run commands."""
        clocked = [_clocked(command) for command in commands]
        loss = self.losses.pop() if self.losses and commands else ""
        if loss == "late":
            self.late.append((self, clocked))
        replies = [] if loss in ("late", "command") else super().run_all(clocked)
        if loss:
            raise redis.TimeoutError("no answer")
        return replies

    @classmethod
    def deliver_late(cls) -> None:
        """Let the commands come whose answers nobody waits for any more."""
        while cls.late:
            runner, commands = cls.late.pop()
            Runner.run_all(runner, commands)


def _clocked(command: Command) -> Command:
    if command.script is None:
        return command
    script = ClockedScript(command.script.name)
    return Command([command.words[0], script.sha, *command.words[2:]], script)


class Message(NamedTuple):
    """A task message on the broker, or in a worker."""

    job: str
    run: str | None
    attempt: int = 0
    redelivered: bool = False
    acks_late: bool = False
    expires_at: float | None = None

    def again(self) -> Message:
        """Return it as the broker delivers it a second time."""
        return self._replace(redelivered=True)


class Start:
    """A start of a task in a child, which reports in order."""

    def __init__(self, message: Message, worker: Worker, started: float) -> None:
        self.message = message
        self.worker = worker
        self.started = started
        self.id = f"x{next(numbers)}"
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


class Lives(RuleBasedStateMachine):
    """Producers, workers, children and keepers, each of which may die at any step; and the clock."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.redis = redis.Redis.from_url(self.url)
        self.redis.flushdb()
        self.history = History(self.url, "c", size=2, ttl=10**6)
        self.now = 1_000_000.0
        self.tick(0)
        self.queue: list[Message] = []
        self.producer: list[Outgoing] = []
        self.workers = [Worker(self.now), Worker(self.now)]
        self.known: dict[str, Known] = {}
        self.client = Entries("job_id", 10**6)
        self.position = ("", 0)
        self.latest_run: dict[str, str | None] = {}
        #: (job, run, attempt) of which the end is on record.
        self.ends: set[tuple[str, str | None, int]] = set()
        self.is_true = True
        self.updates: list[tuple[float, dict[str, Any]]] = []
        #: Reports whose senders have ended, and that come later all the same.
        self.left_behind: list[list[Outgoing]] = []
        #: By (job, run, attempt), the worker that reports what has become of the latest start, and the rank after that.
        self.fates: dict[tuple[str, str | None, int], tuple[Worker, str]] = {}

    def teardown(self) -> None:
        self.settle()
        self.history.close()
        self.redis.close()

    # -- what happens -------------------------------------------------------------------------------------------

    @rule(seed=st.integers(0, 2**32 - 1))
    def happens(self, seed: int) -> None:
        # One rule, so that hypothesis leaves out none for a whole life.
        self.random = random = Random(seed)
        has_reports = any(self.outboxes())
        weights = {
            self.publish: 3,
            self.receive: 6 * bool(self.queue),
            self.start: 6 * any(worker.reserved for worker in self.workers),
            self.progress: 3 * bool(self.starts()),
            self.finish: 4 * bool(self.starts()),
            self.deliver: 15 * has_reports,
            self.kill_child: bool(self.starts()),
            self.kill_worker: 1,
            self.kill_producer: bool(self.producer),
            self.shut_down: 2,
            self.drop_expired: 6 * any(self.expired(worker) for worker in self.workers),
            self.leave_unreached: 1,
            self.renew: 2,
            self.reap: 2,
            self.wait: 3,
            self.look: 1,
            self.lose_key: 1,
        }
        [action] = random.choices(list(weights), weights=[int(weight) for weight in weights.values()])
        note(action.__name__)
        action()

    def pick(self, choices: Sequence[T]) -> T:
        """Return one of several."""
        return self.random.choice(choices)

    # -- the broker and the workers -----------------------------------------------------------------------------

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
        if self.pick((False, False, True)):
            again = start.message._replace(attempt=start.message.attempt + 1, redelivered=False, expires_at=None)
            self.queue.append(again)
            change = events.status_change(job_of(again), "RETRY")
            incarnation = start.worker.incarnation
            start.outbox.append(events.outgoing_status(change, incarnation=incarnation, job=job_of(again)))
        else:
            self.report(start, "SUCCESS")
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
        if self.pick((True, True, False)):
            worker.outbox += start.outbox
        else:
            self.left_behind.append(start.outbox)
        job = job_of(message)
        if message.acks_late:
            self.queue.append(message.again())
            end = events.outgoing_given_back(job, self.now, incarnation=worker.incarnation)
        else:
            gate = "S" if state == "LOST" else ""
            end = events.outgoing_end(job, Ending(state, "boom"), incarnation=worker.incarnation, gate=gate)
        worker.outbox.append(end)
        rank = {"LOST": "L", "FAILURE": "2"}[state]
        self.fates[key_of(message)] = worker, "0" if message.acks_late else rank

    def kill_worker(self) -> None:
        index = self.pick(range(len(self.workers)))
        worker = self.workers[index]
        self.queue += [message.again() for message in worker.reserved]
        self.queue += [start.message.again() for start in worker.starts if start.message.acks_late]
        self.fates = {key: fate for key, fate in self.fates.items() if fate[0] is not worker}
        self.workers[index] = Worker(self.now)

    def shut_down(self) -> None:
        index = self.pick(range(len(self.workers)))
        worker = self.workers[index]
        self.queue += [message.again() for message in worker.reserved]
        for start in worker.starts:
            self.leave(start, "LOST")
        self.workers[index] = Worker(self.now)
        if self.pick((True, True, False)):
            self.append(worker.outbox)
            self.history.leases.release(worker.incarnation)
        else:
            self.left_behind.append(worker.outbox)

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

    def kill_producer(self) -> None:
        self.producer.clear()

    # -- leases -------------------------------------------------------------------------------------------------

    def renew(self) -> None:
        self.hold(self.pick(self.workers))

    def hold(self, worker: Worker) -> None:
        held = [HeldJob(**msgspec.structs.asdict(job_of(message))) for message in worker.reserved]
        running = [HeldJob(**msgspec.structs.asdict(job_of(start.message)), running=True) for start in worker.starts]
        was_there = self.history.leases.hold(worker.incarnation, [*held, *running], LEASE)
        is_first = not worker.has_renewed and self.now - worker.since < LEASE
        worker.has_renewed = True
        if not was_there and not is_first:
            for job in running:
                change = events.status_change(job, "STARTED")
                worker.outbox.append(events.outgoing_status(change, incarnation=worker.incarnation, job=job))

    def reap(self) -> None:
        lapsed = self.history.leases.reap(LEASE, 10**6, 1.0)
        for incarnation, jobs in lapsed.lost.items():
            for job in jobs:
                change = events.status_change(job, "LOST")
                gate = "S" if job.running else ""
                self.append([events.outgoing_status(change, gate=gate, incarnation=incarnation, job=job)])
            self.history.leases.reaped(incarnation)
        for job in lapsed.expired:
            self.append([events.outgoing_status(events.status_change(job, "REVOKED"), gate="E", job=job)])
            self.history.leases.expired([job.job_id])
        for stalled in lapsed.stalled:
            update = msgspec.structs.replace(stalled.progress, stalled=True)
            self.append([events.outgoing_progress(update, job=stalled.job)])

    def wait(self) -> None:
        self.tick(self.pick((0.1, 1.0, 4.0, 11.0)))

    def tick(self, seconds: float) -> None:
        self.now = round(self.now + seconds, 3)
        second, fraction = divmod(round(self.now * 1000), 1000)
        self.redis.hset("clock", mapping={"s": second, "us": fraction * 1000})
        Clock.now = self.now

    # -- the history --------------------------------------------------------------------------------------------

    def deliver(self) -> None:
        outbox = self.pick([outbox for outbox in self.outboxes() if outbox])
        most = self.pick(range(1, 5))
        batch, outbox[:] = outbox[:most], outbox[most:]
        self.append(batch)

    def outboxes(self) -> list[list[Outgoing]]:
        lists = [worker.outbox for worker in self.workers] + [start.outbox for start in self.starts()]
        self.left_behind = [outbox for outbox in self.left_behind if outbox]
        return [self.producer, *lists, *self.left_behind]

    def look(self) -> None:
        self.append([events.workflow_look("p")])

    def append(self, batch: list[Outgoing]) -> None:
        if not batch:
            return
        ClockedRunner.losses = [self.pick(LOSSES) for _ in range(self.pick((0, 0, 0, 1, 2)))]
        note(f"lost: {ClockedRunner.losses}")
        while ClockedRunner.losses:
            assert self.history.append(batch) is None
        cut = self.pick(range(len(batch)))
        for part in (batch[:cut], batch[cut:]):
            self.take(part, self.history.append(part))
        ClockedRunner.deliver_late()

    def take(self, batch: list[Outgoing], answers: list[list[Outgoing]] | None) -> None:
        """Hear what the history says of a batch."""
        assert answers is not None
        for event, answer in zip(batch, answers, strict=True):
            news = [stamped for stamped in answer if stamped.event != WORKFLOW_EVENT]
            if not events.is_workflow_look(event):
                self.check_answer(event, bool(news))
            for stamped in answer:
                self.hear(stamped)

    def check_answer(self, event: Outgoing, is_stored: bool) -> None:
        execution = event.standing.execution
        report = Report.of(event, self.now, 0.0 if execution is None else execution.started)
        job = str(event.job_id)
        before = self.known.get(job)
        after = apply(report, before, self.now)
        assert is_stored == (after is not None), (report, before)
        after = after or noted(report, before)
        if after is not None:
            self.known[job] = after
            if after.rank == "2":
                self.ends.add((job, after.run, after.attempt))

    def hear(self, stamped: Outgoing) -> None:
        data = msgspec.json.decode(stamped.payload)
        epoch, offset = data["epoch"], data["offset"]
        if self.position[0] != epoch:
            assert self.position == ("", 0)
            self.position = (epoch, 0)
        assert offset == self.position[1] + 1
        self.position = (epoch, offset)
        if stamped.event == WORKFLOW_EVENT:
            self.updates.append((self.now, data))
        else:
            self.client.update(stamped.event, data, numbered=True)

    def lose_key(self) -> None:
        key = self.pick(PROJECT)
        before = self.history.read("p")
        lost = self.redis.delete(self.history.keys.project("p")[PROJECT.index(key)])
        after = self.history.read("p")
        if not lost:
            assert after.epoch == before.epoch
            return
        assert after.epoch != before.epoch
        assert after.offset >= (0 if key == "meta" else before.offset)
        if key == "jobs":
            self.known.clear()
            self.is_true = False
            assert after.jobs == []
        else:
            assert {job["job_id"]: job for job in after.jobs} == {job["job_id"]: job for job in before.jobs}
        self.position = (after.epoch, after.offset)
        self.client.replace(after.jobs)
        self.updates.clear()

    # -- what has to be true ------------------------------------------------------------------------------------

    @invariant()
    def who_has_heard_all_knows_what_a_newcomer_is_given(self) -> None:
        snapshot = self.history.read("p")
        if self.position[0]:
            assert (snapshot.epoch, snapshot.offset) == self.position
        for job in snapshot.jobs:
            heard = self.client.view[job["job_id"]]
            names = ["status", "state", "attempt", "stalled"]
            # If only the end of a run is heard, a client still shows the progress of an earlier one.
            if job["status"] in ("queued", "running") or job["progress"] is not None:
                names += ["progress", "message"]
            assert [heard.get(name) for name in names] == [job.get(name) for name in names]
        for job_id, known in self.known.items():
            shown = [job for job in snapshot.jobs if job["job_id"] == job_id]
            assert shown or known.ended is not None

    @invariant()
    def each_job_is_filed_once(self) -> None:
        keys = dict(zip(PROJECT, self.history.keys.project("p"), strict=True))
        filed = [job for name in ("live", "ended", "gone") for job in self.redis.zrange(keys[name], 0, -1)]  # type: ignore[union-attr]
        assert sorted(filed) == sorted(self.redis.hkeys(keys["jobs"]))  # type: ignore[arg-type]

    @invariant()
    def a_workflow_is_counted_right_and_reported_in_measure(self) -> None:
        kinds = ("queued", "running", "done", "failed")
        counted = [known.kind for known in self.known.values()]
        for flow in self.history.read("p").workflows:
            if self.is_true:
                assert flow["total"] == len(counted)
                assert {kind: flow[kind] for kind in kinds} == {kind: counted.count(kind) for kind in kinds}
        for (earlier, _), (later, update) in itertools.pairwise(self.updates):
            is_over = update["queued"] + update["running"] == 0
            assert is_over or later - earlier >= WORKFLOW_PAUSE - 0.001

    def settle(self) -> None:
        """Let all that live say what they have to say, and look for those that do not."""
        for _ in range(2):
            for worker in self.workers:
                self.hold(worker)
            for outbox in self.outboxes():
                self.append(outbox[:])
                outbox.clear()
            self.tick(LEASE - 1)
            for worker in self.workers:
                self.hold(worker)
            self.tick(2.0)
            self.reap()
        self.look()
        note(f"settled: {self.known}")
        self.who_has_heard_all_knows_what_a_newcomer_is_given()
        self.a_workflow_is_counted_right_and_reported_in_measure()
        if self.updates:
            workflow = self.history.read("p").workflows[0]
            assert {name: self.updates[-1][1][name] for name in workflow} == workflow
        if self.is_true:
            for job, known in self.known.items():
                self.check_truth(job, known)

    def check_truth(self, job: str, known: Known) -> None:
        running = [start.message for start in self.starts() if start.message.job == job]
        waiting = [message for message in self.queue if message.job == job]
        waiting += [message for worker in self.workers for message in worker.reserved if message.job == job]
        run = self.latest_run.get(job)
        latest = [message for message in running + waiting if message.run == run]
        attempt = max((message.attempt for message in latest), default=known.attempt)
        if job != UNMARKED:
            assert known.run is None or known.run <= str(run)
            if any(message.attempt == attempt for message in running if message.run == run):
                is_over = (job, run, attempt) in self.ends
                assert known.run == run
                assert (known.attempt, known.rank) == (attempt, "2" if is_over else "1")
            fate = self.fates.get((job, run, known.attempt))
            if fate is not None and known.run == run and (job, run, known.attempt) not in self.ends:
                assert known.rank in (fate[1], "E"), (known, fate)
        if known.rank == "1" and known.incarnation not in [worker.incarnation for worker in self.workers]:
            pytest.fail(f"{job} runs for ever: its worker is dead")


@pytest.fixture
def clocked(results_server: Any, monkeypatch: pytest.MonkeyPatch) -> type[Lives]:
    monkeypatch.setattr("celery_realtime.history.store.Runner", ClockedRunner)
    monkeypatch.setattr("celery_realtime.history.appending.time", Clock)
    # A report that says just what the one before it said, at the same time, is taken for the same one.
    monkeypatch.setattr("celery_realtime.events.now", lambda: f"time {next(numbers)}")
    monkeypatch.setattr(Lives, "url", results_server.fresh_url())
    return Lives


def test_whoever_dies_the_history_keeps_its_rules_and_what_it_shows_is_true(clocked: type[Lives]) -> None:
    budget = settings(tried(60, share=0.5, shrinks=False), stateful_step_count=60)
    run_state_machine_as_test(clocked, settings=budget)
