"""A process that publishes jobs, in a way in which applications do: ``python -m benchmarks.producer KIND``.

It publishes one, and says what that took; then as many as each line that it reads says, and what each of them took.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from celery import chord, group

from benchmarks.bare_app import EXTENSION, app, noop_kept

OPTIONS: dict[str, Any] = {"headers": {"project_id": "p"}, "queue": "benchmarks"}

#: Seconds between two events of a thread that sends some beside.
APART = 0.001


def publish() -> None:
    """Publish one job."""
    noop_kept.apply_async(**OPTIONS)


def from_script(count: int) -> float:
    """Publish jobs one after the other, and return what one takes, in seconds."""
    began = time.perf_counter()
    for _ in range(count):
        publish()
    return (time.perf_counter() - began) / count


def from_flask(count: int) -> float:
    """Publish one job in each request to a Flask app."""
    from flask import Flask

    flask_app, spans = Flask("benchmarks"), list[float]()

    @flask_app.post("/jobs")
    def start() -> str:
        spans.append(from_script(1))
        return "started"

    client = flask_app.test_client()
    for _ in range(count):
        client.post("/jobs")
    return sum(spans) / len(spans)


def from_asyncio(count: int) -> float:
    """Publish jobs from the coroutines of an event loop, which is blocked for as long as that takes."""
    spans: list[float] = []

    async def start() -> None:
        spans.append(from_script(1))
        await asyncio.sleep(0)

    async def serve() -> None:
        for _ in range(count):
            await start()

    asyncio.run(serve())
    return sum(spans) / len(spans)


def in_group(count: int) -> float:
    """Publish a group, and return what a member takes."""
    members = group(noop_kept.s().set(**OPTIONS) for _ in range(count))
    began = time.perf_counter()
    members.apply_async()
    return (time.perf_counter() - began) / count


def in_chord(count: int) -> float:
    """Publish the header of a chord, and return what a member takes."""
    members = chord([noop_kept.s().set(**OPTIONS) for _ in range(count)], noop_kept.si().set(**OPTIONS))
    began = time.perf_counter()
    members.apply_async()
    return (time.perf_counter() - began) / count


def beside_a_thread(count: int) -> float:
    """Publish jobs beside a thread that sends 1,000 events a second, or, without the extension, wakes up as often."""
    is_over = threading.Event()

    def send() -> None:
        number = 0
        while not is_over.wait(APART):
            number += 1
            if EXTENSION:
                app.realtime.manager.emit_to_project("p", "line", {"number": number})

    thread = threading.Thread(target=send)
    thread.start()
    try:
        return from_script(count)
    finally:
        is_over.set()
        thread.join()


KINDS: dict[str, Callable[[int], float]] = {
    "script": from_script,
    "flask": from_flask,
    "asyncio": from_asyncio,
    "group": in_group,
    "chord": in_chord,
    "thread": beside_a_thread,
}


def main(kind: str) -> None:
    """Publish the first job of the process, then the others, and print what each takes."""
    began = time.perf_counter()
    publish()
    first = time.perf_counter() - began
    settle()
    print(json.dumps({"first": first}), flush=True)
    for line in sys.stdin:
        print(json.dumps(timed(kind, int(line))), flush=True)
    with app.connection_for_write() as connection:
        connection.default_channel.queue_purge("benchmarks")
    os._exit(0)  # all has been sent, and what Celery closes as the interpreter ends complains


def timed(kind: str, count: int) -> dict[str, float]:
    """Publish jobs, and return what each takes: the time of the call, and the processor's of its thread and of all."""
    cpu, own = time.process_time(), time.thread_time()
    later = KINDS[kind](count)
    own = time.thread_time() - own
    settle()
    cpu = time.process_time() - cpu
    return {"later": later, "thread": own / count, "cpu": cpu / count}


def settle() -> None:
    """Wait until nothing is left to be sent."""
    if EXTENSION:
        assert app.realtime.flush(60)


if __name__ == "__main__":
    main(sys.argv[1])
