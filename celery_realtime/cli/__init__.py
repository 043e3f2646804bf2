"""``celery -A proj realtime ...``: look at a project's events and at the set-up from a terminal, and make tokens."""

from __future__ import annotations

import click

from celery_realtime.cli import bench, doctor, history, token, top, watch


@click.group()
@click.pass_context
def realtime(ctx: click.Context) -> None:
    """Look at a project's events and at the set-up, and make tokens for browsers."""
    app = ctx.obj.app
    if getattr(app, "realtime", None) is None:
        raise click.ClickException(
            "no Celery app was named: celery -A MODULE realtime ..."
            if app.main in (None, "default")
            else f"the Celery app {app.main!r} has no Realtime: write Realtime(app) beside it"
        )
    ctx.obj = app.realtime


for command in (bench.command, doctor.command, history.command, token.command, top.command, watch.command):
    realtime.add_command(command)
