"""Make the measurements one after the other, and say what each has found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery_realtime.cli.bench import publishing, workers
from celery_realtime.cli.bench.arrivals import Arrivals
from celery_realtime.cli.bench.clients import Clients
from celery_realtime.cli.bench.setup import Setup
from celery_realtime.clocks import time
from celery_realtime.jobs.measuring import send_probe, summary, time_reports

#: What is sent from here.
HERE = "here"

#: Events that are sent together, and how many such bursts may be on their way.
BURST, ON_THEIR_WAY = 50, 4

#: Seconds to wait for events that were sent.
PATIENCE = 15.0

#: The number of the first event of a burst: lags are measured by those below.
BURSTS = 1_000_000


class Measures:
    """What is measured of a set-up.

    Args:
        setup: The set-up.
        clients: Clients of its web server; None without one.

    Attributes:
        results: What has been measured, fit for JSON.
        notes: What could not be measured, and why.
    """

    def __init__(self, setup: Setup, clients: Clients | None) -> None:
        self._setup = setup
        self._clients = clients
        #: What has arrived at a client.
        self.at_client = Arrivals(setup.plan.run) if clients is None else clients.arrivals
        self.results: dict[str, Any] = {}
        self.notes: list[str] = []

    def measure_calls(self) -> None:
        """Measure what reports and publications cost in this process."""
        setup = self._setup
        if setup.realtime.app.conf.task_always_eager:
            self.notes.append("what publishing costs: with task_always_eager nothing is published")
        else:
            self.results["publish"] = publishing.measure(setup)
        self.results["update_progress"] = {HERE: summary(time_reports(setup.realtime, setup.plan))}
        setup.flush()

    def measure_lag(self) -> None:
        """Measure how late events come that this process sends."""
        setup, plan = self._setup, self._setup.plan
        for number in range(plan.probes):
            send_probe(setup.realtime.manager, plan, HERE, number)
            time.sleep(plan.pause)
        self._note_lags(HERE)

    def measure_workers(self, names: Sequence[str]) -> None:
        """Have workers measure what reports cost there, and how late their events come.

        Args:
            names: Their node names; all if there are none.
        """
        asked, notes = workers.begin(self._setup, names)
        self.notes += notes
        workers.wait(self._setup, asked)
        for one in asked:
            measured = self._setup.arrivals.measured.get(one.name, {})
            if "reports" in measured:
                self.results["update_progress"][one.name] = measured["reports"]
            else:
                reason = measured.get("error") or "nothing of it arrives here; `realtime doctor` may say why"
                self.notes.append(f"{one.name} has not measured what a report costs: {reason}")
            self._note_lags(one.name, one)

    @property
    def _places(self) -> dict[str, Arrivals]:
        channel = {"channel": self._setup.arrivals}
        return channel if self._clients is None else {**channel, "client": self.at_client}

    def _note_lags(self, source: str, worker: workers.Asked | None = None) -> None:
        lags = self.results.setdefault("lag", {})
        for place, arrivals in self._places.items():
            sent, ahead = self._setup.plan.probes, 0.0 if worker is None else worker.ahead
            arrivals.wait_for_all(source, sent, PATIENCE)
            lag = arrivals.lag(source, sent, ahead)
            if lag is None:
                self.notes.append(f"no event of {source} has come to {_name(place)}; `realtime doctor` may say why")
                continue
            tolerance = {} if worker is None else {"tolerance_ms": round(worker.tolerance * 1000, 2)}
            lags.setdefault(place, {})[source] = {**lag, **tolerance}
            if lag["lost"]:
                self.notes.append(f"{lag['lost']} of {sent} events of {source} have not come to {_name(place)}")

    def measure_deliveries(self, count: int) -> None:
        """Measure how many events are delivered in a second to so many clients."""
        clients, setup = self._clients, self._setup
        assert clients is not None
        clients.connect(count)
        before, busy, began = clients.delivered, clients.processor_time(), time.monotonic()
        bursts, is_stuck = 0, False
        while not is_stuck and time.monotonic() - began < setup.seconds:
            for number in range(BURST):
                send_probe(setup.realtime.manager, setup.plan, "burst", BURSTS + bursts * BURST + number)
            bursts += 1
            due = max(0, bursts - ON_THEIR_WAY) * BURST * count
            is_stuck = not clients.wait(before + due, PATIENCE)
        clients.wait(before + bursts * BURST * count, PATIENCE)
        took, delivered = time.monotonic() - began, clients.delivered - before
        self.results["deliveries"] = {
            "clients": count,
            "per_second": round(delivered / took),
            "delivered": delivered,
            "lost": bursts * BURST * count - delivered,
            "clients_busy": round((clients.processor_time() - busy) / took, 2),
        }
        if self.results["deliveries"]["lost"]:
            self.notes.append(f"{self.results['deliveries']['lost']} deliveries have not come")


def _name(place: str) -> str:
    return "the channel" if place == "channel" else "the client"
