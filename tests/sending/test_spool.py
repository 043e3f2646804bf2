from __future__ import annotations

import logging
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celery_realtime.sending.spool import Spool, Spools
from tests.waiting import wait_for


@pytest.fixture
def children() -> Iterator[list[int]]:
    pids: list[int] = []
    yield pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def fork(spools: Spools, children: list[int], do: Callable[[Spool], None]) -> int:
    """Fork a child of a pool that does something with its spool and then lives until it is killed."""
    pid = os.fork()
    if pid == 0:
        try:
            assert spools.mine is not None
            do(spools.mine)
            signal.pause()
        finally:
            os._exit(1)
    children.append(pid)
    return pid


def kill(children: list[int], pid: int) -> None:
    children.remove(pid)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@pytest.fixture
def spools() -> Iterator[Spools]:
    spools = Spools(4096)
    spools.begin()
    yield spools
    spools.end()


# -- one ------------------------------------------------------------------------------------------------------------


def test_what_was_written_and_not_sent_is_read_in_order() -> None:
    spool = Spool(4096)
    assert spool.is_empty
    places = [spool.write(record) for record in (b"one", b"two", b"", b"three")]
    assert places[1] is not None
    spool.strike(places[1])
    assert spool.unsent() == [b"one", b"", b"three"]
    assert not spool.is_empty
    spool.clear()
    assert spool.unsent() == []
    assert spool.is_empty


def test_what_does_not_fit_is_left_out_whole() -> None:
    spool = Spool(mmap.PAGESIZE)
    assert spool.write(b"x" * (mmap.PAGESIZE - 64)) is not None
    assert spool.write(b"y" * 64) is None
    assert spool.write(b"z") is not None
    assert [len(record) for record in spool.unsent()] == [mmap.PAGESIZE - 64, 1]


def test_a_record_can_be_read_back() -> None:
    spool = Spool(4096)
    place = spool.write(b"record")
    assert place is not None
    assert spool.read(place) == b"record"


def test_it_says_since_when_something_waits_in_it() -> None:
    spool = Spool(4096)
    assert spool.unsent_since is None
    before = time.monotonic()
    spool.write(b"one")
    first = spool.unsent_since
    assert first is not None
    assert before <= first <= time.monotonic()
    spool.write(b"two")
    assert spool.unsent_since == first
    spool.date(first + 1)
    assert spool.unsent_since == first + 1
    spool.clear()
    assert spool.unsent_since is None


# -- over forks -----------------------------------------------------------------------------------------------------


def test_what_a_killed_child_had_not_sent_is_taken_once(spools: Spools, children: list[int]) -> None:
    pid = fork(spools, children, lambda spool: spool.write(b"said"))
    wait_for(lambda: pid in spools.unsent_since())
    assert spools.take_dead() == []
    kill(children, pid)
    assert pid not in spools.unsent_since()
    assert spools.take_dead() == [b"said"]
    assert spools.take_dead() == []


def test_each_child_has_a_spool_of_its_own(spools: Spools, children: list[int]) -> None:
    first = fork(spools, children, lambda spool: spool.write(b"first"))
    second = fork(spools, children, lambda spool: spool.write(b"second"))
    wait_for(lambda: spools.unsent_since().keys() == {first, second})
    kill(children, first)
    assert spools.take_dead() == [b"first"]
    assert spools.unsent_since().keys() == {second}


def test_a_child_of_a_child_has_none(spools: Spools, children: list[int]) -> None:
    def fork_again(spool: Spool) -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(0 if spools.mine is None else 3)
        _, status = os.waitpid(pid, 0)
        spool.write(str(os.waitstatus_to_exitcode(status)).encode())

    pid = fork(spools, children, fork_again)
    wait_for(lambda: pid in spools.unsent_since())
    kill(children, pid)
    assert spools.take_dead() == [b"0"]


def test_before_and_after_a_worker_s_life_no_spools_are_made() -> None:
    spools = Spools()
    spools.before_fork()
    spools.after_fork_in_parent()
    spools.begin()
    spools.end()
    spools.before_fork()
    spools.after_fork_in_child()
    assert spools.mine is None


def test_without_memory_a_child_has_no_spool(
    monkeypatch: pytest.MonkeyPatch, spools: Spools, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> Any:
        raise OSError("Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    with caplog.at_level(logging.WARNING):
        spools.before_fork()
        spools.before_fork()
    spools.after_fork_in_parent()
    assert spools.take_dead() == []
    assert caplog.text.count("no shared memory for a child") == 1


# -- of a child that is not forked ------------------------------------------------------------------------------------


def test_a_process_that_is_not_forked_writes_into_a_file_that_it_is_handed(spools: Spools) -> None:
    spool = spools.for_spawned()
    assert spool is not None
    program = (
        "import os, sys; from celery_realtime.sending.spool import Spool; s = Spool.of_file(int(sys.argv[1])); "
        "s.strike(s.write(b'sent')); s.write(b'said'); os.kill(os.getpid(), 9)"
    )
    argv = [sys.executable, "-c", program, str(spool.file)]
    assert subprocess.run(argv, pass_fds=[spool.file], check=False).returncode == -signal.SIGKILL
    assert spools.take_dead() == [b"said"]
    assert spools.take_dead() == []


def test_only_a_worker_s_main_process_hands_out_spools() -> None:
    assert Spools(4096).for_spawned() is None
