"""Say which jobs of a project are wanted, by status, task and label; ``celery-realtime-filter.js`` says the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

#: The statuses that a job can have.
STATUSES = ("queued", "running", "success", "error")

#: Most alternatives of a member of a filter, and most characters of each.
MOST_ALTERNATIVES, LONGEST_ALTERNATIVE = 50, 255

#: Stands for any characters, none included.
ANY = "*"

_PATTERNS = ("task", "label")
_MEMBERS = ("status", *_PATTERNS)


class JobFilter(msgspec.Struct, frozen=True):
    """Which jobs are wanted: those of which each member that is not empty has an alternative that fits.

    Args:
        status: Statuses.
        task: Names of tasks, in which ``*`` stands for any characters.
        label: Labels, likewise; a job without one fits none of them.
    """

    status: tuple[str, ...] = ()
    task: tuple[str, ...] = ()
    label: tuple[str, ...] = ()

    @classmethod
    def of(cls, given: Any) -> JobFilter | None:
        """Return the filter of an object such as ``{"status": ["running"], "task": ["reports.*"]}``.

        Args:
            given: The object; members may be missing, None or empty. None for no filter.

        Returns:
            The filter; None if it leaves all jobs.

        Raises:
            ValueError: It is no such object; the message names the member.
        """
        if given is None:
            return None
        if not isinstance(given, Mapping):
            raise ValueError(  # noqa: TRY004 - of whatever kind, it is what a client has sent
                f"filter must be an object with lists, such as {{status: [...]}}, not {_short(given)}"
            )
        unknown = next((name for name in given if name not in _MEMBERS), None)
        if unknown is not None:
            raise ValueError(f"filter has {', '.join(_MEMBERS[:-1])} and {_MEMBERS[-1]}, but no {_short(unknown)}")
        members = {name: _alternatives(name, given.get(name)) for name in _MEMBERS}
        return cls(**members) if any(members.values()) else None

    def matches(self, job: Mapping[str, Any]) -> bool:
        """Tell whether a job is wanted.

        Args:
            job: It, as a snapshot or a status event has it. The time that this takes grows with the length of its
                texts, and not faster.
        """
        return all(self._fits(name, job.get(name)) for name in _MEMBERS)

    def _fits(self, name: str, value: Any) -> bool:
        alternatives: tuple[str, ...] = getattr(self, name)
        if not alternatives:
            return True
        if not isinstance(value, str):
            return False
        return value in alternatives or (name != "status" and any(is_like(value, one) for one in alternatives))

    @property
    def wants_live(self) -> bool:
        """Whether jobs that have not ended can match."""
        return not self.status or not {"queued", "running"}.isdisjoint(self.status)

    @property
    def wants_ended(self) -> bool:
        """Whether jobs that have ended can match."""
        return not self.status or not {"success", "error"}.isdisjoint(self.status)

    def as_wire(self) -> dict[str, list[str]]:
        """Return the filter as requests have it."""
        return {name: list(getattr(self, name)) for name in _MEMBERS if getattr(self, name)}


def is_like(text: str, pattern: str) -> bool:
    """Tell whether a text is what a pattern says, in which ``*`` stands for any characters."""
    first, *inner = pattern.split(ANY)
    if not inner:
        return text == pattern
    last = inner.pop()
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    place, end = len(first), len(text) - len(last)
    for part in inner:  # the first place where each is found leaves most for the others
        found = text.find(part, place, end)
        if found < 0:
            return False
        place = found + len(part)
    return True


def _alternatives(name: str, given: Any) -> tuple[str, ...]:
    if given is None:
        return ()
    if not isinstance(given, (list, tuple)):
        raise ValueError(f"filter.{name} must be a list of texts, not {_short(given)}")  # noqa: TRY004 - as above
    if len(given) > MOST_ALTERNATIVES:
        raise ValueError(f"filter.{name} has at most {MOST_ALTERNATIVES} alternatives, not {len(given)}")
    for one in given:
        if name == "status" and one not in STATUSES:
            raise ValueError(f"filter.status has {', '.join(STATUSES)}, but not {_short(one)}")
        if not isinstance(one, str) or not 0 < len(one) <= LONGEST_ALTERNATIVE:
            raise ValueError(f"filter.{name} has texts of 1 to {LONGEST_ALTERNATIVE} characters, but not {_short(one)}")
    return tuple(given)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 50 else f"{text[:47]}..."
