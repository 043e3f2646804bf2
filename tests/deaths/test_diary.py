"""What tasks wrote down is read as the runs that it was."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.deaths import diary

Lives = Callable[[int, float], bool]


def note(what: str, pid: int, at: float, end: str | None = None) -> dict[str, Any]:
    return {"what": what, "pid": pid, "main_pid": 1, "at": at, "end": end}


def living(*pids: int) -> Lives:
    return lambda pid, _since: pid in pids


def test_a_run_has_the_notes_of_its_process() -> None:
    notes = [note("begin", 5, 1.0), note("end", 5, 2.0, "success"), note("stored", 5, 3.0), note("reported", 5, 4.0)]
    (run,) = diary.runs_of(notes)
    assert (run.begun_at, run.end, run.stored, run.reported, run.noted_at) == (1.0, "success", True, True, 4.0)


def test_a_job_that_is_delivered_again_has_two_runs() -> None:
    first, second = diary.runs_of([note("begin", 5, 1.0), note("begin", 6, 2.0), note("end", 5, 3.0, "error")])
    assert (first.pid, first.end, first.stored) == (5, "error", False)
    assert (second.pid, second.end) == (6, None)


def test_a_second_run_in_the_same_process_has_the_later_notes() -> None:
    notes = [note("begin", 5, 1.0), note("end", 5, 2.0, "error"), note("begin", 5, 3.0), note("end", 5, 4.0, "success")]
    assert [run.end for run in diary.runs_of(notes)] == ["error", "success"]


def test_deliveries_are_told_apart_from_runs(tmp_path: Path) -> None:
    notes = [(diary.RECEIVED, 1), (diary.RECEIVED, 2), (diary.ACCEPTED, 1), (diary.BEGIN, 1)]
    for what, main_pid in notes:
        diary.write(tmp_path, "job", what, main_pid=main_pid)
    first, second = diary.deliveries(tmp_path, "job")
    assert (first.main_pid, second.main_pid, second.accepted_at) == (1, 2, None)
    assert first.accepted_at is not None
    assert first.accepted_at >= second.received_at >= first.received_at
    assert (first.waits, second.waits, second.receiver) == (False, True, (2, second.received_at))
    assert len(diary.read(tmp_path, ["job"])["job"]) == 1
    assert diary.deliveries(tmp_path, "another") == ()


def test_a_run_that_kills_its_own_process_says_so() -> None:
    (run,) = diary.runs_of([note("begin", 5, 1.0), note("suicide", 5, 2.0)])
    assert (run.suicide, run.end, run.noted_at) == (True, None, 2.0)


def test_a_story_says_what_became_of_a_job_and_when(tmp_path: Path) -> None:
    diary.write(tmp_path, "job", diary.BEGIN, main_pid=1)
    assert diary.story(tmp_path, "job", time.time() + 60).startswith("job: begin -")
    assert diary.story(tmp_path, "job", 0.0).endswith(f" in {os.getpid()}")
    assert diary.story(tmp_path, "another", 0.0) == "another: "


def test_what_is_written_is_read(tmp_path: Path) -> None:
    diary.write(tmp_path, "job", diary.BEGIN, main_pid=os.getppid())
    diary.write(tmp_path, "job", diary.END, main_pid=os.getppid(), end="success")
    runs = diary.read(tmp_path, ["job", "other"])
    assert runs["other"] == []
    (run,) = runs["job"]
    assert (run.pid, run.end, run.alive, run.main_alive, run.running) == (os.getpid(), "success", True, True, False)


def test_a_run_without_an_end_runs_while_its_process_lives(tmp_path: Path) -> None:
    diary.write(tmp_path, "job", diary.BEGIN, main_pid=1)
    assert diary.read(tmp_path, ["job"], lives=living(os.getpid()))["job"][0].running
    assert not diary.read(tmp_path, ["job"], lives=living())["job"][0].running


def test_a_job_is_handed_over_when_its_process_has_begun_another(tmp_path: Path) -> None:
    for job, what in [("one", diary.BEGIN), ("one", diary.REPORTED), ("two", diary.BEGIN)]:
        diary.write(tmp_path, job, what, main_pid=1)
    runs = diary.read(tmp_path, ["one", "two"], lives=living(1))
    assert (runs["one"][0].handed_over, runs["two"][0].handed_over) == (True, False)


@pytest.mark.parametrize(
    ("reported", "alive", "handed_over", "main_alive", "knowable"),
    [
        (True, True, False, False, True),
        (True, False, True, True, True),
        (True, False, True, False, False),
        (True, False, False, True, False),
        (False, True, False, True, False),
    ],
)
def test_an_end_is_knowable_while_somebody_lives_who_saw_it(
    reported: bool, alive: bool, handed_over: bool, main_alive: bool, knowable: bool
) -> None:
    run = diary.Run(
        1, 2, 0.0, "success", reported=reported, alive=alive, handed_over=handed_over, main_alive=main_alive
    )
    assert run.knowable is knowable


def test_a_process_that_has_ended_does_not_live_and_another_of_its_number_is_not_it() -> None:
    began = time.time()
    assert diary.lives(os.getpid(), began)
    assert not diary.lives(os.getpid(), began - 10 * 365 * 86400)
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not diary.lives(child.pid, began), "it is a zombie"
    child.wait()
    assert not diary.lives(child.pid, began)
