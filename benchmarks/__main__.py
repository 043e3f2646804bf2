"""Run benchmarks and print their table."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import (
    child_memory,
    fan_out,
    hearing,
    history_cost,
    kill_window,
    latency,
    listener,
    metrics_cost,
    publish,
    sender,
    storm,
    streams,
    task_cost,
    throughput,
)
from benchmarks.figures import Figure, line, table
from benchmarks.page import circumstances_text, refresh
from benchmarks.record import Record, Row, circumstances
from benchmarks.stage import BROKERS, Stage

#: By name, what measures the parts of the table, in their order there.
ROWS: dict[str, Callable[[Stage], Iterator[Figure]]] = {
    module.ROW: module.measure
    for module in (
        task_cost,
        publish,
        child_memory,
        throughput,
        sender,
        listener,
        hearing,
        metrics_cost,
        latency,
        fan_out,
        history_cost,
        streams,
        kill_window,
        storm,
    )
}


def main() -> None:
    """Do what the command line says."""
    parser = _parser()
    options = parser.parse_args()
    if options.write and (options.quick or options.broker):
        parser.error("--write wants whole rows")
    if not set(options.rows) <= set(ROWS):
        parser.error(f"the rows are {', '.join(ROWS)}")
    if options.list or options.refresh:
        print(listing(Record.read()) if options.list else refresh())
        return
    for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"):
        os.environ.pop(name, None)  # Celery would obey them before what an app is given
    measured = Record({})
    for name, row in _run(options):
        measured.rows[name] = row
        if options.write:  # row by row, should one of them fail
            record = Record.read()
            record.rows[name] = row
            record.write(ROWS)
    print(f"\n{circumstances_text(measured)}")
    if options.write:
        print(refresh())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, epilog=_epilog())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("rows", nargs="*", metavar="row", help="what to run; default: all")
    parser.add_argument("--rounds", type=int, default=5, help="how often each side is measured")
    parser.add_argument("--quick", action="store_true", help="only see whether all runs; the figures mean nothing")
    parser.add_argument("--long", action="store_true", help="more of everything: all web servers, groups of 10,000 ...")
    parser.add_argument("--broker", action="append", choices=BROKERS, help="only on this one")
    parser.add_argument("--memory", action="store_true", help="history: also the memory of 100,000 jobs (long)")
    parser.add_argument("--processes", type=int, default=48, help="storm: how many return at once")
    parser.add_argument("--base", type=Path, help="storm: the folder of an earlier version, to compare with")
    parser.add_argument("--list", action="store_true", help="only list the rows, with the time that each took last")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/, with their table and plots")
    parser.add_argument("--refresh", action="store_true", help="only make the table and plots again")
    return parser


def _epilog() -> str:
    width = max(map(len, ROWS))
    return "rows:\n" + "\n".join(f"  {name:{width}}  {_purpose(measure)}" for name, measure in ROWS.items())


def _purpose(measure: Callable[[Stage], Iterator[Figure]]) -> str:
    """Return the first line of the docstring of the module that measures a row."""
    return (sys.modules[measure.__module__].__doc__ or "").partition("\n")[0]


def listing(record: Record) -> str:
    """Return the rows, one a line, with the seconds and rounds that each took when it was measured for the docs."""
    lines = []
    for name, measure in ROWS.items():
        row = record.rows.get(name)
        took = f"{row.circumstances.seconds:.0f} s, {row.circumstances.rounds} rounds" if row else "not measured yet"
        lines.append(f"{name:12} {took:20} {_purpose(measure)}")
    return "\n".join(lines)


def _run(options: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    """Measure row by row, print the table line by line, and yield the rows."""
    load = os.getloadavg()[0]  # before anything of this runs
    with Stage(
        rounds=options.rounds,
        quick=options.quick,
        long=options.long,
        brokers=tuple(options.broker or BROKERS),
        memory=options.memory,
        processes=options.processes,
        base=options.base,
    ) as stage:
        print(table([]))
        for name in options.rows or ROWS:
            began, figures = time.monotonic(), []
            for figure in ROWS[name](stage):
                figures.append(figure)
                print(line(figure.cells), flush=True)
            took = time.monotonic() - began
            yield name, Row(circumstances(stage.rounds, took, load, stage.versions(), quick=stage.quick), figures)


if __name__ == "__main__":
    main()
