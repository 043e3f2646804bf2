"""Say what can be set, check it once, and name what is wrong."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.urls import RedisAddress, check_broker_url, check_history_address

PREFIX = "realtime_"

EventFilter = Callable[..., dict[str, Any] | None]
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
        history_options: Further keyword arguments of redis-py's connections to the history, such as ``ssl_context``.
        history_size: Events kept for each project.
        history_ttl: Seconds that a quiet project's history is kept.
        progress_interval: Shortest time between two progress events of a job, in seconds.
        max_payload: Largest result or custom event that is sent, in bytes of JSON.
        include_result: Whether a success carries the task's return value.
        include_traceback: Whether an error carries the traceback.
        event_filter: ``(event, project_id, payload) -> payload``, to redact an event, or None, to drop it. With a
            fourth parameter, ``audience``, it decides in the web server what each audience sees.
        project_resolver: ``(task_name, args, kwargs) -> project_id``, for jobs that name no project.
        secret_key: Signs the tokens of ``issue_token``; several keys rotate: the first signs, all verify.
        queue_size: Events that may wait in a process before the least important is dropped.
        batch_size: Most events in a broker message.
        linger: Least time, in seconds, between two batches of progress; what comes after a silence leaves at once.
        flush_timeout: Longest time, in seconds, that a process that ends waits for its last events to leave.
        lost_after: Time, in seconds, within which the jobs of a worker that was killed are told to be lost.
        max_subscriptions: Projects and jobs that one client may be subscribed to at once.
        max_connections: Connections that one user may have to one web server.
        request_rate: Requests a second that one client may make; as many as in five seconds at once.
        max_request: Longest request of a client, in bytes of JSON.
        connect_timeout: Time, in seconds, in which a new connection has to show its token.
        max_backlog: Packets that may wait for a client that reads slowly before it is disconnected; of a quarter of
            that on, its progress waits apart, the newest of each job.
        max_backlog_bytes: Bytes that may wait for such a client, answers to its requests included.
        metrics: Whether counters are exported to prometheus_client.
    """

    url: str | None = None
    channel: str = "socketio"
    wire: str = "frames"
    namespace: str = "/"
    connection_options: dict[str, Any] = {}
    history_url: str | None = "auto"
    history_options: dict[str, Any] = {}
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
    max_subscriptions: int = 200
    max_connections: int = 2000
    request_rate: float = 200.0
    max_request: int = 16384
    connect_timeout: float = 10.0
    max_backlog: int = 1000
    max_backlog_bytes: int = 16 * 1024 * 1024
    metrics: bool = False

    @property
    def history_address(self) -> RedisAddress | None:
        """Where the history is, and how to connect to it; None for no history."""
        return None if self.history_url is None else RedisAddress(self.history_url, self.history_options)

    @property
    def filters_by_audience(self) -> bool:
        """Whether ``event_filter`` decides in the web server, for each audience, and not where events come from."""
        return _takes_audience(self.event_filter)


def _takes_audience(rule: Any) -> bool:
    if rule is None:
        return False
    try:
        return "audience" in inspect.signature(rule).parameters
    except (TypeError, ValueError):
        return False


LONGEST_TIME = 10 * 365 * 86400.0

NAMES = Settings.__struct_fields__
_POSITIVE = (
    *("history_size", "history_ttl", "max_payload", "queue_size", "batch_size", "lost_after"),
    *("max_subscriptions", "max_connections", "request_rate", "max_request", "connect_timeout"),
    *("max_backlog", "max_backlog_bytes"),
)
_NOT_NEGATIVE = ("progress_interval", "linger", "flush_timeout")
_CALLABLE = ("event_filter", "project_resolver")
_TIMES = ("history_ttl", "progress_interval", "linger", "flush_timeout", "lost_after", "connect_timeout")
_SECRET = ("secret_key", "url", "history_url", "connection_options", "history_options")
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
    check_broker_url(url, f"{PREFIX}url")
    if settings.history_url != "auto" and settings.history_address is not None:
        check_history_address(settings.history_address, f"{PREFIX}history_url")
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
