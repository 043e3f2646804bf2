"""Whoever dies when, and in whatever order reports arrive: what is shown of each job is true, and every rule holds."""

from __future__ import annotations

import itertools
from random import Random
from typing import Any

import msgspec
import pytest
import redis
from hypothesis import currently_in_test_context, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from celery_realtime import events
from celery_realtime.events import Outgoing
from celery_realtime.history.appending import WORKFLOW_PAUSE
from celery_realtime.history.keys import PROJECT
from celery_realtime.history.leases import HeldJob
from celery_realtime.history.store import History
from tests.fuzz.budget import tried
from tests.fuzz.clocked import LOSSES, Clock, ClockedRunner
from tests.fuzz.heard import Heard
from tests.fuzz.job_model import Known
from tests.fuzz.job_workers import Worker, job_of, numbers
from tests.fuzz.site import UNMARKED, Site

LEASE = 10.0


def tell(what: str) -> None:
    """Note something in what hypothesis prints of a failure."""
    if currently_in_test_context():
        note(what)


class Lives(RuleBasedStateMachine):
    """Producers, workers, children and keepers, each of which may die at any step; and the clock."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        numbers.restart()
        ClockedRunner.forget()
        self.redis = redis.Redis.from_url(self.url)
        self.redis.flushdb()
        # A busy machine is no loss: what is lost has to be lost again when an example is tried again.
        self.history = History(f"{self.url}?socket_timeout=60", "c", size=2, ttl=10**6)
        self.now = 1_000_000.0
        self.tick(0)
        self.site = Site()
        self.heard = Heard()

    def teardown(self) -> None:
        self.settle()
        self.history.close()
        self.redis.close()

    # -- what happens -------------------------------------------------------------------------------------------

    @rule(seed=st.integers(0, 2**32 - 1))
    def happens(self, seed: int) -> None:
        # One rule, so that hypothesis leaves out none for a whole life.
        self.site.random = random = Random(seed)
        has_reports = any(self.site.outboxes())
        weights = {
            self.site.publish: 3,
            self.site.receive: 6 * bool(self.site.queue),
            self.site.start: 6 * any(worker.reserved for worker in self.site.workers),
            self.site.progress: 3 * bool(self.site.starts()),
            self.site.finish: 4 * bool(self.site.starts()),
            self.deliver: 15 * has_reports,
            self.site.kill_child: bool(self.site.starts()),
            self.site.kill_worker: 1,
            self.site.die_before_acknowledging: any(start.message.acks_late for start in self.site.starts()),
            self.site.lose_main: bool(self.site.starts()),
            self.site.end_orphan: 2 * bool(self.site.orphans),
            self.site.kill_producer: bool(self.site.producer),
            self.shut_down: 2,
            self.site.drop_expired: 6 * any(self.site.expired(worker) for worker in self.site.workers),
            self.site.leave_unreached: 1,
            self.site.withdraw: 1,
            self.renew: 2,
            self.reap: 2,
            self.wait: 3,
            self.look: 1,
            self.lose_key: 1,
        }
        [action] = random.choices(list(weights), weights=[int(weight) for weight in weights.values()])
        tell(action.__name__)
        action()

    def shut_down(self) -> None:
        worker = self.site.shut_down()
        if self.site.pick((True, True, False)):
            self.append(worker.outbox)
            self.history.leases.release(worker.incarnation)
        else:
            self.site.left_behind.append(worker.outbox)

    # -- leases -------------------------------------------------------------------------------------------------

    def renew(self) -> None:
        self.hold(self.site.pick(self.site.workers))

    def hold(self, worker: Worker) -> None:
        held = [HeldJob(**msgspec.structs.asdict(job_of(message))) for message in worker.reserved]
        running = [
            HeldJob(**msgspec.structs.asdict(job_of(start.message)), running=True, since=start.started)
            for start in worker.starts
        ]
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
                self.site.reaped.add((job.job_id, job.run, job.attempt))
                gate = "S" if job.running else ""
                end = events.Ending("LOST")
                self.append([events.outgoing_end(job, end, gate=gate, incarnation=incarnation, since=job.since)])
            # The jobs of one that is not forgotten are reported once more.
            if self.site.pick((True, False)):
                self.history.leases.reaped(incarnation)
        for name, job in lapsed.expired.items():
            assert job is not None
            self.append([events.outgoing_status(events.status_change(job, "REVOKED"), gate="E", job=job)])
            self.history.leases.expired([name])
        for stalled in lapsed.stalled:
            update = msgspec.structs.replace(stalled.progress, stalled=True)
            self.append([events.outgoing_progress(update, job=stalled.job)])

    def wait(self) -> None:
        self.tick(self.site.pick((0.1, 1.0, 4.0, 11.0)))

    def tick(self, seconds: float) -> None:
        self.now = round(self.now + seconds, 3)
        second, fraction = divmod(round(self.now * 1000), 1000)
        self.redis.hset("clock", mapping={"s": second, "us": fraction * 1000})
        Clock.now = self.now

    # -- the history --------------------------------------------------------------------------------------------

    def deliver(self) -> None:
        outbox = self.site.pick([outbox for outbox in self.site.outboxes() if outbox])
        most = self.site.pick(range(1, 5))
        batch, outbox[:] = outbox[:most], outbox[most:]
        self.append(batch)

    def look(self) -> None:
        self.append([events.workflow_look("p")])

    def append(self, batch: list[Outgoing]) -> None:
        if not batch:
            return
        self.heard.shown = self.shown()
        ClockedRunner.losses = [self.site.pick(LOSSES) for _ in range(self.site.pick((0, 0, 0, 1, 2)))]
        tell(f"lost: {ClockedRunner.losses}")
        self.heard.oldest = 0
        while ClockedRunner.losses:
            assert self.history.append(batch) is None
            self.heard.oldest = self.oldest()
        cut = self.site.pick(range(len(batch)))
        for part in (batch[:cut], batch[cut:]):
            self.heard.shown &= self.shown()
            self.heard.take(part, self.history.append(part), self.now)
        ClockedRunner.deliver_late()

    def oldest(self) -> int:
        """Return the offset of the oldest event that the history has."""
        events_of_it = self.history.keys.project("p")[PROJECT.index("events")]
        entries: Any = self.redis.xrange(events_of_it, count=1)
        return int(entries[0][0].partition(b"-")[0]) if entries else 0

    def shown(self) -> set[str]:
        return {job["job_id"] for job in self.history.read("p").jobs}

    def lose_key(self) -> None:
        key = self.site.pick(PROJECT)
        before = self.history.read("p")
        lost = self.redis.delete(self.history.keys.project("p")[PROJECT.index(key)])
        after = self.history.read("p")
        if not lost:
            assert after.epoch == before.epoch
            return
        assert after.epoch != before.epoch
        assert after.offset >= (0 if key == "meta" else before.offset)
        if key == "jobs":
            self.heard.known.clear()
            self.heard.is_true = False
            assert after.jobs == []
        else:
            assert {job["job_id"]: job for job in after.jobs} == {job["job_id"]: job for job in before.jobs}
        self.heard.position = (after.epoch, after.offset)
        self.heard.client.replace(after.jobs)
        self.heard.updates.clear()

    # -- what has to be true ------------------------------------------------------------------------------------

    @invariant()
    def who_has_heard_all_knows_what_a_newcomer_is_given(self) -> None:
        snapshot = self.history.read("p")
        if self.heard.position[0]:
            assert (snapshot.epoch, snapshot.offset) == self.heard.position
        for job in snapshot.jobs:
            heard = self.heard.client.view[job["job_id"]]
            names = ["status", "state", "attempt", "stalled", "worker"]
            if job["job_id"] not in self.heard.returned or job.get("progress") is not None:
                names += ["progress", "message"]
            assert [heard.get(name) for name in names] == [job.get(name) for name in names]
        for job_id, known in self.heard.known.items():
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
        counted = [known.kind for known in self.heard.known.values()]
        for flow in self.history.read("p").workflows:
            if self.heard.is_true:
                assert flow["total"] == len(counted)
                assert {kind: flow[kind] for kind in kinds} == {kind: counted.count(kind) for kind in kinds}
        for (earlier, _), (later, update) in itertools.pairwise(self.heard.updates):
            is_over = update["queued"] + update["running"] == 0
            assert is_over or later - earlier >= WORKFLOW_PAUSE - 0.001

    def settle(self) -> None:
        """Let all that live say what they have to say, and look for those that do not."""
        for _ in range(2):
            for worker in self.site.workers:
                self.hold(worker)
            for outbox in self.site.outboxes():
                self.append(outbox[:])
                outbox.clear()
            self.tick(LEASE - 1)
            for worker in self.site.workers:
                self.hold(worker)
            self.tick(2.0)
            self.reap()
        self.tick(WORKFLOW_PAUSE)
        self.look()
        tell(f"settled: {self.heard.known}")
        self.who_has_heard_all_knows_what_a_newcomer_is_given()
        self.a_workflow_is_counted_right_and_reported_in_measure()
        if self.heard.updates:
            workflow = self.history.read("p").workflows[0]
            assert {name: self.heard.updates[-1][1][name] for name in workflow} == workflow
        if self.heard.is_true:
            for job, known in self.heard.known.items():
                self.check_truth(job, known)

    def check_truth(self, job: str, known: Known) -> None:
        running = [start.message for start in self.site.starts() if start.message.job == job]
        waiting = [message for message in self.site.queue if message.job == job]
        waiting += [message for worker in self.site.workers for message in worker.reserved if message.job == job]
        run = self.site.latest_run.get(job)
        latest = [message for message in running + waiting if message.run == run]
        attempt = max((message.attempt for message in latest), default=known.attempt)
        if job != UNMARKED:
            assert known.run is None or known.run <= str(run)
            if any(message.attempt == attempt for message in running if message.run == run):
                is_over = (job, run, attempt) in self.heard.ends
                assert known.run == run
                assert (known.attempt, known.rank) == (attempt, "2" if is_over else "1")
            key = (job, run, known.attempt)
            fate = self.site.fates.get(key)
            if fate is not None and known.run == run and key not in self.heard.ends:
                # That a job is handed on is said by no event, so it takes back no loss; the start that follows does.
                is_lost_before = fate[1] == "1" and key in self.site.reaped
                assert known.rank in (fate[1], "E", "L" if is_lost_before else "E"), (known, fate)
        # One that has been handed on is waited for, as a queued one is.
        alive = [worker.incarnation for worker in self.site.workers]
        if known.rank == "1" and not known.handed_on and known.incarnation not in alive:
            pytest.fail(f"{job} runs for ever: its worker is dead")


@pytest.fixture
def clocked(results_server: Any, monkeypatch: pytest.MonkeyPatch) -> type[Lives]:
    monkeypatch.setattr("celery_realtime.history.store.Runner", ClockedRunner)
    monkeypatch.setattr("celery_realtime.history.appending.time", Clock)
    # A report that says just what the one before it said, at the same time, is taken for the same one.
    # Each is replaced where it is used: the real one asks for the text of a time once a millisecond.
    for name in ("events.now", "jobs.progress.now", "history.appending.now"):
        monkeypatch.setattr(f"celery_realtime.{name}", lambda: f"time {next(numbers)}")
    monkeypatch.setattr("celery_realtime.events.at", lambda _: f"time {next(numbers)}")
    monkeypatch.setattr(Lives, "url", results_server.fresh_url())
    return Lives


def test_the_same_seeds_make_the_same_life(clocked: type[Lives]) -> None:
    def live(first: int) -> Any:
        lives = clocked()
        for seed in range(first, first + 60):
            lives.happens(seed)
        lives.teardown()
        return lives.heard.known, lives.heard.position[1], dict(lives.heard.client.view), lives.heard.ends

    for first in range(0, 400, 100):
        assert live(first) == live(first)


@pytest.mark.timeout(600)
def test_whoever_dies_the_history_keeps_its_rules_and_what_it_shows_is_true(clocked: type[Lives]) -> None:
    budget = settings(tried(7, share=0.5, shrinks=False), stateful_step_count=60)
    run_state_machine_as_test(clocked, settings=budget)
