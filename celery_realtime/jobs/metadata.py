"""Keep small structured state of jobs, which several processes may change at a time: ``self.metadata``."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from celery_realtime import events
from celery_realtime.bounded import BoundedDict
from celery_realtime.clocks import time
from celery_realtime.encoding import encode_lenient, encode_strict, legible
from celery_realtime.events import Job, MetadataChange
from celery_realtime.forks import after_fork, talking
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.values import plain_number

if TYPE_CHECKING:
    from celery_realtime.sending.manager import SocketIOManager
    from celery_realtime.settings import Settings

logger = logging.getLogger(__name__)

#: Characters of a key.
MAX_KEY = 200

#: Numbers beyond this one, JavaScript cannot tell from their neighbours.
MOST = 2**53

#: Jobs of which this process knows what it has written.
REMEMBERED = 1000

#: Longest time, in seconds, that :meth:`Metadata.get` waits until what this process has written is stored.
LONGEST_WAIT = 1.0

#: Seconds without asking the history again after it did not answer.
PAUSE = 5.0


def check_key(key: object) -> str:
    """Return a key of metadata.

    Raises:
        TypeError: It is no text.
        ValueError: It is empty or too long.
    """
    if not isinstance(key, str):
        raise TypeError(f"a key of metadata must be a str, not {type(key).__name__}")
    if not 0 < len(key) <= MAX_KEY:
        raise ValueError(f"a key of metadata must have 1 to {MAX_KEY} characters, this one has {len(key)}")
    return legible(key)


def _number(value: object) -> int | float:
    number = plain_number(value)
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise TypeError(f"by must be a number, not {type(value).__name__}")
    if not abs(number) <= MOST:
        raise ValueError(f"by must be a number from -2**53 to 2**53, not {number}")
    return number


class Values:
    """What this process knows of the metadata of a job: JSON by key. The caller keeps threads apart.

    Attributes:
        version: Grows with each change.
    """

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self.version = 0

    def replace(self, values: Mapping[str, Any]) -> None:
        """Take what the history has of it."""
        self._values = {key: encode_lenient(value) for key, value in values.items()}

    def get(self, key: str) -> Any:
        """Return a value, or None."""
        value = self._values.get(key)
        return None if value is None else msgspec.json.decode(value)

    def has(self, key: str) -> bool:
        """Tell whether there is a key."""
        return key in self._values

    def after(self, change: MetadataChange) -> bytes | None:
        """Return JSON of what a key has after a change; None if it is deleted.

        Raises:
            TypeError: It has another type than the change needs.
            ValueError: All of it would be too large.
        """
        value = self._value_after(change)
        size = self._size_without(change.key)
        if value is not None:
            size += len(encode_lenient(change.key)) + 1 + len(value)
        if value is not None and size > change.limit:
            raise ValueError(
                f"with {change.key!r} the metadata of the job would have {size} bytes of JSON, "
                f"realtime_metadata_size allows {change.limit}"
            )
        return value

    def _value_after(self, change: MetadataChange) -> bytes | None:
        present, value = self.get(change.key), change.value.encode()
        if change.kind == "set":
            return value
        if change.kind == "delete":
            return None
        if change.kind == "append":
            if self.has(change.key) and not isinstance(present, list):
                raise TypeError(f"metadata {change.key!r} is no list that could be appended to, but {present!r:.100}")
            return encode_lenient([*(present or ()), msgspec.Raw(value)])
        if self.has(change.key) and (isinstance(present, bool) or not isinstance(present, (int, float))):
            raise TypeError(f"metadata {change.key!r} is no number that could be incremented, but {present!r:.100}")
        try:
            return encode_lenient((present or 0) + msgspec.json.decode(value))
        except OverflowError:
            raise ValueError(f"metadata {change.key!r} is too large a number to be incremented") from None

    def _size_without(self, key: str) -> int:
        others = (item for item in self._values.items() if item[0] != key)
        return sum(len(encode_lenient(other)) + 2 + len(value) for other, value in others)

    def keep(self, key: str, value: bytes | None) -> None:
        """Note what a key has now; None if it is deleted."""
        self.version += 1
        if value is None:
            self._values.pop(key, None)
        else:
            self._values[key] = value


class Metadata:
    """The metadata of a job: values by key, each anything that JSON can hold. It is in the snapshot of the project.

    Changes return at once, and the history makes them one after the other, whichever process they are from. Values that
    nobody has set begin with 0, or an empty list.

    Args:
        keeper: Passes changes on, and reads.
        job: The job; None where there is none, of which changes are only checked.
        within: The job that says it; None for the job itself.
    """

    def __init__(self, keeper: Keeper | PlainKeeper, job: Job | None, within: Job | None = None) -> None:
        self._keeper = keeper
        self._job = job
        self._within = within

    def set(self, key: str, value: Any) -> None:
        """Set a key to a value.

        Raises:
            TypeError: The value has no JSON form, or the key is no text.
            ValueError: The value holds NaN, the key is empty or too long, or all of it is larger than
                ``metadata_size``.
        """
        self._change("set", key, value)

    def increment(self, key: str, by: float = 1) -> None:
        """Add a number to that of a key, which is 0 at first.

        Raises:
            TypeError: One of them is no number.
            ValueError: ``by`` is not from -2**53 to 2**53, the key is empty or too long, or all of it too large.
        """
        self._change("increment", key, _number(by))

    def append(self, key: str, value: Any) -> None:
        """Append an item to the list of a key, which is empty at first.

        Raises:
            TypeError: It is no list, or the item has no JSON form.
            ValueError: As :meth:`set`.
        """
        self._change("append", key, value)

    def delete(self, key: str) -> None:
        """Delete a key, if it is there."""
        self._change("delete", key, None)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, with what this process has written; ``default`` if it is not there.

        The only one that waits: it asks the history. While that does not answer, and without one, it returns what this
        process has written or read itself.
        """
        return self._keeper.get(self._job, check_key(key), default)

    def _change(self, kind: str, key: str, value: Any) -> None:
        self._keeper.change(self._job, kind, key, value, is_own=self._within is None)

    @property
    def parent(self) -> Metadata:
        """The metadata of the job that has called this one; without one in this project, changes do nothing."""
        job = self._within or self._job
        return self._of(None if job is None else job.parent_id)

    @property
    def root(self) -> Metadata:
        """The metadata of the first job of this one's workflow, which may be itself; a group is none."""
        job = self._within or self._job
        if job is None or job.root_id == job.job_id:
            return Metadata(self._keeper, job)
        return self._of(None if job.root_id == job.group_id else job.root_id)

    def _of(self, job_id: str | None) -> Metadata:
        job = self._within or self._job
        above = None if job is None or job_id is None else Job(job_id=job_id, project_id=job.project_id)
        return Metadata(self._keeper, above, job or Job(job_id=""))


class Keeper:
    """What passes on changes of metadata in a process, and knows what this process has written.

    Args:
        manager: Where changes go.
        settings: Returns the settings.
        on_change: Called with each job of which something was passed on.
    """

    def __init__(
        self, manager: SocketIOManager, settings: Callable[[], Settings], on_change: Callable[[Job], None]
    ) -> None:
        self._manager = manager
        self._settings = settings
        self._on_change = on_change
        self._log = RateLimitedLogger(logger)
        self._values: BoundedDict[tuple[str | None, str], Values] = BoundedDict(REMEMBERED)
        self._asks_again_at = 0.0
        self._renew_lock()
        after_fork(self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.RLock()

    def forget(self, job: Job) -> None:
        """Forget what is known of a job that has ended here, if a history knows it."""
        if self._settings().history_url is not None:
            self._values.pop((job.project_id, job.job_id))

    def _values_of(self, job: Job) -> Values:
        key = job.project_id, job.job_id
        values = self._values.get(key)
        if values is None:
            values = self._values[key] = Values()
        return values

    def change(self, job: Job | None, kind: str, key: object, value: Any, *, is_own: bool) -> None:
        """Check a change, and pass it on.

        Args:
            job: The job; None to check only.
            kind: ``set``, ``increment``, ``append`` or ``delete``.
            key: The key.
            value: As :class:`~celery_realtime.events.MetadataChange` has it, not encoded.
            is_own: Whether the job says it itself.

        Raises:
            TypeError, ValueError: It cannot be made.
        """
        change = checked(kind, key, value, self._settings().metadata_size)
        if job is None:
            return
        if job.project_id is None:
            job = msgspec.structs.replace(job, project_id=self._manager.project_of(job.job_id))
        with self._lock:
            values = self._values_of(job)
            after = self._after(job, values, change)
            values.keep(change.key, after)
            if job.project_id is None:
                self._manager.count_without_project(job)
                return
            text = None if after is None else after.decode()
            self._manager.put(events.outgoing_metadata(job, change, text, is_own=is_own))
        self._on_change(job)

    def _after(self, job: Job, values: Values, change: MetadataChange) -> bytes | None:
        try:
            return values.after(change)
        except (TypeError, ValueError):
            stored = self._read(job)  # another process may have changed it
            if stored is None:
                raise
            values.replace(stored)
            return values.after(change)

    def get(self, job: Job | None, key: str, default: Any) -> Any:
        """Return a value, as :meth:`Metadata.get` does; ``default`` of no job."""
        if job is None:
            return default
        values = self._values_of(job)
        version = values.version
        stored = self._read(job)
        with self._lock:
            if stored is not None and values.version == version:  # else another thread has changed it meanwhile
                values.replace(stored)
            return values.get(key) if values.has(key) else default

    def _read(self, job: Job) -> dict[str, Any] | None:
        """Return what the history has of a job, with what this process has written; None if it cannot be asked."""
        if job.project_id is None or not self._settings().enabled or time.monotonic() < self._asks_again_at:
            return None
        history = self._manager.history
        if history is None:
            return None
        outbox = self._manager.outbox
        is_sent = outbox.waits.until_stored(outbox.last_key, LONGEST_WAIT)
        with self._log.suppressing(
            "cannot read the metadata of a job, so it is what this process has written; the next get tries again",
            job_id=job.job_id,
            project_id=job.project_id,
        ):
            if is_sent and outbox.is_stored:
                with talking:
                    return history.metadata(job.project_id, job.job_id)
            return None
        self._asks_again_at = time.monotonic() + PAUSE
        return None


def checked(kind: str, key: object, value: Any, limit: int) -> MetadataChange:
    """Return a change of metadata.

    Raises:
        TypeError, ValueError: As the methods of :class:`Metadata` do.
    """
    name = check_key(key)
    encoded = encode_strict(value, f"metadata {name!r}", limit, "metadata_size")
    return MetadataChange(kind, name, encoded.decode(), limit)


class PlainKeeper:
    """What keeps the metadata of a plain call of a task, or of one while nothing is reported, while it lasts.

    Args:
        limit: Most bytes of JSON.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: dict[str, Values] = {}

    def change(self, job: Job | None, kind: str, key: object, value: Any, *, is_own: bool) -> None:
        """Make a change; see :meth:`Keeper.change`."""
        change = checked(kind, key, value, self._limit)
        if job is not None and is_own:
            values = self._values.setdefault(job.job_id, Values())
            values.keep(change.key, values.after(change))

    def get(self, job: Job | None, key: str, default: Any) -> Any:
        """Return a value; see :meth:`Keeper.get`."""
        values = None if job is None else self._values.get(job.job_id)
        return default if values is None or not values.has(key) else values.get(key)
