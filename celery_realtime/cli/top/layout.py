"""Lay out the lines of jobs in columns, as wide as the terminal is."""

from __future__ import annotations

from rich.cells import set_cell_size
from rich.segment import Segment
from rich.style import Style

from celery_realtime.cli.top.rows import Row

#: Celery's words that say no more than the status does.
PLAIN_STATES = ("", "PENDING", "STARTED", "PROGRESS", "SUCCESS", "FAILURE")

#: Cells of a bar.
BAR = 10

#: Columns, how many cells each takes, and how wide a terminal has to be to show it; 0 shares what is left.
_COLUMNS = (
    ("STATUS", 15, 0),
    ("PROGRESS", BAR + 5, 0),
    ("AGE", 4, 0),
    ("JOB", 8, 100),
    ("PROJECT", 16, 0),
    ("TASK", 0, 0),
    ("MESSAGE", 0, 0),
    ("WORKER", 18, 120),
)

#: The parts of what is left that go to the name of a job and to what it does.
_SHARES = {"TASK": 0.4, "MESSAGE": 0.6}

STYLES = {
    "running": Style(color="cyan"),
    "queued": Style(color="yellow"),
    "error": Style(color="red"),
    "success": Style(color="green"),
}
PLAIN, FAINT = Style(), Style(dim=True)


class Layout:
    """Columns.

    Args:
        width: Cells of a line.
        with_project: Whether each line names its project.
    """

    def __init__(self, width: int, with_project: bool) -> None:
        shown = [
            (title, cells)
            for title, cells, least in _COLUMNS
            if width >= least and (with_project or title != "PROJECT")
        ]
        left = max(0, width - sum(cells + 1 for _, cells in shown))
        self._widths = {title: cells or int(left * _SHARES[title]) for title, cells in shown}

    def titles(self) -> list[Segment]:
        """Return the line above all others."""
        return self._segments({title: (title, Style(bold=True)) for title in self._widths})

    def line(self, row: Row, now: float) -> list[Segment]:
        """Return the line of a job.

        Args:
            row: The job.
            now: The time, in seconds since the epoch.
        """
        style = STYLES.get(row.status, PLAIN)
        project_id, job_id = row.key
        return self._segments(
            {
                "STATUS": (row.status if row.state in PLAIN_STATES else f"{row.status} {row.state}", style),
                "PROGRESS": (_bar(row.progress), style),
                "AGE": (row.age(now).rjust(self._widths["AGE"]), FAINT),
                "JOB": (_shown(job_id), FAINT),
                "PROJECT": (_shown(project_id), PLAIN),
                "TASK": (row.name, PLAIN),
                "MESSAGE": (row.note, style if row.status == "error" else PLAIN),
                "WORKER": (row.worker, FAINT),
            }
        )

    def _segments(self, cells: dict[str, tuple[str, Style]]) -> list[Segment]:
        texts = ((*cells[title], width) for title, width in self._widths.items())
        return [Segment(f"{set_cell_size(text, width)} ", style) for text, style, width in texts]


def _shown(name: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in name)


def _bar(progress: float | None) -> str:
    if progress is None:
        return ""
    filled = round(max(0.0, min(progress, 100.0)) / 100 * BAR)
    return f"{'█' * filled}{'░' * (BAR - filled)} {progress:3.0f}%"
