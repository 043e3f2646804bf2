"""What a job that says something bit by bit pays for it, and what servers and Redis do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import redis

from benchmarks.figures import Figure, Goal, alternate
from benchmarks.speech import PROJECT, realtime
from benchmarks.stage import Stage
from celery_realtime.channel.wire import decode_message, frames, head_of_frame
from celery_realtime.events import Execution, Job, Outgoing, numbered_chunk, outgoing_part
from celery_realtime.history.store import History
from celery_realtime.stream_parts import StreamPart

ROW = "streams"
TOKEN = " token"
SIZE = 1024 * 1024
CHUNK = 64
#: Chunks that a batch of a worker with 100 jobs has.
CHUNKS = 40

WRITE, WRITE_ITEM = Goal(2e-6, is_ratio=False), Goal(5e-6, is_ratio=False)
READ = Goal(1.5)


def measure(stage: Stage) -> Iterator[Figure]:
    """Time a write in a worker's child, appending and reading on Redis, and leaving frames unread."""
    broker = stage.broker("redis")
    with stage.worker(broker, concurrency=1):
        client = broker.app("client")
        tokens = [_write(client, "say", stage.count(20000)) for _ in range(stage.rounds + 1)][1:]
        items = [_write(client, "say_rows", stage.count(20000)) for _ in range(stage.rounds + 1)][1:]
    for call, results, goal in (("out.write(token)", tokens, WRITE), ("rows.write(item)", items, WRITE_ITEM)):
        for kind in ("mean", "median", "cpu"):
            what = {"cpu": "CPU of the task's thread"}.get(kind, kind)
            least = goal if kind == "mean" else None
            yield Figure(ROW, f"{call}: {what}", "redis", "s", [], [one[kind] for one in results], least)
    url = stage.redis.fresh_url()
    history = realtime("memory://", history_url=url).manager.history
    assert history is not None
    with redis.Redis.from_url(url) as bare:
        yield _append(stage, history, bare)
        for size in (10_000, SIZE):
            yield _read(stage, history, bare, size)
    history.close()
    yield _unread(stage)


def _write(client: Any, task: str, count: int) -> dict[str, float]:
    sent = client.send_task(f"benchmarks.app.{task}", kwargs={"count": count}, headers={"project_id": PROJECT})
    found: dict[str, float] = sent.get(timeout=60)
    return found


class Writer:
    """Writes the streams of some jobs, a chunk of each at a time."""

    def __init__(self, count: int) -> None:
        execution = Execution("e", time.time())
        self._jobs = [Job(job_id=f"job-{number}", project_id="bench", execution=execution) for number in range(count)]
        self._written = 0

    def parts(self, text: str) -> list[Outgoing]:
        """Return the next part of each."""
        begin, self._written = self._written, self._written + len(text)
        parts = (
            (job, StreamPart("answer", "text", job.job_id, begin, len(text), "" if begin else "open", 1))
            for job in self._jobs
        )
        return [outgoing_part(job, part, text.encode()) for job, part in parts]


def _timed(act: Callable[[], object], count: int) -> float:
    before = time.perf_counter()
    for _ in range(count):
        act()
    return (time.perf_counter() - before) / count


def _append(stage: Stage, history: History, bare: redis.Redis) -> Figure:
    writer, text, count = Writer(CHUNKS), TOKEN * (CHUNK // len(TOKEN)), stage.count(200)

    def stock() -> None:
        with bare.pipeline(transaction=False) as pipeline:
            for number in range(CHUNKS):
                pipeline.append(f"stock-{number}", text)
            pipeline.execute()

    ours, theirs = alternate(
        stage.rounds,
        lambda: _timed(lambda: history.streams.append(writer.parts(text)), count) / CHUNKS,
        lambda: _timed(stock, count) / CHUNKS,
    )
    return Figure(ROW, f"append a chunk, {CHUNKS} streams at once; stock: APPEND", "redis", "s", theirs, ours)


def _read(stage: Stage, history: History, bare: redis.Redis, size: int) -> Figure:
    text = (TOKEN * (size // len(TOKEN) + 1))[:size]
    bare.set("stock", text)
    job = Job(job_id=f"job-of-{size}", project_id="bench", execution=Execution("e", time.time()))
    for begin in range(0, size, 16384):
        piece = text[begin : begin + 16384]
        part = StreamPart("answer", "text", "w", begin, len(piece), "" if begin else "open", 1)
        history.streams.append([outgoing_part(job, part, piece.encode())])
    count = max(5, stage.count(200))

    def stock() -> None:
        value: Any = bare.getrange("stock", 0, -1)
        assert len(value.decode()) == size

    def read() -> None:
        reading = history.streams.read("bench", job.job_id, "answer")
        assert reading is not None
        assert len(reading.value) == size

    ours, theirs = alternate(stage.rounds, lambda: _timed(read, count), lambda: _timed(stock, count))
    return Figure(
        ROW,
        f"read what was said: {size:,} bytes; stock: GETRANGE",
        "redis",
        "s",
        theirs,
        ours,
        READ if size == SIZE else None,
    )


def _unread(stage: Stage) -> Figure:
    text, count = TOKEN * (CHUNK // len(TOKEN)), stage.count(500)
    chunks = [numbered_chunk(part, 0, 1) for part in Writer(CHUNKS).parts(text)]
    [(_, body)] = frames(chunks, "me", "/")
    message = SimpleNamespace(body=body)

    def leave() -> None:
        head = head_of_frame(message.body)
        assert head is not None
        assert head.streams

    ours, theirs = alternate(
        stage.rounds,
        lambda: _timed(leave, count) / CHUNKS,
        lambda: _timed(lambda: decode_message(message.body), count) / CHUNKS,
    )
    assert msgspec.json.decode(body)["events"]
    what = "a chunk that nobody on a server reads; stock: decoding it"
    return Figure(ROW, what, "redis", "s", theirs, ours)
