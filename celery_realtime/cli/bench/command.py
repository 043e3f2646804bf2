"""``celery -A proj realtime bench``: measure what a set-up does."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import click

from celery_realtime.cli.bench.text import lines_of
from celery_realtime.cli.common import PROJECT as PROJECT_TYPE
from celery_realtime.cli.common import checked_url, explained_errors

#: The exit code where a part could not be measured; the others have been.
INCOMPLETE = 3

#: The most clients: all of them are in one thread of this program.
MOST_CLIENTS = 200


@click.command("bench")
@click.option("--url", callback=checked_url, help="The web server; with a path if Socket.IO is below one.")
@click.option("--token", help="What to connect with; by default a token is made with the secret key.")
@click.option(
    "--project",
    type=PROJECT_TYPE,
    default="celery-realtime-bench",
    show_default=True,
    help="The project of the events; nobody else should use it.",
)
@click.option(
    "--clients",
    type=click.IntRange(0, MOST_CLIENTS),
    default=10,
    show_default=True,
    help="With --url, clients whose deliveries are counted; 0 for none.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 30.0),
    default=5.0,
    show_default=True,
    help="How long lags, and deliveries, are measured.",
)
@click.option("-d", "--destination", "workers", multiple=True, help="A worker that measures; by default all do.")
@click.option("--json", "as_json", is_flag=True, help="One object of JSON.")
@click.pass_context
def command(ctx: click.Context, /, as_json: bool, **options: Any) -> None:
    """Measure what this set-up does: what calls cost, how late events come, and how many are delivered."""
    with explained_errors("cannot measure: "):
        results, notes = _measured(ctx.obj, quiet=as_json, **options)
    with explained_errors("cannot print: "):
        if as_json:
            click.echo(json.dumps({"ok": not notes, **results, "notes": notes}, indent=2))
        else:
            for line in lines_of(results):
                click.echo(line)
            for note in notes:
                click.echo(f"note: {note}", err=True)
    if notes:
        ctx.exit(INCOMPLETE)


def _measured(
    realtime: Any,
    *,
    url: str | None,
    token: str | None,
    project: str,
    clients: int,
    seconds: float,
    workers: tuple[str, ...],
    quiet: bool,
) -> tuple[dict[str, Any], list[str]]:
    """Return what was measured, and why other things were not."""
    from celery_realtime.cli.bench.arrivals import Arrivals
    from celery_realtime.cli.bench.clients import Clients
    from celery_realtime.cli.bench.measures import Measures
    from celery_realtime.cli.bench.setup import LISTENING_WAIT, Setup

    def say(text: str) -> None:
        if not quiet:
            click.echo(text, err=True)

    setup = Setup(realtime, project, seconds)
    with contextlib.ExitStack() as stack:
        crowd = None
        if url is not None:
            namespace, arrivals = realtime.settings.namespace, Arrivals(setup.plan.run)
            crowd = stack.enter_context(Clients(url, token or setup.token(), project, namespace, arrivals))
            crowd.connect(1)
        stack.enter_context(_cleaning_up(setup))
        ear = stack.enter_context(setup.ear())
        if not ear.is_listening(LISTENING_WAIT):
            raise click.ClickException("the channel cannot be listened to; `realtime doctor` may say why")
        measures = Measures(setup, crowd)
        say("measuring calls")
        measures.measure_calls()
        say("measuring the lag of events from here")
        measures.measure_lag()
        say("measuring in workers")
        measures.measure_workers(workers)
        if crowd is not None and clients:
            say(f"measuring deliveries to {clients} clients")
            measures.measure_deliveries(clients)
    return {"url": url, "project": project, **measures.results}, measures.notes


@contextlib.contextmanager
def _cleaning_up(setup: Any) -> Iterator[None]:
    try:
        yield
    finally:
        failure = setup.clean_up()
        if failure is not None:
            click.echo(failure, err=True)
