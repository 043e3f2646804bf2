"""A number that a process and the processes that it forks add to together."""

from __future__ import annotations

import mmap
import struct
import tempfile
from collections.abc import Callable

from celery_realtime.jobs.progress import Number

_NUMBER = struct.Struct("<d")


class SharedSum:
    """A number in a file without a name, which forks inherit.

    Whoever changes it holds a lock on the file, which the system gives back if a process is killed meanwhile. The
    caller keeps threads of one process apart.

    Args:
        value: What it is at first.

    Raises:
        OSError: There is no file to be had.
    """

    def __init__(self, value: Number) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed with the object
        self._file.truncate(_NUMBER.size)
        self._area = mmap.mmap(self._file.fileno(), _NUMBER.size)
        _NUMBER.pack_into(self._area, 0, value)

    @property
    def value(self) -> Number:
        """What it is now."""
        return _plain(_NUMBER.unpack_from(self._area)[0])

    def add(self, amount: Number, most: Number) -> Number:
        """Add to it, up to a most, and return what it is then."""
        return self._change(lambda value: min(most, value + amount))

    def raise_to(self, value: Number) -> Number:
        """Let it be at least a value, and return what it is then."""
        return self._change(lambda former: max(former, value))

    def _change(self, change: Callable[[Number], Number]) -> Number:
        import fcntl  # where there are forks, there is this

        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            value = change(self.value)
            _NUMBER.pack_into(self._area, 0, value)
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)
        return _plain(value)


def _plain(value: float) -> Number:
    return int(value) if value == int(value) else value
