"""Whoever waits for a change may be killed meanwhile: that is what it raises, and no lock is held or owed then."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import pytest

from celery_realtime.sending.changes import Changes
from tests.processes import ROOT, python_path
from tests.waiting import wait_for

#: Kills greenlets that wait in an outbox while somebody else has its lock, and says what they raised. Each is killed
#: twice, since Celery may do so too.
PROGRAM = """
import json, sys
{patch}
from tests.outboxes import Broker, hang_with, new_outbox, status

raised = []

def wait(what):
    try:
        what()
        raised.append("nothing")
    except BaseException as error:
        raised.append(type(error).__name__)

broker = Broker()
outbox = new_outbox(broker.publish, linger=0.0)
hang_with(outbox, broker, status("mine", "mine"))
waits = [
    lambda: outbox.waits.until_sent(("p", "mine"), 600),
    lambda: outbox.waits.until_drained(600),
    lambda: outbox.flush(600),
]
waiting = [spawn(wait, what) for what in waits]
sleep(0.2)
holder = spawn(outbox.look, -1, lambda batch: sleep(1.0))
sleep(0.3)
for greenlet in waiting:
    kill(greenlet)
sleep(0.1)
for greenlet in waiting:
    kill(greenlet)
sleep(1.0)
outbox.put(status("after", "other"))
broker.go_on()
json.dump([raised, outbox.flush(30), broker.taken], sys.stdout)
"""

PATCHES = {
    "gevent": """
import gevent.monkey; gevent.monkey.patch_all()
from gevent import sleep, spawn
def kill(greenlet): greenlet.kill(block=False)
""",
    "eventlet": """
import eventlet; eventlet.monkey_patch()
from eventlet import kill, sleep, spawn
""",
}


@pytest.mark.parametrize("kind", PATCHES)
def test_a_greenlet_that_is_killed_while_it_waits_raises_that_and_leaves_the_outbox_as_it_was(kind: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM.format(patch=PATCHES[kind])],
        cwd=ROOT,
        env={**os.environ, **python_path()},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.stdout, ran.stderr
    raised, has_left, taken = json.loads(ran.stdout)
    assert raised == ["GreenletExit"] * 3, ran.stderr
    assert (has_left, taken) == (True, ["mine", "after"])


def test_all_that_wait_go_on_when_something_has_changed_and_those_that_come_later_wait() -> None:
    changes = Changes(threading.RLock())
    over: list[int] = []

    def wait(number: int) -> None:
        with changes:
            change = changes.next()
        change.wait(60)
        over.append(number)

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    wait_for(lambda: changes.waiting == 3)
    with changes:
        changes.notify_all()
    for thread in threads:
        thread.join(60)
    assert sorted(over) == [0, 1, 2]
    with changes:
        late = changes.next()
    late.wait(0.01)
    assert changes.waiting == 0
