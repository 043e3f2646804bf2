"""``celery -A proj realtime history PROJECT``: print what the history has of a project, or of the streams of a job."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from celery_realtime.cli.common import PROJECT, chosen_filter, explained_errors, filter_options
from celery_realtime.cli.output import printer, write
from celery_realtime.cli.spoken import News, SpeechAsEvents, SpeechAsIs, state_of, summary_of
from celery_realtime.events import STATUS_EVENT
from celery_realtime.stream_parts import STREAM_EVENT
from celery_realtime.web.stream_source import StreamSource

if TYPE_CHECKING:
    from celery_realtime.history.streams import StreamReading
    from celery_realtime.job_filters import JobFilter

#: The exit code where nothing is stored, which is neither a failure (1) nor a mistake in the command line (2).
NOTHING_STORED = 3

CANNOT_READ = "cannot read the history (realtime_history_url; by default the result backend or the broker): "


@click.command("history")
@click.argument("project", type=PROJECT)
@click.option("--events", is_flag=True, help="The stored events, instead of the latest state of each job.")
@click.option("--job", metavar="JOB", help="This job, and what is kept of its streams: a line each.")
@click.option("--stream", metavar="NAME", help="What is kept of this stream of the --job, and nothing else.")
@filter_options
@click.option("--json", "as_json", is_flag=True, help="A line of JSON each.")
@click.pass_context
def command(ctx: click.Context, /, project: str, events: bool, as_json: bool, **chosen: Any) -> None:
    """Print the latest state of each job of PROJECT, its stored events, or what a job has said in its streams."""
    wanted = chosen_filter(chosen)
    job, stream = chosen["job"], chosen["stream"]
    if stream is not None and job is None:
        raise click.UsageError("--stream is a stream of a job: add --job JOB")
    if events and job is not None:
        raise click.UsageError("--events and --job exclude each other")
    if wanted is not None and (events or job is not None):
        raise click.UsageError("--status, --task and --label choose jobs of PROJECT: leave out --events and --job")
    if job is not None and stream is not None:
        what = f"nothing is stored of the stream {stream!r} of the job {job!r} in project {project!r}"
        is_there = _print_stream(ctx.obj, (project, job, stream), as_json=as_json)
    elif job is not None:
        what = f"no job {job!r} is stored for project {project!r}"
        is_there = _print_all(lambda: _read_job(ctx.obj, project, job), as_json=as_json)
    else:
        what = f"no {'events' if events else 'such jobs' if wanted else 'jobs'} are stored for project {project!r}"
        read = functools.partial(_read_events if events else _read_jobs, ctx.obj, project)
        read = functools.partial(_read_matching, ctx.obj, project, wanted) if wanted else read
        is_there = _print_all(read, as_json=as_json)
    if not is_there:
        click.echo(what, err=True)
        ctx.exit(NOTHING_STORED)


def _print_all(read: Callable[[], Iterable[tuple[str, Any]]], *, as_json: bool) -> bool:
    """Print events, and what is kept of streams; returns whether there is any."""
    with explained_errors(CANNOT_READ):
        stored = list(read())
    show = printer(as_json)
    with explained_errors("cannot print: "):
        for name, data in stored:
            if name == STREAM_EVENT and not as_json:
                write(f"{summary_of(data)}\n")
            else:
                show(name, data)
    return bool(stored)


def _print_stream(realtime: Any, place: tuple[str, str, str], *, as_json: bool) -> bool:
    """Print what is kept of a stream; returns whether it is there."""
    with explained_errors(CANNOT_READ):
        readings = list(_read_stream(_source(realtime), place))
    speech = (
        SpeechAsEvents(printer(as_json=True))
        if as_json
        else SpeechAsIs(is_terminal=sys.stdout.isatty(), note=lambda text: click.echo(text, err=True))
    )
    with explained_errors("cannot print: "):
        news = News()
        for reading in readings:
            said = news.of(*place[:2], *state_of(reading))
            if said is not None:
                speech.say(said)
        speech.end()
    return bool(readings)


def _read_stream(source: StreamSource, place: tuple[str, str, str]) -> Iterable[StreamReading]:
    """Yield what is kept of a stream, piece by piece."""
    reading = source.read(*place)
    while reading is not None:
        yield reading
        if reading.position >= reading.end:
            return
        at, generation = reading.position, reading.generation
        reading = source.read(*place, start=at, generation=generation)


def _history(realtime: Any) -> Any:
    history = realtime.manager.history
    if history is None:
        raise click.ClickException("no history is configured: set realtime_history_url to a Redis")
    return history


def _read_jobs(realtime: Any, project: str) -> Iterable[tuple[str, Any]]:
    return ((STATUS_EVENT, job) for job in _history(realtime).read(project).jobs)


def _read_matching(realtime: Any, project: str, wanted: JobFilter) -> Iterable[tuple[str, Any]]:
    """Return the jobs that match, of however many there are; of a job that changes meanwhile what was read last."""
    history = _history(realtime)
    read = history.read(project)
    jobs = {job["job_id"]: job for job in read.jobs}
    while read.next is not None:
        read = history.read_on(project, read.next)
        jobs.update({job["job_id"]: job for job in read.jobs})
    matching = sorted(filter(wanted.matches, jobs.values()), key=lambda job: str(job.get("timestamp")))
    return ((STATUS_EVENT, job) for job in matching)


def _read_events(realtime: Any, project: str) -> Iterable[tuple[str, Any]]:
    return ((item["event"], item["data"]) for item in _history(realtime).recent(project))


def _read_job(realtime: Any, project: str, job_id: str) -> Iterable[tuple[str, Any]]:
    """Yield the latest state of a job, and the place and the state of each of its streams."""
    job = _history(realtime).job(project, job_id)
    if job is not None:
        yield STATUS_EVENT, job
    source = _source(realtime)
    for name in _history(realtime).streams.names(project, job_id):
        reading = source.read(project, job_id, name, most=1)
        if reading is not None:
            yield STREAM_EVENT, _place_of(project, job_id, reading)


def _source(realtime: Any) -> StreamSource:
    history = _history(realtime)
    return StreamSource(lambda: history, carry_out=lambda: None)


def _place_of(project: str, job_id: str, reading: StreamReading) -> dict[str, Any]:
    """Return what is known of a stream but for what it says."""
    return {
        "job_id": job_id,
        "project_id": project,
        "stream": reading.stream,
        "kind": reading.kind,
        "attempt": reading.attempt,
        "generation": reading.generation,
        "start": reading.start,
        "end": reading.end,
        "state": reading.state,
    }
