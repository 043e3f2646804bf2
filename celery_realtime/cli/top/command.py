"""``celery -A proj realtime top [PROJECT]``: show jobs live in a terminal."""

from __future__ import annotations

import sys
from typing import Any

import click

from celery_realtime.cli.common import PROJECT, explained_errors, logging_to


@click.command("top")
@click.argument("project", type=PROJECT, required=False)
@click.option(
    "--max-jobs",
    type=click.IntRange(min=1),
    default=10_000,
    show_default=True,
    help="Jobs kept of each project; beyond, those are forgotten that have ended.",
)
@click.pass_obj
def command(realtime: Any, project: str | None, max_jobs: int) -> None:
    """Show the jobs of PROJECT, or of all projects, live in this terminal."""
    view = _view()
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.ClickException("top needs a terminal; for files and pipes there are watch and history")
    with explained_errors():
        follower = _follower(realtime, project, max_jobs)
        cancel = _canceller(realtime)
    line = view.LastLine()
    with follower, logging_to(line):
        view.Top(follower, cancel, project, line).run(mouse=False)


def _view() -> Any:
    try:
        import textual  # noqa: F401 - the extra brings it
    except ImportError as error:
        raise click.ClickException(f"{error}: pip install 'celery-realtime[top]'") from None
    from celery_realtime.cli.top import view

    return view


def _follower(realtime: Any, project: str | None, max_jobs: int) -> Any:
    from celery_realtime.cli.top.follower import Follower

    settings = realtime.settings
    if not settings.enabled:
        raise click.ClickException("realtime_enabled is False, so no job is reported: there is nothing to show")
    if (settings.url or "memory:").startswith("memory:"):
        raise click.ClickException("the broker is in the memory of each process, so that none hears another")
    return Follower(realtime, project, max_jobs)


def _canceller(realtime: Any) -> Any:
    """Return what cancels jobs as a web server does; who has this shell may cancel any."""
    from celery_realtime.web.job_requests import JobRequests

    return JobRequests(realtime.app, lambda: realtime.manager.history, lambda: realtime.settings).cancel
