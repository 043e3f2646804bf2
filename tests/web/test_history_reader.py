"""Histories are read beside everything else: one at a time, none while they fail, and never more than are taken."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from celery_realtime.web import history_reader
from celery_realtime.web.history_reader import HistoryReader, Missing
from tests.log_records import logged_by
from tests.processes import python_path
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Histories:
    """What is read; reads wait for :attr:`answering`, and fail for the projects in :attr:`failing`."""

    def __init__(self) -> None:
        self.reads: list[str] = []
        self.failing: set[str] = set()
        self.answering = threading.Event()
        self.answering.set()

    def __call__(self, project_id: str, epoch: str, offset: int, most_jobs: int) -> str:
        self.reads.append(project_id)
        assert self.answering.wait(60)
        if project_id in self.failing:
            raise ConnectionError(f"no answer for {project_id}")
        return f"{project_id} since {epoch} {offset}, {most_jobs} jobs"


@pytest.fixture
def histories() -> Histories:
    return Histories()


@pytest.fixture
def make(histories: Histories) -> Iterator[Callable[[], HistoryReader]]:
    made: list[HistoryReader] = []

    def make() -> HistoryReader:
        made.append(HistoryReader(histories))
        return made[-1]

    yield make
    histories.answering.set()
    for reader in made:
        reader.close()


@pytest.fixture
def reader(make: Callable[[], HistoryReader]) -> HistoryReader:
    return make()


def missing(project: str, offset: int = 0, serial: int = 1) -> Missing:
    return Missing(project, "e", offset, serial)


def take_all(reader: HistoryReader, count: int) -> list[Any]:
    taken: list[Any] = []
    wait_for(lambda: taken.extend(reader.answers()) or len(taken) >= count)
    return taken


def test_what_is_asked_for_is_answered_in_its_order(reader: HistoryReader) -> None:
    for number in range(3):
        reader.request(missing(f"p{number}", number))

    assert take_all(reader, 3) == [
        (missing(f"p{number}", number), f"p{number} since e {number}, 0 jobs") for number in range(3)
    ]


def readers() -> set[int | None]:
    """Return the threads of all readers; those of other tests may end meanwhile."""
    return {thread.ident for thread in threading.enumerate() if thread.name == "celery-realtime-catch-up"}


def test_no_thread_runs_before_the_first_request(make: Callable[[], HistoryReader]) -> None:
    before = readers()

    reader = make()

    assert readers() <= before
    assert not reader.loop.is_turning
    reader.request(missing("p"))
    take_all(reader, 1)
    assert reader.loop.is_turning


def test_nobody_waits_for_one_that_does_not_answer(
    reader: HistoryReader, histories: Histories, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_reader, "LONGEST_PROMPT", 0.05)
    histories.answering.clear()
    assert reader.is_prompt
    reader.request(missing("p"))

    assert list(reader.answers()) == []
    wait_for(lambda: not reader.is_prompt)
    histories.answering.set()

    assert len(take_all(reader, 1)) == 1
    assert reader.is_prompt


def test_how_far_histories_go_is_looked_up_behind_what_is_missing(histories: Histories) -> None:
    looked_at: list[list[str]] = []

    def positions(project_ids: list[str]) -> dict[str, tuple[str, int]]:
        looked_at.append(project_ids)
        assert histories.reads == ["p"]
        return dict.fromkeys(project_ids, ("e", 5))

    reader = HistoryReader(histories, positions)
    histories.answering.clear()
    reader.request(missing("p"))
    wait_for(lambda: histories.reads)
    reader.look(["a", "b"])
    assert reader.positions() == {}
    histories.answering.set()

    taken: dict[str, tuple[str, int]] = {}
    wait_for(lambda: taken.update(reader.positions()) or taken)
    reader.close()

    assert taken == {"a": ("e", 5), "b": ("e", 5)}
    assert reader.positions() == {}
    assert looked_at == [["a", "b"]]


def test_a_look_that_fails_is_a_failure_like_another(
    histories: Histories, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(history_reader, "FIRST_PAUSE", 0.01)

    def positions(_: list[str]) -> dict[str, tuple[str, int]]:
        raise ConnectionError("away")

    reader = HistoryReader(histories, positions)
    reader.look(["a"])
    wait_for(lambda: not reader.is_prompt)
    reader.request(missing("p"))

    assert len(take_all(reader, 1)) == 1
    assert reader.is_prompt
    reader.close()
    assert "ConnectionError: away" in caplog.text


def test_without_a_way_to_look_no_thread_is_started(make: Callable[[], HistoryReader]) -> None:
    before = readers()

    make().look(["a"])

    assert readers() <= before


def test_while_one_waits_for_its_answer_another_asks_no_second_time(
    reader: HistoryReader, histories: Histories
) -> None:
    histories.answering.clear()
    reader.request(missing("p"))
    wait_for(lambda: histories.reads == ["p"])
    for _ in range(5):
        reader.request(missing("p"))
    histories.answering.set()

    assert len(take_all(reader, 1)) == 1
    assert histories.reads == ["p"]


def test_after_a_failure_no_other_is_tried_for_a_while(
    make: Callable[[], HistoryReader], histories: Histories, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_reader, "FIRST_PAUSE", 120.0)
    monkeypatch.setattr(history_reader, "LONGEST_PAUSE", 120.0)
    reader = make()
    histories.failing = {"bad"}
    for project in ("bad", "good"):
        reader.request(missing(project))

    wait_for(lambda: reader.loop.failures == 1)

    assert list(reader.answers()) == []
    assert not reader.is_prompt
    assert histories.reads == ["bad"]


def test_a_project_that_fails_for_ever_keeps_no_other_from_being_read(
    make: Callable[[], HistoryReader],
    histories: Histories,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(history_reader, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(history_reader, "LONGEST_PAUSE", 0.01)
    reader = make()
    histories.failing = {"bad"}
    for project in ("bad", "good"):
        reader.request(missing(project))

    [(answered, _)] = take_all(reader, 1)
    wait_for(lambda: histories.reads.count("bad") > 3)

    assert answered.project_id == "good"
    assert len(logged_by(caplog, "celery_realtime.web.history_reader")) == 1
    assert "ConnectionError: no answer for bad" in caplog.text


def test_no_more_is_read_than_is_taken(reader: HistoryReader, histories: Histories) -> None:
    count = history_reader.MOST_ANSWERS * 3
    for number in range(count):
        reader.request(missing(f"p{number}"))

    wait_for(lambda: len(histories.reads) == history_reader.MOST_ANSWERS)
    taken = take_all(reader, count)

    assert [answered.project_id for answered, _ in taken] == [f"p{number}" for number in range(count)]


def test_after_its_end_it_reads_nothing(reader: HistoryReader, histories: Histories) -> None:
    reader.close()

    reader.request(missing("p"))

    assert list(reader.answers()) == []
    assert histories.reads == []


FORKING = """
import os, sys, time
from celery_realtime.web.history_reader import HistoryReader, Missing

def read(project, *_):
    return project

def ask(project):
    reader.request(Missing(project, "e", 0, 1))
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if answers := [answer for _, answer in reader.answers()]:
            return answers
        time.sleep(0.01)

reader = HistoryReader(read)
assert ask("parent") == ["parent"]
child = os.fork()
if child == 0:
    reader.after_fork()
    os._exit(0 if ask("child") == ["child"] else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert ask("parent again") == ["parent again"]
"""


def test_a_child_process_reads_with_a_thread_of_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING],
        env=python_path(),
        timeout=240,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
