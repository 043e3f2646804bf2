"""``celery -A proj realtime watch PROJECT``: follow a project over a web server."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Any

import click

from celery_realtime.cli.common import PROJECT, checked_url, explained_errors
from celery_realtime.cli.output import Printer, printer
from celery_realtime.events import STATUS_EVENT
from celery_realtime.urls import place_of_socket

if TYPE_CHECKING:
    from celery_realtime.client import Feed, ProjectSubscription

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
@click.option("--json", "as_json", is_flag=True, help="A line of JSON each.")
@click.pass_obj
def command(realtime: Any, project: str, url: str, token: str | None, user: str, as_json: bool) -> None:
    """Follow PROJECT over a web server, as a browser does, until Ctrl+C."""
    client = _new_client()
    if token is None:
        with explained_errors():
            token = realtime.issue_token(user, [project], TOKEN_LIFE)
    watcher = Watcher(printer(as_json))
    subscription = watcher.follow(client, project, realtime.settings.namespace)
    try:
        with subscription:
            watcher.connect(client, url, token, subscription)
            watcher.wait_until_over(client)
    except KeyboardInterrupt:
        return
    finally:
        client.disconnect()
    watcher.raise_failure()
    raise click.ClickException(f"{project} is refused: {watcher.reason(subscription.feed)}")


class Watcher:
    """Prints what happens to a subscription.

    Args:
        show: Prints an event, given its name and data.
    """

    def __init__(self, show: Printer) -> None:
        self._show = show
        self._over = threading.Event()
        #: Why nothing can be printed any more.
        self._failure: OSError | None = None
        #: What the server said last, before it ended the connection.
        self._last_error: Any = None

    def follow(self, client: Any, project: str, namespace: str) -> ProjectSubscription:
        """Subscribe a client, connected or not, to a project."""
        from celery_realtime.client import ProjectSubscription

        client.on("error", self._on_error, namespace=namespace)
        return ProjectSubscription(client, project, self._print, self._on_change, namespace=namespace)

    def connect(self, client: Any, url: str, token: str, subscription: ProjectSubscription) -> None:
        """Connect; the reason of a refusal is the server's, where it gave one.

        Raises:
            ClickException: There is no connection.
        """
        from socketio.exceptions import ConnectionError as NoConnection

        where, path = place_of_socket(url)
        namespaces = [subscription.namespace]
        try:
            client.connect(where, auth={"token": token}, namespaces=namespaces, socketio_path=path)
        except (NoConnection, ValueError) as error:
            reason = self.reason(subscription.feed) if self._over.is_set() else _plain(str(error))
            raise click.ClickException(f"{url} cannot be watched: {reason}") from None

    def wait_until_over(self, client: Any) -> None:
        """Wait until the server refuses the subscription or a new connection, or nothing can be printed any more."""
        from celery_realtime.client.seams import is_connected_or_reconnecting

        idle = 0
        while not self._over.wait(WAIT) and idle < MOST_IDLE:
            idle = 0 if is_connected_or_reconnecting(client) else idle + 1

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

    def reason(self, feed: Feed) -> str:
        """Return why there is nothing more to see."""
        error = feed.error or (self._last_error if isinstance(self._last_error, dict) else None) or {}
        return str(error.get("message") or error.get("code") or "the server gave no reason")

    def _print(self, event: str, data: Any) -> None:
        try:
            self._show(event, data)
        except OSError as error:
            self._failure = self._failure or error
            self._over.set()

    def _on_error(self, error: Any = None) -> None:
        self._last_error = error

    def _on_change(self, feed: Feed, reason: str) -> None:
        if reason == "snapshot":
            for job in list(feed.jobs.values()):
                self._print(STATUS_EVENT, job)
        elif reason == "state":
            click.echo(feed.state if feed.error is None else f"{feed.state}: {self.reason(feed)}", err=True)
            if feed.state == "refused":
                self._over.set()


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
