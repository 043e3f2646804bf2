"""Turn the address of a Redis into clients: over TCP, a unix socket or TLS, found by Sentinels, or of a cluster."""

from __future__ import annotations

import functools
import importlib
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from celery_realtime.crowd import Crowd, CrowdedError, clients_of
from celery_realtime.history.cluster import Cluster
from celery_realtime.history.seams import (
    BlockingSentinelPool,
    ContextConnection,
    FrugalPool,
    SentinelContextConnection,
    close_sentinels,
    parse_options,
)
from celery_realtime.history.slots import Node
from celery_realtime.urls import RedisAddress, at_node, is_cluster, is_sentinel, node_urls, url_options

#: Whatever can go wrong with Redis.
ERRORS = (redis.RedisError,)

#: Seconds that connecting, or an answer, may take.
TIMEOUT = 1.0

#: Connections of a process, and for how many seconds a thread that finds all in use waits for one. When all clients of
#: a web server come back at once they are answered one after the other.
MOST_CONNECTIONS = 8
TURN_TIMEOUT = 5.0

SENTINEL_PORT = 26379
PORT = 6379

#: Of a cluster, the option that is a function of host and port, as redis-py has it.
REMAP = "address_remap"

#: In a URL, the names of options that are for the Sentinels themselves begin with this.
SENTINEL_PREFIX = "sentinel_"

#: Celery's words for how a certificate is checked, and redis-py's.
_CERT_REQS = {"CERT_REQUIRED": "required", "CERT_OPTIONAL": "optional", "CERT_NONE": "none"}

_BOUNDS: dict[str, Any] = {"max_connections": MOST_CONNECTIONS, "timeout": TURN_TIMEOUT}


class RedisConnection:
    """Clients that connect when they are first used, and never wait long.

    Args:
        address: Of the Redis.

    Attributes:
        client: The client; of a cluster, that of a node which its URL names.
        cluster: The nodes, of a cluster and of what may turn out to be one; None behind Sentinels or a unix socket.

    Raises:
        ValueError, TypeError, redis.RedisError: The address cannot be used.
    """

    def __init__(self, address: RedisAddress) -> None:
        self._sentinel = _sentinel(address) if is_sentinel(address.url) else None
        self._is_confined = False
        remap = address.options.get(REMAP)
        self._address = RedisAddress(
            address.url, {name: value for name, value in address.options.items() if name != REMAP}
        )
        first, *others = node_urls(address.url)
        if self._sentinel is not None:
            self.client = self._prepare(_master_client(self._address, self._sentinel))
        else:
            self.client = self._prepare(_client(RedisAddress(first, self._address.options)))
        self.cluster = None
        if first.startswith(("redis:", "rediss:")):
            seeds = [_host_and_port(url, PORT) for url in (first, *others)]
            self.cluster = Cluster(seeds, self._connect, remap=remap, is_cluster=is_cluster(address.url))

    def _connect(self, node: Node) -> redis.Redis:
        """Return the client of a node."""
        options = {name: value for name, value in self._address.options.items() if name not in ("host", "port")}
        client = self._prepare(_client(RedisAddress(at_node(self._address.url, *node), options)))
        if self._is_confined:
            _confine(client)
        return client

    def _prepare(self, client: redis.Redis) -> redis.Redis:
        pool: Any = client.connection_pool
        pool.connection_kwargs.setdefault("redis_connect_func", functools.partial(_greet, pool))
        if issubclass(pool.connection_class, redis.SSLConnection) and "ssl_context" not in pool.connection_kwargs:
            _check_name(pool.connection_kwargs)
        pool.connection_class(**pool.connection_kwargs)  # it connects later, and says now what it cannot take
        return client

    @property
    def _clients(self) -> list[redis.Redis]:
        return [self.client, *([] if self.cluster is None else self.cluster.clients)]

    @property
    def sentinels(self) -> list[redis.Redis]:
        """The clients of the Sentinels."""
        return [] if self._sentinel is None else list(self._sentinel.sentinels)

    def client_at(self, options: Mapping[str, Any]) -> redis.Redis | None:
        """Return the client if another one of redis-py with these options of its connections has the same data.

        Behind Sentinels there is no telling, and in a cluster it would have only a part.
        """
        is_elsewhere = self._sentinel is not None or (self.cluster is not None and self.cluster.is_cluster)
        if is_elsewhere or "service_name" in options:
            return None
        own: Any = self.client.connection_pool
        return self.client if _place(options) == _place(own.connection_kwargs) else None

    def confine(self) -> None:
        """Make do with one connection from now on, to each node, for which threads wait; while none is in use."""
        self._is_confined = True
        for client in self._clients:
            _confine(client)

    def close_free(self) -> None:
        """Close what no thread uses now; the next command connects again."""
        for client in self._clients:
            pool: Any = client.connection_pool
            pool.close_free()

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients:
            client.close()
            client.connection_pool.disconnect()
        if self._sentinel is not None:
            close_sentinels(self._sentinel)


def _confine(client: redis.Redis) -> None:
    pool: Any = client.connection_pool
    pool.max_connections = 1
    pool.reset()


def _greet(pool: Any, connection: Any) -> None:
    """Greet the server with a new connection, and leave again if it needs the room for others.

    Raises:
        redis.ConnectionError: It does.
    """
    connection.on_connect()
    crowd = Crowd(_clients(connection))
    pool.keeps_none = crowd.is_dense
    try:
        crowd.check()
    except CrowdedError as error:
        raise redis.ConnectionError(str(error)) from None


def _place(options: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what is told apart by options of redis-py's connections: the server, the user and the database."""
    server = options.get("path") or (options.get("host") or "localhost", int(options.get("port") or 6379))
    return server, options.get("username"), options.get("password"), int(options.get("db") or 0)


def _clients(connection: Any) -> dict[str, str]:
    """Return what a server says of its clients; nothing if this user may not ask."""
    connection.send_command("INFO", "clients")
    try:
        return clients_of(connection.read_response())
    except redis.ResponseError:
        return {}


def _defaults(url: str) -> dict[str, Any]:
    # An odd task id must cost at most itself, not the batch that it is in.
    defaults: dict[str, Any] = {**_BOUNDS, "socket_timeout": TIMEOUT, "encoding_errors": "replace"}
    if url.startswith(("unix:", "redis+socket:")):
        return defaults
    return {**defaults, "socket_connect_timeout": TIMEOUT, "socket_keepalive": True}


# -- one server -------------------------------------------------------------------------------------------------


def _client(address: RedisAddress) -> redis.Redis:
    options = {**_defaults(address.url), **_in_redis_py_words(address.options)}
    if "ssl_context" in options:
        options["connection_class"] = ContextConnection
    return redis.Redis(connection_pool=FrugalPool.from_url(_redis_py_url(address.url), **options))


def _redis_py_url(url: str) -> str:
    """Return a Celery Redis URL in the words of redis-py."""
    for celery_word, word in _CERT_REQS.items():
        url = url.replace(f"ssl_cert_reqs={celery_word}", f"ssl_cert_reqs={word}")
    if not url.startswith("redis+socket://"):
        return url
    return ("unix" + url.removeprefix("redis+socket")).replace("virtual_host=", "db=")


def _in_redis_py_words(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as redis-py takes them; one that is None is left to redis-py."""
    given = {name: value for name, value in options.items() if value is not None}
    if "ssl_cert_reqs" in given:
        given["ssl_cert_reqs"] = _cert_reqs(given["ssl_cert_reqs"])
    if isinstance(given.get("credential_provider"), str):
        given["credential_provider"] = _new_provider(given["credential_provider"])
    return given


def _new_provider(name: str) -> Any:
    """Return an object of the class that a credential provider is named by: ``module:Class`` or ``module.Class``."""
    module, colon, kind = name.partition(":")
    if not colon:
        module, _, kind = name.rpartition(".")
    return getattr(importlib.import_module(module), kind)()


def _check_name(options: dict[str, Any]) -> None:
    """Let the certificate be that of the server's name where one is asked for: redis-py does so from 6.0 on only."""
    asks_for_one = options.get("ssl_cert_reqs", "required") not in (None, "none", ssl.CERT_NONE)
    options.setdefault("ssl_check_hostname", asks_for_one)


def _cert_reqs(value: Any) -> Any:
    return ssl.VerifyMode(value) if isinstance(value, int) else _CERT_REQS.get(value, value)


# -- behind Sentinels -------------------------------------------------------------------------------------------


def _sentinel(address: RedisAddress) -> Sentinel:
    options = {**address.options, **url_options(address.url)}
    in_url = {name: value for name, value in url_options(address.url).items() if name.startswith(SENTINEL_PREFIX)}
    to_sentinels = {
        "socket_timeout": TIMEOUT,
        "socket_connect_timeout": TIMEOUT,
        "retry": Retry(NoBackoff(), 0),
        **_with_tls(_in_redis_py_words(address.options.get("sentinel_kwargs") or {})),
        **_from_url({name.removeprefix(SENTINEL_PREFIX): value for name, value in in_url.items()}),
    }
    if to_sentinels.get("ssl"):
        _check_name(to_sentinels)
    return Sentinel(  # type: ignore[no-untyped-call]
        [_host_and_port(part, SENTINEL_PORT) for part in address.url.split(";")],
        min_other_sentinels=int(options.get("min_other_sentinels", 0)),
        sentinel_kwargs=to_sentinels,
    )


def _host_and_port(url: str, default: int) -> tuple[str, int]:
    parts = urlsplit(url)
    return unquote(parts.hostname or "localhost"), parts.port or default


def _master_client(address: RedisAddress, sentinel: Sentinel) -> redis.Redis:
    """Return a client that asks Sentinels for the master whenever it connects.

    As kombu and Celery have it, the first Sentinel's URL has the user, password and database of the master.
    """
    of_sentinels = ("master_name", "min_other_sentinels", "sentinel_kwargs")
    given = {name: value for name, value in address.options.items() if name not in of_sentinels}
    query = url_options(address.url)
    in_url = {name: query[name] for name in query if name not in of_sentinels and not name.startswith(SENTINEL_PREFIX)}
    options = {
        **_defaults(address.url),
        **_login(urlsplit(address.url.partition(";")[0])),
        **_with_tls(_in_redis_py_words(given)),
        **_from_url(in_url),
    }
    if "ssl_context" in options:
        options["connection_class"] = SentinelContextConnection
        options.pop("ssl", None)
    client: redis.Redis = sentinel.master_for(  # type: ignore[no-untyped-call]
        query.get("master_name") or address.options["master_name"],
        connection_pool_class=BlockingSentinelPool,
        **options,
    )
    return client


def _login(first: SplitResult) -> dict[str, Any]:
    """Return user and password for the master, and its database."""
    login: dict[str, Any] = {"db": int(unquote(first.path).strip("/") or 0)}
    for name in ("username", "password"):
        if getattr(first, name):
            login[name] = unquote(getattr(first, name))
    return login


def _from_url(query: Mapping[str, str]) -> dict[str, Any]:
    """Return the options in a URL as keyword arguments."""
    asks_for_tls = query.get("ssl", "").lower() in ("1", "true", "yes")
    options = parse_options({name: _CERT_REQS.get(value, value) for name, value in query.items() if name != "ssl"})
    return {**options, "ssl": True} if asks_for_tls else _with_tls(options)


def _with_tls(options: dict[str, Any]) -> dict[str, Any]:
    """Ask for TLS where any option is about it."""
    return {**options, "ssl": True} if any(name.startswith("ssl_") for name in options) else options
