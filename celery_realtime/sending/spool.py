"""Keep what a child of a prefork pool has not sent yet where its parent can read it if the child dies.

Before each fork the main process makes an area of anonymous memory that it shares with the child. Nothing of it is on a
disk, it needs no permissions, and it is gone with the two processes. A child that is not forked is handed the same as a
file without a name: in memory on Linux, elsewhere wherever temporary files are.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import struct
import tempfile
import weakref
from collections.abc import Callable

from celery_realtime.clocks import time
from celery_realtime.logs import RateLimitedLogger, describe

logger = logging.getLogger(__name__)

#: Bytes that a child may have written and not sent; the system gives memory only to those that are used.
SIZE = 256 * 1024

#: The process that writes, the end of what it has written, and when it wrote the oldest that it has not sent.
_HEADER = struct.Struct("<QQd")
_PID, _END, _SINCE = struct.Struct("<Q"), struct.Struct("<Q"), struct.Struct("<d")
_END_AT, _SINCE_AT = _PID.size, _PID.size + _END.size
_RECORD = struct.Struct("<IB")  # the length of a record, and whether it has been sent

Record = bytes


class Spool:
    """An area of memory that one process writes and another reads after its death.

    What is written is there in whole or not at all, whenever the writer is killed: its end is written last.

    Args:
        size: Of the area, in bytes.
        file: The descriptor of a file that is the area; by default it is memory that only forks share.

    Attributes:
        size: As given.

    Raises:
        OSError: The system has no memory for it.
    """

    def __init__(self, size: int = SIZE, file: int = -1) -> None:
        self.size = size
        self.file = file
        self._area = mmap.mmap(file, size)
        self._end = _HEADER.size
        self.clear()

    @classmethod
    def in_file(cls, size: int = SIZE) -> Spool:
        """Make one that a process can be handed which is not forked.

        Raises:
            OSError: The system has no memory for it.
        """
        with contextlib.ExitStack() as stack:
            if hasattr(os, "memfd_create"):
                file = os.memfd_create("celery-realtime-spool")
            else:  # a file without a name
                with tempfile.TemporaryFile() as unnamed:
                    file = os.dup(unnamed.fileno())
            stack.callback(os.close, file)
            os.ftruncate(file, size)
            spool = cls(size, file)
            stack.pop_all()
        weakref.finalize(spool, os.close, file)
        return spool

    @classmethod
    def of_file(cls, file: int) -> Spool:
        """Take one that another process has made, given its descriptor, and be the process that writes."""
        try:
            spool = cls(os.fstat(file).st_size, file)
        finally:
            os.close(file)
        spool.claim()
        return spool

    @property
    def pid(self) -> int:
        """The process that writes; 0 before there is one."""
        pid: int = _PID.unpack_from(self._area)[0]
        return pid

    # -- for the writer -----------------------------------------------------------------------------------------

    def claim(self) -> None:
        """Be the process that writes."""
        _PID.pack_into(self._area, 0, os.getpid())

    def write(self, record: Record, reserve: int = 0) -> int | None:
        """Add a record, and return its place; None when it does not fit.

        Args:
            record: The record.
            reserve: Bytes that have to be left free behind it.
        """
        place, end = self._end, self._end + _RECORD.size + len(record)
        if end > self.size - reserve:
            return None
        if place == _HEADER.size:
            self.date(time.monotonic())
        _RECORD.pack_into(self._area, place, len(record), 0)
        self._area[place + _RECORD.size : end] = record
        self._set_end(end)
        return place

    def strike(self, place: int) -> None:
        """Note that a record has been sent."""
        self._area[place + _RECORD.size - 1] = 1

    def date(self, since: float) -> None:
        """Note when the oldest record was written that has not been sent, of :func:`time.monotonic`."""
        _SINCE.pack_into(self._area, _SINCE_AT, since)

    def read(self, place: int) -> Record:
        """Return the record at a place."""
        length, _ = _RECORD.unpack_from(self._area, place)
        start = place + _RECORD.size
        return self._area[start : start + length]

    def clear(self) -> None:
        """Forget all records."""
        self._set_end(_HEADER.size)

    def _set_end(self, end: int) -> None:
        self._end = end
        _END.pack_into(self._area, _END_AT, end)

    # -- for the reader -----------------------------------------------------------------------------------------

    @property
    def is_empty(self) -> bool:
        """Whether all that was written has been sent."""
        return bool(_END.unpack_from(self._area, _END_AT)[0] <= _HEADER.size)

    @property
    def unsent_since(self) -> float | None:
        """When the oldest was written that has not been sent, of :func:`time.monotonic`; None if all has been.

        What was written before has been sent. The clock is one for all processes of a host.
        """
        if self.is_empty:
            return None
        since: float = _SINCE.unpack_from(self._area, _SINCE_AT)[0]
        return since

    def unsent(self) -> list[Record]:
        """Return the records that have not been sent, in order."""
        records, place = [], _HEADER.size
        end = min(_END.unpack_from(self._area, _END_AT)[0], self.size)
        while place + _RECORD.size <= end:
            length, is_sent = _RECORD.unpack_from(self._area, place)
            if not is_sent:
                records.append(self.read(place))
            place += _RECORD.size + length
        return records


class Spools:
    """The spools of a worker's children, and in a child its own.

    Args:
        size: Of each, in bytes.

    Attributes:
        mine: The spool of this process, if it is a child; else None.
    """

    def __init__(self, size: int = SIZE) -> None:
        self._size = size
        self._log = RateLimitedLogger(logger)
        self._is_parent = False
        self._next: Spool | None = None
        self._spools: list[Spool] = []
        self.mine: Spool | None = None

    def begin(self) -> None:
        """Make a spool for each child that is forked from now on, until :meth:`end`."""
        if not self._is_parent and hasattr(os, "register_at_fork"):
            self._is_parent = True
            _register(weakref.ref(self))

    def end(self) -> None:
        """Make no more spools."""
        self._is_parent = False

    def before_fork(self) -> None:
        """Make the spool of the next child."""
        self._next = self._new(Spool) if self._is_parent else None

    def _new(self, make: Callable[[int], Spool]) -> Spool | None:
        try:
            return make(self._size)
        except (OSError, ValueError) as error:
            self._log.warning(
                "no shared memory for a child of the pool, so what it has not sent is lost if it is killed; make "
                "room for it: %s",
                describe(error),
            )
            return None

    def for_spawned(self) -> Spool | None:
        """Make, and keep, the spool of a child that is about to be started and is not forked; None in no parent."""
        spool = self._new(Spool.in_file) if self._is_parent else None
        if spool is not None:
            self._spools.append(spool)
        return spool

    def take(self, spool: Spool | None) -> None:
        """Write into a spool that this process was handed when it was started."""
        self.mine = spool

    def after_fork_in_parent(self) -> None:
        """Keep the spool of the child."""
        if self._next is not None:
            self._spools.append(self._next)
            self._next = None

    def after_fork_in_child(self) -> None:
        """Take the spool that was made for this process, and no others."""
        self.mine, self._next, self._spools, self._is_parent = self._next, None, [], False
        if self.mine is not None:
            self.mine.claim()

    @property
    def pids(self) -> set[int]:
        """The pids of the children that live, or whose spools nobody has taken yet."""
        return {spool.pid for spool in list(self._spools)}

    def unsent_since(self) -> dict[int, float]:
        """Return the pids of the children that live and have something to send, and when they said the oldest of it.

        What a child had said before, by :func:`time.monotonic`, it has sent.
        """
        spools = ((spool.pid, spool.unsent_since) for spool in list(self._spools))
        return {pid: since for pid, since in spools if since is not None and _lives(pid)}

    def take_dead(self) -> list[Record]:
        """Return what children have not sent that are dead, once."""
        records: list[Record] = []
        for spool in list(self._spools):
            pid = spool.pid
            if pid and not _lives(pid):
                self._spools.remove(spool)
                records += spool.unsent()
        return records


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _register(reference: weakref.ref[Spools]) -> None:
    def call(method: Callable[[Spools], None]) -> Callable[[], None]:
        def run() -> None:
            spools = reference()
            if spools is not None:
                method(spools)

        return run

    os.register_at_fork(
        before=call(Spools.before_fork),
        after_in_parent=call(Spools.after_fork_in_parent),
        after_in_child=call(Spools.after_fork_in_child),
    )
