"""Say what can be set, check it once, and name what is wrong."""

from __future__ import annotations

import difflib
import inspect
import re
import ssl
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import msgspec

from celery_realtime.exceptions import ImproperlyConfigured

PREFIX = "realtime_"
REDIS_SCHEMES = ("redis", "rediss", "redis+socket", "unix", "valkey", "valkeys", "sentinel")

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
    if url in (None, "auto"):
        return
    known = is_plain_redis(url) or is_sentinel(url)
    if not (known and all(_is_readable(part) for part in str(url).split(";"))):
        raise ImproperlyConfigured(
            f"{PREFIX}history_url {redact(str(url))!r} is no URL of one Redis; write one such as redis://localhost:6379/0,"
            ' sentinel://localhost:26379/0?master_name=mymaster, "auto", or None for no history'
        )
    if is_sentinel(url) and "master_name" not in url_options(str(url)):
        raise ImproperlyConfigured(
            f"{PREFIX}history_url {redact(str(url))!r} does not say which master: end it with ?master_name=mymaster"
        )


def _is_readable(url: str) -> bool:
    try:
        urlsplit(url.partition(",")[0]).port  # noqa: B018 - reading it is the check
    except ValueError:
        return False
    return True


def redact(url: str) -> str:
    """Return a URL without its passwords, fit for logs and error messages."""
    url = _PASSWORD_OPTION.sub(r"\1**", url)
    head, at, tail = url.rpartition("@")
    if not at:
        return url
    scheme, slashes, credentials = head.partition("://")
    user = credentials.split(":", 1)[0]
    return f"{scheme}{slashes}{user}:**@{tail}"


_PASSWORD_OPTION = re.compile(r"([?&]\w*password=)[^&;]*")


def url_options(url: str) -> dict[str, str]:
    """Return the options that follow the question marks in a URL, or in several with semicolons between them."""
    return dict(option for part in url.split(";") for option in parse_qsl(urlsplit(part).query))


def as_history_url(url: str | None, tls: Any, transport_options: Mapping[str, Any] | None) -> str | None:
    """Return the URL of a Redis with what else Celery was told of it, so that it alone says how to connect.

    Options that are objects have no form in a URL, and are left out.

    Args:
        url: Of the result backend or the broker.
        tls: ``redis_backend_use_ssl`` or ``broker_use_ssl``.
        transport_options: ``result_backend_transport_options`` or ``broker_transport_options``.

    Returns:
        The URL, or None if there is no Redis, or Sentinels are not told which one.
    """
    if url is None or not (is_plain_redis(url) or is_sentinel(url)):
        return None
    whole = _with_options(url, tls, transport_options or {})
    return None if is_sentinel(url) and "master_name" not in url_options(whole) else whole


def _with_options(url: str, tls: Any, transport_options: Mapping[str, Any]) -> str:
    options: dict[str, Any] = dict(tls) if isinstance(tls, Mapping) else {}
    if is_sentinel(url):
        options |= _sentinel_options(transport_options)
        options |= {"ssl_cert_reqs": ssl.CERT_REQUIRED, **options} if tls else {}
    elif tls and url.startswith("redis://"):
        url = "rediss" + url.removeprefix("redis")
    there = url_options(url)
    written = {name: _in_url(name, value) for name, value in options.items() if name not in there}
    more = "&".join(f"{name}={text}" for name, text in written.items() if text is not None)
    separator = "&" if urlsplit(url.rpartition(";")[2]).query else "?"
    return f"{url}{separator}{more}" if more else url


def _sentinel_options(given: Mapping[str, Any]) -> dict[str, Any]:
    names = ("master_name", "min_other_sentinels")
    to_sentinel = given.get("sentinel_kwargs") or {}
    return {
        **{name: given[name] for name in names if name in given},
        **{f"sentinel_{name}": value for name, value in to_sentinel.items()},
    }


def _in_url(name: str, value: object) -> str | None:
    """Return the value of an option as it is written in a URL, or None if it cannot be."""
    if name.endswith("ssl_cert_reqs") and (value is None or isinstance(value, int)):
        return ssl.VerifyMode(value or 0).name.removeprefix("CERT_").lower()
    if not isinstance(value, str | int | float):
        return None
    number = isinstance(value, int) and not isinstance(value, bool)  # those of the module ssl have names of their own
    return quote(str(int(value) if number else value), safe="/")


def is_plain_redis(url: object) -> bool:
    """Tell whether a URL names one Redis server that redis-py connects to by itself."""
    schemes = ("redis", "rediss", "redis+socket", "unix")
    return isinstance(url, str) and url.partition("://")[0] in schemes and ";" not in url


def is_sentinel(url: object) -> bool:
    """Tell whether a URL names Sentinels, which know where the Redis server is."""
    return isinstance(url, str) and all(part.startswith("sentinel://") for part in url.split(";"))


def is_redis(url: str | None) -> bool:
    """Tell whether a URL names a Redis-compatible server."""
    return bool(url) and str(url).split("://", 1)[0].lower() in REDIS_SCHEMES
