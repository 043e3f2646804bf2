"""What is heard of a project, and what the model knows by it."""

from __future__ import annotations

from typing import Any

import msgspec

from celery_realtime import events
from celery_realtime.client.entries import Entries
from celery_realtime.events import WORKFLOW_EVENT, Outgoing
from tests.fuzz.job_model import Known, Report, apply, note


class Heard:
    """What has been heard of a project.

    Attributes:
        known: What the model knows of each job.
        client: What a client shows.
        position: Epoch and offset up to which it was heard.
        ends: (job, run, attempt) of which the end is on record.
        is_true: Whether nothing of it was lost.
        updates: Of the workflow, each with its time.
        shown: The jobs of which the history still has what their statuses say.
        returned: Those that it had forgotten, and shows again since: what they have reported before is lost.
        oldest: The oldest offset in the history where answers have been lost; else 0.
    """

    def __init__(self) -> None:
        self.known: dict[str, Known] = {}
        self.client = Entries("job_id", 10**6)
        self.position = ("", 0)
        self.ends: set[tuple[str, str | None, int]] = set()
        self.is_true = True
        self.updates: list[tuple[float, dict[str, Any]]] = []
        self.shown: set[str] = set()
        self.returned: set[str] = set()
        self.oldest = 0

    def take(self, batch: list[Outgoing], answers: list[list[Outgoing]] | None, now: float) -> None:
        """Hear what the history says of a batch."""
        assert answers is not None
        for event, answer in zip(batch, answers, strict=True):
            news = [stamped for stamped in answer if stamped.event != WORKFLOW_EVENT]
            if event.standing.gate != events.LOOK_GATE:
                self._check_answer(event, bool(news), now)
            for stamped in answer:
                self._hear(stamped, now)

    def _check_answer(self, event: Outgoing, is_stored: bool, now: float) -> None:
        execution = event.standing.execution
        report = Report.of(event, now, 0.0 if execution is None else execution.started)
        job = str(event.job_id)
        before = self.known.get(job)
        if before is not None and is_stored and job not in self.shown:
            self.returned.add(job)
            before = before._replace(says=("forgotten", None))  # that it has ended is all that is left of it
        after = apply(report, before, now)
        assert is_stored == (after is not None), (report, before)
        after = after or note(report, before)
        if after is not None:
            self.known[job] = after
            if after.rank == "2":
                self.ends.add((job, after.run, after.attempt))

    def _hear(self, stamped: Outgoing, now: float) -> None:
        data = msgspec.json.decode(stamped.payload)
        epoch, offset = data["epoch"], data["offset"]
        if self.position[0] != epoch:
            assert self.position == ("", 0)
            self.position = (epoch, 0)
        # An answer that was lost is given again without the workflow updates that have left the history since.
        assert offset == self.position[1] + 1 or self.position[1] < offset <= self.oldest
        self.position = (epoch, offset)
        if stamped.event == WORKFLOW_EVENT:
            self.updates.append((now, data))
        else:
            self.client.update(stamped.event, data, numbered=True)
