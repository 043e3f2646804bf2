"""Define what can be set: each name, default, type and check once; read everywhere from here."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Protocol, get_args, get_origin, get_type_hints

import msgspec

from celery_realtime.environments import name_in_history, prefix_of
from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.secret_keys import check_secret
from celery_realtime.urls import RedisAddress, check_broker_url, check_fan_out, check_history_address

PREFIX = "realtime_"

#: The most shards that the projects can be divided into.
MOST_SHARDS = 16384

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


class LogRule(Protocol):
    """A ``log_filter``."""

    def __call__(self, item: dict[str, Any], /) -> dict[str, Any] | None:
        """Return what is shown of a line of a job's log, the item or another one, or None for nothing."""


# -- what a value has to be -------------------------------------------------------------------------------------

Check = Callable[[str, Any], None]


def _above_zero(name: str, value: Any) -> None:
    if not value > 0:
        raise ImproperlyConfigured(f"{PREFIX}{name} must be above 0, not {value!r}")


def _above_zero_if_any(name: str, value: Any) -> None:
    if value is not None:
        _above_zero(name, value)


def _not_negative(name: str, value: Any) -> None:
    if not value >= 0:
        raise ImproperlyConfigured(f"{PREFIX}{name} must be 0 or more, not {value!r}")


def _not_endless(name: str, value: Any) -> None:
    if value > LONGEST_TIME:
        raise ImproperlyConfigured(f"{PREFIX}{name} must be at most {LONGEST_TIME:.0f} seconds, ten years")


def _not_endless_if_any(name: str, value: Any) -> None:
    if value is not None:
        _not_endless(name, value)


def _not_empty(name: str, value: Any) -> None:
    if value in ("", ()) or (isinstance(value, tuple) and "" in value):
        raise ImproperlyConfigured(f"{PREFIX}{name} must not be empty")


def _secret(name: str, value: Any) -> None:
    for secret in (value,) if isinstance(value, str) else value or ():
        check_secret(f"{PREFIX}{name}", secret)


def _a_wire(name: str, value: Any) -> None:
    if value not in ("frames", "stock"):
        raise ImproperlyConfigured(f"{PREFIX}{name} must be 'frames' or 'stock', not {value!r}")


def _a_namespace(name: str, value: Any) -> None:
    if not value.startswith("/"):
        raise ImproperlyConfigured(f"{PREFIX}{name} must start with '/', not {value!r}")


def _a_broker(name: str, value: Any) -> None:
    _not_empty(name, value)
    if value is not None:
        check_broker_url(value, f"{PREFIX}{name}")
        check_fan_out(value, f"{PREFIX}{name}", f"{PREFIX}{name}")


def _a_number_of_shards(name: str, value: Any) -> None:
    if not 1 <= value <= MOST_SHARDS:
        raise ImproperlyConfigured(f"{PREFIX}{name} must be from 1 to {MOST_SHARDS}, not {value!r}")


def _a_port(name: str, value: Any) -> None:
    if value is not None and not 1 <= value <= 65535:
        raise ImproperlyConfigured(f"{PREFIX}{name} must be from 1 to 65535, not {value!r}")


def log_level(value: object) -> int | None:
    """Return the level from which on lines of a job's log are kept, of what ``capture_logs`` is set to; None for none.

    Raises:
        ValueError: It is no level.
    """
    if value is None or value is False:
        return None
    if value is True:
        return logging.INFO
    level = logging.getLevelName(value.upper()) if isinstance(value, str) else value
    if type(level) is not int or level < 0:
        raise ValueError(f'must be a level such as "INFO", or None, not {value!r}')
    return level


def _a_log_level(name: str, value: Any) -> None:
    try:
        log_level(value)
    except ValueError as error:
        raise ImproperlyConfigured(f"{PREFIX}{name} {error}") from None


Number = Annotated[int, _above_zero]
Rate = Annotated[float, _above_zero]
Span = Annotated[float, _above_zero, _not_endless]
Pause = Annotated[float, _not_negative, _not_endless]
Word = Annotated[str, _not_empty]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one :class:`~celery_realtime.Realtime`, each readable as ``realtime_<name>`` in ``app.conf``.

    Attributes:
        enabled: False for tests: nothing is reported, stored, sent or waited for, and no broker is needed.
        url: Broker URL that events travel over; default: Celery's own broker.
        channel: Name of the fan-out exchange or channel, the same on both sides.
        wire: ``frames`` (many events in a broker message) or ``stock`` (python-socketio's own format).
        namespace: Socket.IO namespace.
        shards: Parts that the projects are divided into; a web server hears of those only that its clients watch.
        connection_options: Further keyword arguments of :class:`kombu.Connection`.
        history_url: Redis URL of the history; None for none, "auto" for the result backend or broker if it is Redis.
        history_options: Further keyword arguments of redis-py's connections to the history, such as ``ssl_context``.
        history_size: Events kept for each project.
        history_ttl: Seconds that a quiet project's history is kept.
        progress_interval: Shortest time between two progress events of a job, in seconds.
        progress_interval_watched: The same while somebody watches the job's project, if that is shorter and there is a
            history.
        stream_interval: Time, in seconds, within which what is written to a stream is sent as one chunk.
        stream_chunk: Bytes of a chunk, about; what is more is several. An item of JSON is never divided.
        stream_size: Bytes of each stream that are kept, its newest.
        streams_per_job: Streams that one process may write for a job.
        streams_per_project: Streams that are kept for each project; beyond them, those that were quiet longest go.
        capture_logs: Level from which on what jobs log and print becomes their stream ``log``, such as ``"INFO"``; None
            for not at all.
        log_filter: ``(item) -> item``, to redact a line of a job's log, or None, to leave it out.
        log_rate: Lines of a job's log a second; what is more is left out, and counted in the log.
        log_burst: Most lines of it at once.
        log_message_size: Characters of a line of it; what is more is cut off, and counted in the line.
        keep_messages: Whether the messages of jobs are kept, sealed, so that the jobs can be run again; a task may say
            it, too. Needs a ``secret_key``, a history and ``celery-realtime[rerun]``.
        keep_messages_ttl: Seconds that a message is kept; None for ``history_ttl``.
        keep_messages_per_project: Messages that are kept of each project, the latest.
        keep_messages_size: Bytes of messages that are kept of each project, the latest.
        keep_message_size: Most bytes of a message that is kept.
        max_payload: Largest result or custom event that is sent, in bytes of JSON.
        metadata_size: Most metadata of a job, in bytes of JSON.
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
        http_streams: Streams of server-sent events that a web server process has at once; None for half of its threads,
            or 200 where their number is not known, and 1,000 without threads.
        http_keep_alive: Time, in seconds, after which a stream that is silent gets a comment.
        http_max_age: Time, in seconds, about, after which a stream ends; its client comes back and resumes.
        health_file: File into which a worker writes its health every second, for probes; None for none.
        metrics: Whether metrics are collected for Prometheus; needs ``celery-realtime[metrics]``.
        metrics_port: TCP port on which a worker's main process serves them; None for none.
        metrics_host: Address on which it does.
        metrics_tasks: Whether published events are counted by the name of their task too.
        tracing: Whether OpenTelemetry gets spans of what becomes of events, and events the id of their trace.
    """

    enabled: bool = True
    url: Annotated[str | None, _a_broker] = None
    channel: Word = "socketio"
    wire: Annotated[str, _a_wire] = "frames"
    namespace: Annotated[str, _a_namespace] = "/"
    shards: Annotated[int, _a_number_of_shards] = 1
    connection_options: dict[str, Any] = {}
    history_url: str | None = "auto"
    history_options: dict[str, Any] = {}
    history_size: Number = 1000
    history_ttl: Span = 86400.0
    progress_interval: Pause = 5.0
    progress_interval_watched: Pause = 0.25
    stream_interval: Span = 0.04
    stream_chunk: Number = 16384
    stream_size: Number = 1024 * 1024
    streams_per_job: Number = 100
    streams_per_project: Number = 1000
    capture_logs: Annotated[str | int | bool | None, _a_log_level] = None
    log_filter: LogRule | None = None
    log_rate: Rate = 100.0
    log_burst: Number = 1000
    log_message_size: Number = 8192
    keep_messages: bool = False
    keep_messages_ttl: Annotated[float | None, _above_zero_if_any, _not_endless_if_any] = None
    keep_messages_per_project: Number = 1000
    keep_messages_size: Number = 16 * 1024 * 1024
    keep_message_size: Number = 65536
    max_payload: Number = 65536
    metadata_size: Number = 65536
    include_result: bool = True
    include_traceback: bool = False
    event_filter: EventRule | AudienceRule | None = None
    event_filter_audience: bool | None = None
    project_resolver: ProjectResolver | None = None
    secret_key: Annotated[str | tuple[str, ...] | None, _not_empty, _secret] = None
    queue_size: Number = 10000
    batch_size: Number = 100
    linger: Pause = 0.005
    flush_timeout: Pause = 5.0
    lost_after: Span = 30.0
    max_subscriptions: Number = 200
    max_connections: Number = 800
    request_rate: Rate = 200.0
    max_request: Number = 16384
    connect_timeout: Span = 10.0
    max_backlog: Number = 1000
    max_backlog_bytes: Number = 16 * 1024 * 1024
    http_streams: Annotated[int | None, _above_zero_if_any] = None
    http_keep_alive: Span = 15.0
    http_max_age: Span = 3600.0
    health_file: Annotated[str | None, _not_empty] = None
    metrics: bool = False
    metrics_port: Annotated[int | None, _a_port] = None
    metrics_host: Word = "127.0.0.1"
    metrics_tasks: bool = False
    tracing: bool = False

    @property
    def history_address(self) -> RedisAddress | None:
        """Where the history is, and how to connect to it; None for no history."""
        return None if self.history_url is None else RedisAddress(self.history_url, self.history_options)

    @property
    def history_channel(self) -> str:
        """What the history calls the channel; see :func:`~celery_realtime.environments.name_in_history`."""
        address = self.history_address
        prefix = None if address is None else prefix_of(address)
        return name_in_history(self.channel, self.url or "", self.connection_options, prefix)

    @property
    def messages_ttl(self) -> float:
        """Seconds that the message of a job is kept."""
        return self.history_ttl if self.keep_messages_ttl is None else self.keep_messages_ttl

    @property
    def lack_of_keeping(self) -> str | None:
        """What is missing before messages of jobs can be kept, as a sentence has it; None if nothing is."""
        if not self.secret_key or self.history_url is None:
            return f"needs both {PREFIX}secret_key and a history ({PREFIX}history_url)"
        if importlib.util.find_spec("cryptography") is None:
            return "needs cryptography: pip install celery-realtime[rerun]"
        return None

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
#: What ``celery_realtime.contrib.django`` reads from Django's settings under the same prefix: rules, and no settings.
OF_DJANGO = ("authenticate", "authorize", "authorize_cancel", "authorize_rerun", "audience")
_TYPES: dict[str, Any] = get_type_hints(Settings, include_extras=True)
_CALLABLE = ("event_filter", "log_filter", "project_resolver")
_SECRET = ("secret_key", "url", "history_url", "connection_options", "history_options")


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
    settings = Settings(**checked)
    _check_filter(settings)
    if settings.wire == "stock" and settings.shards > 1:
        raise ImproperlyConfigured(
            f"{PREFIX}shards needs {PREFIX}wire='frames': python-socketio's own managers listen to one channel, and "
            f"would hear of nothing; leave {PREFIX}shards at 1"
        )
    _check_observers(settings)
    check_keeping(settings)
    if settings.history_url != "auto" and settings.history_address is not None:
        check_history_address(settings.history_address, f"{PREFIX}history_url")
    return checked


def _check_observers(settings: Settings) -> None:
    for name, is_on, module in (
        ("metrics", settings.metrics, "prometheus_client"),
        ("tracing", settings.tracing, "opentelemetry"),
    ):
        if is_on and importlib.util.find_spec(module) is None:
            extra = "otel" if name == "tracing" else name
            raise ImproperlyConfigured(
                f"{PREFIX}{name} needs {module}: pip install celery-realtime[{extra}], or leave it off"
            )
    if settings.metrics_port is not None and not settings.metrics:
        raise ImproperlyConfigured(f"{PREFIX}metrics_port needs {PREFIX}metrics=True: without it there is nothing")


def check_keeping(settings: Settings) -> None:
    """Refuse to keep messages where that cannot work.

    Raises:
        ImproperlyConfigured: Something is missing; the message names it.
    """
    lack = settings.lack_of_keeping if settings.keep_messages and settings.enabled else None
    if lack is not None:
        raise ImproperlyConfigured(f"{PREFIX}keep_messages {lack}, or leave it off")


def check_broker(broker_url: str | Iterable[str]) -> str:
    """Return the URL of Celery's own broker, or of several.

    Raises:
        ImproperlyConfigured: It cannot be used.
    """
    url = broker_url if isinstance(broker_url, str) else ";".join(broker_url)
    check_broker_url(url, "broker_url", instead=f"{PREFIX}url")
    check_fan_out(url, "broker_url", f"{PREFIX}url")
    return url


def conf_values(conf: Mapping[str, Any], namespace: str | None = None) -> dict[str, Any]:
    """Return the ``realtime_*`` values in a Celery configuration, by their names without any prefix."""
    # A loaded configuration knows itself which of the two ways of writing a name beats the other.
    return {
        name: conf.get(PREFIX + name, conf[key])
        for name, key in _conf_keys(conf, namespace).items()
        if key.startswith(PREFIX) or name not in OF_DJANGO
    }


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
    """Refuse an ``event_filter``, or ``log_filter``, that cannot be called with what it would be given."""
    given = ["event", "project_id", "payload", *(["audience"] if settings.filters_by_audience else [])]
    if not _takes(settings.event_filter, given):
        raise ImproperlyConfigured(
            f"{PREFIX}event_filter must take {', '.join(given)}: see {PREFIX}event_filter_audience"
        )
    if not _takes(settings.log_filter, ["item"]):
        raise ImproperlyConfigured(f"{PREFIX}log_filter must take one argument, the item, and return it, or None")


def _takes(rule: Any, given: list[str]) -> bool:
    """Return whether a rule can be called with so many arguments, as far as that can be known."""
    try:
        inspect.signature(rule or (lambda *_: None)).bind(*given)
    except ValueError:  # it has no signature
        return True
    except TypeError:
        return False
    return True
