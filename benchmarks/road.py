"""Say where the time of one event goes on its way to a browser: ``python -m benchmarks.road [EVENTS]``.

The event of each way comes after a silence, and each stage is the median of all. Nothing waits for a stage to be noted.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.browsers import browse
from benchmarks.latency import CUSTOM_EVENT, SECRET, child, our_server, started, stock_server
from benchmarks.speech import PROJECT, payload, realtime, stock_emit, stock_manager
from benchmarks.stage import Stage
from celery_realtime.web.delivery import Emit
from tests.services import Broker

EVENTS, PAUSE = 200, 0.02

#: By side, its stages; the first ends when the call returns, and the next begins with the call, too.
STAGES = {
    "stock": ("the call", "until a server hears it", "in the server", "until a browser has it"),
    "ours": (
        "the call",
        "until the sender has it",
        "appending it",
        "until it is published",
        "until it is written to the broker",
        "until a server hears it",
        "in the server",
        "until a browser has it",
    ),
}


def main(events: int = EVENTS) -> None:
    """Print a table for each broker."""
    with Stage() as stage:
        for name in stage.brokers:
            broker = stage.broker(name)
            ways = {"stock": ("stock", "off"), "ours, history off": ("ours", "off"), "ours, history on": ("ours", "on")}
            for way, (side, history) in ways.items():
                spans = follow(broker, side, history, events)
                print(f"\n{name}, {way}, in µs (median, p90):")
                for stage_name, values in spans.items():
                    print(f"  {stage_name:36} {_us(values, 50):7,.0f} {_us(values, 90):7,.0f}", flush=True)


def _us(values: list[float], percent: int) -> float:
    return 1e6 * statistics.quantiles(values, n=100)[percent - 1]


def follow(broker: Broker, side: str, history: str, events: int) -> dict[str, list[float]]:
    """Return by stage how long each event was in it, in seconds; ``in all`` from the call on."""
    options = {"history_url": broker.backend_url if history == "on" else None}
    token = realtime(broker.url, secret_key=SECRET).issue_token("ada", [PROJECT])
    with contextlib.ExitStack() as stack:
        server, emitter = (stack.enter_context(child(part, broker.url, options, side)) for part in (serve, speak))
        browser = stack.enter_context(child(browse, server.recv(), [(PROJECT, token)], 1))
        assert browser.recv() == "ready"
        for count in (10, events):
            browser.send(count)
            emitter.send(count)
            sent = emitter.recv()
            took = [span for spans in browser.recv()[1].values() for span in spans]
            server.send(count)
            served = server.recv()
    return _spans(side, [[*said, *heard] for said, heard in zip(sent, served, strict=True)], took)


def _spans(side: str, marks: list[list[float]], took: list[float]) -> dict[str, list[float]]:
    names = STAGES[side]
    spans: dict[str, list[float]] = {name: [] for name in names}
    for begun_at, took_it in zip(marks, took, strict=True):
        begin, returned, *others = begun_at
        spans[names[0]].append(returned - begin)
        ends = [*others, begin + took_it]
        since = returned if side == "stock" else begin
        for name, end in zip(names[1:], ends, strict=True):
            spans[name].append(end - since)
            since = end
    return {**{name: values for name, values in spans.items() if any(values)}, "in all": took}


def speak(pipe: Connection, url: str, options: dict[str, Any], side: str) -> None:
    """Emit so many events one by one as asked, and answer the times of each."""
    say = _stock_way(url) if side == "stock" else _our_way(url, options)
    while True:
        marks = []
        for number in range(pipe.recv()):
            time.sleep(PAUSE)
            marks.append(say(number))
        pipe.send(marks)


def _stock_way(url: str) -> Callable[[int], list[float]]:
    manager = stock_manager(url)

    def say(number: int) -> list[float]:
        begin = time.monotonic()
        stock_emit(manager, payload(number, repr(begin)))
        return [begin, time.monotonic()]

    return say


def _our_way(url: str, options: dict[str, Any]) -> Callable[[int], list[float]]:
    manager = realtime(url, channel="ours", **options).manager
    clock: dict[str, float] = {}
    publisher, history = manager.publisher, manager.history
    _note(clock, publisher, "publish_events", "published", "answered")
    if history is not None:
        _note(clock, history, "append", "taken", "appended")
    _note_writes(clock)

    def say(number: int) -> list[float]:
        clock.clear()
        begin = time.monotonic()
        manager.emit_to_project(PROJECT, CUSTOM_EVENT, payload(number, repr(begin)))
        returned = time.monotonic()
        while "answered" not in clock:
            time.sleep(PAUSE / 10)
        published = clock["published"]
        return [
            begin,
            returned,
            clock.get("taken", published),
            clock.get("appended", published),
            published,
            clock["written"],
        ]

    return say


def _note(clock: dict[str, float], owner: Any, name: str, before: str, after: str) -> None:
    """Note when a method of an object begins and ends."""
    method = getattr(owner, name)

    def noted(*arguments: Any, **options: Any) -> Any:
        clock[before] = time.monotonic()
        try:
            return method(*arguments, **options)
        finally:
            clock[after] = time.monotonic()

    setattr(owner, name, noted)


def _note_writes(clock: dict[str, float]) -> None:
    """Note when kombu has written a message."""
    import kombu

    publish = kombu.Producer.publish

    def noted(*arguments: Any, **options: Any) -> Any:
        try:
            return publish(*arguments, **options)
        finally:
            clock["written"] = time.monotonic()

    kombu.Producer.publish = noted


def serve(pipe: Connection, url: str, options: dict[str, Any], side: str) -> None:
    """Be a web server, and answer when it heard and had written each of so many events."""
    server = (stock_server if side == "stock" else our_server)(url, options)
    marks: list[list[float]] = []
    (_mark_stock if side == "stock" else _mark_ours)(server.manager, marks)
    pipe.send(started(server))
    for count in iter(pipe.recv, None):
        while len(marks) < count:
            time.sleep(0.01)
        pipe.send(marks[:])
        marks.clear()


def _mark_stock(manager: Any, marks: list[list[float]]) -> None:
    handle = manager._handle_emit

    def noted(message: Any) -> None:
        heard = time.monotonic()
        handle(message)
        marks.append([heard, time.monotonic()])

    manager._handle_emit = noted


def _mark_ours(manager: Any, marks: list[list[float]]) -> None:
    read, flush = manager.reader.items, manager.emitter.flush
    heard: list[float] = []

    def noted_items(message: Any, *others: Any) -> Any:
        began = time.monotonic()
        items = read(message, *others)
        if any(isinstance(item, Emit) for item in items):
            heard.append(began)
        return items

    def noted_flush() -> None:
        flush()
        if heard:
            marks.append([heard.pop(), time.monotonic()])

    manager.reader.items, manager.emitter.flush = noted_items, noted_flush


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
