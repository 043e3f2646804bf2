"""Say what a deployment of so many clients needs: ``python -m benchmarks.capacity [CLIENTS ...]``.

It is computed from what single things cost, as measured for docs/benchmarks.md, and from assumptions about the use.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from benchmarks.record import Record

CLIENTS = (10_000, 100_000, 1_000_000)


def _assumed(value: float, meaning: str) -> Any:
    return field(default=value, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Assumptions:
    """What depends on the use, and is not measured; each is an option of the program."""

    clients_per_project: float = _assumed(10, "clients that follow one project")
    jobs_per_project: float = _assumed(2, "jobs of a project that run at a time")
    updates_per_job: float = _assumed(0.5, "progress updates and custom events of a running job a second")
    job_seconds: float = _assumed(60, "seconds that a job runs; it has three statuses")
    events_kept: float = _assumed(500, "events of a project that the history has, on average")
    servers_per_project: float = _assumed(1, "web servers that a project's clients are on (1: balanced by project)")
    busy: float = _assumed(0.5, "share of its processor, of its memory too, that a process uses at most")
    clients_per_process: float = _assumed(5000, "clients of one process of a web server at most")
    web_process_bytes: float = _assumed(100e6, "memory of such a process without clients, in bytes")
    broker_messages: float = _assumed(10_000, "messages a second that a core of the broker takes, or hands out")
    jobs_per_worker: float = _assumed(8, "jobs that a worker runs at a time")


class Costs(NamedTuple):
    """What single things cost, in seconds of a processor and in bytes.

    Attributes:
        delivery: The web server's processor, for an event to one client.
        hearing: The same, for an event that comes from the broker.
        storing: Redis's processor, for an event that is appended.
        sending: The worker's processor, for an event.
        client: Memory of the web server.
        event: Memory of Redis for an event that is kept.
        job: The same for a running job.
    """

    delivery: float
    hearing: float
    storing: float
    sending: float
    client: float
    event: float
    job: float


_BROWSERS = r"[\d,]+ browsers, 1 project, uvicorn"

#: The costs that are bytes.
MEMORY = ("client", "event", "job")

#: Where each cost is in the figures: the row, a regular expression for what was measured, the part that is taken (what
#: is left is for ``1 / x``), and what is taken where there is no figure yet.
SOURCES: dict[str, tuple[str, str, bool, float]] = {
    "delivery": ("fan-out", rf"{_BROWSERS}, single events: processor time of a delivery", False, 13e-6),
    "hearing": ("listener", r"CPU per event heard, 1 in a frame", False, 50e-6),
    "storing": ("history", r"store progress, 1 at a time: CPU of Redis; stock: XADD", False, 60e-6),
    "sending": ("sender", r"events sent, history on", True, 25e-6),
    "client": ("fan-out", rf"{_BROWSERS}: memory of a client", False, 64e3),
    "event": ("history", r"memory of [\d,]+ events of \d+ jobs, per event; stock: XADD", False, 400.0),
    "job": ("history", r"memory of a project with 1,000 running jobs, per job", False, 900.0),
}


def costs(record: Record) -> Costs:
    """Return the costs that a record has, and for others what is taken in their place."""
    found = {}
    for name, (row, what, is_rate, otherwise) in SOURCES.items():
        figure = record.of(row, what)
        value = otherwise if figure is None else statistics.median(figure.ours)
        found[name] = 1 / value if is_rate and figure is not None else value
    return Costs(**found)


class Needs(NamedTuple):
    """What a deployment needs.

    Attributes:
        projects: How many projects are followed.
        jobs: How many jobs run.
        events: Events a second.
        deliveries: Events to clients a second.
        web_processes: Processes of web servers, each with a core.
        web_memory: Memory of all of them, in bytes.
        redis_cores: Cores for the history; one process of Redis uses one, so more need a cluster.
        redis_memory: Memory for the history, in bytes.
        broker_cores: Cores of the broker for events, beside Celery's own messages.
        workers: Workers.
        worker_cores: Cores of all workers together for events, beside the jobs themselves.
    """

    projects: float
    jobs: float
    events: float
    deliveries: float
    web_processes: int
    web_memory: float
    redis_cores: float
    redis_memory: float
    broker_cores: float
    workers: int
    worker_cores: float


def needs(clients: float, cost: Costs, assumed: Assumptions) -> Needs:
    """Return what a deployment of so many clients needs."""
    projects = clients / assumed.clients_per_project
    jobs = projects * assumed.jobs_per_project
    events = jobs * (assumed.updates_per_job + 3 / assumed.job_seconds)
    deliveries = events * assumed.clients_per_project
    heard = events * assumed.servers_per_project
    web_cores = (deliveries * cost.delivery + heard * cost.hearing) / assumed.busy
    web_processes = math.ceil(max(web_cores, clients / assumed.clients_per_process))
    kept = projects * assumed.events_kept * cost.event + jobs * cost.job
    return Needs(
        projects=projects,
        jobs=jobs,
        events=events,
        deliveries=deliveries,
        web_processes=web_processes,
        web_memory=(clients * cost.client + web_processes * assumed.web_process_bytes) / assumed.busy,
        redis_cores=events * cost.storing / assumed.busy,
        redis_memory=kept / assumed.busy,
        broker_cores=(events + heard) / assumed.broker_messages / assumed.busy,
        workers=math.ceil(jobs / assumed.jobs_per_worker),
        worker_cores=events * cost.sending / assumed.busy,
    )


LINES = {
    "projects": ("projects", "count"),
    "jobs": ("running jobs", "count"),
    "events": ("events a second", "count"),
    "deliveries": ("deliveries a second", "count"),
    "web_processes": ("web server processes, a core each", "count"),
    "web_memory": ("memory of the web servers", "bytes"),
    "redis_cores": ("cores of Redis for the history", "cores"),
    "redis_memory": ("memory of Redis for the history", "bytes"),
    "broker_cores": ("cores of the broker for events", "cores"),
    "workers": ("workers", "count"),
    "worker_cores": ("cores of the workers for events", "cores"),
}


def table(cost: Costs, assumed: Assumptions, clients: Sequence[int] = CLIENTS) -> str:
    """Return what deployments need, as a table in Markdown."""
    columns = [needs(count, cost, assumed) for count in clients]
    lines = [["clients", *(f"{count:,}" for count in clients)], ["---"] * (len(clients) + 1)]
    for name, (label, kind) in LINES.items():
        lines.append([label, *(_shown(getattr(column, name), kind) for column in columns)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shown(value: float, kind: str) -> str:
    if kind == "bytes":
        return f"{value / 1e9:,.1f} GB" if value >= 1e9 else _megabytes(value / 1e6)
    if kind == "cores" and value < 10:
        return f"{value:.2g}" if value >= 0.1 else "under 0.1"
    return f"{math.ceil(round(value, 6)):,}"  # not for what is lost in floating point


#: What is shown of a thousand single things, by what each of them costs.
UNITS = {
    "client": "1,000 clients that are connected to a web server",
    "delivery": "one event a second to each of 1,000 clients of a web server",
    "hearing": "1,000 events a second that a web server hears, of projects that its clients follow",
    "sending": "1,000 events a second that workers send, all of them together",
    "storing": "1,000 events a second that the Redis of the history stores",
    "event": "1,000 events that the history has",
    "job": "1,000 running jobs that the history has",
}


def units(record: Record) -> str:
    """Return what a thousand of each thing takes, as a table in Markdown."""
    cost = costs(record)
    lines = ["| what | processor | memory | row |", "| --- | --- | --- | --- |"]
    for name, label in UNITS.items():
        value, (row, what, _, _) = getattr(cost, name) * 1000, SOURCES[name]
        cells = ("", _shown(value, "bytes")) if name in MEMORY else (f"{value:.2g} cores", "")
        where = f"`{row}`" if record.of(row, what) else "not measured yet"
        lines.append(f"| {' | '.join([label, *cells, where])} |")
    return "\n".join(lines)


def _megabytes(value: float) -> str:
    return f"{value:,.0f} MB" if value >= 10 else f"{value:.2g} MB"


def tables(record: Record, assumed: Assumptions | None = None, clients: Sequence[int] = CLIENTS) -> str:
    """Return what deployments need, with the costs and the assumptions from which that follows, in Markdown."""
    cost, assumed = costs(record), assumed or Assumptions()
    return "\n".join(
        [
            table(cost, assumed, clients),
            "",
            "This follows from these costs, measured with this package:",
            "",
            *(f"- {line}" for line in _cost_lines(record, cost)),
            "",
            "and from these assumptions:",
            "",
            *(f"- {line}" for line in _assumption_lines(assumed)),
        ]
    )


def _cost_lines(record: Record, cost: Costs) -> list[str]:
    meanings = {
        "delivery": "an event to one client",
        "hearing": "an event that a web server hears",
        "storing": "an event that Redis stores",
        "sending": "an event that a worker sends",
        "client": "memory of a client",
        "event": "memory of an event in the history",
        "job": "memory of a running job in the history",
    }
    lines = []
    for name, meaning in meanings.items():
        value, (row, what, _, _) = getattr(cost, name), SOURCES[name]
        shown = f"{value:,.0f} B" if name in MEMORY else f"{value * 1e6:,.3g} µs"
        where = f"row `{row}`" if record.of(row, what) else "not measured yet"
        lines.append(f"{meaning}: {shown} ({where})")
    return lines


def _assumption_lines(assumed: Assumptions) -> list[str]:
    values = [(each, f"{getattr(assumed, each.name):,.12g}") for each in _fields()]
    return [f"{each.metadata['meaning']}: {value} (`--{_option(each.name)}`)" for each, value in values]


def _fields() -> Sequence[dataclasses.Field[Any]]:
    return dataclasses.fields(Assumptions)


def _option(name: str) -> str:
    return name.replace("_", "-")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what deployments need."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=__doc__.partition("\n")[0])
    parser.add_argument("clients", nargs="*", type=int, default=list(CLIENTS), help="how many; default: %(default)s")
    for each in _fields():
        shown = f"{each.metadata['meaning'].replace('%', '%%')}; default: %(default)s"
        parser.add_argument(f"--{_option(each.name)}", type=float, default=each.default, help=shown)
    options = vars(parser.parse_args(arguments))
    clients = options.pop("clients")
    print(tables(Record.read(), Assumptions(**options), clients))


if __name__ == "__main__":
    main()
