"""Look at a set-up, and name what is found."""

from __future__ import annotations

import itertools
from importlib.metadata import version
from typing import Any

from celery import Celery

from celery_realtime import Realtime
from celery_realtime.cli.doctor.checkup import Outcome, examine
from celery_realtime.cli.doctor.command import CHECKS
from celery_realtime.cli.doctor.context import Context
from celery_realtime.cli.doctor.findings import Finding

SECRET = "a long and random string of the tests"

#: Where nobody listens.
NOWHERE = "redis://127.0.0.1:1/0"

#: What is found of the versions that these tests run with: Celery 5.4 has a fault, whatever else is wrong.
OF_VERSIONS = ["version-with-fault"] if version("celery").startswith("5.4.") else []

#: What each check, and each event, may take on a busy machine.
TIMEOUT = 180.0

_numbers = itertools.count()


def new_realtime(broker: str = NOWHERE, **settings: Any) -> Realtime:
    """Make a Realtime without a history, unless one is named."""
    app = Celery(f"studio{next(_numbers)}", broker=broker, set_as_current=False)
    return Realtime(app, **{"history_url": None, "secret_key": SECRET, **settings})


def outcomes(realtime: Realtime, *checks: str, **options: Any) -> list[Outcome]:
    """Make some checks; all by default."""
    context = Context(realtime, **{"timeout": TIMEOUT, **options})
    return list(examine(context, [check for check in CHECKS if not checks or check.name in checks]))


def findings(realtime: Realtime, *checks: str, **options: Any) -> list[Finding]:
    """Make some checks, and return what they find."""
    return [found for outcome in outcomes(realtime, *checks, **options) for found in outcome.findings]


def names(realtime: Realtime, *checks: str, **options: Any) -> list[str]:
    """Make some checks, and return the names of what they find."""
    return [found.name for found in findings(realtime, *checks, **options)]
