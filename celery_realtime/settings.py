"""Define what can be set: each name, default, type and check once; read everywhere from here."""

from __future__ import annotations

import difflib
import inspect
import re
import ssl
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Protocol, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl, quote, urlsplit

import msgspec

from celery_realtime.exceptions import ImproperlyConfigured

PREFIX = "realtime_"
REDIS_SCHEMES = ("redis", "rediss", "redis+socket", "unix", "valkey", "valkeys", "sentinel")

#: The longest length of time, in seconds: what is much longer, no clock can wait.
LONGEST_TIME = 10 * 365 * 86400.0


class EventRule(Protocol):
    """An ``event_filter`` that decides for everybody, where events come from."""

    def __call__(self, event: str, project_id: str, payload: Any, /) -> Any:
        """Return the payload to send, changed or not, or None to drop the event."""


class AudienceRule(Protocol):
    """An ``event_filter`` that decides for each audience, in the web server."""

    def __call__(self, event: str, project_id: str, payload: Any, audience: str | None, /) -> Any:
        """Return what the audience sees of the payload, or None for nothing."""


class ProjectResolver(Protocol):
    """A ``project_resolver``."""

    def __call__(self, task_name: str, args: tuple[Any, ...], kwargs: dict[str, Any], /) -> object:
        """Return the project id of a job that names none, or None."""


# -- what a value has to be -------------------------------------------------------------------------------------

Check = Callable[[str, Any], None]


def _above_zero(name: str, value: Any) -> None:
    if not value > 0:
        raise ImproperlyConfigured(f"{PREFIX}{name} must be above 0, not {value!r}")


def _not_negative(name: str, value: Any) -> None:
    if not value >= 0:
        raise ImproperlyConfigured(f"{PREFIX}{name} must be 0 or more, not {value!r}")


def _not_endless(name: str, value: Any) -> None:
    if value > LONGEST_TIME:
        raise ImproperlyConfigured(f"{PREFIX}{name} must be at most {LONGEST_TIME:.0f} seconds, ten years")


def _not_empty(name: str, value: Any) -> None:
    if value in ("", ()) or (isinstance(value, tuple) and "" in value):
        raise ImproperlyConfigured(f"{PREFIX}{name} must not be empty")


def _a_wire(name: str, value: Any) -> None:
    if value not in ("frames", "stock"):
        raise ImproperlyConfigured(f"{PREFIX}{name} must be 'frames' or 'stock', not {value!r}")


def _a_namespace(name: str, value: Any) -> None:
    if not value.startswith("/"):
        raise ImproperlyConfigured(f"{PREFIX}{name} must start with '/', not {value!r}")


def _a_broker(name: str, value: Any) -> None:
    _not_empty(name, value)
    if value is not None:
        _check_url(value)


def _a_redis(_name: str, value: Any) -> None:
    _check_history_url(value)


Number = Annotated[int, _above_zero]
Rate = Annotated[float, _above_zero]
Span = Annotated[float, _above_zero, _not_endless]
Pause = Annotated[float, _not_negative, _not_endless]
Word = Annotated[str, _not_empty]


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
        event_filter_audience: Whether ``event_filter`` decides for each audience, with a fourth argument; None for
            whether it has a parameter named ``audience``.
        project_resolver: ``(task_name, args, kwargs) -> project_id``, for jobs that name no project.
        secret_key: Signs the tokens of ``issue_token``; several keys rotate: the first signs, all verify.
        queue_size: Events that may wait in a process before the least important is dropped.
        batch_size: Most events in a broker message.
        linger: Least time, in seconds, between two batches of progress; what comes after a silence leaves at once.
        flush_timeout: Longest time, in seconds, that a process that ends waits for its last events to leave.
        lost_after: Time, in seconds, within which the jobs of a worker that was killed are reported as lost.
        max_subscriptions: Projects and jobs that one client may be subscribed to at once.
        max_connections: Connections that one user may have to one web server.
        request_rate: Requests a second that one client may make; as many as in five seconds at once.
        max_request: Longest request of a client, in bytes of JSON.
        connect_timeout: Time, in seconds, in which a new connection has to show its token.
        max_backlog: Packets that may wait for a client that reads slowly before it is disconnected; of a quarter of
            that on, its progress waits apart, the newest of each job.
        max_backlog_bytes: Bytes that may wait for such a client, answers to its requests included.
        metrics: Reserved: accepted, and without effect in this version.
    """

    url: Annotated[str | None, _a_broker] = None
    channel: Word = "socketio"
    wire: Annotated[str, _a_wire] = "frames"
    namespace: Annotated[str, _a_namespace] = "/"
    connection_options: dict[str, Any] = {}
    history_url: Annotated[str | None, _a_redis] = "auto"
    history_size: Number = 1000
    history_ttl: Span = 86400.0
    progress_interval: Pause = 5.0
    max_payload: Number = 65536
    include_result: bool = True
    include_traceback: bool = False
    event_filter: EventRule | AudienceRule | None = None
    event_filter_audience: bool | None = None
    project_resolver: ProjectResolver | None = None
    secret_key: Annotated[str | tuple[str, ...] | None, _not_empty] = None
    queue_size: Number = 10000
    batch_size: Number = 100
    linger: Pause = 0.005
    flush_timeout: Pause = 5.0
    lost_after: Span = 30.0
    max_subscriptions: Number = 200
    max_connections: Number = 2000
    request_rate: Rate = 200.0
    max_request: Number = 16384
    connect_timeout: Span = 10.0
    max_backlog: Number = 1000
    max_backlog_bytes: Number = 16 * 1024 * 1024
    metrics: bool = False

    @property
    def filters_by_audience(self) -> bool:
        """Whether ``event_filter`` decides in the web server, for each audience, and not where events come from."""
        if self.event_filter is None:
            return False
        if self.event_filter_audience is not None:
            return self.event_filter_audience
        return "audience" in (_parameters(self.event_filter) or ())


def _parameters(rule: Any) -> Mapping[str, inspect.Parameter] | None:
    try:
        return inspect.signature(rule).parameters
    except (TypeError, ValueError):
        return None


# -- resolving --------------------------------------------------------------------------------------------------

NAMES = Settings.__struct_fields__
_TYPES: dict[str, Any] = get_type_hints(Settings, include_extras=True)
_CALLABLE = ("event_filter", "project_resolver")
_SECRET = ("secret_key", "url", "history_url", "connection_options")


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
    values = check(keywords, conf, namespace)
    if values.get("url") is None:
        values["url"] = check_broker(broker_url)
    return Settings(**values)


def check(keywords: Mapping[str, Any], conf: Mapping[str, Any], namespace: str | None = None) -> dict[str, Any]:
    """Return all values that are set, by their names, each of a right name, type and range.

    Raises:
        ImproperlyConfigured: One is not.
    """
    check_names(keywords, prefix="")
    values = conf_values(conf, namespace)
    check_names(values)
    checked = {name: _checked(name, value) for name, value in {**values, **keywords}.items()}
    _check_filter(Settings(**checked))
    return checked


def check_broker(broker_url: str | Iterable[str]) -> str:
    """Return the URL of Celery's own broker, or of several.

    Raises:
        ImproperlyConfigured: It cannot be used.
    """
    url = broker_url if isinstance(broker_url, str) else ";".join(broker_url)
    _check_url(url)
    return url


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


def _checked(name: str, value: Any) -> Any:
    """Return a value of the right type and range."""
    if name == "secret_key" and isinstance(value, list):
        value = tuple(value)
    if name in _CALLABLE:
        if value is not None and not callable(value):
            raise ImproperlyConfigured(f"{PREFIX}{name} must be callable, not {value!r}")
        return value
    kind, *checks = get_args(_TYPES[name]) if get_origin(_TYPES[name]) is Annotated else (_TYPES[name],)
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        shown = type(value).__name__ if name in _SECRET else repr(value)
        raise ImproperlyConfigured(f"{PREFIX}{name} has a bad value, {shown}: {error}") from None
    for refuse in checks:
        refuse(name, value)
    return value


def _check_filter(settings: Settings) -> None:
    """Refuse an ``event_filter`` that cannot be called with what it would be given."""
    if settings.event_filter is None:
        return
    given = ["event", "project_id", "payload", *(["audience"] if settings.filters_by_audience else [])]
    try:
        inspect.signature(settings.event_filter).bind(*given)
    except ValueError:  # it has no signature
        return
    except TypeError:
        raise ImproperlyConfigured(
            f"{PREFIX}event_filter must take {', '.join(given)}: see {PREFIX}event_filter_audience"
        ) from None


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
