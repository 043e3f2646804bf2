"""Say where an event is heard: the one place that turns a project into a room."""

from __future__ import annotations

import uuid

MAX_PROJECT_ID_LENGTH = 200

#: Python refuses to write out numbers much longer than this.
_MOST_BITS = 4 * MAX_PROJECT_ID_LENGTH


_PROJECT = "project:"
_BATCH = "batch:"


def project_room(project_id: str) -> str:
    """Return the Socket.IO room of a project; ``project_id`` must already be normalised."""
    return _PROJECT + project_id


def batch_room(project_id: str) -> str:
    """Return the room of those who hear a project in batches, and are not in its other room."""
    return _BATCH + project_id


def batch_room_beside(room: str) -> str | None:
    """Return the batch room of the project that a room belongs to; None if it is no project's."""
    return _BATCH + room[len(_PROJECT) :] if room.startswith(_PROJECT) else None


def project_of_room(room: object) -> str | None:
    """Return the project whose room it is; None if it is no project's."""
    return room[len(_PROJECT) :] if isinstance(room, str) and room.startswith(_PROJECT) else None


def normalise_project_id(value: object) -> str:
    """Return a project id as the string that names it everywhere.

    Args:
        value: A non-empty string, an integer (a database key) or a UUID.

    Raises:
        TypeError: It is something else.
        ValueError: It is empty, longer than 200 characters or holds control characters.
    """
    text = _text_of(value)
    if not text or len(text) > MAX_PROJECT_ID_LENGTH:
        raise ValueError(f"project_id must have 1 to {MAX_PROJECT_ID_LENGTH} characters, this one has {len(text)}")
    if not text.isprintable():
        raise ValueError(f"project_id must hold printable characters only, not {text[:40]!r}")
    return text


def _text_of(value: object) -> str:
    if isinstance(value, str):
        return str.__str__(value)  # of a subclass too, such as an enum's or a safe string, the plain text
    if isinstance(value, uuid.UUID):
        return str(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"project_id must be a str, int or UUID, not {type(value).__name__}")
    if value.bit_length() > _MOST_BITS:
        raise ValueError(f"project_id must have 1 to {MAX_PROJECT_ID_LENGTH} characters, this number has more")
    return str(int(value))
