"""Look at what needs no connection: settings, secrets and versions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata

from celery_realtime.auth import verify_token
from celery_realtime.cli.doctor.context import Context
from celery_realtime.cli.doctor.findings import Finding, finding
from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.secret_keys import FEW, SHORT

#: The distribution that says what it needs.
OURS = "celery-realtime"

#: Extras of it that are about developing it.
_DEVELOPMENT = {"dev", "docs", "test", "testing", "types"}

#: By package: which versions have which fault, and the mend.
FAULTS = (
    (
        "uwsgi",
        "<2.0.27",
        "runs no threads outside requests unless it is told to, so that events are late or lost",
        "Upgrade to 2.0.27 or newer, or start it with enable-threads.",
    ),
    (
        "celery",
        "<5.5",
        "has no soft shutdown: jobs that run when a worker is shut down cold are shown as failed",
        "Upgrade to 5.5 or newer, and set worker_soft_shutdown_timeout.",
    ),
)


def look_at_settings(context: Context) -> Iterator[Finding]:
    """Look whether they can be read, and what they leave out."""
    try:
        settings = context.settings
    except ImproperlyConfigured as error:
        yield finding("settings-refused", str(error))
        return
    if not settings.enabled:
        yield finding("disabled")
        return
    if (settings.url or "").startswith("memory:"):
        yield finding("broker-in-memory")
    if settings.history_url is None:
        yield finding("no-history")
    if settings.wire == "stock":
        yield finding("stock-wire")


def look_at_secrets(context: Context) -> Iterator[Finding]:
    """Look at the secret, and at the token that was passed."""
    keys = context.settings.secret_key
    if keys is None:
        if context.given_token is None:
            yield finding("no-secret")
        return
    for key in (keys,) if isinstance(keys, str) else keys:
        if len(key) < SHORT or len(set(key)) < FEW:
            yield finding(
                "weak-secret", f"a realtime_secret_key has only {len(key)} characters, {len(set(key))} different"
            )
    if context.given_token is not None and verify_token(keys, context.given_token) is None:
        yield finding("token-invalid")


def look_at_versions(_context: Context) -> Iterator[Finding]:
    """Look for packages that are too old, and for such with a known fault."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    for line in metadata.requires(OURS) or []:
        if set(re.findall(r"extra == ['\"]([\w-]+)['\"]", line)) & _DEVELOPMENT:
            continue
        needed = Requirement(line)
        version = _installed(needed.name)
        if version is not None and not needed.specifier.contains(version, prereleases=True):
            text = f"{needed.name} {version} is installed, and {OURS} needs {needed.name}{needed.specifier}"
            yield finding("version-too-old", text, f'pip install "{needed.name}{needed.specifier}"')
    for name, versions, fault, mend in FAULTS:
        version = _installed(name)
        if version is not None and SpecifierSet(versions).contains(version, prereleases=True):
            yield finding("version-with-fault", f"{name} {version} {fault}", mend)


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
