"""Say what can be set, check it once, and name what is wrong."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from celery_realtime.exceptions import ImproperlyConfigured

PREFIX = "realtime_"
REDIS_SCHEMES = ("redis", "rediss", "redis+socket", "unix", "valkey", "valkeys", "sentinel")

EventFilter = Callable[[str, str, dict[str, Any]], dict[str, Any] | None]
ProjectResolver = Callable[[str, tuple[Any, ...], dict[str, Any]], str | None]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one :class:`~celery_realtime.Realtime`, each readable as ``realtime_<name>`` in ``app.conf``.

    Attributes:
        url: Broker URL that events travel over; default: Celery's own broker.
        channel: Name of the fan-out exchange or channel, the same on both sides.
        wire: ``frames`` (many events in a broker message) or ``stock`` (python-socketio's own format).
        namespace: Socket.IO namespace.
        connection_options: Further keyword arguments of :class:`kombu.Connection`.
        history_url: Redis URL of the history; None for none, "auto" for the result backend or broker if it is Redis.
        history_size: Events kept for each project.
        history_ttl: Seconds that a quiet project's history is kept.
        progress_interval: Shortest time between two progress events of a job, in seconds.
        max_payload: Largest result or custom event that is sent, in bytes of JSON.
        include_result: Whether a success carries the task's return value.
        include_traceback: Whether an error carries the traceback.
        event_filter: ``(event, project_id, payload) -> payload``, to redact an event, or None, to drop it.
        project_resolver: ``(task_name, args, kwargs) -> project_id``, for jobs that name no project.
        secret_key: Signs the tokens of ``issue_token``; several keys rotate: the first signs, all verify.
        queue_size: Events that may wait in a process before the least important is dropped.
        batch_size: Most events in a broker message.
        linger: Least time, in seconds, between two batches of progress; what comes after a silence leaves at once.
        flush_timeout: Longest time, in seconds, that a process that ends waits for its last events to leave.
        lost_after: Time, in seconds, within which the jobs of a worker that was killed are told to be lost.
        metrics: Whether counters are exported to prometheus_client.
    """

    url: str | None = None
    channel: str = "socketio"
    wire: str = "frames"
    namespace: str = "/"
    connection_options: dict[str, Any] = {}
    history_url: str | None = "auto"
    history_size: int = 1000
    history_ttl: float = 86400.0
    progress_interval: float = 5.0
    max_payload: int = 65536
    include_result: bool = True
    include_traceback: bool = False
    event_filter: Any = None
    project_resolver: Any = None
    secret_key: str | tuple[str, ...] | None = None
    queue_size: int = 10000
    batch_size: int = 100
    linger: float = 0.005
    flush_timeout: float = 5.0
    lost_after: float = 30.0
    metrics: bool = False


LONGEST_TIME = 10 * 365 * 86400.0

NAMES = Settings.__struct_fields__
_POSITIVE = ("history_size", "history_ttl", "max_payload", "queue_size", "batch_size", "lost_after")
_NOT_NEGATIVE = ("progress_interval", "linger", "flush_timeout")
_CALLABLE = ("event_filter", "project_resolver")
_TIMES = ("history_ttl", "progress_interval", "linger", "flush_timeout", "lost_after")
_SECRET = ("secret_key", "url", "history_url", "connection_options")
_NOT_EMPTY = ("channel", "secret_key", "url")


def resolve(
    keywords: Mapping[str, Any], conf: Mapping[str, Any], broker_url: str | Iterable[str], namespace: str | None = None
) -> Settings:
    """Return the settings: keyword beats conf beats default.

    Args:
        keywords: What ``Realtime(app, **settings)`` was given.
        conf: The Celery configuration, of which only ``realtime_*`` is read.
        broker_url: The URL, or URLs, to use when none is set.
        namespace: The namespace that the Celery configuration is written in, such as ``CELERY``.

    Raises:
        ImproperlyConfigured: A name is unknown, a value has the wrong type or range, or a URL cannot be used.
    """
    check_names(keywords, prefix="")
    values = conf_values(conf, namespace)
    check_names(values)
    settings = _convert({**values, **keywords})
    _check_ranges(settings)
    url = settings.url or (broker_url if isinstance(broker_url, str) else ";".join(broker_url))
    _check_url(url)
    _check_history_url(settings.history_url)
    return msgspec.structs.replace(settings, url=url)


def conf_names(conf: Iterable[str], namespace: str | None = None) -> list[str]:
    """Return the ``realtime_*`` names in a Celery configuration, also those written as ``<NAMESPACE>_REALTIME_*``."""
    return list(_conf_keys(conf, namespace))


def conf_values(conf: Mapping[str, Any], namespace: str | None = None) -> dict[str, Any]:
    """Return the ``realtime_*`` values in a Celery configuration, by their names without any prefix."""
    # A loaded configuration knows itself which of the two ways of writing a name beats the other.
    return {name: conf.get(PREFIX + name, conf[key]) for name, key in _conf_keys(conf, namespace).items()}


def _conf_keys(conf: Iterable[str], namespace: str | None) -> dict[str, str]:
    """Return under which key each name stands; others keep settings of their own in the same Django module."""
    starts = [PREFIX]
    if namespace:
        start = f"{namespace.rstrip('_')}_{PREFIX}"
        starts.append(start.upper() if namespace.isupper() else start.lower())
    keys = [key for key in conf if isinstance(key, str)]
    return {key.removeprefix(start).lower(): key for start in starts for key in keys if key.startswith(start)}


def check_names(names: Iterable[str], prefix: str = PREFIX) -> None:
    """Refuse names that no setting has.

    Raises:
        ImproperlyConfigured: Naming the first unknown one, and the setting that was probably meant.
    """
    for name in names:
        if name not in NAMES:
            close = difflib.get_close_matches(name, NAMES, n=1)
            hint = f"did you mean {prefix}{close[0]}?" if close else "the settings are: " + ", ".join(NAMES)
            raise ImproperlyConfigured(f"unknown setting {prefix}{name}: {hint}")


def _convert(values: dict[str, Any]) -> Settings:
    for name, value in values.items():
        if name == "secret_key" and isinstance(value, list):
            values = {**values, name: tuple(value)}
        _check_type(name, values[name])
    return Settings(**values)


_TYPES = {field.name: field.type for field in msgspec.structs.fields(Settings)}


def _check_type(name: str, value: object) -> None:
    if name in _CALLABLE:
        if value is not None and not callable(value):
            raise ImproperlyConfigured(f"{PREFIX}{name} must be callable, not {value!r}")
        return
    try:
        msgspec.convert(value, _TYPES[name])
    except msgspec.ValidationError as error:
        shown = type(value).__name__ if name in _SECRET else repr(value)
        raise ImproperlyConfigured(f"{PREFIX}{name} has a bad value, {shown}: {error}") from None


def _check_ranges(settings: Settings) -> None:
    for name in _POSITIVE:
        if not getattr(settings, name) > 0:
            raise ImproperlyConfigured(f"{PREFIX}{name} must be above 0, not {getattr(settings, name)!r}")
    for name in _NOT_NEGATIVE:
        if not getattr(settings, name) >= 0:
            raise ImproperlyConfigured(f"{PREFIX}{name} must be 0 or more, not {getattr(settings, name)!r}")
    for name in _TIMES:
        if getattr(settings, name) > LONGEST_TIME:
            raise ImproperlyConfigured(f"{PREFIX}{name} must be at most {LONGEST_TIME:.0f} seconds, ten years")
    _check_words(settings)


def _check_words(settings: Settings) -> None:
    for name in _NOT_EMPTY:
        value = getattr(settings, name)
        if value in ("", ()) or (isinstance(value, tuple) and "" in value):
            raise ImproperlyConfigured(f"{PREFIX}{name} must not be empty")
    if settings.wire not in ("frames", "stock"):
        raise ImproperlyConfigured(f"{PREFIX}wire must be 'frames' or 'stock', not {settings.wire!r}")
    if not settings.namespace.startswith("/"):
        raise ImproperlyConfigured(f"{PREFIX}namespace must start with '/', not {settings.namespace!r}")


def _check_url(url: str) -> None:
    from kombu.transport import TRANSPORT_ALIASES

    for part in url.split(";"):
        scheme, found, _ = part.partition("://")
        if not found or (scheme.partition("+")[0] not in TRANSPORT_ALIASES and scheme not in TRANSPORT_ALIASES):
            raise ImproperlyConfigured(
                f"{PREFIX}url {redact(url)!r} is no broker URL; write one such as redis://localhost:6379/0"
                " or amqp://guest:guest@localhost:5672//"
            )
        if not _is_readable(part):
            # What Python says of it may quote half a password.
            raise ImproperlyConfigured(
                f"{PREFIX}url {redact(url)!r} has a host or port that cannot be read; if its password has special"
                " characters, write them as in urllib.parse.quote(password, safe='')"
            )


def _check_history_url(url: str | None) -> None:
    if url not in (None, "auto") and not (is_plain_redis(url) and _is_readable(str(url))):
        raise ImproperlyConfigured(
            f"{PREFIX}history_url {redact(str(url))!r} is no URL of one Redis; write one such as redis://localhost:6379/0,"
            ' "auto", or None for no history'
        )


def _is_readable(url: str) -> bool:
    try:
        urlsplit(url.partition(",")[0]).port  # noqa: B018 - reading it is the check
    except ValueError:
        return False
    return True


def redact(url: str) -> str:
    """Return a URL without its password, fit for logs and error messages."""
    head, at, tail = url.rpartition("@")
    if not at:
        return url
    scheme, slashes, credentials = head.partition("://")
    user = credentials.split(":", 1)[0]
    return f"{scheme}{slashes}{user}:**@{tail}"


def is_plain_redis(url: object) -> bool:
    """Tell whether a URL names one Redis server that redis-py connects to by itself."""
    schemes = ("redis", "rediss", "redis+socket", "unix")
    return isinstance(url, str) and url.partition("://")[0] in schemes and ";" not in url


def is_redis(url: str | None) -> bool:
    """Tell whether a URL names a Redis-compatible server."""
    return bool(url) and str(url).split("://", 1)[0].lower() in REDIS_SCHEMES
