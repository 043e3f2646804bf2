"""What attacks have cost, in a file for each host and attack, and as the tables of docs/security.md."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.processes import ROOT

Row = dict[str, Any]

#: As docs/security.md calls the hosts.
NAMES = {
    "threading": "Werkzeug",
    "gthread": "gunicorn, gthread",
    "wsproto": "uvicorn with wsproto",
    "websockets": "uvicorn with websockets",
    "granian": "Granian",
    "daphne": "Daphne",
}

#: What no attack should cost: MB, and milliseconds at the 99th percentile.
MOST_MB, MOST_MS = 100, 300


class Cells:
    """The rows of a table, each in a file of its own, so that an interruption loses none.

    Args:
        folder: Where they are.
        seconds: How long each attack lasts; rows of another length, or of other code, do not count.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder = folder
        self._seconds = seconds

    def _path(self, kind: str, name: str) -> Path:
        return self.folder / f"{kind}-{name}-{self._seconds:g}.json"

    def read(self, kind: str, name: str) -> Row | None:
        """Return what was measured of this code, or None."""
        with contextlib.suppress(OSError, ValueError):
            row: Row = json.loads(self._path(kind, name).read_text(encoding="utf-8"))
            return row if row.get("code") == code() else None
        return None

    def write(self, kind: str, name: str, row: Row) -> None:
        """Store what was measured."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(kind, name)
        unfinished = path.with_suffix(".part")
        text = json.dumps({**row, "code": code(), "at": time.strftime("%Y-%m-%d %H:%M")})
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)


@functools.cache
def code() -> str:
    """Return a name for the code of the web side and of the attacks, which changes with it."""
    digest = hashlib.sha256()
    for folder in ("celery_realtime/web", "tests/attacks"):
        for path in sorted((ROOT / folder).glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def table(rows: dict[tuple[str, str], Row]) -> str:
    """Return what was measured as a table in Markdown, by host, and below it what is beyond the bounds."""
    if not rows:
        return "nothing has been measured"
    dates, loads = [row["at"] for row in rows.values()], [row["load"] for row in rows.values()]
    head = (
        "| Host | Memory grew by, at most | By which | Others' median, without and with attacks "
        "| Their 99th percentile, without and with | Highest under |"
    )
    lines = [
        f"{len(rows)} attacks, {min(dates)} to {max(dates)}, load {min(loads):g} to {max(loads):g}:",
        "",
        head,
        "|---|---|---|---|---|---|",
        *(_line(kind, {name: row for (other, name), row in rows.items() if other == kind}) for kind in _hosts(rows)),
        "",
        *_beyond(rows),
        f"{sum(row['failed'] for row in rows.values())} failed to connect.",
    ]
    return "\n".join(lines)


def _hosts(rows: Iterable[tuple[str, str]]) -> list[str]:
    return list(dict.fromkeys(kind for kind, _ in rows))


def _line(kind: str, rows: dict[str, Row]) -> str:
    heaviest = max(rows, key=lambda name: rows[name]["grew"])
    slowest = max(rows, key=lambda name: rows[name]["p99"] or 0)
    cells = [
        NAMES.get(kind, kind),
        f"{rows[heaviest]['grew']} MB",
        heaviest.replace("_", " "),
        _range(rows, 0, lambda row: row["p50"]),
        _range(rows, 1, lambda row: row["p99"]),
        slowest.replace("_", " "),
    ]
    return f"| {' | '.join(cells)} |"


def _range(rows: dict[str, Row], place: int, measured: Callable[[Row], int | None]) -> str:
    """Return milliseconds without attacks, and the least and the most with them."""
    quiet = [row["quiet"][place] for row in rows.values() if row["quiet"][place] is not None]
    busy = [value for row in rows.values() if (value := measured(row)) is not None]
    return f"{min(quiet, default='?')} ms, {min(busy, default='?')} to {max(busy, default='?')} ms"


def _beyond(rows: dict[tuple[str, str], Row]) -> Iterable[str]:
    for (kind, name), row in rows.items():
        if row["grew"] > MOST_MB or (row["p99"] or 0) > MOST_MS or (row["near"] or 0) > MOST_MS or row["failed"]:
            yield (
                f"- {NAMES.get(kind, kind)}, {name}: {row['grew']} MB, p99 {row['p99']} ms, "
                f"next door {row['near']} ms, {row['failed']} failed (load {row['load']:g})"
            )
