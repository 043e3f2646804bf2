"""Play a cell: bring its jobs to the moment, kill the victim, let follow what follows, and judge what is shown."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.deaths import diary
from tests.deaths.cast import Role, cast
from tests.deaths.cells import SHARED, WORKER_VICTIMS, Cell, Flight
from tests.deaths.oracle import SUCCESS
from tests.deaths.stage import LOST_AFTER, Stage
from tests.deaths.verdict import Fault
from tests.deaths.watch import Watch, settle
from tests.processes import Worker
from tests.proxy import Proxy
from tests.waiting import wait_for

#: Longest time, in seconds, until jobs are where a cell wants them.
PATIENCE = 30.0


class MomentMissedError(AssertionError):
    """The jobs of a cell never came to its moment, so nothing can be said of it."""


class Play:
    """One cell.

    Args:
        stage: Where it is played.
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
        self._cast = cast(cell, self._project, folder)
        self.watch = Watch(stage, self._project, folder=folder, queues=[self._queue, self._parking])
        self.watch.roles += self._cast.roles

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

    def reach(self) -> None:
        """Bring the jobs to the cell's moment.

        Raises:
            MomentMissedError: They do not come there.
        """
        self._worker.wait_ready()
        self._publish([self._cast.before])
        self._wait(self._has_begun, "begin")
        self._stage.publish(self._cast.parked, self._project, self._parking)
        self._publish([self._cast.steady] if self._cast.steady else [])
        self._publish(self._cast.holders or self._cast.targets)
        reach: dict[str, Callable[[], None]] = {
            "reserved": self._reach_reserved,
            "running": lambda: self._wait_noted(self._cast.targets, diary.BEGIN),
            "returned": lambda: self._wait_noted(self._cast.targets, diary.STORED),
            "reported": self._reach_reported,
            "stored": self._reach_stored,
        }
        reach[self.cell.moment]()
        self._wait_noted([self._cast.steady] if self._cast.steady else [], diary.BEGIN)

    def _has_begun(self) -> bool:
        return all(view.answers.get(self._cast.before.job) == SUCCESS for view in self.watch.live_views())

    def _reach_reserved(self) -> None:
        self._wait_noted(self._cast.holders, diary.BEGIN)
        self._publish(self._cast.targets)
        self._wait(self._targets_are_received, "be received")

    def _targets_are_received(self) -> bool:
        log = self._worker.current_log
        return all(f"[{role.job}] received" in log for role in self._cast.targets)

    def _reach_reported(self) -> None:
        self._wait_noted(self._cast.targets, diary.BEGIN)
        if self._cast.followers:
            self._publish(self._cast.followers)
            return  # the next job of each child kills it: see _kill_children()
        self._stall()
        _release(self._cast.targets)
        self._wait_noted(self._cast.targets, diary.REPORTED)

    def _reach_stored(self) -> None:
        self._wait_noted(self._cast.targets, diary.BEGIN)
        self._publish(self._cast.followers)
        self._stall()
        _release(self._cast.targets)
        self._wait_noted(self._cast.targets, diary.REPORTED)
        self._wait(self._targets_are_stored, "be stored in the history")
        self._wait_noted(self._cast.followers, diary.BEGIN)

    def _targets_are_stored(self) -> bool:
        answers = self.watch.new_view().answers
        return all(answers.get(role.job) == role.answer for role in self._cast.targets)

    def _stall(self) -> None:
        assert self._proxy is not None
        self._proxy.stall()

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
        self.watch.acted_at = time.time()

    def _kill_children(self) -> None:
        if self._cast.followers:
            _release(self._cast.targets)
        self._wait_noted(self._cast.doomed, diary.BEGIN)
        doomed = {run.pid for runs in self.watch.runs(self._cast.doomed).values() for run in runs[:1]}
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
        _release(role for role in self._cast.roles if role is not self._cast.steady)
        self.watch.acted_at = time.time()

    # -- helpers ------------------------------------------------------------------------------------------------

    def _publish(self, roles: Iterable[Role]) -> None:
        for role in roles:
            self._stage.publish(role, self._project, self._queue)

    def _wait_noted(self, roles: Sequence[Role], what: str) -> None:
        def noted() -> bool:
            return all(any(note["what"] == what for note in self._notes(role)) for role in roles)

        self._wait(noted, what)

    def _notes(self, role: Role) -> list[dict[str, Any]]:
        return diary.notes_of(self._folder / f"{role.job}.log")

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        try:
            wait_for(condition, timeout=PATIENCE, message=f"{self.cell}: the jobs did not {what}")
        except AssertionError as error:
            raise MomentMissedError(f"{error}\n{self.log}") from None

    @property
    def log(self) -> str:
        """The end of what its workers said."""
        return "\n".join(worker.log_tail for worker in self._workers)

    def close(self) -> None:
        _release(self._cast.roles)
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


def _release(roles: Iterable[Role]) -> None:
    for role in roles:
        role.release()


class Performance:
    """The cells of a flight, at the same time on one stage.

    Args:
        stage: The stage.
        flight: Its cells.
        folder: For files and logs.
    """

    def __init__(self, stage: Stage, flight: Flight, folder: Path) -> None:
        self._stage = stage
        self._first = flight.cells[0]
        self._plays: list[Play] = []
        self._missed: dict[str, list[Fault]] = {}
        for number, cell in enumerate(flight.cells):
            own = folder / f"cell{number}"
            own.mkdir()
            self._plays.append(Play(stage, cell, own))

    def run(self) -> dict[str, list[Fault]]:
        """Play all cells, and return the faults of each by its name."""
        try:
            for play in self._plays:
                play.open()
            self._die()
            self._follow()
            for play in self._plays:
                play.release()
            watches = {str(play.cell): play.watch for play in self._plays if str(play.cell) not in self._missed}
            return {**settle(watches), **self._missed}
        finally:
            for play in self._plays:
                play.close()

    @property
    def logs(self) -> dict[str, str]:
        """What the workers of each cell said."""
        return {str(play.cell): play.log for play in self._plays}

    def _die(self) -> None:
        shared = self._first.victim in SHARED
        for play in self._plays:
            self._reach(play)
            if not shared:
                play.strike()
                play.heal()
        if shared:
            self._die_together()

    def _reach(self, play: Play) -> None:
        try:
            play.reach()
        except MomentMissedError as error:
            self._missed[str(play.cell)] = [Fault("missed", "-", "nobody", str(error))]

    def _die_together(self) -> None:
        for play in self._plays:
            play.strike()
        self._stage.kill(self._first.victim)
        for play in self._plays:
            play.watch.forgot_at = time.time() if self._first.victim == "redis-empty" else None
            play.heal()

    def _follow(self) -> None:
        """Let follow what follows at once, then what follows later; a server comes back with the first of them."""
        later = [play for play in self._plays if play.cell.sequel == "later"]
        for play in self._plays:
            if play not in later:
                play.follow()
        if later:
            threading.Event().wait(LOST_AFTER + 1)
        if self._first.victim in SHARED:
            self._stage.start(self._first.victim)
        for play in later:
            play.follow()
