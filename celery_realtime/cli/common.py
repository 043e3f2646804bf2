"""What the commands share: the PROJECT argument, addresses of web servers, errors in one line, and where to log."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import click

from celery_realtime.exceptions import RealtimeError
from celery_realtime.job_filters import STATUSES, JobFilter
from celery_realtime.rooms import normalise_project_id


class _Project(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    name = "project"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return normalise_project_id(value)
        except (TypeError, ValueError) as error:
            self.fail(str(error), param, ctx)


PROJECT = _Project()


def filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options ``--status``, ``--task`` and ``--label``; see :func:`chosen_filter`."""
    pattern = "may be repeated. * stands for any characters."
    for option in (
        click.option("--label", metavar="LABEL", multiple=True, help=f"Only jobs with this label; {pattern}"),
        click.option("--task", metavar="NAME", multiple=True, help=f"Only jobs of this task; {pattern}"),
        click.option("--status", type=click.Choice(STATUSES), multiple=True, help="Only such jobs; may be repeated."),
    ):
        command = option(command)
    return command


def chosen_filter(chosen: dict[str, Any]) -> JobFilter | None:
    """Take what the options of :func:`filter_options` have chosen; None for all jobs.

    Raises:
        UsageError: They have an alternative that is none.
    """
    named = {name: chosen.pop(name) for name in ("status", "task", "label")}
    try:
        return JobFilter.of(named)
    except ValueError as error:
        raise click.UsageError(str(error).replace("filter.", "--")) from None


def checked_url(_ctx: click.Context, _param: click.Parameter, url: str | None) -> str | None:
    """Return the address of a web server as it was given; None if none was.

    Raises:
        BadParameter: It is none.
    """
    if url is None:
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise click.BadParameter(f"{url!r} is no address of a web server: {error}") from None
    if parts.scheme not in ("http", "https"):
        raise click.BadParameter(f"the web server's address begins with http:// or https://, not {url!r}")
    if not parts.hostname or port == 0:
        raise click.BadParameter(f"{url!r} names no web server: http://HOST:PORT")
    return url


@contextlib.contextmanager
def explained_errors(what: str = "") -> Iterator[None]:
    """End the command with one line, and exit code 1, where the block raises.

    Args:
        what: Before the errors of other libraries: what has failed.
    """
    try:
        yield
    except (RealtimeError, TypeError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    except (click.ClickException, BrokenPipeError):  # click ends quietly where nobody reads any more
        raise
    except Exception as error:  # noqa: BLE001 - the broker's and Redis' libraries raise errors of their own
        raise click.ClickException(f"{what}{type(error).__name__}: {error}") from None


@contextlib.contextmanager
def logging_to(handler: logging.Handler) -> Iterator[None]:
    """Let nothing be logged but to a handler: what else writes to the terminal would spoil the view."""
    root = logging.getLogger()
    before, root.handlers = root.handlers, [handler]
    try:
        yield
    finally:
        root.handlers = before
