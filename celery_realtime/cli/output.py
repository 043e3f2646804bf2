"""Print events: a line of text each, or a line of JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, TextIO

import click

from celery_realtime.events import PROGRESS_EVENT, STATUS_EVENT
from celery_realtime.stream_parts import OPEN, STREAM_EVENT

Printer = Callable[[str, Any], None]


def printer(as_json: bool) -> Printer:
    """Return what prints an event, given its name and data."""
    return _print_json if as_json else _print_line


def _print_json(event: str, data: Any) -> None:
    item = {"event": event, "data": data}
    try:
        click.echo(_escaped(json.dumps(item, ensure_ascii=False)), color=True)
    except UnicodeEncodeError:  # a lone surrogate, or an encoding without some of these characters
        write(json.dumps(item) + "\n")


def _escaped(line: str) -> str:
    """Return JSON in which what is not :func:`printable` is escaped, as controls of ASCII are: it is in texts alone."""
    return (
        line if line.isprintable() else "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in line)
    )


def _print_line(event: str, data: Any) -> None:
    write(printable(line_of(event, data)) + "\n")


def write(text: str, file: TextIO | None = None) -> None:
    """Write a text to a file, or to the standard output, at once; what its encoding does not have is escaped.

    Raises:
        OSError: It is closed, or full.
    """
    try:
        click.echo(text, file, nl=False, color=True)  # which takes nothing away that it takes for a color
    except UnicodeEncodeError as error:
        click.echo(text.encode(error.encoding, "backslashreplace").decode(error.encoding), file, nl=False, color=True)


def printable(text: str) -> str:
    """Return a text without what a terminal would obey, or nobody would see: jobs say what they like."""
    return text if text.isprintable() else "".join(char if char.isprintable() else " " for char in text)


def legible_line(text: str) -> str:
    """Return a :func:`printable` line, in which tabs are spaces."""
    return printable(text.expandtabs(4))


def line_of(event: str, data: Any) -> str:
    """Return an event as a line of text."""
    if event == STREAM_EVENT:
        return f"{'':12}  {data.get('stream')}  {_chunk(data)}"
    if event not in (STATUS_EVENT, PROGRESS_EVENT):
        return f"{'':12}  {event}  {json.dumps(data, ensure_ascii=False)}"
    words = [str(data.get("timestamp"))[11:23], str(data.get("job_id"))[:8], data.get("task") or "-"]
    words += _status_words(data) if event == STATUS_EVENT else []
    if data.get("progress") is not None:
        words += [f"{data['progress']} %", data.get("message") or ""]
    return "  ".join(str(word) for word in words if word)


def _chunk(data: Any) -> str:
    chunk, state = data.get("chunk"), data.get("state")
    text = chunk if isinstance(chunk, str) else json.dumps(chunk, ensure_ascii=False)
    return text if state == OPEN else f"{text} ({state})"


def _status_words(data: Any) -> list[str]:
    status, state, result = str(data.get("status")), data.get("state"), data.get("result")
    outcome = data.get("error") or ("" if result is None else json.dumps(result))
    label = json.dumps(data["label"], ensure_ascii=False) if data.get("label") else ""
    return [label, status, "" if state in (None, status.upper()) else state, outcome, *_detail_words(data)]


def _detail_words(data: Any) -> list[str]:
    """Return what else is known of a job: its attempt, what it waits for, how long it ran. Times are UTC."""
    attempt, most, runtime = data.get("attempt"), data.get("max_retries"), data.get("runtime")
    words = [f"retry {attempt}{'' if most is None else f' of {most}'}"] if attempt else []
    if data["status"] == "queued":
        words += [f"{word} {_clock(data[name])}" for word, name in _WAITS if data.get(name)]
    return words if runtime is None else [*words, f"ran {runtime} s"]


_WAITS = (("in", "queue"), ("at", "eta"), ("expires at", "expires_at"))


def _clock(text: Any) -> str:
    """Return the time of day of a time, and anything else as it is."""
    return str(text)[11:19] if re.match(r"\d{4}-\d\d-\d\dT", str(text)) else str(text)
