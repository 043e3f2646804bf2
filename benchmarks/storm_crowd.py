"""The processes of the storm: ``python storm_crowd.py URL PROJECT PROCESSES EVENTS``, with either version on the path.

Each says "ready" once it has sent an event. When a line comes, all have so many events to send at once, and say "done"
when these have left.
"""

from __future__ import annotations

import logging
import os
import sys

from celery import Celery

from celery_realtime import Realtime


def main() -> None:
    """Fork the processes, and wait for them."""
    url, project, processes, events = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    logging.disable()
    ready, go = os.pipe(), os.pipe()
    for _ in range(processes):
        if os.fork() == 0:
            speak(url, project, events, ready[1], go[0])
    for _ in range(processes):
        os.read(ready[0], 1)
    print("ready", flush=True)
    sys.stdin.readline()
    os.write(go[1], b"x" * processes)
    for _ in range(processes):
        os.wait()
        print("done", flush=True)


def speak(url: str, project: str, events: int, ready: int, go: int) -> None:
    """Send one event, then, when it is time, many at once; and end this process."""
    realtime = Realtime(Celery("storm", broker=url, backend=url, set_as_current=False))
    realtime.manager.emit_to_project(project, "line", {"text": "first"})
    realtime.flush(30)
    os.write(ready, b"x")
    os.read(go, 1)
    for number in range(events):
        realtime.manager.emit_to_project(project, "line", {"text": "a line of the job's log", "number": number})
    while not realtime.flush(10):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
