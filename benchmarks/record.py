"""What was measured, row by row, with where and with what it was: a file of JSON beside the docs."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from benchmarks.figures import Figure

PATH = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.json"

#: The libraries whose versions are noted, where they are installed.
LIBRARIES = (
    "celery",
    "kombu",
    "amqp",
    "redis",
    "hiredis",
    "python-socketio",
    "python-engineio",
    "simple-websocket",
    "werkzeug",
    "gunicorn",
    "gevent",
    "eventlet",
    "uvicorn",
    "wsproto",
    "websockets",
    "hypercorn",
    "granian",
    "daphne",
)


class Circumstances(msgspec.Struct, frozen=True):
    """Where and with what a row was measured.

    Attributes:
        date: The day.
        machine: Its processor, memory and system.
        versions: By name, the versions of Python, of libraries and of servers.
        rounds: How often each side was measured; 0 if that is not known.
        seconds: How long it took.
        load: How many processes wanted a processor before it began, on average over a minute.
        is_quick: Whether only a twentieth of the work was done, so that the figures mean nothing.
    """

    date: str
    machine: str
    versions: dict[str, str]
    rounds: int
    seconds: float
    load: float
    is_quick: bool = False


class Row(NamedTuple):
    """One row.

    Attributes:
        circumstances: Where and with what it was measured.
        figures: What came of it.
    """

    circumstances: Circumstances
    figures: list[Figure]


class Record:
    """The figures of all rows.

    Args:
        rows: By name.
    """

    def __init__(self, rows: dict[str, Row]) -> None:
        self.rows = rows

    @classmethod
    def read(cls, path: Path = PATH) -> Record:
        """Return what a file has; nothing if there is none."""
        packed = json.loads(path.read_text()) if path.exists() else {}
        return cls(
            {
                name: Row(
                    msgspec.convert(row["circumstances"], Circumstances),
                    [Figure.unpacked(name, figure) for figure in row["figures"]],
                )
                for name, row in packed.items()
            }
        )

    def write(self, order: Iterable[str], path: Path = PATH) -> None:
        """Write it to a file, the rows in an order."""
        packed = {
            name: {
                "circumstances": msgspec.to_builtins(self.rows[name].circumstances),
                "figures": [figure.packed() for figure in self.rows[name].figures],
            }
            for name in order
            if name in self.rows
        }
        path.write_text(_json(packed) + "\n")

    @property
    def figures(self) -> Iterator[Figure]:
        """All figures."""
        for row in self.rows.values():
            yield from row.figures

    def of(self, row: str, what: str, broker: str = "redis") -> Figure | None:
        """Return a figure by its row and a regular expression for what was measured; None if there is none."""
        figures = self.rows[row].figures if row in self.rows else []
        named = (figure for figure in figures if figure.broker == broker and re.fullmatch(what, figure.what))
        return next(named, None)

    def all_of(self, row: str, what: str, broker: str = "redis") -> Iterator[tuple[re.Match[str], Figure]]:
        """Yield figures by their row and a regular expression for what was measured, with what that has found."""
        for figure in self.rows[row].figures if row in self.rows else []:
            found = re.fullmatch(what, figure.what)
            if found and figure.broker == broker:
                yield found, figure


def _json(packed: dict[str, Any]) -> str:
    """Return JSON with a figure a line, so that what has changed can be seen."""
    rows = []
    for name, row in packed.items():
        figures = ",\n".join(f"  {json.dumps(figure)}" for figure in row["figures"])
        head = json.dumps(row["circumstances"])
        rows.append(f'{json.dumps(name)}: {{\n "circumstances": {head},\n "figures": [\n{figures}\n ]\n}}')
    return "{\n" + ",\n".join(rows) + "\n}"


def circumstances(rounds: int, seconds: float, load: float, servers: dict[str, str], *, quick: bool) -> Circumstances:
    """Return the circumstances of a row that has just been measured.

    Args:
        rounds: How often each side was.
        seconds: How long it took.
        load: The load of the machine before.
        servers: By name, the versions of the servers.
        quick: Whether it was quick.
    """
    versions = {"Python": platform.python_version(), **servers, **dict(_installed())}
    today = dt.datetime.now(tz=dt.timezone.utc).date().isoformat()
    return Circumstances(today, machine(), versions, rounds, round(seconds, 1), round(load, 1), quick)


def _installed() -> Iterator[tuple[str, str]]:
    for name in LIBRARIES:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue


def machine() -> str:
    """Return what this machine is."""
    model = _line("/proc/cpuinfo", r"model name\s*: (.+)") or platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = int(_line("/proc/meminfo", r"MemTotal:\s*(\d+) kB") or 0) / 1024**2
    system = f"{platform.system()} {platform.release().partition('-')[0]}"
    return f"{model}, {cores} core{'s' if cores > 1 else ''}, {memory:.0f} GiB, {system}"


def _line(path: str, pattern: str) -> str | None:
    """Return what a pattern finds in a file of the system, if there is one."""
    text = Path(path).read_text() if Path(path).exists() else ""
    found = re.search(pattern, text)
    return found and found[1].strip()
