"""Send an event the way that those of tasks go, and ask workers to do the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from celery_realtime.channel.inspection import Ear
from celery_realtime.cli.doctor.context import Context
from celery_realtime.cli.doctor.findings import Finding, finding
from celery_realtime.cli.doctor.server_checks import SKEW, skewed
from celery_realtime.jobs.reporting import ECHO_EVENT, REPORT_COMMAND, describe, send_echo

#: Seconds to wait for workers to answer.
ANSWER_TIMEOUT = 2.0


def look_at_channel(context: Context) -> Iterator[Finding]:
    """Send an event through the outbox, the history and the channel, and listen for it."""
    with context.ear() as ear:
        if not ear.is_listening(context.patience):
            yield finding("no-fanout", f"the channel {context.settings.channel!r} cannot be listened to")
            return
        send_echo(context.realtime.manager, context.project, context.echo)
        is_sent = context.realtime.flush(context.echo_wait)
        heard = ear.hear(ECHO_EVENT, context.echo, context.echo_wait)
    if heard is None:
        yield finding("no-fanout") if is_sent else finding("not-sent")
    elif heard.offset is None and context.history is not None:
        yield finding("history-refuses")


def look_at_workers(context: Context) -> Iterator[Finding]:
    """Ask all workers where they send events, and have each send one."""
    app = context.realtime.app
    arguments = {"project_id": context.project, "echo": context.echo}
    with context.ear() as ear:
        ear.is_listening(context.patience)
        pongs = app.control.ping(context.workers, ANSWER_TIMEOUT)
        names = sorted({name for pong in pongs for name in pong})
        if not names:
            yield finding("no-worker")
            return
        options = {"arguments": arguments, "reply": True, "timeout": ANSWER_TIMEOUT, "destination": names}
        replies = app.control.broadcast(REPORT_COMMAND, **options)
        reports = {name: report for reply in replies or [] for name, report in reply.items()}
        for name in names:
            yield from _of_worker(context, ear, name, reports.get(name))


def _of_worker(context: Context, ear: Ear, name: str, report: Any) -> Iterator[Finding]:
    if not isinstance(report, dict) or "place" not in report:
        yield finding("worker-without-realtime", f"{name} does not know this package, or has an older version of it")
        return
    if not report["enabled"]:
        yield finding("worker-disabled", f"{name} runs with realtime_enabled = False")
        return
    yield from _of_settings(context, name, report)
    if not report["can_cancel"]:
        text = f"{name} has the pool {report['pool']}, which cannot end a job that runs"
        yield finding("pool-cannot-cancel", text)
    own = describe(context.settings)
    if _place(own) == _place(report):
        yield from _of_echo(context, ear, name, report)


def _place(report: dict[str, Any]) -> tuple[Any, ...]:
    return report["place"], report["namespace"], report["wire"]


def _of_settings(context: Context, name: str, report: dict[str, Any]) -> Iterator[Finding]:
    own = describe(context.settings)
    if _place(own) != _place(report):
        there, here = _shown(report), _shown(own)
        yield finding("worker-elsewhere", f"{name} sends to {there}; here is {here}")
    if own["version"] != report["version"]:
        yield finding("worker-version", f"{name} runs version {report['version']}; here is {own['version']}")
    if own["shards"] != report["shards"]:
        yield finding("worker-shards", f"{name} has {report['shards']} shards; here are {own['shards']}")
    ahead = report["time"] - own["time"]
    if abs(ahead) > SKEW + ANSWER_TIMEOUT:  # within which it has answered
        yield skewed(name, ahead)


def _shown(report: dict[str, Any]) -> str:
    return f"{report['place']} at {report['url']} (namespace {report['namespace']}, wire {report['wire']})"


def _of_echo(context: Context, ear: Ear, name: str, report: dict[str, Any]) -> Iterator[Finding]:
    heard = ear.hear(ECHO_EVENT, f"{context.echo}:{name}", context.echo_wait)
    if heard is None:
        yield finding("worker-silent", f"{name} sends to {_shown(report)}; nothing of it arrives here")
        return
    if context.history is None and report["history"] is None:
        return
    position = context.history and context.history.position(context.project)
    if position is not None and heard.epoch != position["epoch"]:
        there = report["history"] or "none"
        yield finding("worker-history-elsewhere", f"{name} has the history {there}, which is not the one here")
