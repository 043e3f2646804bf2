"""Read, check and redact the URLs of brokers and of Redis, and find what Celery knows of a connection.

Connection options travel beside a URL, never inside one: an SSL context, or a credential provider, has no text form.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit, urlunsplit

import msgspec

from celery_realtime.exceptions import ImproperlyConfigured

REDIS_SCHEMES = ("redis", "rediss", "redis+socket", "unix", "valkey", "valkeys", "sentinel")

#: The schemes of clusters, each with that of one of its nodes.
CLUSTER_SCHEMES = {"redis+cluster": "redis", "rediss+cluster": "rediss"}

#: Where Socket.IO is below the address of a web server.
_SOCKET_PATH = "socket.io"

_PASSWORD_OPTION = re.compile(r"([?&]\w*password=)[^&;]*")

#: How Celery's Redis backend can be named without a URL, or in front of one.
_REDIS_BACKENDS = (
    "redis",
    "rediss",
    "celery.backends.redis:RedisBackend",
    "celery.backends.redis.RedisBackend",
)
_SENTINEL_BACKEND = "celery.backends.redis:SentinelBackend"

#: Of ``broker_transport_options`` and ``result_backend_transport_options``, those that say how to find a master.
_SENTINEL_OPTIONS = ("master_name", "min_other_sentinels", "sentinel_kwargs")

#: Of ``broker_transport_options``, those that say how to connect. Not the time-outs: what waits for a broker for a
#: minute must not have browsers wait for a minute.
_CONNECTION_OPTIONS = ("client_name", "global_keyprefix", "health_check_interval")

#: Celery's settings that say how its result backend connects, and redis-py's words for them.
_BACKEND_SETTINGS = {
    "redis_backend_credential_provider": "credential_provider",
    "redis_backend_health_check_interval": "health_check_interval",
    "redis_client_name": "client_name",
}


class RedisAddress(msgspec.Struct, frozen=True):
    """Where a Redis is, and how to connect to it.

    Attributes:
        url: ``redis://``, ``rediss://``, ``unix://``, ``redis+socket://``, ``sentinel://host:port;sentinel://...``, or
            ``redis+cluster://host:port,host:port`` and ``rediss+cluster://...`` with nodes of a cluster.
            Options, such as ``ssl_ca_certs``, may follow a question mark, and win over ``options``.
        options: Further keyword arguments of redis-py's connections. Also ``ssl_context``, an
            :class:`ssl.SSLContext`; and, behind Sentinels, ``master_name``, ``min_other_sentinels`` and
            ``sentinel_kwargs``, the keyword arguments of the connections to the Sentinels; and, of a cluster,
            ``address_remap``, a function that is given host and port of a node and returns where it is reached.
    """

    url: str
    options: dict[str, Any] = {}

    @property
    def has_master(self) -> bool:
        """Whether it says which of the masters that its Sentinels know is meant, if it names Sentinels."""
        return "master_name" in self.options or "master_name" in url_options(self.url)


# -- reading ----------------------------------------------------------------------------------------------------


def is_plain_redis(url: object) -> bool:
    """Tell whether a URL names one Redis server that redis-py connects to by itself."""
    schemes = ("redis", "rediss", "redis+socket", "unix")
    return isinstance(url, str) and "://" in url and url.partition("://")[0] in schemes and ";" not in url


def is_sentinel(url: object) -> bool:
    """Tell whether a URL names Sentinels, which know where the Redis server is."""
    return isinstance(url, str) and all(part.startswith("sentinel://") for part in url.split(";"))


def is_cluster(url: object) -> bool:
    """Tell whether a URL names nodes of a Redis Cluster."""
    return isinstance(url, str) and all(part.partition("://")[0] in CLUSTER_SCHEMES for part in url.split(";"))


def node_urls(url: str) -> list[str]:
    """Return the URL of each node that the URL of a cluster names, as that of one Redis; that of another as it is.

    Nodes have commas between them, or each has a URL of its own, with semicolons between these. As with Sentinels, the
    first one has the user, password and database of all.
    """
    if not is_cluster(url):
        return [url]
    first = urlsplit(url.partition(";")[0])
    hosts = [host for part in url.split(";") for host in urlsplit(part).netloc.rpartition("@")[2].split(",")]
    return [_with_host(first, host, urlencode(url_options(url))) for host in hosts]


def at_node(url: str, host: str, port: int) -> str:
    """Return the URL of another node of a cluster, given that of one node or of some."""
    [first, *_] = node_urls(url)
    parts = urlsplit(first)
    return _with_host(parts, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", parts.query)


def _with_host(parts: SplitResult, host: str, query: str) -> str:
    login, at, _ = parts.netloc.rpartition("@")
    scheme = CLUSTER_SCHEMES.get(parts.scheme, parts.scheme)
    return f"{scheme}://{login}{at}{host}{parts.path}{'?' if query else ''}{query}"


def is_redis(url: str | None) -> bool:
    """Tell whether a URL names a Redis-compatible server."""
    return bool(url) and str(url).split("://", 1)[0].lower() in REDIS_SCHEMES


def kind_of_broker(url: str) -> str:
    """Return what OpenTelemetry calls the kind of a broker: ``redis``, ``rabbitmq``, or else the scheme of its URL."""
    scheme = url.partition("://")[0].lower()
    return "redis" if is_redis(url) else "rabbitmq" if "amqp" in scheme else scheme


def url_options(url: str) -> dict[str, str]:
    """Return the options that follow the question marks in a URL, or in several with semicolons between them."""
    return dict(option for part in url.split(";") for option in parse_qsl(urlsplit(part).query))


def redact(url: str) -> str:
    """Return a URL without its passwords, fit for logs and error messages."""
    url = _PASSWORD_OPTION.sub(r"\1**", url)
    head, at, tail = url.rpartition("@")
    if not at:
        return url
    scheme, slashes, credentials = head.partition("://")
    user = credentials.split(":", 1)[0]
    return f"{scheme}{slashes}{user}:**@{tail}"


# -- checking ---------------------------------------------------------------------------------------------------


def check_broker_url(url: str, setting: str, *, instead: str | None = None) -> None:
    """Refuse a URL, or several with semicolons between them, that kombu cannot use.

    Args:
        url: The URL.
        setting: What the error calls it.
        instead: The setting that can name another broker for events, if that is not the same: Celery's own may have a
            transport that kombu does not know by its name.

    Raises:
        ImproperlyConfigured: It cannot be used.
    """
    for part in url.split(";"):
        if is_cluster(part):
            raise ImproperlyConfigured(
                f"{setting} {redact(url)!r} is a Redis Cluster, which kombu cannot use as a broker; "
                "as a place for the history, set it as realtime_history_url"
            )
        if not _has_transport(part):
            raise ImproperlyConfigured(
                f"{setting} {redact(url)!r} is not a broker URL"
                f"{f' that events can travel over: set {instead} to' if instead else '; write'} one such as"
                " redis://localhost:6379/0 or amqp://guest:guest@localhost:5672//"
            )
        if not _has_readable_port(part):
            # What Python says of it may quote half a password.
            raise ImproperlyConfigured(
                f"{setting} {redact(url)!r} has a host or port that cannot be read; if its password has special"
                " characters, write them as in urllib.parse.quote(password, safe='')"
            )


def check_fan_out(url: str, setting: str, instead: str) -> None:
    """Refuse the URL of a broker that hands each message to one listener only.

    Args:
        url: The URL, or several with semicolons between them, that kombu can use.
        setting: What the error calls it.
        instead: The setting that the error has changed.

    Raises:
        ImproperlyConfigured: It is such a broker.
    """
    for part in url.split(";"):
        if not _fans_out(part.partition("://")[0]):
            raise ImproperlyConfigured(
                f"{setting} {redact(part)!r} cannot carry events, since each message goes to one listener only: "
                f"set {instead} to a Redis or RabbitMQ, such as redis://localhost:6379/0; tasks stay where they are"
            )


#: Transports that need not be loaded to know that they fan out.
_FANNING_OUT = (*REDIS_SCHEMES, "amqp", "amqps", "pyamqp", "librabbitmq", "memory")

#: Those that do not, and of which kombu says so only if the libraries that they need are installed, or wrongly.
_NOT_FANNING_OUT = ("sqs", "azureservicebus", "azurestoragequeues", "kafka", "confluentkafka")


def _fans_out(scheme: str) -> bool:
    name = scheme.partition("+")[0].lower()
    if name in _FANNING_OUT:
        return True
    if name in _NOT_FANNING_OUT:
        return False
    from kombu.transport import resolve_transport

    try:
        transport = resolve_transport(name)
    except ImportError:  # whoever connects to it is told what is missing
        return True
    return "fanout" in transport.implements.exchange_type


def check_history_address(address: RedisAddress, setting: str) -> None:
    """Refuse an address that is not that of one Redis, of Sentinels and one of their masters, or of a cluster.

    Args:
        address: The address.
        setting: What the error calls its URL.

    Raises:
        ImproperlyConfigured: It cannot be used.
    """
    url = address.url
    is_known = is_plain_redis(url) or is_sentinel(url) or is_cluster(url)
    if not is_known or not _has_readable_servers(url):
        raise ImproperlyConfigured(
            f"{setting} {redact(url)!r} is not the URL of one Redis; write one such as redis://localhost:6379/0,"
            " sentinel://localhost:26379/0?master_name=mymaster, redis+cluster://one:6379,two:6379,"
            ' "auto", or None for no history'
        )
    if is_sentinel(url) and not address.has_master:
        raise ImproperlyConfigured(
            f"{setting} {redact(url)!r} does not say which master: end it with ?master_name=mymaster"
        )


def _has_transport(url: str) -> bool:
    from kombu.transport import TRANSPORT_ALIASES

    scheme, separator, _ = url.partition("://")
    return bool(separator) and (scheme.partition("+")[0] in TRANSPORT_ALIASES or scheme in TRANSPORT_ALIASES)


def _has_readable_port(url: str) -> bool:
    try:
        urlsplit(url.partition(",")[0]).port  # noqa: B018 - reading it is the check
    except ValueError:
        return False
    return True


def _has_readable_servers(url: str) -> bool:
    try:
        return all(map(_has_readable_port, node_urls(url) if is_cluster(url) else url.split(";")))
    except ValueError:  # of an odd address in brackets
        return False


# -- what Celery knows --------------------------------------------------------------------------------------------


#: Schemes of brokers that have a host, a port, a user and a virtual host, which Celery also takes from other settings.
_WITH_HOST = ("amqp", "amqps", "pyamqp", "librabbitmq", "redis", "rediss", "valkey", "valkeys", "sentinel")


def celery_broker_url(conf: Mapping[str, Any], urls: str | Iterable[str] | None) -> str:
    """Return the URL of Celery's broker, or of several, with what Celery is told beside it.

    ``broker_user``, ``broker_password``, ``broker_port``, ``broker_vhost`` and ``broker_transport`` say what the first
    URL leaves out (celery/app/base.py, ``_connection``). It may be a mere host.

    Args:
        conf: The Celery configuration.
        urls: The URL, or URLs; None for Celery's own.
    """
    url = urls if isinstance(urls, str) else ";".join(urls or ())
    first, semicolon, others = url.partition(";")
    return _with_scheme(conf, first) + semicolon + others


def _with_scheme(conf: Mapping[str, Any], url: str) -> str:
    transport = _scheme_of_transport(conf.get("broker_transport"))
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = transport or "amqp", url
    elif "+" not in scheme:
        scheme = transport or scheme.lower()
    url = f"{scheme}://{rest}"
    return _with_parts(conf, url) if scheme in _WITH_HOST and _has_readable_port(url) else url


def _scheme_of_transport(transport: object) -> str:
    """Return the name of a transport that may be given by its class, as ``kombu.transport.redis:Transport``."""
    from kombu.transport import TRANSPORT_ALIASES

    name = str(transport or "")
    return next((alias for alias, path in TRANSPORT_ALIASES.items() if path == name), name)


def _with_parts(conf: Mapping[str, Any], url: str) -> str:
    named = {name: str(conf.get(f"broker_{name}") or "") for name in ("user", "password", "port", "vhost")}
    if not any(named.values()):
        return url
    user, password, port, vhost = (quote(value, safe="") for value in named.values())
    parts = urlsplit(url)
    login, _, place = parts.netloc.rpartition("@")
    own_user, _, own_password = login.partition(":")
    login = f"{own_user or user}:{own_password or password}".removesuffix(":")
    place = f"{place}:{port}" if port and parts.port is None else place
    path = f"/{vhost.removeprefix('%2F') if is_redis(url) else vhost}" if parts.path in ("", "/") else parts.path
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{login + '@' if login else ''}{place}{path}{query}"


def celery_broker_options(conf: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return keyword arguments of :class:`kombu.Connection` for Celery's own broker: those of Celery, then ours.

    Args:
        conf: The Celery configuration.
        options: Our ``connection_options``; ``transport_options`` in them are merged with Celery's.
    """
    celery_options: dict[str, Any] = {}
    if conf.broker_use_ssl:
        celery_options["ssl"] = conf.broker_use_ssl
    if conf.broker_login_method:
        celery_options["login_method"] = conf.broker_login_method
    transport = {**(conf.broker_transport_options or {}), **options.get("transport_options", {})}
    return {**celery_options, **options, "transport_options": transport}


def celery_redis(conf: Any, broker_url: str | None, broker_options: Mapping[str, Any]) -> RedisAddress | None:
    """Return the address of Celery's result backend, or else of the broker, if it is a Redis.

    Args:
        conf: The Celery configuration.
        broker_url: The broker's URL.
        broker_options: Its keyword arguments of :class:`kombu.Connection`.
    """
    return _celery_backend(conf) or redis_address(
        broker_url, broker_options.get("ssl"), broker_options.get("transport_options")
    )


def _celery_backend(conf: Any) -> RedisAddress | None:
    """Return the address of Celery's result backend, as Celery reads it (celery/app/backends.py, ``by_url``)."""
    named = conf.result_backend if isinstance(conf.result_backend, str) else ""
    tls, options = conf.redis_backend_use_ssl, conf.result_backend_transport_options or {}
    if "://" not in named and named in _REDIS_BACKENDS:
        return _backend_of_parts(conf, tls)
    scheme, separator, rest = named.partition("+")
    if separator and scheme in (*_REDIS_BACKENDS, "sentinel", _SENTINEL_BACKEND) and not rest.startswith("socket:"):
        named = rest
    address = redis_address(named, tls, {name: options[name] for name in _SENTINEL_OPTIONS if name in options})
    return None if address is None else _with_backend_options(conf, _with_backend_parts(conf, address))


def _with_backend_options(conf: Any, address: RedisAddress) -> RedisAddress:
    """Return the address of the result backend with what other settings say of it."""
    named = {word: conf.get(setting) for setting, word in _BACKEND_SETTINGS.items()}
    prefix = (conf.result_backend_transport_options or {}).get("global_keyprefix")
    if prefix:  # celery/backends/base.py, ``_add_global_keyprefix``
        named["global_keyprefix"] = prefix if prefix[-1] in ":_-." else f"{prefix}_"
    given = {name: value for name, value in named.items() if value}
    return msgspec.structs.replace(address, options={**given, **address.options})


def _with_backend_parts(conf: Any, address: RedisAddress) -> RedisAddress:
    """Return the address of the result backend with what its URL leaves to ``redis_host``, ``redis_password`` ..."""
    first = urlsplit(address.url.partition(";")[0])
    in_url: dict[str, object] = {"username": first.username, "password": first.password}
    if first.scheme in ("redis", "rediss"):
        in_url |= {"host": first.hostname, "port": first.port if _has_readable_port(address.url) else None}
    if "credential_provider" in url_options(address.url) or conf.get("redis_backend_credential_provider"):
        in_url = {name: value for name, value in in_url.items() if name in ("host", "port")}
    beside = {name: conf.get(f"redis_{name}") for name, value in in_url.items() if not value}
    given = {name: value for name, value in beside.items() if value}
    return msgspec.structs.replace(address, options={**given, **address.options})


def _backend_of_parts(conf: Any, tls: Any) -> RedisAddress | None:
    """Return the address of the result backend ``redis``, which is in the settings ``redis_host`` and so on."""
    host = str(conf.get("redis_host") or "localhost")
    host = f"[{host}]" if ":" in host else host
    database = str(conf.get("redis_db") or 0).strip("/")
    url = f"redis://{host}:{conf.get('redis_port') or 6379}/{database}"
    address = redis_address(url, tls, None)
    parts = {name: conf.get(f"redis_{name}") for name in ("username", "password")}
    given = {name: value for name, value in parts.items() if value}
    if address is None:
        return None
    return _with_backend_options(conf, msgspec.structs.replace(address, options={**given, **address.options}))


def redis_address(url: str | None, tls: Any, transport_options: Mapping[str, Any] | None) -> RedisAddress | None:
    """Return the address of a Redis as Celery is told it.

    Args:
        url: Of the result backend or the broker.
        tls: ``redis_backend_use_ssl`` or ``broker_use_ssl``: options, or True.
        transport_options: ``result_backend_transport_options`` or ``broker_transport_options``.

    Returns:
        The address, or None if it is not a Redis, or Sentinels are not told which master is meant.
    """
    if url is None or not (is_plain_redis(url) or is_sentinel(url)):
        return None
    options: dict[str, Any] = dict(tls) if isinstance(tls, Mapping) else {}
    given = transport_options or {}
    options |= {name: given[name] for name in _CONNECTION_OPTIONS if given.get(name)}
    if is_sentinel(url):
        options |= {name: given[name] for name in _SENTINEL_OPTIONS if given.get(name) is not None}
        options = {"ssl_cert_reqs": ssl.CERT_REQUIRED, **options} if tls else options
    elif tls and url.startswith("redis://"):
        url = "rediss" + url.removeprefix("redis")
    address = RedisAddress(url, {name: value for name, value in options.items() if value is not None})
    return None if is_sentinel(url) and not address.has_master else address


def place_of_socket(url: str) -> tuple[str, str]:
    """Return the address of a web server without the path, and the path of its Socket.IO server."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path="")), f"{parts.path.strip('/')}/{_SOCKET_PATH}".strip("/")
