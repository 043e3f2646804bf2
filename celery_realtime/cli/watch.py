"""``celery -A proj realtime watch PROJECT``: follow a project, or one job of it, over a web server."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from celery_realtime.cli.common import (
    PROJECT,
    checked_url,
    chosen_filter,
    explained_errors,
    filter_options,
    logging_to,
)
from celery_realtime.cli.printing import Options, Printing
from celery_realtime.cli.running_jobs import RunningJobs
from celery_realtime.events import STATUS_EVENT
from celery_realtime.urls import place_of_socket, redact

if TYPE_CHECKING:
    from celery_realtime.cli.live.display import Display
    from celery_realtime.client import Feed, JobFeed, JobSubscription, ProjectSubscription, StreamState
    from celery_realtime.job_filters import JobFilter

#: Seconds for which a token that the command makes itself is valid.
TOKEN_LIFE = 86400

#: Seconds to wait at a time: without a timeout, Ctrl+C is not delivered on every platform.
WAIT = 1.0

#: Turns of the wait without a connection, and without an attempt at one, after which there will be none. A client that
#: is to be made to reconnect is within two seconds.
MOST_IDLE = 5


@click.command("watch")
@click.argument("project", type=PROJECT)
@click.option(
    "--url",
    default="http://127.0.0.1:5000",
    show_default=True,
    callback=checked_url,
    help="The web server; with a path if Socket.IO is below one.",
)
@click.option("--token", help="The token to connect with; by default one is made with the secret key.")
@click.option("--user", default="watch", show_default=True, help="The user of the token that is made.")
@click.option("--streams", is_flag=True, help="Also print what the jobs say in their streams, and their logs.")
@click.option("--job", metavar="JOB", help="Follow this job alone, with its streams, until it has ended.")
@click.option(
    "--stream",
    "names",
    metavar="NAME",
    multiple=True,
    help="Only this stream; may be repeated. One stream of one --job is printed as it is, and nothing else.",
)
@filter_options
@click.option("--json", "as_json", is_flag=True, help="A line of JSON each.")
@click.option("--plain", "--no-progress", "plain", is_flag=True, help="Lines on a terminal too, and no live display.")
@click.pass_obj
def command(realtime: Any, /, project: str, url: str, token: str | None, user: str, **chosen: Any) -> None:
    """Follow PROJECT, or one job of it, over a web server, as a browser does, until Ctrl+C."""
    wanted = chosen_filter(chosen)
    options = Options(**{field.name: chosen[field.name] for field in fields(Options)})
    if wanted is not None and options.job is not None:
        raise click.UsageError("--status, --task and --label choose jobs of PROJECT: leave out --job")
    client = _new_client()
    if token is None:
        with explained_errors():
            token = realtime.issue_token(user, [project], TOKEN_LIFE)
    watcher = Watcher(client, options, wanted)
    subscription = watcher.follow(project, realtime.settings.namespace)
    with watcher.shown():
        try:
            with subscription:
                watcher.connect(url, token, subscription)
                watcher.wait_until_over()
        except KeyboardInterrupt:
            return
        finally:
            watcher.close()
            client.disconnect()
    watcher.raise_failure()
    if not watcher.is_complete:
        what = project if options.job is None else f"the job {options.job}"
        raise click.ClickException(f"{what} is refused: {watcher.reason(subscription.feed)}")


class Watcher:
    """Prints what happens to a subscription.

    Args:
        client: The client.
        options: What is printed, and how.
        wanted: Which jobs of the project; None for all.

    Attributes:
        is_complete: Whether the one job that is followed has ended, and all that it has said is printed.
    """

    def __init__(self, client: Any, options: Options, wanted: JobFilter | None = None) -> None:
        self._filter = None if wanted is None else wanted.as_wire()
        self.is_complete = False
        self._client = client
        self._options = options
        self._display = _new_display(self._fail) if options.may_be_live else None
        self._printing = Printing(options, self._fail, self._display)
        self._running: RunningJobs | None = None
        #: Set when there may be nothing to wait for any more.
        self._stirred = threading.Event()
        self._is_over: Callable[[], bool] = lambda: False
        self._is_refused = False
        #: What was said last of the state of the subscription to the job.
        self._job_state: tuple[str, Any] = ("subscribing", None)
        #: Why nothing can be printed any more.
        self._failure: OSError | None = None
        #: What the server said last, before it ended the connection.
        self._last_error: Any = None

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Show the display, if there is one, while the block runs."""
        if self._display is None:
            yield
        else:
            with self._display, logging_to(self._display):
                yield

    def follow(self, project: str, namespace: str) -> ProjectSubscription | JobSubscription:
        """Subscribe the client, connected or not, to a project, or to the job."""
        from celery_realtime.client import ProjectSubscription

        self._client.on("error", self._on_error, namespace=namespace)
        job_id = self._options.job
        if job_id is not None:
            job = self._follow_job(
                project, namespace, job_id, on_event=self._printing.event, on_change=self._job_changed
            )
            self._is_over = lambda: job.wait_for(lambda feed: feed.has_ended, timeout=0)
            return job
        if self._options.has_streams:
            self._running = RunningJobs(lambda job_id: self._follow_job(project, namespace, job_id))
        how: Any = {"namespace": namespace, "filter": self._filter}
        return ProjectSubscription(self._client, project, self._on_event, self._on_change, **how)

    def _follow_job(self, project: str, namespace: str, job_id: str, **callbacks: Any) -> JobSubscription:
        from celery_realtime.client import JobSubscription

        def on_chunk(stream: StreamState, chunk: Any) -> None:
            self._printing.chunk(project, job_id, stream, chunk)

        options = {"project_id": project, "namespace": namespace, "on_chunk": on_chunk, **callbacks}
        return JobSubscription(self._client, job_id, **options)

    def connect(self, url: str, token: str, subscription: ProjectSubscription | JobSubscription) -> None:
        """Connect; the reason of a refusal is the server's, where it gave one.

        Raises:
            ClickException: There is no connection.
        """
        from socketio.exceptions import ConnectionError as NoConnection

        where, path = place_of_socket(url)
        namespaces = [subscription.namespace]
        try:
            self._client.connect(where, auth={"token": token}, namespaces=namespaces, socketio_path=path)
        except (NoConnection, ValueError) as error:
            reason = self.reason(subscription.feed) if self._is_refused else _plain(str(error))
            raise click.ClickException(f"{redact(url)} cannot be watched: {reason}") from None

    def wait_until_over(self) -> None:
        """Wait until the server refuses the subscription or a new connection, or nothing is left to be printed."""
        from celery_realtime.client.seams import is_connected_or_reconnecting

        idle = 0
        while idle < MOST_IDLE and not self._is_refused and self._failure is None and not self.is_complete:
            if not self._stirred.wait(WAIT):
                idle = 0 if is_connected_or_reconnecting(self._client) else idle + 1
            self._stirred.clear()
            self.is_complete = self._is_over()
            if self._running is not None:
                self._running.sweep()

    def close(self) -> None:
        """Leave the jobs that are followed, and print what has been held back."""
        if self._running is not None:
            self._running.close()
        self._printing.end()

    def raise_failure(self) -> None:
        """Raise what has kept an event from being printed: a closed pipe, a full disk.

        Raises:
            OSError: It is a closed pipe, of which nothing has to be said.
            ClickException: It is something else.
        """
        if isinstance(self._failure, BrokenPipeError):
            raise self._failure
        if self._failure is not None:
            raise click.ClickException(f"cannot print: {self._failure}")

    def reason(self, feed: Feed | JobFeed) -> str:
        """Return why there is nothing more to see."""
        error = feed.error or (self._last_error if isinstance(self._last_error, dict) else None) or {}
        return str(error.get("message") or error.get("code") or "the server gave no reason")

    def _fail(self, error: OSError) -> None:
        self._failure = self._failure or error
        self._stirred.set()

    def _on_error(self, error: Any = None) -> None:
        self._last_error = error

    def _on_event(self, event: str, data: Any) -> None:
        self._printing.event(event, data)
        if self._running is not None and event == STATUS_EVENT:
            self._running.note(data)

    def _on_change(self, feed: Feed, reason: str) -> None:
        self._printing.show(feed.jobs, feed.workflows)
        if reason == "snapshot":
            self._printing.snapshot(list(feed.jobs.values()))
            if self._running is not None:
                for job in list(feed.jobs.values()):
                    self._running.note(job)
        elif reason == "state":
            self._say_state(feed)

    def _job_changed(self, feed: JobFeed) -> None:
        self._printing.job(feed.job)
        if (feed.state, feed.error) != self._job_state:
            self._job_state = feed.state, feed.error
            self._say_state(feed)
        if feed.has_ended:  # so far: there may be more in an answer that is being taken
            self._stirred.set()

    def _say_state(self, feed: Feed | JobFeed) -> None:
        self._printing.note(feed.state if feed.error is None else f"{feed.state}: {self.reason(feed)}")
        if feed.state == "refused":
            self._is_refused = True
            self._stirred.set()


def _plain(error: str) -> str:
    """Return the reason of an error of urllib3, which hides it behind what it has tried."""
    match = re.search(r"Caused by (\w+)\((.*)\)\)$", error)
    if match is None:
        return error
    text = match[2].strip("\"'")
    return re.sub(r"^\w+\([^)]*\): ", "", text)


def _new_client() -> Any:
    try:
        import aiohttp  # noqa: F401 - the extra brings it, and the rest of what a client needs
        import socketio
    except ImportError as error:
        raise click.ClickException(f"{error}: pip install 'celery-realtime[client]'") from None
    return socketio.Client()


def _new_display(fail: Callable[[OSError], None]) -> Display | None:
    """Return a display of the terminal; None if there is no terminal that can be written to anywhere but at its end."""
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") in ("", "dumb", "unknown"):
        return None
    try:
        from celery_realtime.cli.live.display import Display
    except ImportError:  # of rich, which the extra brings
        click.echo("for a live display: pip install 'celery-realtime[watch]'; --plain goes without", err=True)
        return None
    return Display(fail)
