"""No process is forked while one of its threads is in the middle of talking."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from celery_realtime import forks
from celery_realtime.forks import Gate, Hooks
from tests.waiting import wait_for

ROOT = Path(__file__).parents[1]

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

#: A child ends with 0 when it could set TLS up itself; SIGALRM ends one that waits for a lock of its parent's.
FORKING = """
import os, signal, ssl, threading
from celery_realtime import forks
from celery_realtime.forks import talking

forks.LONGEST_WAIT = 60.0  # a busy machine may keep a thread from its handshake for longer than a second

def shake_hands():
    while True:
        with talking:
            ssl.create_default_context()

for _ in range(2):
    threading.Thread(target=shake_hands, daemon=True).start()
for _ in range(60):
    child = os.fork()
    if not child:
        signal.alarm(60)
        ssl.create_default_context()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, "a child hangs"
print("all were free", flush=True)
os._exit(0)
"""


@needs_fork
def test_no_child_inherits_a_lock_of_a_handshake() -> None:
    done = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=240, check=False)
    assert done.stdout == "all were free\n", done.stderr


#: A child is forked while another thread is in the middle of importing a package; it is killed if it waits for that.
IMPORTING = """
import builtins, os, signal, sys, threading
import celery_realtime.forks

builtins.parent, builtins.begun, builtins.go_on = os.getpid(), threading.Event(), threading.Event()
importing = threading.Thread(target=__import__, args=("slow_package",))
importing.start()
assert begun.wait(60)
import whole
kept, done = whole, sys.modules["slow_package.part"]
child = os.fork()
if not child:
    signal.alarm(60)
    import slow_package, whole
    from slow_package.part import value
    os._exit(0 if (slow_package.value, value, whole) == (1, 2, kept) and slow_package.part is not done else 1)
status = os.waitpid(child, 0)[1]
go_on.set()
importing.join(60)
import slow_package
print(status, slow_package.value, flush=True)
"""
SLOW_PACKAGE = """
import os
from slow_package import part

if os.getpid() == parent:
    begun.set()
    assert go_on.wait(60)
value = 1
"""


@needs_fork
def test_a_child_imports_anew_what_another_thread_was_importing(tmp_path: Path) -> None:
    (tmp_path / "slow_package").mkdir()
    (tmp_path / "slow_package" / "__init__.py").write_text(SLOW_PACKAGE)
    (tmp_path / "slow_package" / "part.py").write_text("value = 2")
    (tmp_path / "whole.py").write_text("")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    program = [sys.executable, "-c", IMPORTING]
    done = subprocess.run(program, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.stdout == "0 1\n", done.stderr


class Talker:
    """A thread that is inside a gate until it is told to leave."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._inside, self._leave = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._talk, daemon=True)
        self._thread.start()

    def _talk(self) -> None:
        with self._gate, self._gate:
            self._inside.set()
            self._leave.wait(60)

    def is_inside(self) -> bool:
        return self._inside.is_set()

    def leave(self) -> None:
        self._leave.set()
        self._thread.join(60)
        assert not self._thread.is_alive()


def test_a_fork_waits_for_all_threads_that_talk_and_the_next_wait_for_the_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "LONGEST_WAIT", 90.0)
    gate = Gate()
    talkers = [Talker(gate), Talker(gate)]
    wait_for(lambda: all(talker.is_inside() for talker in talkers))
    closed = threading.Event()
    threading.Thread(target=lambda: (gate.close(), closed.set()), daemon=True).start()
    wait_for(lambda: gate.is_closed)
    late = Talker(gate)
    talkers[0].leave()
    assert not closed.wait(0.1)
    talkers[1].leave()
    assert closed.wait(60)
    assert not late.is_inside()
    gate.open()
    wait_for(late.is_inside)
    late.leave()


def test_a_thread_that_talks_may_fork_and_a_fork_waits_for_nobody_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    with gate:
        gate.close()
        with gate:
            gate.open()
    monkeypatch.setattr(forks, "LONGEST_WAIT", 0.05)
    stuck = Talker(gate)
    wait_for(stuck.is_inside)
    gate.close()
    gate.open()
    stuck.leave()
    assert not gate.is_closed
    Talker(gate).leave()


# -- hooks --------------------------------------------------------------------------------------------------------


class Hooked:
    """Notes when it is called; raises if it is to."""

    def __init__(self, name: str, calls: list[str], fails: bool = False) -> None:
        self.name, self.calls, self.fails = name, calls, fails

    def call(self) -> None:
        self.calls.append(self.name)
        if self.fails:
            raise ValueError(self.name)


def test_hooks_are_called_in_order_each_though_another_fails_and_only_while_their_objects_live() -> None:
    hooks, calls = Hooks(), list[str]()
    objects = [Hooked("a", calls), Hooked("b", calls, fails=True), Hooked("c", calls), Hooked("d", calls)]
    for hooked in objects:
        hooks.add(hooked.call)
    del hooked
    with pytest.raises(ValueError, match="b"):
        hooks.call()
    assert calls == ["a", "b", "c", "d"]
    calls.clear()
    del objects[1:3]
    gc.collect()  # the error knows the frames that it has come through
    assert len(hooks) == 2
    hooks.call_newest_first()
    assert calls == ["d", "a"]


EXITING = """
import multiprocessing, os, sys
from celery_realtime.forks import at_exit

class Ending:
    def __init__(self, name):
        self.name = name
        at_exit(self.end)

    def end(self):
        os.write(1, f"{self.name}\\n".encode())

def work():
    global own
    own, gone = Ending("of a child"), Ending("gone in a child")

lives, gone = Ending("lives"), Ending("gone")
del gone
if not os.fork():
    sys.exit()
os.wait()
child = multiprocessing.get_context("fork").Process(target=work)
child.start()
child.join()
"""


@needs_fork
def test_objects_are_called_at_the_exit_of_their_own_process_while_they_live() -> None:
    done = subprocess.run([sys.executable, "-c", EXITING], capture_output=True, text=True, timeout=240, check=False)
    assert (done.stdout, done.stderr) == ("of a child\nlives\n", "")


#: A process in which the module that uWSGI alone has is a stand-in, and a fork that Python does not learn of.
UNDER_UWSGI = """
import ctypes, os, pathlib, sys, tempfile, types

uwsgi = types.ModuleType("uwsgi")
uwsgi.version, uwsgi.opt, uwsgi.masterpid = b"2.0.31", {}, lambda: int(sys.argv[1] != "no master")
others = []
uwsgi.post_fork_hook = lambda: others.append("called")
uwsgi.spooler = spooler = lambda task: -2
sys.modules["uwsgi"] = uwsgi
if "decorators" in sys.argv[1]:  # what it does when it is imported, as of uWSGI 2.0.31
    folder = tempfile.TemporaryDirectory()
    pathlib.Path(folder.name, "uwsgidecorators.py").write_text('''
import uwsgi
chain = []
postfork = chain.append
uwsgi.spooler, uwsgi.mule_msg_hook = (lambda task: 0), print
uwsgi.post_fork_hook = lambda: [function() for function in chain]
''')
    sys.path.insert(0, folder.name)
if sys.argv[1] == "decorators of its own":
    import uwsgidecorators
    uwsgidecorators.postfork(lambda: others.append("called"))
    uwsgi.spooler = spooler

from tests.outboxes import custom, new_outbox

assert uwsgi.spooler is spooler, "what the application had set is gone"
sent = []
outbox = new_outbox(lambda events: sent.extend(events) or len(events))
outbox.put(custom("before"))
assert outbox.flush(60)
uwsgi.post_fork_hook()
assert (len(sent), others) == (1, ["called"]), "a worker that was not forked has begun anew"
outbox.put(custom("before too"))
assert outbox.flush(60)
pid = ctypes.PyDLL(None).fork()
if not pid:
    uwsgi.post_fork_hook()
    outbox.put(custom("in the child"))
    os._exit(0 if outbox.flush(60) and others == ["called", "called"] and len(sent) == 3 else 9)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks as uWSGI does")
@pytest.mark.parametrize("kind", ["no master", "master", "decorators", "decorators of its own"])
def test_a_worker_of_uwsgi_begins_anew_though_python_knows_nothing_of_its_fork(kind: str) -> None:
    command = [sys.executable, "-c", UNDER_UWSGI, kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
