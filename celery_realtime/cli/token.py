"""``celery -A proj realtime token USER --project P``: make a signed token."""

from __future__ import annotations

from typing import Any

import click

from celery_realtime.cli.common import PROJECT, explained_errors

NOTHING_OPEN = (
    "a token without a project opens nothing: add --project PROJECT, once for each project; "
    "where your own authorize decides, add --no-project"
)


@click.command("token")
@click.argument("user")
@click.option("--project", "projects", type=PROJECT, multiple=True, help="A project to open; may be repeated.")
@click.option("--no-project", is_flag=True, help="Name no project: your own authorize decides.")
@click.option("--expires-in", type=float, default=3600.0, show_default=True, help="Seconds until it expires.")
@click.pass_obj
def command(realtime: Any, user: str, projects: tuple[str, ...], no_project: bool, expires_in: float) -> None:
    """Print a signed token with which USER can connect."""
    if not projects and not no_project:
        raise click.UsageError(NOTHING_OPEN)
    if projects and no_project:
        raise click.UsageError("--project and --no-project exclude each other")
    with explained_errors():
        click.echo(realtime.issue_token(user, projects, expires_in))
