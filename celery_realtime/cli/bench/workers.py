"""Have workers measure, by Celery's remote control: it takes no place in their pools and queues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from celery_realtime.cli.bench.setup import Setup
from celery_realtime.clocks import time
from celery_realtime.jobs.measuring import MEASURE_COMMAND
from celery_realtime.jobs.reporting import REPORT_COMMAND

#: Seconds to wait for an answer.
ANSWER_TIMEOUT = 2.0

#: How often a worker is asked for its time: the quickest answer says most.
QUESTIONS = 3

#: Seconds to wait for the last events of workers, beyond what they need to send them.
PATIENCE = 15.0


class Asked(msgspec.Struct, frozen=True):
    """A worker that measures.

    Attributes:
        name: Its node name.
        ahead: By how many seconds its clock is ahead; 0 if no difference is seen.
        tolerance: By how many seconds that may be wrong.
    """

    name: str
    ahead: float
    tolerance: float


def begin(setup: Setup, names: Sequence[str]) -> tuple[list[Asked], list[str]]:
    """Have workers begin to measure.

    Args:
        setup: What is measured.
        names: Their node names; all if there are none.

    Returns:
        Those that have begun, and why others have not.
    """
    app, asked, notes = setup.realtime.app, [], []
    pongs = app.control.ping(list(names) or None, ANSWER_TIMEOUT)
    there = sorted({name for pong in pongs for name in pong})
    notes += [f"{name} does not answer" for name in names if name not in there]
    if not there and not names:
        notes.append("no worker answers, so nothing was measured in one: start it, and see that it consumes here")
    for name in there:
        ahead, tolerance = _clock(app, name)
        reply = _ask(app, name, MEASURE_COMMAND, msgspec.structs.asdict(setup.plan))
        if reply.get("begun"):
            asked.append(Asked(name, ahead, tolerance))
        else:
            reason = reply.get("reason") or "it does not know this command: it has no Realtime, or an older version"
            notes.append(f"{name} measures nothing: {reason}")
    return asked, notes


def wait(setup: Setup, asked: Sequence[Asked]) -> None:
    """Wait until all have said what they have measured, or time is over."""
    arrivals, plan = setup.arrivals, setup.plan
    timeout = plan.probes * plan.pause * 2 + PATIENCE
    arrivals.wait(lambda: arrivals.measured.keys() >= {one.name for one in asked}, timeout)


def _clock(app: Any, name: str) -> tuple[float, float]:
    """Return by how many seconds the clock of a worker is ahead, and by how many that may be wrong."""
    looks = []
    for _ in range(QUESTIONS):
        began = time.time()
        said = _ask(app, name, REPORT_COMMAND, {}).get("time")
        took = time.time() - began
        if isinstance(said, (int, float)):
            looks.append((took / 2, said - began - took / 2))
    if not looks:
        return 0.0, ANSWER_TIMEOUT
    tolerance, ahead = min(looks)
    return (0.0 if abs(ahead) <= tolerance else ahead), tolerance


def _ask(app: Any, name: str, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
    replies = app.control.broadcast(
        command, arguments=arguments, destination=[name], reply=True, timeout=ANSWER_TIMEOUT, limit=1
    )
    found = [reply[name] for reply in replies or [] if isinstance(reply.get(name), dict)]
    answer: dict[str, Any] = found[0] if found else {}
    return answer
