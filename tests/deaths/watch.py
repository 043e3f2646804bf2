"""Watch a project from outside: what is true of its jobs, what is shown of them, and whether that agrees in time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from tests.deaths import diary, unknowable
from tests.deaths.clients import Asker, OurClient, PlainClient
from tests.deaths.diary import Delivery, Run
from tests.deaths.oracle import ABSENT, RUNNING, Truth, acceptable, strictly_acceptable
from tests.deaths.plan import PlannedJob
from tests.deaths.stage import LOST_AFTER, Stage
from tests.deaths.unknowable import Fate
from tests.deaths.verdict import Fault, View, judge

#: Everything is right so many seconds after the last death, restart, or end of a job.
BOUND = LOST_AFTER + 10
#: What is right for so long, in seconds, stays right: all leases have lapsed in that time.
SETTLED = LOST_AFTER + 2
POLL = 0.5


class Watch:
    """The clients of a project, and the oracle of its jobs.

    Args:
        stage: Its servers.
        project: The project.
        folder: Where its jobs write down what becomes of them.
        queues: Where they may wait.

    Attributes:
        jobs: Its jobs; add those that are published.
        acted_at: When somebody was last killed, started or released, in seconds since the epoch.
        forgot_at: When the history lost its data, if it did.
        died: By main process of a worker, when it was killed, as far as that may excuse what is shown.
    """

    def __init__(self, stage: Stage, project: str, *, folder: Path, queues: list[str]) -> None:
        self.jobs: list[PlannedJob] = []
        self.acted_at = time.time()
        self.forgot_at: float | None = None
        self.died: dict[int, float] = {}
        self._stage = stage
        self._folder = folder
        self._queues = queues
        token = stage.token(project)
        self._clients = [client(stage.web.url, token, project) for client in (PlainClient, OurClient)]
        self._asker = Asker(stage.web.url, token, project)

    def live_views(self) -> list[View]:
        """Return what the connected clients show."""
        return [client.view() for client in self._clients]

    def new_view(self) -> View:
        """Return what a page shows that is opened now."""
        return self._asker.view()

    def runs(self, jobs: Iterable[PlannedJob]) -> dict[str, list[Run]]:
        """Return the runs of some jobs."""
        return diary.read(self._folder, [job.job_id for job in jobs])

    def truths(self) -> dict[str, Truth]:
        """Return what is true of each job."""
        runs = self.runs(self.jobs)
        waiting = self._stage.waiting(self._queues)
        excuses = self._excuses(runs)
        return {
            job.job_id: Truth(
                published_at=job.published_at,
                runs=tuple(runs[job.job_id]),
                stored=self._stage.stored_state(job.job_id),
                waiting=job.job_id in waiting or self._waits_in_a_worker(job),
                forgot_at=self.forgot_at,
                results_forgot_at=self.forgot_at if self._stage.keeps_results_with_history else None,
                spoke=not job.suicide,
                unannounced=job.task == "named",
                accepted=any(delivery.accepted_at for delivery in self._deliveries(job)),
                unknowable=excuses.get(job.job_id),
            )
            for job in self.jobs
        }

    def _deliveries(self, job: PlannedJob) -> tuple[Delivery, ...]:
        return diary.deliveries(self._folder, job.job_id)

    def _waits_in_a_worker(self, job: PlannedJob) -> bool:
        """Tell whether a worker that lives has a job and has not begun it: RabbitMQ does not show its message then.

        When it loses its connection, Celery drops what waits in it (celery/worker/consumer, ``Consumer.on_close``).
        """
        deliveries = self._deliveries(job)
        if not deliveries or deliveries[-1].received_at <= self._stage.broker_killed_at:
            return False
        return deliveries[-1].waits and diary.lives(*deliveries[-1].receiver)

    def _excuses(self, runs: Mapping[str, list[Run]]) -> dict[str, str | None]:
        """Return why nobody can know of a job that it does not just wait, for those that nobody has seen running."""
        died = {**self._suicides(runs), **self.died}
        changes = [change for view in self.live_views() for change in view.changes]
        seen = {change.job for change in changes if change.answer == RUNNING}
        return {
            job.job_id: unknowable.reason(
                Fate(job.published_at, runs[job.job_id], self._deliveries(job), died, self._stage.kind)
            )
            for job in self.jobs
            if died and job.job_id not in seen
        }

    def _suicides(self, runs: Mapping[str, list[Run]]) -> dict[int, float]:
        """Return the main processes that jobs have killed, which they ran in, and when."""
        suicides = (run for job in self.jobs if job.suicide for run in runs[job.job_id])
        return {run.pid: run.noted_at for run in suicides if run.suicide and run.pid == run.main_pid}

    def excused(self) -> dict[str, str]:
        """Return the jobs that are shown as something that would be wrong if it could be known, and why it cannot."""
        views, excused = [*self.live_views(), self.new_view()], {}
        for job, truth in self.truths().items():
            shown = {view.answers.get(job, ABSENT) for view in views}
            if truth.unknowable is not None and shown <= acceptable(truth) and shown - strictly_acceptable(truth):
                excused[job] = truth.unknowable
        return excused

    def faults(self) -> list[Fault]:
        """Return what is wrong now."""
        return judge(self.truths(), [*self.live_views(), self.new_view()])

    @property
    def due_at(self) -> float:
        """Until when all has to be right, in seconds since the epoch."""
        changed = max((truth.changed_at for truth in self.truths().values()), default=0.0)
        return max(self.acted_at, changed) + BOUND

    def close(self) -> None:
        for client in self._clients:
            client.close()


class Watched(Protocol):
    """What can be judged."""

    def faults(self) -> list[Fault]:
        """Return what is wrong now."""

    @property
    def due_at(self) -> float:
        """Until when all has to be right, in seconds since the epoch."""


def settle(watches: Mapping[str, Watched], *, settled: float = SETTLED, poll: float = POLL) -> dict[str, list[Fault]]:
    """Wait until all has been right for a while, or has to be; return the faults of each watch by its name.

    Args:
        watches: By any names.
        settled: How long, in seconds, all has to be right without a break.
        poll: Seconds between two looks.
    """
    verdicts: dict[str, list[Fault]] = {}
    right_since: dict[str, float] = {}
    pause = threading.Event()

    def look(name: str) -> None:
        verdict = _verdict(watches[name], right_since, name, settled)
        if verdict is not None:
            verdicts[name] = verdict

    with ThreadPoolExecutor(max(len(watches), 1)) as pool:
        while len(verdicts) < len(watches):
            list(pool.map(look, watches.keys() - verdicts.keys()))
            pause.wait(poll)
    return verdicts


def _verdict(watch: Watched, right_since: dict[str, float], name: str, settled: float) -> list[Fault] | None:
    """Return the verdict on a watch; None as long as it may change."""
    faults, now = watch.faults(), time.time()
    if faults:
        right_since.pop(name, None)
        return faults if now > watch.due_at else None
    return [] if now - right_since.setdefault(name, now) > settled else None
