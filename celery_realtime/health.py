"""Tell whether this process does its part, from what its background loops know already: nothing here waits."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import msgspec

from celery_realtime import pages
from celery_realtime.clocks import time
from celery_realtime.loops import BackgroundLoop
from celery_realtime.pages import Page, Pages

#: The states of a check: it is well; it has nothing to do in this process, or nothing yet; it is not well.
OK, IDLE, FAILING = "ok", "idle", "failing"

#: Seconds after which what waits to be sent counts as late: an outage of a moment is no reason to leave a process out.
LATE = 30.0


class Check(msgspec.Struct, frozen=True):
    """What is known of one part.

    Attributes:
        name: Of the part.
        state: ``ok``, ``idle`` or ``failing``.
        details: More of it, for those who may see that.
        is_vital: Whether a process in which it fails should be started anew: waiting mends nothing.
    """

    name: str
    state: str
    details: Mapping[str, Any] = {}
    is_vital: bool = False


class Hearing(Protocol):
    """Listens to the channel for a server."""

    @property
    def listening(self) -> BackgroundLoop:
        """The loop that listens."""

    @property
    def is_hearing(self) -> bool:
        """Whether messages are received."""

    @property
    def last_heard(self) -> float | None:
        """When the last message came, of :func:`time.monotonic`."""


class Sending(Protocol):
    """Sends events."""

    @property
    def age(self) -> float:
        """For how many seconds something may have waited."""

    @property
    def size(self) -> int:
        """How many events wait."""


class Holding(Protocol):
    """Renews leases, and reports the jobs of dead workers."""

    @property
    def loop(self) -> BackgroundLoop:
        """The loop that does so."""

    @property
    def lease_ages(self) -> list[float]:
        """How many seconds ago each lease was renewed."""

    @property
    def lease(self) -> float:
        """How many seconds a lease lasts."""


def check_loops(loops: Iterable[BackgroundLoop]) -> Check:
    """Check that no loop stands still."""
    states = [(loop.name, loop.state) for loop in loops]
    stuck = sorted(name for name, state in states if state == "stuck")
    state = FAILING if stuck else OK if any(state != "idle" for _, state in states) else IDLE
    return Check("loops", state, {"stuck": stuck}, is_vital=True)


def check_hearing(servers: Iterable[Hearing]) -> Check:
    """Check that all servers that listen receive messages; one that was forked may begin with its first client."""
    begun = [server for server in servers if server.listening.state != "idle"]
    if not begun:
        return Check("hearing", IDLE, {"last_heard": None})
    is_hearing = all(server.is_hearing for server in begun)
    heard = [server.last_heard for server in begun]
    ages = [time.monotonic() - at for at in heard if at is not None]
    return Check("hearing", OK if is_hearing else FAILING, {"last_heard": round(max(ages), 3) if ages else None})


def check_history(loops: Iterable[BackgroundLoop]) -> Check:
    """Check that the loops that read or write the history every few seconds reach it."""
    in_use = [loop for loop in loops if loop.state != "idle"]
    errors = [error for loop in in_use if (error := loop.health()["error"])]
    state = FAILING if errors or any(loop.state == "stuck" for loop in in_use) else OK if in_use else IDLE
    return Check("history", state, {"error": errors[0] if errors else None})


def check_outbox(outbox: Sending | None) -> Check:
    """Check that events leave."""
    if outbox is None:
        return Check("outbox", IDLE, {"waiting": 0, "age": 0.0})
    age = outbox.age
    return Check("outbox", OK if age < LATE else FAILING, {"waiting": outbox.size, "age": round(age, 3)})


def check_keeper(keeper: Holding | None) -> Check:
    """Check that somebody here looks for jobs whose worker has died."""
    state = "idle" if keeper is None else keeper.loop.state
    return Check("keeper", {"turning": OK, "idle": IDLE}.get(state, FAILING))


def check_leases(keeper: Holding | None) -> Check:
    """Check that the leases of workers in this process have not lapsed: their jobs would be reported as lost."""
    ages = [] if keeper is None else keeper.lease_ages
    if keeper is None or not ages:
        return Check("leases", IDLE, {"held": 0, "age": None})
    state = OK if max(ages) < keeper.lease else FAILING
    return Check("leases", state, {"held": len(ages), "age": round(max(ages), 3)})


def report(checks: Iterable[Check], loops: Iterable[BackgroundLoop]) -> dict[str, Any]:
    """Return what ``Realtime.health()`` returns."""
    checks = list(checks)
    failing = [check for check in checks if check.state == FAILING]
    return {
        "live": not any(check.is_vital for check in failing),
        "ready": not failing,
        "checks": {check.name: {"state": check.state, **check.details} for check in checks},
        "loops": [loop.health() for loop in loops],
    }


#: The checks that ``live`` goes by.
VITAL = ("loops",)


def summary(health: Mapping[str, Any], probe: str) -> dict[str, Any]:
    """Return what strangers may see: a state, and that of each check by its name.

    Args:
        health: What ``Realtime.health()`` returned.
        probe: ``live`` or ``ready``.
    """
    names = VITAL if probe == "live" else health["checks"]
    checks = {name: health["checks"][name]["state"] for name in names}
    return {"status": OK if health[probe] else FAILING, "checks": checks}


# -- pages --------------------------------------------------------------------------------------------------------


class Source(Protocol):
    """A Realtime, as far as health goes."""

    def health(self) -> dict[str, Any]:
        """Return how this process is doing."""


def page_of(source: Source, probe: str) -> Page:
    """Return the answer to a probe: 200 if all is well, 503 if not.

    Args:
        source: The Realtime.
        probe: ``live`` or ``ready``.
    """
    health = source.health()
    return Page(msgspec.json.encode(summary(health, probe)), 200 if health[probe] else 503)


def health_pages(realtime: Source, path: str = "/health") -> Pages:
    """Return the pages ``/health/live`` and ``/health/ready``; ``/health`` is the same as the latter.

    Args:
        realtime: The Realtime.
        path: In place of ``/health``.
    """
    ready, live = functools.partial(page_of, realtime, "ready"), functools.partial(page_of, realtime, "live")
    return {path: ready, f"{path}/ready": ready, f"{path}/live": live}


def health_wsgi(realtime: Source, app: pages.WSGIApp | None = None, *, path: str = "/health") -> pages.WSGIApp:
    """Return a WSGI application that answers health checks.

    Args:
        realtime: The Realtime.
        app: What answers all other requests, such as a :class:`socketio.WSGIApp`.
        path: As that of :func:`health_pages`.
    """
    return pages.wsgi(health_pages(realtime, path), app)


def health_asgi(realtime: Source, app: pages.ASGIApp | None = None, *, path: str = "/health") -> pages.ASGIApp:
    """Return an ASGI application that answers health checks.

    Args:
        realtime: The Realtime.
        app: What answers all other requests, such as a :class:`socketio.ASGIApp`.
        path: As that of :func:`health_pages`.
    """
    return pages.asgi(health_pages(realtime, path), app)
