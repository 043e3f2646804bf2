"""Store batches of events with append.lua, and settle first what became of those that were not answered."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from celery_realtime.bounded import BoundedDict
from celery_realtime.clocks import time
from celery_realtime.encoding import encode_lenient, legible
from celery_realtime.events import (
    METADATA_EVENT,
    NEW_RUN,
    WORKFLOW_EVENT,
    Execution,
    Outgoing,
    is_note,
    now,
    stamp,
)
from celery_realtime.history.kept import KeptMessages
from celery_realtime.history.keys import Keys, new_epoch
from celery_realtime.history.leases import Leases, StepsBehind
from celery_realtime.history.lua import Command, Runner, Script, call
from celery_realtime.history.places import Places
from celery_realtime.history.refusals import Refusals
from celery_realtime.history.writer import Doubt, Stored, Writer

#: Seconds that a job is shown after its end.
ENDED_TTL = 3600.0

#: Jobs of a project that have not ended, beyond which the ones that were silent longest are forgotten.
MAX_LIVE = 100000

#: Seconds between two updates of a workflow, but for the last; append.lua has the same.
WORKFLOW_PAUSE = 0.25

#: Projects of which a process remembers the highest offset that it has stored.
WITNESSED = 10000

_SETTLE = Script("settle")
_APPEND = Script("append", _SETTLE)


class Limits(NamedTuple):
    """What is kept of each project.

    Attributes:
        size: Events, and ended jobs.
        ttl: Seconds that they are kept.
    """

    size: int
    ttl: float


class Appender:
    """The way of events into a history.

    Args:
        keys: Of the channel.
        runner: Of its Redis.
        leases: Notes which jobs run.
        places: Notes of which projects jobs are.
        kept: Keeps the messages of jobs.
        limits: What is kept.
        has_sentinels: Whether Sentinels choose the server.
        refusals: Logs what is refused.

    Attributes:
        writer: What this process has written.
    """

    def __init__(
        self,
        keys: Keys,
        runner: Runner,
        leases: Leases,
        places: Places,
        kept: KeptMessages,
        *,
        limits: Limits,
        has_sentinels: bool,
        refusals: Refusals,
    ) -> None:
        self._keys = keys
        self._runner = runner
        self._leases = leases
        self._places = places
        self._kept = kept
        self._limits = limits
        self._has_sentinels = has_sentinels
        self._refusals = refusals
        self.writer = Writer()
        self._witnessed: BoundedDict[str, tuple[str, int]] = BoundedDict(WITNESSED)
        self._due_observers: list[Callable[[str, float], None]] = []
        self._watch_observers: list[Callable[[str, bool], None]] = []

    def on_workflows_due(self, observer: Callable[[str, float], None]) -> None:
        """Call ``observer`` with a project and the seconds until an update of a workflow of it is due."""
        self._due_observers.append(observer)

    def on_watch(self, observer: Callable[[str, bool], None]) -> None:
        """Call ``observer`` with each project that something was appended to, and whether somebody watches it."""
        self._watch_observers.append(observer)

    def settle_doubts(self, events: list[Outgoing]) -> None:
        """Ask what became of the latest write if it was not answered, and of events that others may have stored.

        Raises:
            redis.RedisError: Redis cannot be reached, or refuses.
        """
        doubts = self.writer.doubts(events)
        if not doubts:
            return
        replies = self._runner.run_all([self._settle_command(doubt) for doubt in doubts])
        for doubt, reply in zip(doubts, replies, strict=True):
            if isinstance(reply, Exception):
                raise reply
            self._witness(doubt.project_id, self.writer.settle(doubt, reply))
            self._note_due(doubt.project_id, reply[-1])

    def _settle_command(self, doubt: Doubt) -> Command:
        arguments = [new_epoch(), self._limits.ttl, doubt.writer, doubt.write]
        return call(_SETTLE, self._keys.project_and_begun(doubt.project_id), arguments)

    def append(self, events: list[Outgoing], behind: StepsBehind) -> list[list[Outgoing]]:
        """Store events of which it is not known that they are stored, and return what to publish for each.

        Args:
            events: The events.
            behind: What waits for the jobs that start.

        Raises:
            redis.RedisError: Redis cannot be reached, or refuses all.
        """
        stored = {place: known for place, event in enumerate(events) if (known := self.writer.stored(event))}
        answers = {place: _answer(events[place], known) for place, known in stored.items()}
        groups = _by_project((place, event) for place, event in enumerate(events) if place not in stored)
        write = self.writer.begin(events[place] for group in groups.values() for place, _ in group)
        appends = [self._append_command(name, [event for _, event in group], write) for name, group in groups.items()]
        of_leases, notes_after = self._leases.commands(events, behind)
        notes_before = [*of_leases, *self._places.commands(events), *self._kept.commands(events)]
        replies = self._runner.run_in_turn(notes_before, appends, notes_after)
        start, end = len(notes_before), len(notes_before) + len(appends)
        for reply in [*replies[:start], *replies[end:]]:
            if isinstance(reply, Exception):
                self._refusals.note(reply)
        self._kept.done(events)
        for (project_id, group), reply in zip(groups.items(), replies[start:end], strict=True):
            answers.update(self._answers(project_id, group, reply))
        return [answers[place] for place in range(len(events))]

    def _append_command(self, project_id: str, events: list[Outgoing], write: int) -> Command:
        arguments: list[Any] = [new_epoch(), self._limits.size, self._limits.ttl, min(ENDED_TTL, self._limits.ttl)]
        arguments += [msgspec.json.encode(now()), msgspec.json.encode(project_id)]
        arguments += [*self._witnessed.get(project_id, ("", 0)), MAX_LIVE]
        arguments += [self.writer.id, write, " ".join([str(event.number) for event in events])]
        arguments.append(_pack([_describe(event) for event in events]))
        arguments += [event.payload for event in events]
        *keys, server = self._keys.project_and_begun(project_id, "watched", "server")
        if self._has_sentinels:
            return call(_APPEND, [*keys, server], arguments)
        return call(_APPEND, keys, arguments, keys_in_cluster=[server])

    def _answers(self, project_id: str, group: list[tuple[int, Outgoing]], reply: Any) -> dict[int, list[Outgoing]]:
        """Return what to publish for the events of one project, by their places in the batch."""
        if isinstance(reply, Exception):
            self._refusals.events(reply)
            return {place: unnumbered(event) for place, event in group}
        epoch, words, updates, has_made_due, is_watched = reply
        self._note_due(project_id, has_made_due)
        for observer in self._watch_observers:
            observer(project_id, is_watched == 1)
        stored = Stored.of_reply(epoch, words, updates)
        self._witness(project_id, stored)
        for (_, event), of_event in zip(group, stored, strict=True):
            for reason, _ in (update for update in of_event.updates if not update[1]):
                self._refusals.change(event, reason.decode(errors="replace"))
        return {place: _answer(event, of_event) for (place, event), of_event in zip(group, stored, strict=True)}

    def _note_due(self, project_id: str, is_due: int) -> None:
        if is_due:
            for observer in self._due_observers:
                observer(project_id, WORKFLOW_PAUSE)

    def _witness(self, project_id: str, stored: list[Stored]) -> None:
        """Remember the offsets that have been stored: a server that has lost them does not pass for whole."""
        if stored:
            epoch, (known_epoch, highest) = stored[0].epoch, self._witnessed.get(project_id, ("", 0))
            offsets = [of_event.highest for of_event in stored]
            self._witnessed[project_id] = epoch, max(offsets + [highest] * (known_epoch == epoch))


def _by_project(events: Iterable[tuple[int, Outgoing]]) -> dict[str, list[tuple[int, Outgoing]]]:
    """Return events with their places in the batch, by their projects."""
    groups: dict[str, list[tuple[int, Outgoing]]] = {}
    for place, event in events:
        groups.setdefault(event.project_id, []).append((place, event))
    return groups


def unnumbered(event: Outgoing) -> list[Outgoing]:
    """Return what to publish for an event that could not be stored."""
    return [] if is_note(event) else [event]


def _answer(event: Outgoing, stored: Stored) -> list[Outgoing]:
    """Return what to publish for an event, by what became of it."""
    fields: dict[str, Any] = {"epoch": stored.epoch, "offset": stored.offset}
    if stored.is_new_run:
        fields[NEW_RUN] = True
    answer = [stamp(event, fields)] if stored.offset else []
    for payload, offset in stored.updates:
        if offset:
            is_metadata = payload.startswith(_METADATA)
            update = Outgoing(event.project_id, METADATA_EVENT if is_metadata else WORKFLOW_EVENT, payload, rank=0)
            answer.append(stamp(update, {"epoch": stored.epoch, "offset": offset}))
    return answer


#: What the JSON begins with that append.lua makes of a change of metadata; else it is an update of a workflow.
_METADATA = b'{"event":"metadata_update",'


def _rank(event: Outgoing) -> str:
    if event.progress:
        return event.standing.gate or "p"
    if event.rank is None:
        return event.standing.gate or "c"
    return event.standing.gate or str(event.rank)


def _describe(event: Outgoing) -> list[Any]:
    """Return what append.lua has to know of an event beside its payload; see ``describe`` there."""
    standing, root = event.standing, event.standing.root_id
    # The first line of a job's entry is separated by blanks: a root with blanks would be several words. "=" is taken.
    root = root if root and root.split() == [root] and root != "=" else "-"
    described: list[Any] = [
        *(event.event, event.job_id or "", event.attempt, _rank(event), standing.percent),
        *(_word(standing.incarnation), standing.kind, root, _word(standing.run), *_start(standing.execution)),
    ]
    if (change := event.change) is not None:
        described.append([change.kind, encode_lenient(change.key).decode(), change.value, change.limit])
    return described


def _start(execution: Execution | None) -> tuple[str, int, bool, int]:
    """Return a start's id, its age in milliseconds, whether its message was delivered before, and its clock or -1."""
    if execution is None:
        return "-", 0, False, -1
    age = max(0, round((time.time() - execution.started) * 1000))
    return _word(execution.id), age, execution.redelivered, -1 if execution.clock is None else execution.clock


def _pack(descriptions: list[list[Any]]) -> bytes:
    try:
        return msgspec.msgpack.encode(descriptions)
    except UnicodeEncodeError:
        return msgspec.msgpack.encode(
            [[legible(part) if isinstance(part, str) else part for part in parts] for parts in descriptions]
        )


@functools.lru_cache(maxsize=1000)
def _word(name: str) -> str:
    """Return a name as one word, "-" for none."""
    return "".join(legible(name).split()) or "-"
