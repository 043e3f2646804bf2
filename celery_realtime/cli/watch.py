"""``celery -A proj realtime watch PROJECT``: follow a project over a web server."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import click

from celery_realtime.cli.common import PROJECT, explained_errors
from celery_realtime.cli.output import Printer, printer
from celery_realtime.events import STATUS_EVENT

if TYPE_CHECKING:
    from celery_realtime.client import Feed, ProjectSubscription

#: Seconds for which a token that the command makes itself is valid.
TOKEN_LIFE = 86400

#: Seconds to wait at a time: without a timeout, Ctrl+C is not delivered on every platform.
WAIT = 1.0


def _checked_url(_ctx: click.Context, _param: click.Parameter, url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise click.BadParameter(f"the web server's address begins with http:// or https://, not {url!r}")
    return url


@click.command("watch")
@click.argument("project", type=PROJECT)
@click.option(
    "--url", default="http://127.0.0.1:5000", show_default=True, callback=_checked_url, help="The web server."
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
            watcher.wait_until_refused()
    except KeyboardInterrupt:
        return
    finally:
        client.disconnect()
    raise click.ClickException(f"{project} is refused: {_reason(subscription.feed)}")


class Watcher:
    """Prints what happens to a subscription.

    Args:
        show: Prints an event, given its name and data.
    """

    def __init__(self, show: Printer) -> None:
        self._show = show
        self._refused = threading.Event()

    def follow(self, client: Any, project: str, namespace: str) -> ProjectSubscription:
        """Subscribe a client, connected or not, to a project."""
        from celery_realtime.client import ProjectSubscription

        return ProjectSubscription(client, project, self._show, self._on_change, namespace=namespace)

    def connect(self, client: Any, url: str, token: str, subscription: ProjectSubscription) -> None:
        """Connect; the reason of a refusal is the server's, where it gave one.

        Raises:
            ClickException: There is no connection.
        """
        from socketio.exceptions import ConnectionError as NoConnection

        try:
            client.connect(url, auth={"token": token}, namespaces=[subscription.namespace])
        except (NoConnection, ValueError) as error:
            reason = _reason(subscription.feed) if self._refused.is_set() else error
            raise click.ClickException(f"{url} cannot be watched: {reason}") from None

    def wait_until_refused(self) -> None:
        """Wait until the server refuses the subscription, or a new connection."""
        while not self._refused.wait(WAIT):
            pass

    def _on_change(self, feed: Feed, reason: str) -> None:
        if reason == "snapshot":
            for job in list(feed.jobs.values()):
                self._show(STATUS_EVENT, job)
        elif reason == "state":
            click.echo(feed.state, err=True)
            if feed.state == "refused":
                self._refused.set()


def _reason(feed: Feed) -> str:
    error = feed.error or {}
    return error.get("message") or error.get("code") or "the server gave no reason"


def _new_client() -> Any:
    try:
        import aiohttp  # noqa: F401 - the extra brings it, and the rest of what a client needs
        import socketio
    except ImportError as error:
        raise click.ClickException(f"{error}: pip install 'celery-realtime[client]'") from None
    return socketio.Client()
