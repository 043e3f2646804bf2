"""Tell one life of a worker's process from the next, which mostly has the same node name."""

from __future__ import annotations

import uuid


class Incarnation:
    """The incarnation of the worker that this process is, or is a child of.

    Supervisors start a killed worker again within seconds, under the name that it had, and two workers of one host may
    have the same name. So leases, and decisions about who runs a job, go by the incarnation; the name is for show.

    Children of a prefork pool are forked from a process that has begun, and so belong to its incarnation. Those that
    are not forked join it.

    Attributes:
        id: A random word; empty in a process that is no worker's.
    """

    def __init__(self) -> None:
        self.id = ""

    def begin(self) -> str:
        """Begin a new life as the main process of a worker, and return its id.

        A process may be a worker several times, one after the other: each time is an incarnation of its own.
        """
        self.id = uuid.uuid4().hex
        return self.id

    def join(self, incarnation_id: str) -> None:
        """Belong to the incarnation of another process, which has started this one."""
        self.id = incarnation_id

    def end(self) -> None:
        """Be no worker any more."""
        self.id = ""
