"""Make checks one after the other, each within its time; one that fails is a finding itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator

import msgspec

from celery_realtime.cli.doctor.context import Context
from celery_realtime.cli.doctor.findings import ERROR, UNKNOWN, Finding, finding
from celery_realtime.logs import describe

Look = Callable[[Context], Iterator[Finding]]


class Check(msgspec.Struct, frozen=True):
    """One look at a set-up.

    Attributes:
        name: What it looks at.
        look: Yields what it finds.
        blockers: Names of findings after which there is nothing to look at.
        needs_url: Whether it is about the web server.
    """

    name: str
    look: Look
    blockers: Collection[str] = ()
    needs_url: bool = False


class Outcome(msgspec.Struct, frozen=True):
    """What came of a check.

    Attributes:
        name: Of the check.
        findings: What it has found.
        skipped: Why it was not made; empty if it was.
    """

    name: str
    findings: list[Finding]
    skipped: str = ""

    @property
    def state(self) -> str:
        """``ok``, ``skipped``, or how grave the gravest finding is."""
        severities = [found.severity for found in self.findings]
        for severity in (ERROR, UNKNOWN, "warning", "note"):
            if severity in severities:
                return severity
        return "skipped" if self.skipped else "ok"


def examine(context: Context, checks: Iterable[Check]) -> Iterator[Outcome]:
    """Make checks, and yield what comes of each.

    Args:
        context: What is looked at.
        checks: In the order in which they are made.
    """
    found: set[str] = set()
    for check in checks:
        reason = _reason_to_skip(check, context, found)
        outcome = Outcome(check.name, [], reason) if reason else Outcome(check.name, _look(check, context))
        found.update(each.name for each in outcome.findings)
        yield outcome


def _reason_to_skip(check: Check, context: Context, found: set[str]) -> str:
    if check.needs_url and context.url is None:
        return "no --url"
    return ", ".join(name for name in check.blockers if name in found)


def _look(check: Check, context: Context) -> list[Finding]:
    """Make a check in a thread: what it calls may hang."""
    findings: list[Finding] = []
    errors: list[BaseException] = []

    def look() -> None:
        try:
            for found in check.look(context):
                findings.append(found)  # noqa: PERF402 - at once: what comes behind it may hang
        except Exception as error:  # noqa: BLE001 - whatever it is, the other checks are made
            errors.append(error)

    thread = threading.Thread(target=look, name=f"celery-realtime-doctor-{check.name}", daemon=True)
    thread.start()
    thread.join(context.timeout)
    if thread.is_alive():
        return [*findings, finding("check-timed-out", f"the check {check.name!r} took more than {context.timeout:g} s")]
    if errors:
        return [*findings, finding("check-failed", f"the check {check.name!r} failed: {describe(errors[0])}")]
    return findings
