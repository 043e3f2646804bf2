"""``celery -A proj realtime doctor``: look at a set-up, and say what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import click

from celery_realtime.cli.common import PROJECT as PROJECT_TYPE
from celery_realtime.cli.doctor.channel_checks import look_at_channel, look_at_workers
from celery_realtime.cli.doctor.checkup import Check, Outcome, examine
from celery_realtime.cli.doctor.client_checks import look_at_client
from celery_realtime.cli.doctor.context import PROJECT, Context
from celery_realtime.cli.doctor.findings import ERROR, UNKNOWN, WARNING, as_dict
from celery_realtime.cli.doctor.server_checks import look_at_broker, look_at_history
from celery_realtime.cli.doctor.settings_checks import look_at_secrets, look_at_settings, look_at_versions
from celery_realtime.cli.doctor.web_checks import look_at_http, look_at_origins, look_at_stickiness, look_at_websocket

#: The exit codes: nothing is wrong, something is, it could not be found out.
FINE, PROBLEMS, UNCLEAR = 0, 1, 2

_SETTINGS = ("settings-refused",)
_BROKER = (
    *_SETTINGS,
    "broker-in-memory",
    "broker-unreachable",
    "broker-forbids",
    "disabled",
    "maxclients-reached",
)
_HTTP = (*_SETTINGS, "web-unreachable", "web-not-socketio")

CHECKS = (
    Check("settings", look_at_settings),
    Check("versions", look_at_versions),
    Check("secrets", look_at_secrets, _SETTINGS),
    Check("broker", look_at_broker, (*_SETTINGS, "broker-in-memory")),
    Check("history", look_at_history, _SETTINGS),
    Check("channel", look_at_channel, _BROKER),
    Check("workers", look_at_workers, _BROKER),
    Check("http", look_at_http, _SETTINGS, needs_url=True),
    Check("origins", look_at_origins, (*_HTTP, "polling-off"), needs_url=True),
    Check("websocket", look_at_websocket, _HTTP, needs_url=True),
    Check("stickiness", look_at_stickiness, (*_HTTP, "polling-off"), needs_url=True),
    Check("client", look_at_client, (*_HTTP, *_BROKER, "no-secret", "token-invalid"), needs_url=True),
)


@click.command("doctor")
@click.option("--url", help="The web server, such as https://studio.example.")
@click.option("--path", default="socket.io", show_default=True, help="Where its Socket.IO server is.")
@click.option("--token", help="What to connect with; by default a token is made with the secret key.")
@click.option("--project", type=PROJECT_TYPE, default=PROJECT, show_default=True, help="The project to send events in.")
@click.option("--origin", help="The origin of your pages; by default that of the web server.")
@click.option("-d", "--destination", "workers", multiple=True, help="A worker to look at; by default all are.")
@click.option("--timeout", type=float, default=15.0, show_default=True, help="Seconds that each check may take.")
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings, too.")
@click.option("--json", "as_json", is_flag=True, help="One object of JSON.")
@click.pass_context
def command(ctx: click.Context, /, as_json: bool, strict: bool, **options: Any) -> None:
    """Look at this set-up, and say what is wrong with it, and the mend."""
    url = options["url"]
    if url is not None and not url.startswith(("http://", "https://")):
        raise click.BadParameter(f"the web server's address begins with http:// or https://, not {url!r}")
    outcomes = []
    for outcome in examine(Context(ctx.obj, **options), CHECKS):
        outcomes.append(outcome)
        if not as_json:
            _print(outcome)
    if as_json:
        click.echo(json.dumps(_report(outcomes), indent=2))
    ctx.exit(exit_code(outcomes, strict=strict))


def exit_code(outcomes: Iterable[Outcome], *, strict: bool = False) -> int:
    """Return the exit code.

    Args:
        outcomes: What came of the checks.
        strict: Whether warnings count as errors.
    """
    severities = {found.severity for outcome in outcomes for found in outcome.findings}
    if ERROR in severities or (strict and WARNING in severities):
        return PROBLEMS
    return UNCLEAR if UNKNOWN in severities else FINE


def _report(outcomes: list[Outcome]) -> dict[str, Any]:
    findings = [{"check": each.name, **as_dict(found)} for each in outcomes for found in each.findings]
    checks = [{"name": each.name, "state": each.state, "skipped": each.skipped or None} for each in outcomes]
    return {"ok": exit_code(outcomes) == FINE, "checks": checks, "findings": findings}


_COLOURS = {
    "ok": "green",
    ERROR: "red",
    WARNING: "yellow",
    UNKNOWN: "magenta",
    "note": "cyan",
    "skipped": "bright_black",
}


def _print(outcome: Outcome) -> None:
    reason = f"  ({outcome.skipped})" if outcome.skipped else ""
    click.echo(f"{click.style(f'{outcome.state:<8}', _COLOURS[outcome.state])} {outcome.name}{reason}")
    for found in outcome.findings:
        click.echo(f"  {click.style(found.severity, _COLOURS[found.severity])} {found.name}: {found.text}")
        click.echo(f"    mend: {found.mend}")
