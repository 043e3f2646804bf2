"""``celery -A proj realtime history PROJECT``: print what the history has of a project."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from celery_realtime.cli.common import PROJECT, explained_errors
from celery_realtime.cli.output import printer
from celery_realtime.events import STATUS_EVENT

#: The exit code where nothing is stored, which is neither a failure (1) nor a mistake in the command line (2).
NOTHING_STORED = 3


@click.command("history")
@click.argument("project", type=PROJECT)
@click.option("--events", is_flag=True, help="The stored events, instead of the latest state of each job.")
@click.option("--json", "as_json", is_flag=True, help="A line of JSON each.")
@click.pass_context
def command(ctx: click.Context, project: str, events: bool, as_json: bool) -> None:
    """Print the latest state of each job of PROJECT, or its stored events."""
    with explained_errors(
        "cannot read the history (realtime_history_url; by default the result backend or the broker): "
    ):
        stored = list(_read_events(ctx.obj, project) if events else _read_jobs(ctx.obj, project))
    show = printer(as_json)
    with explained_errors("cannot print: "):
        for name, data in stored:
            show(name, data)
    if not stored:
        click.echo(f"no {'events' if events else 'jobs'} are stored for project {project!r}", err=True)
        ctx.exit(NOTHING_STORED)


def _history(realtime: Any) -> Any:
    history = realtime.manager.history
    if history is None:
        raise click.ClickException("no history is configured: set realtime_history_url to a Redis")
    return history


def _read_jobs(realtime: Any, project: str) -> Iterable[tuple[str, Any]]:
    return ((STATUS_EVENT, job) for job in _history(realtime).read(project).jobs)


def _read_events(realtime: Any, project: str) -> Iterable[tuple[str, Any]]:
    return ((item["event"], item["data"]) for item in _history(realtime).recent(project))
