"""``celery -A proj realtime ...``: look at events and at the set-up from a terminal, run jobs again, make tokens."""

from __future__ import annotations

import click

from celery_realtime.cli import bench, doctor, history, rerun, token, top, watch


@click.group()
@click.pass_context
def realtime(ctx: click.Context) -> None:
    """Look at a project's events and at the set-up, run jobs again, and make tokens for browsers."""
    app = ctx.obj.app
    if getattr(app, "realtime", None) is None:
        raise click.ClickException(
            "no Celery app was named: celery -A MODULE realtime ..."
            if app.main in (None, "default")
            else f"the Celery app {app.main!r} has no Realtime: write Realtime(app) beside it"
        )
    ctx.obj = app.realtime


for module in (bench, doctor, history, rerun, token, top, watch):
    realtime.add_command(module.command)
