"""An outbox in many threads, over forks, and at the end of the interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from celery_realtime.events import Outgoing
from celery_realtime.sending.outbox import Outbox
from tests.outboxes import Broker, hang_with, progress, status

Make = Callable[..., Outbox[Outgoing]]

ROOT = Path(__file__).parents[2]


def sender_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "celery-realtime-outbox"}


def test_the_thread_starts_with_the_first_event_and_stays(make: Make) -> None:
    before = sender_threads()
    outbox = make()
    assert sender_threads() <= before  # one of an earlier test may have ended meanwhile
    for number in range(3):
        outbox.put(status(str(number)))
        assert outbox.flush(60)
    (started,) = sender_threads() - before
    assert started.daemon


def test_an_event_is_accepted_even_when_no_thread_can_be_had(
    make: Make, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    outbox = make()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        outbox.put(status("1"))
    outbox.put(status("2"))
    assert outbox.flush(60)
    assert broker.taken == ["1", "2"]


def test_putting_never_waits_for_a_broker_that_hangs(make: Make, broker: Broker) -> None:
    outbox = make(queue_size=100)
    hang_with(outbox, broker, status("first"))
    for number in range(1000):
        outbox.put(status(str(number)))
        outbox.put(progress(str(number), f"j{number}"))
    assert not broker.open.is_set()


def test_threads_that_put_at_once_lose_nothing(make: Make, broker: Broker) -> None:
    outbox = make()
    start = threading.Barrier(32)

    def work(thread: int) -> None:
        start.wait(60)
        for number in range(100):
            outbox.put(status(f"{thread} {number}", f"j{thread}"))
            outbox.put(progress(f"{thread} {number} progress", f"j{thread}"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outbox.flush(60)
    for number in range(32):
        mine = [name for name in broker.taken if name.startswith(f"{number} ")]
        assert [name for name in mine if "progress" not in name] == [f"{number} {count}" for count in range(100)]
        assert mine[-1] == f"{number} 99 progress"
    assert outbox.counts["sent"] + outbox.counts["coalesced"] == 6400


def run(script: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    prelude = """
        import json, os, sys, threading, time
        from tests.outboxes import new_outbox, progress, status
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(prelude) + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=True,
        cwd=ROOT,
    )


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


@needs_fork
def test_a_child_sends_its_own_events_and_none_of_its_parents() -> None:
    done = run("""
        taken = []
        def publish(events):
            taken.extend(event.payload.decode() for event in events)
            return len(events)

        outbox = new_outbox(publish, linger=0.0)
        outbox.put(status("parent 1"))
        assert outbox.flush(60)
        outbox.put(progress("parent held"), time.monotonic() + 600)
        pid = os.fork()
        if pid == 0:
            assert outbox.size == 0 and not outbox.counts, "something was inherited"
            taken.clear()
            outbox.put(status("child"))
            ok = outbox.flush(60)
            os._exit(0 if ok and taken == ["child"] else 1)
        _, code = os.waitpid(pid, 0)
        outbox.put(status("parent 2"))
        assert outbox.flush(60)
        print(json.dumps([code, taken]))
    """)
    assert json.loads(done.stdout) == [0, ["parent 1", "parent held", "parent 2"]]


@needs_fork
def test_a_fork_in_the_midst_of_other_threads_sending_leaves_the_child_able_to_send() -> None:
    done = run("""
        import signal
        outbox = new_outbox(len, linger=0.0)
        stop = threading.Event()
        def work():
            while not stop.is_set():
                outbox.put(status("s"))
        for _ in range(3):
            threading.Thread(target=work, daemon=True).start()
        codes = []
        for _ in range(10):
            pid = os.fork()
            if pid == 0:
                signal.alarm(10)
                outbox.put(status("child"))
                os._exit(0 if outbox.flush(60) else 1)
            codes.append(os.waitpid(pid, 0)[1])
        stop.set()
        print(json.dumps(codes))
    """)
    assert json.loads(done.stdout) == [0] * 10


@needs_fork
def test_a_child_of_a_child_sends_too() -> None:
    done = run("""
        outbox = new_outbox(lambda events: (os.write(1, events[0].payload + b"\\n"), len(events))[1], linger=0.0)
        def generation(names):
            outbox.put(status(names[0]))
            assert outbox.flush(60)
            if names[1:]:
                pid = os.fork()
                if pid == 0:
                    generation(names[1:])
                    os._exit(0)
                assert os.waitpid(pid, 0)[1] == 0
        generation(["parent", "child", "grandchild"])
    """)
    assert done.stdout.split() == ["parent", "child", "grandchild"]


def test_what_waits_when_the_interpreter_ends_still_leaves() -> None:
    done = run("""
        def publish(events):
            os.write(1, b"".join(event.payload + b"\\n" for event in events))
            return len(events)
        outbox = new_outbox(publish, linger=0.5)
        outbox.put(progress("held"), time.monotonic() + 600)
        outbox.put(status("last"))
        outbox.put(progress("newest"), time.monotonic() + 600)
    """)
    assert done.stdout.split() == ["held", "last", "newest"]


def test_an_interpreter_that_ends_does_not_wait_longer_than_it_may() -> None:
    done = run(
        """
        outbox = new_outbox(lambda events: threading.Event().wait(600), flush_timeout=0.3)
        outbox.put(status("stuck"))
        print("ended")
        """,
        timeout=240,
    )
    assert done.stdout.split() == ["ended"]


def test_an_event_from_an_exit_handler_still_leaves() -> None:
    done = run("""
        import atexit
        outbox = new_outbox(lambda events: os.write(1, events[0].payload) and len(events))
        outbox.put(status("early "))
        assert outbox.flush(60)
        atexit.register(lambda: outbox.put(status("late")))
        """)
    assert done.stdout == "early late"
    assert done.stderr == ""


def test_an_event_that_comes_when_no_thread_runs_any_more_neither_blocks_nor_raises() -> None:
    # Modules are torn down after the daemon threads were stopped, and a new one would never begin to run.
    done = run(
        """
        outbox = new_outbox(len)
        class Late:
            def __del__(self, write=os.write, outbox=outbox, event=status("late")):
                outbox.put(event)
                write(1, b"went on")
        sys.modules["late"] = Late()
        for _ in range(20):
            outbox.put(status("early"))
        """,
        timeout=240,
    )
    assert done.stdout == "went on"
    assert done.stderr == ""
