"""Name the rooms that events are emitted in: the one place that turns a project into a room, and back."""

from __future__ import annotations

import uuid

MAX_PROJECT_ID_LENGTH = 200

#: Python refuses to write out numbers much longer than this.
_MOST_BITS = 4 * MAX_PROJECT_ID_LENGTH


_PROJECT = "project:"
_BATCH = "batch:"
_BATCHED = "batched:"
_JOB = "job:"
_AUDIENCE = "audience:"
_STREAMS = "streams:"


def project_room(project_id: str) -> str:
    """Return the Socket.IO room of a project; ``project_id`` must already be normalised."""
    return _PROJECT + project_id


def project_of_room(room: object) -> str | None:
    """Return the project whose room it is; None if it is no project's."""
    return room[len(_PROJECT) :] if isinstance(room, str) and room.startswith(_PROJECT) else None


def rooms_of(project_id: str, job_id: str | None = None, audience: str | None = None) -> tuple[str, str]:
    """Return the rooms of the clients that follow a project, or one job of it: in single events, and in batches.

    Args:
        project_id: The project, already normalised.
        job_id: The job, or None for all of them.
        audience: The clients that see it in the same way; None where all do.
    """
    # The length keeps apart what colons in ids would not.
    plain = project_room(project_id) if job_id is None else f"{_JOB}{len(project_id)}:{project_id}:{job_id}"
    if audience is not None:
        plain = f"{_AUDIENCE}{len(audience)}:{audience}:{plain}"
    return plain, _BATCH + project_id if plain == project_room(project_id) else _BATCHED + plain


def streams_room(project_id: str) -> str:
    """Return the room in which the chunks of a project's streams are emitted; none but those who ask for them enter."""
    return _STREAMS + project_id


def project_of_streams_room(room: object) -> str | None:
    """Return the project whose streams are emitted in a room; None if it is no such room."""
    return room[len(_STREAMS) :] if isinstance(room, str) and room.startswith(_STREAMS) else None


def streams_rooms_of(project_id: str, audience: str | None = None) -> tuple[str, str]:
    """Return the rooms of the clients that follow the streams of all jobs of a project; else as :func:`rooms_of`."""
    plain = streams_room(project_id)
    if audience is not None:
        plain = f"{_AUDIENCE}{len(audience)}:{audience}:{plain}"
    return plain, _BATCHED + plain


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


def normalise_user_id(value: object) -> str:
    """Return a user id as the string that names it in tokens and orders; takes what a project id may be.

    Raises:
        TypeError, ValueError: As :func:`normalise_project_id`.
    """
    try:
        return normalise_project_id(value)
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("project_id", "user_id")) from None


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
