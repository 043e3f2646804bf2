"""What it costs to remember events, and to tell a newcomer where everything stands."""

from __future__ import annotations

import importlib.util
import itertools
import random
import time
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec
import redis

from benchmarks.figures import Figure, Goal, alternate
from benchmarks.speech import MESSAGE, outgoing, realtime
from benchmarks.stage import Stage
from celery_realtime.events import Execution, Job, Outgoing, outgoing_progress, outgoing_status, status_change
from celery_realtime.jobs.progress import Progress, progress_update

if TYPE_CHECKING:
    from celery_realtime.history.store import History

ROW = "history"
JOBS = 100
MANY_JOBS = 100000
KEPT = 1000

#: As a worker of some size names its jobs, itself and its processes.
REAL_TASK, REAL_WORKER = "studio.tasks.transcribe", "celery@worker-7f9c6d5b4-x2k8q"
REAL_MESSAGE = "Transcribing minute 12 of 48"
PROCESSES = 8
#: One job in so many leads to others.
WORKFLOW_OF = 5

NO_SLOWER_THAN = Goal(1.5)
MOST_MEMORY = Goal(700, is_ratio=False)


def measure(stage: Stage) -> Iterator[Figure]:
    """Compare with the bare commands of Redis that move the same bytes and decide nothing."""
    url = stage.redis.fresh_url()
    history = realtime("memory://", history_url=url).manager.history
    assert history is not None
    with redis.Redis.from_url(url) as client:
        for size in (1, 100):
            yield from _append(stage, history, client, size)
        for jobs in (10, 100, 1000):
            yield from _read(stage, history, client, jobs)
        if importlib.util.find_spec("hiredis"):
            yield _read_with_hiredis(stage, url)
        for missed in (10, 100, 1000):
            yield _recover(stage, history, client, missed)
        yield _memory_of_events(history, client)
        for jobs in (1, 1000, MANY_JOBS) if stage.memory else (1, 1000):
            yield _memory(history, client, jobs)
    history.close()


def _append(stage: Stage, history: History, client: redis.Redis, size: int) -> Iterator[Figure]:
    count = stage.count(200) * size if size > 1 else stage.count(2000)
    numbers = itertools.count()

    def events() -> list[list[Outgoing]]:
        told = (outgoing(number % JOBS, f"{MESSAGE} {number}") for number in itertools.islice(numbers, count))
        return [list(batch) for batch in iter(lambda: tuple(itertools.islice(told, size)), ())]

    rounds = alternate(
        stage.rounds,
        lambda: _costs(client, history.append, events(), count),
        lambda: _costs(client, lambda batch: _add(client, batch), events(), count),
    )
    what = f"store progress, {size} at a time"
    for name, goal in (
        ("", NO_SLOWER_THAN if size > 1 else None),
        (": CPU of both sides", None),
        (": CPU of Redis", None),
    ):
        ours, stock = ([costs.pop(0) for costs in side] for side in rounds)
        yield Figure(ROW, f"{what}{name}; stock: XADD", "redis", "s", stock, ours, goal)


def _costs(
    client: redis.Redis, store: Callable[[list[Outgoing]], Any], batches: list[list[Outgoing]], count: int
) -> list[float]:
    """Return what storing an event takes: the time, the processor time of both sides, and that of Redis."""
    started, of_redis, of_client = time.perf_counter(), _cpu(client), time.process_time()
    for batch in batches:
        assert store(batch)
    of_client, took = time.process_time() - of_client, time.perf_counter() - started
    of_redis = _cpu(client) - of_redis
    return [took / count, (of_client + of_redis) / count, of_redis / count]


def _cpu(client: redis.Redis) -> float:
    """Return the processor time that a Redis has used, in seconds."""
    spent: Any = client.info("cpu")
    return float(spent["used_cpu_user"] + spent["used_cpu_sys"])


def _add(client: redis.Redis, batch: list[Outgoing], key: str = "bare") -> object:
    if len(batch) == 1:
        return client.xadd(key, _fields(batch[0]), maxlen=KEPT, approximate=True)
    with client.pipeline(transaction=False) as pipeline:
        for event in batch:
            pipeline.xadd(key, _fields(event), maxlen=KEPT, approximate=True)
        return pipeline.execute()


def _fields(event: Outgoing) -> Any:
    return {"e": event.event, "p": event.payload}


def _read(stage: Stage, history: History, client: redis.Redis, jobs: int) -> Iterator[Figure]:
    """Compare with one hash of the same jobs, each in JSON as clients are given it, decoded likewise."""
    project, bare = f"read-{jobs}", f"bare-read-{jobs}"
    _fill(history, project, jobs)
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    client.hset(bare, mapping={job["job_id"]: msgspec.json.encode(job) for job in history.read(project).jobs})
    times = stage.count(max(10, 2000 // jobs))

    def costs(read: Callable[[], Any]) -> list[float]:
        started, of_redis, of_client = time.perf_counter(), _cpu(client), time.process_time()
        for _ in range(times):
            assert len(read()) == jobs
        of_client, took = time.process_time() - of_client, time.perf_counter() - started
        of_redis = _cpu(client) - of_redis
        return [took / times, (of_client + of_redis) / times, of_redis / times]

    rounds = alternate(
        stage.rounds,
        lambda: costs(lambda: history.read(project).jobs),
        lambda: costs(lambda: [decode(job) for job in client.hgetall(bare).values()]),
    )
    what = f"snapshot of {jobs:,} jobs"
    for name, goal in (("", NO_SLOWER_THAN), (": CPU of both sides", None), (": CPU of Redis", None)):
        ours, stock = ([costs.pop(0) for costs in side] for side in rounds)
        yield Figure(ROW, f"{what}{name}; stock: HGETALL of their JSON, decoded", "redis", "s", stock, ours, goal)


def _read_with_hiredis(stage: Stage, url: str) -> Figure:
    """Compare what it takes to read a snapshot by redis-py's own parser and by hiredis."""
    from redis._parsers import _HiredisParser, _RESP2Parser  # since redis-py 5

    readers = []
    for parser in (_HiredisParser, _RESP2Parser):
        history = realtime("memory://", history_url=url).manager.history
        assert history is not None
        pool = history.connection.client.connection_pool
        pool.connection_kwargs["parser_class"] = parser
        pool.disconnect()
        readers.append(history)
    times = stage.count(50)

    def cpu(history: History) -> float:
        started = time.process_time()
        for _ in range(times):
            assert history.recent("read-1000")
            assert len(history.read("read-1000").jobs) == 1000
        return (time.process_time() - started) / times

    ours, stock = alternate(stage.rounds, lambda: cpu(readers[0]), lambda: cpu(readers[1]))
    for history in readers:
        history.close()
    what = "CPU of a client that reads 1,000 jobs and 1,000 events with hiredis; stock: without"
    return Figure(ROW, what, "redis", "s", stock, ours)


def _recover(stage: Stage, history: History, client: redis.Redis, missed: int) -> Figure:
    project = f"recover-{missed}"
    key = f"bare-{missed}"
    for first in range(0, missed, 50):
        batch = [outgoing(number % JOBS, project=project) for number in range(first, min(first + 50, missed))]
        assert history.append(batch)
        _add(client, batch, key)
    epoch = history.read(project).epoch
    times = stage.count(max(10, 2000 // missed))

    def mean(read: Callable[[], Any]) -> float:
        started = time.perf_counter()
        for _ in range(times):
            assert len(read()) == missed
        return (time.perf_counter() - started) / times

    # Without the snapshot, which comes with it and has a line of its own.
    ours, stock = alternate(
        stage.rounds,
        lambda: mean(lambda: history.read(project, epoch, 0, 0).events),
        lambda: mean(lambda: client.xrange(key)),
    )
    return Figure(
        ROW, f"recover {missed:,} missed events; stock: XRANGE of the same", "redis", "s", stock, ours, NO_SLOWER_THAN
    )


def _memory_of_events(history: History, client: redis.Redis) -> Figure:
    for first in range(0, KEPT, 50):
        batch = [outgoing(number % JOBS, project="memory") for number in range(first, first + 50)]
        assert history.append(batch)
        _add(client, batch, "bare-memory")
    size = sum(client.memory_usage(key, samples=0) or 0 for key in _keys(client, "memory"))
    bare = client.memory_usage("bare-memory", samples=0) or 0
    what = f"memory of {KEPT:,} events of {JOBS} jobs, per event; stock: XADD"
    return Figure(ROW, what, "redis", "B", (bare / KEPT,), (size / KEPT,))


def _memory(history: History, client: redis.Redis, jobs: int) -> Figure:
    project = f"kept-{jobs}"
    _fill(history, project, jobs)
    size = sum(client.memory_usage(key, samples=0) or 0 for key in _keys(client, project))
    goal = MOST_MEMORY if jobs == MANY_JOBS else None
    return Figure(
        ROW, f"memory of a project with {jobs:,} running jobs, per job", "redis", "B", (), (size / jobs,), goal
    )


def _fill(history: History, project: str, jobs: int) -> None:
    """Store jobs that run, as workers report them: with runs, executions and workflows."""
    chance = random.Random(jobs)
    processes = [_id(chance).replace("-", "") for _ in range(PROCESSES)]
    roots: list[str] = []
    for first in range(0, jobs, 50):
        some = [_real_job(chance, project, roots) for _ in range(first, min(first + 50, jobs))]
        of = chance.choice(processes)
        started = [outgoing_status(status_change(job, "STARTED"), incarnation=of, job=job) for job in some]
        updates = [progress_update(job, Progress(chance.randrange(100), REAL_MESSAGE)) for job in some]
        assert history.append(
            started + [outgoing_progress(update, job=job) for update, job in zip(updates, some, strict=True)]
        )


def _real_job(chance: random.Random, project: str, roots: list[str]) -> Job:
    job_id = _id(chance)
    is_step = bool(roots) and len(roots) % WORKFLOW_OF == 0 and chance.random() < 0.5
    root = roots[-1] if is_step else job_id
    roots.append(job_id)
    return Job(
        job_id=job_id,
        project_id=project,
        task=REAL_TASK,
        root_id=root,
        parent_id=root if is_step else None,
        worker=REAL_WORKER,
        run=f"{1764300000000 + len(roots):013d}-{chance.getrandbits(32):08x}",
        execution=Execution(f"{chance.getrandbits(32):08x}", time.time()),
    )


def _id(chance: random.Random) -> str:
    return str(uuid.UUID(int=chance.getrandbits(128), version=4))


def _keys(client: redis.Redis, project: str) -> list[bytes]:
    return list(client.scan_iter(f"*{{{project}}}*", count=1000))
