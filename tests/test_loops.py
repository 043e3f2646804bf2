from __future__ import annotations

import itertools
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celery_realtime import loops
from celery_realtime.loops import BackgroundLoop, PeriodicLoop
from tests.waiting import wait_for

logger = logging.getLogger(__name__)


def test_a_turn_that_fails_does_not_end_the_loop_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    loop = BackgroundLoop("keeper", logger, longest=60.0)
    for number in range(3):
        with loop.turn():
            raise ValueError(number)
    assert loop.failures == 3
    (line,) = caplog.messages
    assert line.startswith("the background loop 'keeper' failed, so ")
    assert line.endswith(": ValueError: 0")


def test_health_says_whether_it_turns_and_what_failed_last() -> None:
    loop = BackgroundLoop("keeper", logger, longest=600.0)
    assert shown(loop) == {"name": "keeper", "state": "idle", "turning": False, "failures": 0, "error": None}
    assert loop.health()["age"] is None
    with loop.turn():
        raise ValueError("broken")
    failed = {"name": "keeper", "state": "failing", "turning": True, "failures": 1, "error": "ValueError: broken"}
    assert shown(loop) == failed
    with loop.turn():
        pass
    assert shown(loop) == {"name": "keeper", "state": "turning", "turning": True, "failures": 1, "error": None}
    assert loop.health()["age"] >= 0


def shown(loop: BackgroundLoop) -> dict[str, Any]:
    """Return what health checks show of a loop, but for its age."""
    return {name: value for name, value in loop.health().items() if name != "age"}


def test_a_loop_without_a_turn_for_long_stands_still() -> None:
    loop = BackgroundLoop("keeper", logger, longest=0.0)
    with loop.turn():
        pass
    assert not loop.is_turning
    assert loop.state == "stuck"


def test_a_loop_with_nothing_to_do_does_not_stand_still() -> None:
    loop = BackgroundLoop("keeper", logger, longest=0.0)
    with loop.turn():
        raise ValueError
    loop.rest()
    assert (loop.state, loop.failures, loop.health()["error"]) == ("idle", 1, None)


def test_a_loop_of_the_parent_does_not_stand_still_in_the_child_of_a_fork() -> None:
    loop = BackgroundLoop("keeper", logger, longest=0.0)
    with loop.turn():
        pass
    pid = os.fork()
    if pid == 0:
        os._exit(0 if loop.state == "idle" else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert loop.state == "stuck"


def test_an_exit_ends_the_loop() -> None:
    loop = BackgroundLoop("keeper", logger, longest=60.0)
    with pytest.raises(SystemExit), loop.turn():
        raise SystemExit
    assert loop.is_turning


# -- a thread of its own --------------------------------------------------------------------------------------------

#: Seconds that are longer than a test.
LONG = 600.0

NewLoop = Callable[..., PeriodicLoop]


@pytest.fixture
def new_loop() -> Iterator[NewLoop]:
    made = []

    def new(turn: Callable[[], object], pause: Any = 0.001) -> PeriodicLoop:
        made.append(PeriodicLoop(BackgroundLoop("test loop", logger, longest=60.0), turn, pause))
        return made[-1]

    yield new
    for loop in made:
        loop.stop(10)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "celery-realtime-test-loop"]


def test_a_periodic_loop_that_was_stopped_does_not_stand_still(new_loop: NewLoop) -> None:
    loop = new_loop(lambda: None)
    assert loop.record.state == "idle"
    loop.start(60)
    assert loop.record.state == "turning"
    assert loop.stop(60)
    assert loop.record.state == "idle"


def refuse(_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_periodic_loop_without_a_thread_has_not_begun_and_may_begin_later(
    new_loop: NewLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = new_loop(lambda: None)
    with monkeypatch.context() as patched:
        patched.setattr(loops, "start_detached", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            loop.start()
    assert (loop.record.state, loop.stop()) == ("idle", True)
    loop.start(60)
    assert loop.record.state == "turning"


def test_a_periodic_loop_turns_from_a_thread_of_its_own_until_it_is_stopped(new_loop: NewLoop) -> None:
    turns: list[threading.Thread] = []
    loop = new_loop(lambda: turns.append(threading.current_thread()))
    loop.start()
    loop.start()
    wait_for(lambda: len(turns) > 3)
    assert set(turns) == {*threads()}
    assert loop.stop(10)
    assert (loop.record.state, threads()) == ("idle", [])
    assert loop.stop()


def test_a_periodic_loop_has_turned_once_when_its_start_returns(new_loop: NewLoop) -> None:
    turns = itertools.count()
    new_loop(lambda: next(turns), LONG).start(20)
    assert next(turns) == 1


def test_a_periodic_loop_outlives_a_turn_that_fails(new_loop: NewLoop) -> None:
    def fail() -> None:
        raise ValueError("broken")

    loop = new_loop(fail)
    loop.start(20)
    wait_for(lambda: loop.record.failures > 3)
    assert loop.record.health()["error"] == "ValueError: broken"


@pytest.mark.parametrize("pause", [LONG, lambda: LONG], ids=["number", "function"])
def test_a_periodic_loop_that_is_woken_turns_at_once(new_loop: NewLoop, pause: Any) -> None:
    turns: list[None] = []
    loop = new_loop(lambda: turns.append(None), pause)
    loop.wake()
    loop.start(20)
    assert len(turns) == 1
    loop.wake()
    wait_for(lambda: len(turns) == 2)


def test_what_wakes_a_periodic_loop_during_a_turn_has_the_next_one_come_at_once(new_loop: NewLoop) -> None:
    turns: list[None] = []

    def turn() -> None:
        turns.append(None)
        if len(turns) < 3:
            loop.wake()

    loop = new_loop(turn, LONG)
    loop.start()
    wait_for(lambda: len(turns) == 3)


def test_a_periodic_loop_may_be_started_again_while_its_last_turn_goes_on(new_loop: NewLoop) -> None:
    go_on, turns = threading.Event(), itertools.count()

    def turn() -> None:
        if next(turns) == 0:
            go_on.wait(60)

    loop = new_loop(turn)
    loop.start()
    wait_for(threads)
    assert not loop.stop()
    loop.start(20)
    assert len(threads()) == 2
    go_on.set()
    wait_for(lambda: len(threads()) == 1)


def test_a_periodic_loop_may_stop_itself(new_loop: NewLoop) -> None:
    loop = new_loop(lambda: loop.stop(20), LONG)
    loop.start(20)
    wait_for(lambda: threads() == [])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_periodic_loop_may_be_started_in_a_child_of_a_fork(new_loop: NewLoop) -> None:
    pids: list[int] = []
    loop = new_loop(lambda: pids.append(os.getpid()))
    loop.start(20)
    child = os.fork()
    if not child:
        loop.wake()
        stopped = loop.stop() and pids[-1] != os.getpid()
        loop.start(20)
        os._exit(0 if stopped and pids[-1] == os.getpid() else 1)
    assert os.waitpid(child, 0)[1] == 0


PROGRAM = """
import eventlet
eventlet.monkey_patch()
import threading, time
from celery_realtime.loops import join
goes_on = threading.Event()
thread = threading.Thread(target=goes_on.wait, daemon=True)
thread.start()
assert join(thread, 0.05) is False
try:
    with eventlet.Timeout(0.05) as ours:
        join(thread, 60)
except eventlet.Timeout as error:
    assert error is ours
else:
    raise SystemExit("somebody else's time was over, and nobody heard of it")
goes_on.set()
assert join(thread, 60) is True
"""


def test_a_greenlet_that_has_not_ended_in_time_raises_nothing() -> None:
    """From Python 3.13 on, eventlet's threads raise its Timeout where Python's return."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
