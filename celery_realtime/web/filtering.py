"""Leave out of snapshots, and of their pages, the jobs that a client does not want."""

from __future__ import annotations

from typing import Any

from celery_realtime.history.snapshot import narrowed
from celery_realtime.job_filters import JobFilter


def filtered(shown: dict[str, Any], wanted: JobFilter, *, is_first: bool = False) -> dict[str, Any]:
    """Return a snapshot, or a page, with those of its jobs that are wanted, and where to read on for others of these.

    What a client may not see has to be out of it before: it would be found by what is wanted.

    Args:
        shown: The snapshot, as the client may see it.
        wanted: Which jobs are wanted.
        is_first: Whether it is the first answer to a subscription, and no further page.
    """
    jobs = [job for job in shown["jobs"] if wanted.matches(job)]
    page = shown.get("next")
    if page is None:
        return {**shown, "jobs": jobs}
    rest = narrow(page, wanted, is_first=is_first)
    others = {name: value for name, value in shown.items() if name != "next"}
    return {**others, "jobs": jobs, **({} if is_first and rest is None else {"next": rest})}


def narrow(page: str, wanted: JobFilter, *, is_first: bool = False) -> str | None:
    """Return where to read on for jobs that are wanted; None if nothing that is left to be read can be.

    Raises:
        ValueError: ``page`` is no place to read on at.
    """
    return narrowed(page, live=wanted.wants_live, ended=wanted.wants_ended, is_first=is_first)
