"""Run a cell: bring its jobs to the moment, kill the victim, let follow what follows, and judge what is shown."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from tests.deaths import diary
from tests.deaths.cells import GREEN_POOLS, SHARED, WORKER_VICTIMS, Cell, Flight
from tests.deaths.oracle import RUNNING, SUCCESS
from tests.deaths.plan import PlannedJob, plan_jobs
from tests.deaths.stage import LOST_AFTER, Stage
from tests.deaths.verdict import Fault
from tests.deaths.watch import Watch, settle
from tests.processes import Worker
from tests.proxy import Proxy
from tests.waiting import wait_for

#: Longest time, in seconds, until jobs are where a cell wants them.
PATIENCE = 60.0


class MomentMissedError(AssertionError):
    """The jobs of a cell never came to its moment, so nothing can be said of it."""


class CellRun:
    """One cell.

    Args:
        stage: Its servers.
        cell: Which one.
        folder: For its jobs' files and its workers' logs.
    """

    def __init__(self, stage: Stage, cell: Cell, folder: Path) -> None:
        self.cell = cell
        self._stage = stage
        self._folder = folder
        self._project = f"p{uuid.uuid4().hex[:8]}"
        self._queue, self._parking = f"{self._project}-jobs", f"{self._project}-parked"
        self._proxy = self._make_proxy()
        self._worker = self._make_worker()
        self._workers = [self._worker]
        self._orphans: list[psutil.Process] = []
        self._plan = plan_jobs(cell, self._project, folder)
        self.watch = Watch(stage, self._project, folder=folder, queues=[self._queue, self._parking])
        self.watch.jobs += self._plan.jobs
        self._struck_at = time.time()

    def _make_proxy(self) -> Proxy | None:
        """Stand between the worker and what it is to be cut off from at the cell's moment."""
        if self.cell.moment == "stored":
            return Proxy(self._stage.broker_url)
        if self.cell.moment == "reported" and self.cell.victim != "child":
            return Proxy(self._stage.history_url)
        return None

    def _make_worker(self) -> Worker:
        more = {}
        if self._proxy is not None:
            name = "DEATHS_CHANNEL" if self.cell.moment == "stored" else "DEATHS_HISTORY"
            more[name] = self._proxy.url
        return self._stage.worker(self.cell.pool, self._queue, folder=self._folder, **more)

    # -- up to the death ----------------------------------------------------------------------------------------

    def open(self) -> None:
        """Start the worker; it is not awaited."""
        self._worker.start(wait=False)

    def approach(self) -> None:
        """Bring the jobs as near to the cell's moment as they can stay for a while.

        Raises:
            MomentMissedError: They do not come there.
        """
        self._worker.wait_ready()
        self._publish([self._plan.before])
        self._wait(lambda: self._are_shown([self._plan.before], SUCCESS), "be shown as ended")
        self._stage.publish(self._plan.parked, self._project, self._parking)
        self._begin([self._plan.steady] if self._plan.steady else [])
        approach: dict[str, Callable[[], None]] = {
            "reserved": self._reach_reserved,
            "running": self._reach_running,
            "returned": self._reach_returned,
            "reported": self._approach_end,
            "stored": self._approach_end,
        }
        approach[self.cell.moment]()

    def arrive(self) -> None:
        """Bring the jobs to the cell's moment. The death has to come soon: the worker may be cut off from a server.

        Raises:
            MomentMissedError: They do not come there.
        """
        if self.cell.moment in ("reported", "stored") and self._proxy is not None:
            self._proxy.stall()
            _release(self._plan.targets)
            self._wait_noted(self._plan.targets, diary.REPORTED)
        if self.cell.moment == "stored":
            self._wait(self._targets_are_stored, "be stored in the history")
            self._wait_noted(self._plan.followers, diary.BEGIN)

    def _reach_reserved(self) -> None:
        self._begin(self._plan.holders)
        self._publish(self._plan.targets)
        self._wait(self._targets_are_received, "be received")

    def _targets_are_received(self) -> bool:
        log = self._worker.current_log
        received = [f"[{job.job_id}] received" in log for job in self._plan.targets]
        # A green pool that is full keeps the consumer waiting with one job in its hand.
        return any(received) if self.cell.pool in GREEN_POOLS else all(received)

    def _reach_running(self) -> None:
        """Have all shown as running but the last of several, which has only just begun and been noted."""
        just_begun = self._plan.targets[1:][-1:]
        shown = [job for job in self._plan.targets if job not in just_begun]
        self._publish(shown)
        self._wait(lambda: self._are_shown(shown, RUNNING), "be shown as running")
        self._begin(just_begun)

    def _are_shown(self, jobs: Iterable[PlannedJob], answer: str) -> bool:
        return all(view.answers.get(job.job_id) == answer for job in jobs for view in self.watch.live_views())

    def _reach_returned(self) -> None:
        self._publish(self._plan.targets)
        self._wait_noted(self._plan.targets, diary.STORED)
        self._wait_on_record(self._plan.targets)

    def _approach_end(self) -> None:
        """Have what is to end run, and what is to run behind it wait: see also _kill_children()."""
        self._begin(self._plan.targets)
        self._publish(self._plan.followers)

    def _targets_are_stored(self) -> bool:
        answers = self.watch.new_view().answers
        return all(answers.get(job.job_id) == job.answer for job in self._plan.targets)

    # -- the death and after ------------------------------------------------------------------------------------

    def strike(self) -> None:
        """Kill the victim, where it is the worker or a part of it."""
        if self.cell.victim == "child":
            self._kill_children()
        elif self.cell.victim == "main":
            self._orphans = _children(self._worker)
            self._worker.kill_main()
        elif self.cell.victim in WORKER_VICTIMS:
            self._worker.kill()
        self.watch.acted_at = self._struck_at = time.time()

    def _kill_children(self) -> None:
        if self._plan.followers:
            _release(self._plan.targets)
        self._wait_noted(self._plan.doomed, diary.BEGIN)
        doomed = {run.pid for runs in self.watch.runs(self._plan.doomed).values() for run in runs[:1]}
        for process in _children(self._worker):
            if process.pid in doomed:
                process.kill()

    def heal(self) -> None:
        """Let the worker, or its successor, reach everything again."""
        if self._proxy is not None:
            self._proxy.resume()

    def follow(self) -> None:
        """Start the worker's successor; it is not awaited."""
        if self.cell.victim not in WORKER_VICTIMS or self.cell.sequel == "nothing":
            return
        if self.cell.sequel == "other":
            self._worker = self._make_worker()
            self._workers.append(self._worker)
        self._worker.start(wait=False)

    def release(self) -> None:
        """Let all jobs end but the one that is to run on."""
        if self._worker.running:
            self._worker.wait_ready()
        _release(job for job in self._plan.jobs if job is not self._plan.steady)
        self.watch.acted_at = time.time()

    # -- helpers ------------------------------------------------------------------------------------------------

    def _publish(self, jobs: Iterable[PlannedJob]) -> None:
        for job in jobs:
            self._stage.publish(job, self._project, self._queue)

    def _begin(self, jobs: Sequence[PlannedJob]) -> None:
        """Publish jobs, and wait until they have begun, and until the history knows who runs them.

        Nobody can know of a job whose worker dies before that: see "What cannot be known" in docs/how-we-know.md.
        """
        self._publish(jobs)
        self._wait_noted(jobs, diary.BEGIN)
        self._wait_on_record(jobs)

    def _wait_on_record(self, jobs: Sequence[PlannedJob]) -> None:
        if jobs:
            self._wait(lambda: {job.job_id for job in jobs} <= self._stage.noted(), "be noted as running")

    def _wait_noted(self, jobs: Sequence[PlannedJob], what: str) -> None:
        def noted() -> bool:
            return all(any(note["what"] == what for note in self._notes(job)) for job in jobs)

        self._wait(noted, what)

    def _notes(self, job: PlannedJob) -> list[dict[str, Any]]:
        return diary.notes_of(self._folder / f"{job.job_id}.log")

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        try:
            wait_for(condition, timeout=PATIENCE, message=f"{self.cell}: the jobs did not {what}")
        except AssertionError as error:
            raise MomentMissedError(f"{error}\n{self.log}") from None

    @property
    def log(self) -> str:
        """The end of what its workers said."""
        return "\n".join(worker.log_tail for worker in self._workers)

    def story(self, jobs: Collection[str]) -> list[str]:
        """Return what some jobs have written down, each with the seconds since the death."""
        return [diary.story(self._folder, job.job_id, self._struck_at) for job in self._plan.jobs if job.job_id in jobs]

    def close(self) -> None:
        _release(self._plan.jobs)
        for worker in self._workers:
            worker.kill()
        for orphan in self._orphans:
            if orphan.is_running():
                orphan.kill()
        self.watch.close()
        if self._proxy is not None:
            self._proxy.close()


def _children(worker: Worker) -> list[psutil.Process]:
    children: list[psutil.Process] = psutil.Process(worker.pid).children(recursive=True)
    return children


def _release(jobs: Iterable[PlannedJob]) -> None:
    for job in jobs:
        job.release()


class FlightRun:
    """The cells of a flight, at the same time on one stage.

    Args:
        stage: The stage.
        flight: Its cells.
        folder: For files and logs.
    """

    def __init__(self, stage: Stage, flight: Flight, folder: Path) -> None:
        self._stage = stage
        self._first = flight.cells[0]
        self._cell_runs: list[CellRun] = []
        self._missed: dict[str, list[Fault]] = {}
        for number, cell in enumerate(flight.cells):
            own = folder / f"cell{number}"
            own.mkdir()
            self._cell_runs.append(CellRun(stage, cell, own))

    def run(self) -> dict[str, list[Fault]]:
        """Run all cells, and return the faults of each by its name."""
        try:
            for run in self._cell_runs:
                run.open()
            self._die()
            self._follow()
            self._each(CellRun.release)
            watches = {str(run.cell): run.watch for run in self._cell_runs if str(run.cell) not in self._missed}
            return {**settle(watches), **self._missed}
        finally:
            self._each(CellRun.close)

    def log(self, cell: str) -> str:
        """Return what the workers of a cell said."""
        return self._run_of(cell).log

    def story(self, cell: str, jobs: Collection[str]) -> list[str]:
        """Return what jobs of a cell have written down."""
        return self._run_of(cell).story(jobs)

    def _run_of(self, cell: str) -> CellRun:
        return next(run for run in self._cell_runs if str(run.cell) == cell)

    def _each(self, act: Callable[[CellRun], None]) -> None:
        """Have something done for all cells at the same time."""
        with ThreadPoolExecutor(len(self._cell_runs)) as pool:
            for _ in pool.map(act, self._cell_runs):
                pass

    def _die(self) -> None:
        if self._first.victim in SHARED:
            self._each(lambda run: self._bring(run, run.approach))
            self._each(lambda run: self._bring(run, run.arrive))
            self._die_together()
        else:
            self._each(self._die_alone)

    def _bring(self, run: CellRun, step: Callable[[], None]) -> None:
        if str(run.cell) in self._missed:
            return
        try:
            step()
        except MomentMissedError as error:
            self._missed[str(run.cell)] = [Fault("missed", "-", "nobody", str(error))]

    def _die_alone(self, run: CellRun) -> None:
        self._bring(run, run.approach)
        self._bring(run, run.arrive)
        run.strike()
        run.heal()

    def _die_together(self) -> None:
        for run in self._cell_runs:
            run.strike()
        self._stage.kill(self._first.victim)
        for run in self._cell_runs:
            run.watch.forgot_at = time.time() if self._first.victim == "redis-empty" else None
            run.heal()

    def _follow(self) -> None:
        """Let follow what follows at once, then what follows later; a server comes back with the first of them."""
        later = [run for run in self._cell_runs if run.cell.sequel == "later"]
        for run in self._cell_runs:
            if run not in later:
                run.follow()
        if later:
            threading.Event().wait(LOST_AFTER + 1)
        if self._first.victim in SHARED:
            self._stage.start(self._first.victim)
        for run in later:
            run.follow()
