"""Name the keys of a history on Redis."""

from __future__ import annotations

import secrets
from urllib.parse import quote

import msgspec

#: The keys of one project, in the order in which the scripts take them.
PROJECT = ("meta", "events", "jobs", "ended", "flows", "live", "flows-ended", "gone", "flows-due")


class Keys(msgspec.Struct, frozen=True):
    """The keys of one channel.

    Those that a script takes together have the same part in braces, and so the same hash slot; but for ``begun``, which
    is of all projects.

    Attributes:
        channel: Keeps apart what shares a Redis.
        prefix: What all keys begin with (``global_keyprefix``).
    """

    channel: str
    prefix: str = ""

    def project(self, project_id: str, *more: str) -> list[str]:
        """Return the keys of a project, :data:`PROJECT` and more."""
        return self._in_slot(quote(project_id, safe=""), *PROJECT, *more)

    def project_and_begun(self, project_id: str, *more: str) -> list[str]:
        """Return the keys of a project, that in which all projects are counted when they begin, and more of its own."""
        keys = self.project(project_id, *more)
        keys.insert(len(PROJECT), self.begun)
        return keys

    @property
    def begun(self) -> str:
        """Return the key that knows of each project how often it has begun."""
        return f"{self._prefix}begun"

    def leases(self, *names: str) -> list[str]:
        """Return keys of leases, and of other things that belong to no project."""
        return self._in_slot("leases", *names)

    def places(self, *periods: int) -> list[str]:
        """Return the keys that hold which projects jobs are of, each for one period of time."""
        return self._in_slot("places", *map(str, periods))

    def older_places(self, *periods: int) -> list[str]:
        """Return the keys that hold which other projects have had jobs of ids that very many use."""
        return self._in_slot("places", *(f"{period}-older" for period in periods))

    def stream(self, project_id: str, job_id: str, name: str) -> list[str]:
        """Return the keys of a stream: heads and writers of all of its job, its value, and the recent of its project.

        In the order in which the scripts take them.
        """
        job, stream = (quote(word, safe="", errors="replace") for word in (job_id, name))
        names = (f"streams:{job}", f"stream-writers:{job}", f"stream:{job}:{stream}", "streams-recent")
        return self._in_slot(quote(project_id, safe=""), *names)

    def kept(self, project_id: str) -> list[str]:
        """Return the keys of the messages that are kept of a project, in the order in which the script takes them."""
        return self._in_slot(quote(project_id, safe=""), "kept", "kept-order")

    def watched(self, project_id: str) -> str:
        """Return the key that is there while somebody watches a project."""
        return self._in_slot(quote(project_id, safe=""), "watched")[0]

    def cancelled(self, job_id: str) -> str:
        """Return the key that has which runs of a job are cancelled."""
        return f"{self._prefix}cancelled:{quote(job_id, safe='', errors='replace')}"

    def cancel_answer(self, job_id: str) -> str:
        """Return the key that has how a worker cancels a job."""
        return f"{self._prefix}cancel-answer:{quote(job_id, safe='', errors='replace')}"

    @property
    def _prefix(self) -> str:
        return f"{self.prefix}celery-realtime:{quote(self.channel, safe='')}:"

    def _in_slot(self, slot: str, *names: str) -> list[str]:
        start = f"{self._prefix}{{{slot}}}:"
        return [start + name for name in names]


def recent_stream(job_id: str, name: str) -> str:
    """Return what names a stream among those of its project that were written to last."""
    return f"{job_id}\n{name}"


def stream_in(member: bytes) -> tuple[str, str]:
    """Return the job and the name of a stream that :func:`recent_stream` names."""
    job_id, _, name = member.decode(errors="replace").rpartition("\n")
    return job_id, name


def new_epoch() -> str:
    """Return a random name for an epoch."""
    return secrets.token_hex(4)
