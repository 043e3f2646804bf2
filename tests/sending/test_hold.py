"""What nobody uses any more is collected, though it has a thread, and only when all has been sent."""

from __future__ import annotations

import gc
import json
import math
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from celery_realtime.events import Outgoing
from celery_realtime.loops import WakeUp
from celery_realtime.sending import sender
from celery_realtime.sending.hold import Hold
from celery_realtime.sending.outbox import Outbox
from tests.outboxes import Broker, custom, hang_with, new_outbox, progress, status
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]
LINGER = 0.3

Make = Callable[..., Outbox[Outgoing]]


@pytest.fixture(autouse=True)
def _not_for_want_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no thread end because it has had nothing to do for long."""
    monkeypatch.setattr(sender, "IDLE_TURN", 600.0)


class Threads:
    """The threads that senders have started since this was made."""

    def __init__(self) -> None:
        self._before = set(threading.enumerate())

    def __len__(self) -> int:
        return len([one for one in set(threading.enumerate()) - self._before if one.name == sender.THREAD])


@pytest.fixture
def threads() -> Threads:
    return Threads()


@pytest.fixture
def make(broker: Broker) -> Make:
    """Make outboxes that nothing else keeps; each knows whoever has it, as that of a manager does."""

    def make(**options: Any) -> Outbox[Outgoing]:
        owner: dict[str, Any] = {}
        owner["outbox"] = new_outbox(
            lambda events: broker.publish(events) if owner else 0,
            **{"linger": 0.0, "pauses": (0.02, 0.08), **options},
        )
        return owner["outbox"]

    return make


def gone(reference: weakref.ref[Any]) -> bool:
    gc.collect()
    return reference() is None


# -- the hold -----------------------------------------------------------------------------------------------------


class Worker:
    pass


def test_a_hold_keeps_its_object_while_there_is_work() -> None:
    worker = Worker()
    hold = Hold(worker, WakeUp())
    hold.kept = worker
    del worker
    assert hold.get() is not None
    hold.kept = None
    assert hold.get() is None


def test_whoever_waits_for_work_is_woken_when_there_will_be_none() -> None:
    worker = Worker()
    hold = Hold(worker, WakeUp())
    assert not hold.work.wait(0)
    del worker
    assert hold.work.wait(60)


# -- dropped outboxes ---------------------------------------------------------------------------------------------


def test_an_outbox_that_nobody_has_ends_with_its_thread_and_closes_its_connections(
    make: Make, broker: Broker, threads: Threads
) -> None:
    outbox, closed = make(), threading.Event()
    outbox.on_idle(closed.set)
    outbox.put(custom("a"))
    assert outbox.flush(60)
    assert len(threads) == 1
    assert not closed.is_set()
    left = weakref.ref(outbox)
    del outbox
    wait_for(lambda: gone(left))
    wait_for(lambda: not len(threads))
    assert closed.is_set()
    assert broker.taken == ["a"]


def test_what_waits_is_sent_first(make: Make, broker: Broker, threads: Threads) -> None:
    outbox = make()
    hang_with(outbox, broker, status("first"))
    for number in range(20):
        outbox.put(custom(str(number)))
    outbox.put(progress("progress", "other"))
    left = weakref.ref(outbox)
    del outbox
    assert not gone(left)
    broker.go_on()
    wait_for(lambda: gone(left))
    assert broker.taken == ["first", *map(str, range(20)), "progress"]
    wait_for(lambda: not len(threads))


def test_what_comes_last_is_sent_however_soon_the_outbox_is_dropped(
    make: Make, broker: Broker, threads: Threads
) -> None:
    names = []
    for number in range(200):
        outbox = make(linger=LINGER * (number % 2))
        if number % 3:  # its thread waits by now, or is about to
            outbox.put(status(f"{number} before"))
            outbox.flush(60 * (number % 2))
            names.append(f"{number} before")
        outbox.put(progress(f"{number}", f"j{number}"))
        names.append(f"{number}")
        del outbox
        if number % 10 == 0:
            gc.collect()
    wait_for(lambda: gc.collect() is not None and not len(threads))
    assert sorted(broker.taken) == sorted(names)


def test_progress_that_is_held_back_is_sent_when_it_is_due(make: Make, broker: Broker, threads: Threads) -> None:
    outbox = make()
    outbox.put(custom("a"))
    assert outbox.flush(60)
    outbox.put(progress("later"), time.monotonic() + 0.5)
    left = weakref.ref(outbox)
    del outbox
    wait_for(lambda: gone(left))
    assert broker.taken == ["a", "later"]


def test_progress_that_is_never_due_is_kept_for_the_end_of_the_process(make: Make, broker: Broker) -> None:
    outbox = make()
    outbox.put(progress("at last"), math.inf)
    left = weakref.ref(outbox)
    del outbox
    assert not gone(left)
    kept = left()
    assert kept is not None
    assert kept.flush(60)
    assert broker.taken == ["at last"]
    del kept
    wait_for(lambda: gone(left))


@pytest.mark.parametrize("stores", [False, True])
def test_while_the_broker_is_away_it_is_kept_and_then_sent(
    make: Make, broker: Broker, threads: Threads, stores: bool
) -> None:
    broker.down = True
    outbox = make(append=list) if stores else make()
    for number in range(5):
        outbox.put(custom(str(number)))
    wait_for(lambda: len(broker.batches) > 2)
    left = weakref.ref(outbox)
    del outbox
    assert not gone(left)
    tries = len(broker.batches)
    wait_for(lambda: len(broker.batches) > tries + 2)
    broker.recover()
    wait_for(lambda: gone(left))
    assert broker.taken == [str(number) for number in range(5)]
    wait_for(lambda: not len(threads))


def test_one_that_is_stopped_is_dropped_with_what_waits(make: Make, broker: Broker, threads: Threads) -> None:
    broker.down = True
    outbox = make()
    outbox.put(custom("a"))
    wait_for(lambda: broker.batches)
    outbox.stop()
    left = weakref.ref(outbox)
    del outbox
    wait_for(lambda: gone(left))
    wait_for(lambda: not len(threads))


# -- other processes, and greenlets -------------------------------------------------------------------------------


def run(script: str, before: str = "") -> Any:
    prelude = """
        import gc, json, os, sys, threading, time, weakref
        from celery_realtime.sending import sender
        from tests.outboxes import new_outbox, progress, status

        sender.IDLE_TURN = 600.0

        def start(publish, **options):
            owner = {}
            owner["outbox"] = new_outbox(lambda events: publish(events) if owner else 0, **options)
            return owner["outbox"]

        def wait_for(condition):
            deadline = time.monotonic() + 120
            while not condition():
                assert time.monotonic() < deadline
                gc.collect()
                time.sleep(0.01)

        taken = []
        def publish(events):
            taken.extend(event.payload.decode() for event in events)
            return len(events)
    """
    done = subprocess.run(
        [sys.executable, "-c", "".join(map(textwrap.dedent, (before, prelude, script)))],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=ROOT,
    )
    assert not done.returncode, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)


def test_at_the_end_of_the_process_what_was_dropped_is_sent_and_its_connections_closed() -> None:
    assert run("""
        import atexit
        atexit.register(lambda: print(json.dumps(taken), flush=True))
        outbox = start(publish, linger=60.0)
        outbox.on_idle(lambda: taken.append("closed"))
        outbox.put(progress("at once", "a"))
        wait_for(lambda: taken)
        outbox.put(progress("lingers", "a"))
        outbox.put(progress("held", "b"), time.monotonic() + 600)
        del outbox
        gc.collect()
    """) == ["at once", "lingers", "held", "closed"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_the_child_of_a_fork_keeps_nothing_of_what_its_parent_has_dropped() -> None:
    assert run("""
        outboxes = [start(publish, linger=0.0) for _ in range(3)]
        for outbox in outboxes[:2]:
            outbox.put(status("s"))
            assert outbox.flush(60)
        outboxes[1].put(progress("held"), time.monotonic() + 600)
        left = [weakref.ref(outbox) for outbox in outboxes]
        del outbox, outboxes
        wait_for(lambda: left[0]() is None and left[2]() is None and threading.active_count() == 2)
        assert left[1]() is not None
        pid = os.fork()
        if pid == 0:
            taken.clear()
            gc.collect()
            is_free = left[1]() is None and threading.active_count() == 1
            outbox = start(publish, linger=0.0)
            outbox.put(status("child"))
            os._exit(0 if is_free and outbox.flush(60) and taken == ["child"] else 1)
        _, code = os.waitpid(pid, 0)
        assert left[1]().flush(60)
        wait_for(lambda: left[1]() is None and threading.active_count() == 1)
        print(json.dumps([code, taken]))
    """) == [0, ["s", "s", "held"]]


GREEN = {
    "gevent": "from gevent import monkey; monkey.patch_all()\n",
    "eventlet": "import eventlet; eventlet.monkey_patch()\n",
}


@pytest.mark.parametrize("kind", ["gevent", pytest.param("eventlet", marks=pytest.mark.long)])
def test_greenlets_end_as_threads_do(kind: str) -> None:
    pytest.importorskip(kind)
    assert run(
        """
        is_down = True
        def later(events):
            time.sleep(0.01)
            return 0 if is_down else publish(events)

        before = threading.active_count()
        outboxes = [start(later, linger=0.0, pauses=(0.02, 0.08)) for _ in range(20)]
        for outbox in outboxes:
            outbox.put(status("s"))
        left = [weakref.ref(outbox) for outbox in outboxes]
        del outbox, outboxes
        for _ in range(5):
            gc.collect()
            time.sleep(0.01)
        waiting = sum(reference() is not None for reference in left)
        is_down = False
        wait_for(lambda: not any(reference() for reference in left))
        wait_for(lambda: not [thread for thread in threading.enumerate() if thread.name == sender.THREAD])
        print(json.dumps([waiting, len(taken)]))
        """,
        GREEN[kind],
    ) == [20, 20]
