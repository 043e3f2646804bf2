"""Run benchmarks and print their table."""

from __future__ import annotations

import argparse
import itertools
import os
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
    publish,
    sender,
    storm,
    task_cost,
    throughput,
)
from benchmarks.figures import HEADER, Figure
from benchmarks.stage import BROKERS, Stage

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"

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
        latency,
        fan_out,
        history_cost,
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
    for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"):
        os.environ.pop(name, None)  # Celery would obey them before what an app is given
    lines = _run(options)
    if options.write:
        PAGE.write_text(rewritten(PAGE.read_text(), lines))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="row", help=f"what to run: {', '.join(ROWS)}; default: all")
    parser.add_argument("--rounds", type=int, default=5, help="how often each side is measured")
    parser.add_argument("--quick", action="store_true", help="only see whether all runs; the figures mean nothing")
    parser.add_argument("--broker", action="append", choices=BROKERS, help="only on this one")
    parser.add_argument("--memory", action="store_true", help="history: also the memory of 100,000 jobs (long)")
    parser.add_argument("--processes", type=int, default=48, help="storm: how many return at once")
    parser.add_argument("--base", type=Path, help="storm: the folder of an earlier version, to compare with")
    parser.add_argument("--write", action="store_true", help="put the lines into docs/benchmarks.md")
    return parser


def _run(options: argparse.Namespace) -> list[tuple[str, ...]]:
    """Print the table line by line, and return its lines."""
    lines: list[tuple[str, ...]] = []
    brokers = tuple(options.broker or BROKERS)
    with Stage(
        rounds=options.rounds,
        quick=options.quick,
        brokers=brokers,
        memory=options.memory,
        processes=options.processes,
        base=options.base,
    ) as stage:
        print(table([]))
        for row in options.rows or ROWS:
            for figure in ROWS[row](stage):
                lines.append(figure.cells)
                print(_line(figure.cells), flush=True)
    return lines


def table(lines: list[tuple[str, ...]]) -> str:
    """Return lines as a table in Markdown."""
    return "\n".join(map(_line, (HEADER, ("---",) * len(HEADER), *lines)))


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def rewritten(page: str, lines: list[tuple[str, ...]]) -> str:
    """Return a page with the lines of its table replaced, row by row; rows that were not run stay.

    Raises:
        ValueError: The page has no such table.
    """
    head, found, rest = page.partition(table([]) + "\n")
    if not found:
        raise ValueError("the page has no table of benchmarks")
    old = list(itertools.takewhile(lambda line: line.startswith("|"), rest.splitlines(keepends=True)))
    new = {cells[0] for cells in lines}
    kept = [cells for cells in map(_cells, old) if cells[0] not in new]
    order = [*ROWS, *(cells[0] for cells in kept)]
    merged = sorted(kept + lines, key=lambda cells: order.index(cells[0]))
    return f"{head}{table(merged)}\n{rest[len(''.join(old)) :]}"


def _cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in line.strip().strip("|").split("|"))


if __name__ == "__main__":
    main()
