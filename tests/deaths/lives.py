"""Many random lives: workers of all pools take random jobs, and die, restart and stop at random, as do the servers."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.deaths import diary
from tests.deaths.cells import POOLS
from tests.deaths.plan import PlannedJob
from tests.deaths.stage import Stage
from tests.deaths.verdict import Fault
from tests.deaths.watch import Watch, settle
from tests.processes import Worker

NODES = 3
TASKS = ("early", "late", "again", "named")
#: Longest time, in seconds, that a job takes, and between two deeds.
LONGEST_JOB, LONGEST_PAUSE = 1.5, 0.5
#: How many jobs of a hundred kill their own process.
SUICIDES = 8
#: How likely each deed is, beside the others.
DEEDS = {
    "publish": 40,
    "kill_child": 30,
    "kill_main": 3,
    "kill_group": 6,
    "stop": 2,
    "restart": 14,
    "rename": 4,
    "kill_web": 1,
    "kill_broker": 1,
    "kill_redis": 1,
}


class Round:
    """Some lives in a project of their own, and the verdict on all its jobs.

    Args:
        stage: The servers.
        folder: For its jobs' files and its workers' logs.
        chance: Decides all that is random.
    """

    def __init__(self, stage: Stage, folder: Path, chance: random.Random) -> None:
        self.lives = 0
        self._stage = stage
        self._folder = folder
        self._chance = chance
        self._project = f"p{uuid.uuid4().hex[:8]}"
        self._queue = f"{self._project}-jobs"
        self._workers = [self._make_worker() for _ in range(NODES)]
        self._orphans: list[psutil.Process] = []
        self._watch = Watch(stage, self._project, folder=folder, queues=[self._queue])
        self._faults: list[Fault] = []
        self.deeds: list[str] = []
        #: The jobs whose truth could not be known, and why.
        self.excused: dict[str, str] = {}

    def _make_worker(self) -> Worker:
        pool = self._chance.choice(("prefork", "prefork", *POOLS))
        return self._stage.worker(pool, self._queue, folder=self._folder).start(wait=False)

    def run(self, lives: int) -> list[Fault]:
        """Live until so many processes have died, and return what is shown wrongly at the end."""
        deeds: dict[str, Callable[[], None]] = {name: getattr(self, name) for name in DEEDS}
        pause = threading.Event()
        self._wait_ready()
        try:
            while self.lives < lives:
                (name,) = self._chance.choices(list(DEEDS), list(DEEDS.values()))
                deeds[name]()
                self.deeds.append(name)
                pause.wait(self._chance.uniform(0, LONGEST_PAUSE))
            self._faults = self._end()
        finally:
            self._close()
        return self._faults

    @property
    def jobs(self) -> int:
        """How many jobs there were."""
        return len(self._watch.jobs)

    def stories(self) -> list[str]:
        """Return what was written down of the jobs that are shown wrongly, or of which nobody can know.

        Times are in seconds since the last life began.
        """
        jobs = sorted({fault.job for fault in self._faults} | self.excused.keys())
        deaths = [f"{pid} was killed {at - self._watch.acted_at:+.3f}" for pid, at in self._watch.died.items()]
        return [
            f"{diary.story(self._folder, job, self._watch.acted_at)}; {self.excused.get(job, '; '.join(deaths))}"
            for job in jobs
        ]

    def _end(self) -> list[Fault]:
        """Let the rest be done, and judge."""
        for worker in self._workers:
            if not worker.running:
                worker.start(wait=False)
        self._wait_ready()
        self._watch.acted_at = time.time()
        (verdict,) = settle({self._project: self._watch}).values()
        self.excused = self._watch.excused()
        return verdict

    def _wait_ready(self) -> None:
        for worker in self._workers:
            worker.wait_ready()

    # -- deeds --------------------------------------------------------------------------------------------------

    def publish(self) -> None:
        for _ in range(self._chance.randint(1, 6)):
            job = self._new_job()
            self._watch.jobs.append(job)
            self._stage.publish(job, self._project, self._queue)

    def _new_job(self) -> PlannedJob:
        task, end = self._chance.choice(TASKS), self._chance.choice(("success", "success", "error"))
        # One that is delivered again whenever its worker dies would kill one after the other.
        suicide = task in ("early", "named") and self._chance.randrange(100) < SUICIDES
        seconds = self._chance.choice((0, 1)) if suicide else 1
        return PlannedJob(
            f"{self._project}-{len(self._watch.jobs)}-{task}-{'suicide' if suicide else end}",
            task,
            end,
            self._folder,
            seconds=seconds * self._chance.uniform(0, LONGEST_JOB),
            suicide=suicide,
        )

    def kill_child(self) -> None:
        children = [child for worker in self._workers if worker.running for child in _children(worker)]
        if children:
            _kill(self._chance.choice(children))
            self.lives += 1

    def kill_main(self) -> None:
        worker = self._any(running=True)
        if worker is not None:
            self._orphans += _children(worker)
            self._watch.died[worker.pid] = time.time()
            worker.kill_main()
            self.lives += 1

    def kill_group(self) -> None:
        worker = self._any(running=True)
        if worker is not None:
            self.lives += 1 + len(_children(worker))
            self._watch.died[worker.pid] = time.time()
            worker.kill()

    def stop(self) -> None:
        worker = self._any(running=True)
        if worker is not None:
            worker.stop()
            self.lives += 1

    def restart(self) -> None:
        worker = self._any(running=False)
        if worker is not None:
            worker.start(wait=False)

    def rename(self) -> None:
        worker = self._any(running=False)
        if worker is not None:
            self._workers[self._workers.index(worker)] = self._make_worker()

    def kill_web(self) -> None:
        self._kill_server("web")

    def kill_broker(self) -> None:
        self._kill_server("broker")

    def kill_redis(self) -> None:
        self._kill_server("redis")

    def _kill_server(self, name: str) -> None:
        self._stage.kill(name)
        self._stage.start(name)
        self.lives += 1

    def _any(self, *, running: bool) -> Worker | None:
        workers = [worker for worker in self._workers if worker.running is running]
        return self._chance.choice(workers) if workers else None

    def _close(self) -> None:
        for worker in self._workers:
            worker.kill()
        for orphan in self._orphans:
            _kill(orphan)
        self._watch.close()


def _children(worker: Worker) -> list[psutil.Process]:
    try:
        children: list[psutil.Process] = psutil.Process(worker.pid).children(recursive=True)
    except psutil.NoSuchProcess:  # it ends just now
        return []
    return children


def _kill(process: psutil.Process) -> None:
    if process.is_running():
        process.kill()
