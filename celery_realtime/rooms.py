"""Say where an event is heard: the one place that turns a project into a room."""

from __future__ import annotations

import uuid

MAX_PROJECT_ID_LENGTH = 200


def project_room(project_id: str) -> str:
    """Return the Socket.IO room of a project; ``project_id`` must already be normalised."""
    return "project:" + project_id


def normalise_project_id(value: object) -> str:
    """Return a project id as the string that names it everywhere.

    Args:
        value: A non-empty string, an integer (a database key) or a UUID.

    Raises:
        TypeError: It is something else.
        ValueError: It is empty, longer than 200 characters or holds control characters.
    """
    if isinstance(value, (int, uuid.UUID)) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise TypeError(f"project_id must be a str, int or UUID, not {type(value).__name__}")
    if not value or len(value) > MAX_PROJECT_ID_LENGTH:
        raise ValueError(f"project_id must have 1 to {MAX_PROJECT_ID_LENGTH} characters, this one has {len(value)}")
    if not value.isprintable():
        raise ValueError(f"project_id must hold printable characters only, not {value[:40]!r}")
    return value
