"""``celery -A proj realtime rerun JOB``: run a job again whose message is kept."""

from __future__ import annotations

import json
from typing import Any

import click

from celery_realtime.cli.common import PROJECT, explained_errors


@click.command("rerun")
@click.argument("job")
@click.option("--project", type=PROJECT, help="Its project: needed if several projects use its id.")
@click.option("--json", "as_json", is_flag=True, help="A line of JSON.")
@click.pass_obj
def command(realtime: Any, job: str, project: str | None, as_json: bool) -> None:
    """Run JOB again, which has ended, and print the id of the new job. No rule is asked."""
    with explained_errors("cannot run the job again: "):
        new_id = realtime.rerun(job, project)
        realtime.flush()
    click.echo(json.dumps({"job_id": new_id, "rerun_of": job}) if as_json else new_id)
