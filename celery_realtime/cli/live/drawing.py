"""The lines of the display: of jobs and workflows, of what has ended, of streams and of all in sum."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from celery_realtime.cli.live.board import Entry, Job, View
from celery_realtime.cli.live.region import Line
from celery_realtime.cli.output import printable

STYLES = {"running": "cyan", "queued": "yellow", "error": "red", "success": "green"}

#: The full and empty part of a bar, the marks of ends, what stands for a cut, and between parts: best first.
GLYPHS = (("━", "─", "✓", "✗", "…", "·"), ("#", ".", "+", "x", "~", "|"))

#: Cells of a bar, of a status and of times; how wide a terminal has to be for a bar, for times and for a status.
BAR, STATUS, TIMES = 12, 8, 20
FOR_BAR, FOR_TIMES, FOR_STATUS = 40, 60, 80

#: The part of what is left that goes to the name of a job; the rest goes to what it does.
NAME_SHARE = 0.4

#: Characters of a text that are looked at: no terminal is as wide.
LONGEST = 2000

WORDS = {"success": "done", "error": "failed"}

Part = tuple[str, str]


class Drawing:
    """Draws lines for a terminal.

    Args:
        console: What knows the colors of the terminal, and its encoding.
        now: Returns the time, in seconds since the epoch.
    """

    def __init__(self, console: Console, now: Any) -> None:
        self._console = console
        self._now = now
        self._full, self._empty, self._done, self._failed, self._cut, self._dot = next(
            glyphs for glyphs in GLYPHS if self.legible("".join(glyphs)) == "".join(glyphs)
        )

    def legible(self, value: object) -> str:
        """Return a text in one line that no terminal obeys; what the encoding does not have is escaped."""
        text = " ".join(printable(str("" if value is None else value)[:LONGEST]).split())
        encoding = self._console.encoding
        return text.encode(encoding, "backslashreplace").decode(encoding)

    def line(self, *parts: Part) -> Line:
        """Return a line of texts, each with its style; none of them is markup."""
        text = Text.assemble(*parts, end="")
        with self._console.capture() as written:
            self._console.print(text, end="", soft_wrap=True, markup=False, highlight=False, emoji=False)
        return Line(written.get(), text.plain)

    # -- what is live -----------------------------------------------------------------------------------------------

    def entry(self, entry: Entry, width: int) -> Line:
        """Return the line of a job or of a workflow.

        Args:
            entry: The job or workflow.
            width: Cells of a line.
        """
        job = entry.job
        status = str(job.get("status"))
        name, note = self._workflow(entry) if entry.workflow is not None else (self._name(job), self._note(job))
        style = "red" if job.get("stalled") else STYLES.get(status, "")
        parts = [(self._bar(_percent(entry)), style), (" ", "")] if width >= FOR_BAR else []
        parts.append((f"{_percent_text(_percent(entry))} ", style))
        if width >= FOR_STATUS:
            parts.append((set_cell_size("stalled" if job.get("stalled") else status, STATUS), style))
        times = self._times(entry) if width >= FOR_TIMES else ""
        left = width - sum(cell_len(text) for text, _ in parts) - cell_len(times) - 1
        parts += [*self._texts(name, note, left), (times, "dim")]
        return self.line(*parts)

    def _texts(self, name: str, note: str, width: int) -> list[Part]:
        """Return a name and what is said beside it, which take what they need of a width that both share."""
        names = width if not note else min(cell_len(name), max(int(width * NAME_SHARE), width - 1 - cell_len(note)))
        shown = [(self._fitted(name, names), "bold")]
        notes = width - names - 1
        return [*shown, (" ", ""), (self._fitted(note, notes), "")] if note and notes > 0 else shown

    def _fitted(self, text: str, width: int) -> str:
        if width <= 0:
            return ""
        return set_cell_size(text, width) if cell_len(text) <= width else set_cell_size(text, width - 1) + self._cut

    def _name(self, job: Job) -> str:
        return self.legible(job.get("label")) or self.legible(job.get("task")) or "-"

    def _note(self, job: Job) -> str:
        words = [f"retry {job['attempt']}" if job.get("attempt") else "", self.legible(job.get("stage"))]
        words.append(self.legible(job.get("message")))
        return f" {self._dot} ".join(word for word in words if word)

    def _workflow(self, entry: Entry) -> tuple[str, str]:
        sums, job = entry.workflow or {}, entry.job
        name = self._name(entry.root or job)
        counted = f"{sums.get('done', 0)} of {sums['total']} done" if "total" in sums else ""
        failed = f"{sums['failed']} failed" if sums.get("failed") else ""
        inner = "" if entry.root is None or entry.root is job else self._name(job)
        return name, f" {self._dot} ".join(word for word in (counted, failed, inner, self._note(job)) if word)

    def _bar(self, percent: float | None) -> str:
        filled = 0 if percent is None else round(max(0.0, min(percent, 100.0)) / 100 * BAR)
        return self._full * filled + self._empty * (BAR - filled)

    def _times(self, entry: Entry) -> str:
        since = entry.job.get("queued_at" if entry.job.get("status") == "queued" else "started_at")
        words = [span(self._now() - began) if (began := _seconds(since or entry.job.get("timestamp"))) else ""]
        words += [f"{span(entry.left)} left"] if entry.left is not None else []
        return " " + f" {self._dot} ".join(word for word in words if word).rjust(TIMES - 1)

    # -- what stays -------------------------------------------------------------------------------------------------

    def ended(self, job: Job) -> Line:
        """Return the line of a job that has ended."""
        is_done = job.get("status") == "success"
        style = STYLES[str(job.get("status"))]
        word = "" if job.get("state") in (None, "SUCCESS", "FAILURE") else f" {self.legible(job.get('state'))}"
        runtime, result = job.get("runtime"), job.get("result")
        ran = f" {self._dot} ran {span(runtime)}" if isinstance(runtime, (int, float)) else ""
        outcome = "" if result is None else self.legible(json.dumps(result, ensure_ascii=False))
        said = self.legible(job.get("error")) or outcome
        return self.line(
            (f"{self._done if is_done else self._failed} {self._name(job)}", style),
            (f" {self.legible(job.get('job_id'))[:8]}{word}{ran}", "dim"),
            (f" {self._dot} {said}" if said else "", "" if is_done else style),
        )

    def sums(self, view: View, state: str, width: int) -> list[Line]:
        """Return the lines at the foot.

        Args:
            view: What is shown.
            state: How it stands with the connection; empty if all is well.
            width: Cells of a line.
        """
        shown = [
            (f"{count} {WORDS.get(status, status)}", STYLES[status])
            for status in ("running", "queued", "success", "error")
            if (count := view.sums.get(status, 0))
        ] or [("no jobs yet", "dim")]
        hidden = view.total - len(view.entries)
        if hidden:
            shown.append((f"{len(view.entries)} of {view.total} shown", "dim"))
        parts = [part for one in shown for part in ((f" {self._dot} ", "dim"), one)][1:]
        lines = [self.line(*self._cropped(parts, width - 1))]
        return (
            [self.line(*self._cropped([(self.legible(state), "bold yellow")], width - 1)), *lines] if state else lines
        )

    def _cropped(self, parts: Sequence[Part], width: int) -> list[Part]:
        cropped, left = [], width
        for text, style in parts:
            shown = text if cell_len(text) <= left else self._fitted(text, left)
            cropped.append((shown, style))
            left -= cell_len(shown)
        return cropped

    def open_line(self, text: str, width: int) -> Line:
        """Return the end of a line of a stream that is not complete yet."""
        shown = self.legible(text[-LONGEST:])
        cut = cell_len(shown) > width - 1
        while cell_len(shown) > width - 2 and shown:
            shown = shown[max(1, (cell_len(shown) - width + 2) // 2) :]
        return self.line((f"{self._cut}{shown}" if cut else shown, "dim"))


def span(seconds: float) -> str:
    """Return a length of time in words, two at most: ``1h 05m``."""
    whole = max(0, int(seconds)) if math.isfinite(seconds) else 0
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole // 60 % 60:02}m"
    return f"{whole // 86400}d {whole // 3600 % 24:02}h"


def _percent(entry: Entry) -> float | None:
    percent = entry.job.get("progress") if entry.workflow is None else entry.workflow.get("progress")
    return percent if isinstance(percent, (int, float)) and math.isfinite(percent) else None


def _percent_text(percent: float | None) -> str:
    return "    " if percent is None else f"{math.floor(max(0.0, min(percent, 100.0))):3}%"


def _seconds(time: object) -> float | None:
    with contextlib.suppress(ValueError):
        return datetime.fromisoformat(str(time).replace("Z", "+00:00")).timestamp()
    return None
