"""Look at what projects are told, from a terminal: ``celery -A proj realtime ...``."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from typing import Any

import click

from celery_realtime.exceptions import RealtimeError
from celery_realtime.rooms import normalise_project_id


class _Project(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    name = "project"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return normalise_project_id(value)
        except (TypeError, ValueError) as error:
            self.fail(str(error), param, ctx)


PROJECT = _Project()


@click.group()
@click.pass_context
def realtime(ctx: click.Context) -> None:
    """Look at what projects are told, and let browsers in."""
    app = ctx.obj.app
    if getattr(app, "realtime", None) is None:
        raise click.ClickException(f"the Celery app {app.main!r} has no Realtime: write Realtime(app) beside it")
    ctx.obj = app.realtime


@realtime.command()
@click.argument("user")
@click.option("--project", "projects", type=PROJECT, multiple=True, help="A project that it opens; may be repeated.")
@click.option("--expires-in", type=float, default=3600.0, show_default=True, help="Seconds until it ends.")
@click.pass_obj
def token(realtime: Any, user: str, projects: tuple[str, ...], expires_in: float) -> None:
    """Print a signed token with which USER can connect."""
    click.echo(_explained(lambda: realtime.issue_token(user, projects, expires_in)))


@realtime.command()
@click.argument("project", type=PROJECT)
@click.option("--events", is_flag=True, help="The events that are kept, instead of the latest state of each job.")
@click.option("--json", "as_json", is_flag=True, help="A line of JSON each.")
@click.pass_obj
def history(realtime: Any, project: str, events: bool, as_json: bool) -> None:
    """Print what is remembered of PROJECT."""
    kept = _explained(lambda: realtime.manager.history)
    if kept is None:
        raise click.ClickException("no history is configured: set realtime_history_url to a Redis")
    snapshot = _explained(lambda: kept.read(project))
    if not events:
        return _print_all((("agent_status", job) for job in snapshot.jobs), as_json)
    told = _explained(lambda: kept.recent(project))
    return _print_all(((item["event"], item["data"]) for item in told), as_json)


@realtime.command()
@click.argument("project", type=PROJECT)
@click.option("--url", default="http://127.0.0.1:5000", show_default=True, help="The web server.")
@click.option("--token", help="What to show it; by default a token is made with the secret key.")
@click.option("--user", default="watch", show_default=True, help="Whose token is made.")
@click.option("--json", "as_json", is_flag=True, help="A line of JSON each.")
@click.pass_obj
def watch(realtime: Any, project: str, url: str, token: str | None, user: str, as_json: bool) -> None:
    """Follow PROJECT over a web server, as a browser does, until Ctrl+C."""
    client = _new_client()
    shown = token or _explained(lambda: realtime.issue_token(user, [project], 86400))
    namespace = realtime.settings.namespace
    try:
        client.connect(url, auth={"token": shown}, namespaces=[namespace])
    except Exception as error:
        raise click.ClickException(f"{url} cannot be watched: {error}") from None
    try:
        refusal = _follow(client, project, namespace, _printer(as_json))
    except KeyboardInterrupt:
        return
    finally:
        client.disconnect()
    raise click.ClickException(refusal)


def _new_client() -> Any:
    try:
        import aiohttp  # noqa: F401 - the extra brings it, and the rest of what a client needs
        import socketio
    except ImportError as error:
        raise click.ClickException(f"{error}: pip install 'celery-realtime[client]'") from None
    return socketio.Client()


def _follow(client: Any, project: str, namespace: str, show: Callable[[str, Any], None]) -> str:
    """Print what a project is told until it is refused; returns why it is."""
    from celery_realtime.client import ProjectSubscription

    refused = threading.Event()

    def changed(feed: Any, reason: str) -> None:
        if reason == "snapshot":
            for job in list(feed.jobs.values()):
                show("agent_status", job)
        elif reason == "state":
            click.echo(feed.state, err=True)
            if feed.state == "refused":
                refused.set()

    with ProjectSubscription(client, project, show, changed, namespace=namespace) as subscription:
        while not refused.wait(1.0):  # without a timeout, Ctrl+C would not be heard everywhere
            pass
        error = subscription.feed.error or {}
        return f"{project} is refused: {error.get('message', 'it is not said why')}"


def _explained(act: Callable[[], Any]) -> Any:
    """Do something, and put what goes wrong with it into one line."""
    try:
        return act()
    except (RealtimeError, TypeError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    except Exception as error:
        raise click.ClickException(f"{type(error).__name__}: {error}") from None


def _print_all(told: Iterable[tuple[str, Any]], as_json: bool) -> None:
    show = _printer(as_json)
    for event, data in told:
        show(event, data)


def _printer(as_json: bool) -> Callable[[str, Any], None]:
    return _print_json if as_json else _print_line


def _print_json(event: str, data: Any) -> None:
    click.echo(json.dumps({"event": event, "data": data}, ensure_ascii=False))


def _print_line(event: str, data: Any) -> None:
    if event not in ("agent_status", "agent_progress"):
        return click.echo(f"{'':12}  {event}  {json.dumps(data, ensure_ascii=False)}")
    words = [str(data.get("timestamp"))[11:23], str(data.get("job_id"))[:8], data.get("task") or "-"]
    if event == "agent_status":
        words += [data["status"], "" if data.get("state") in (None, data["status"].upper()) else data["state"]]
        words.append(data.get("error") or ("" if data.get("result") is None else json.dumps(data["result"])))
    if data.get("progress") is not None:
        words += [f"{data['progress']} %", data.get("message") or ""]
    return click.echo("  ".join(word for word in words if word))
