"""Turn the URL of a history into a Redis client: over TCP, a unix socket or TLS, or found by Sentinels."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.connection import BlockingConnectionPool, parse_url
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from celery_realtime.settings import is_sentinel

TIMEOUT = 1.0

#: Connections of a process, and how long who finds them all in use waits for one, in seconds. When all clients of a web
#: server come back at once they are answered one after the other.
MOST_CONNECTIONS = 50
TURN_TIMEOUT = 5.0

SENTINEL_PORT = 26379

#: What the names of options that are for the Sentinels themselves begin with.
TO_SENTINEL = "sentinel_"

_CERT_REQS = {"CERT_REQUIRED": "required", "CERT_OPTIONAL": "optional", "CERT_NONE": "none"}


_BOUNDS: dict[str, Any] = {"max_connections": MOST_CONNECTIONS, "timeout": TURN_TIMEOUT}


def connect(url: str) -> redis.Redis:
    """Return a client that connects when it is first used, and never waits long.

    Args:
        url: ``redis://``, ``rediss://``, ``unix://``, ``redis+socket://``, or ``sentinel://host:port;sentinel://...``
            with a ``master_name``. Options, such as ``ssl_ca_certs``, follow a question mark.

    Raises:
        ValueError, TypeError, redis.RedisError: The URL cannot be used.
    """
    client = _over_sentinels(url) if is_sentinel(url) else _alone(url)
    client.connection_pool.make_connection()  # it connects later, and says now what it cannot take
    return client


def _alone(url: str) -> redis.Redis:
    """Return a client of one server."""
    pool = BlockingConnectionPool.from_url(_redis_py_url(url), **_BOUNDS, **_options(url))
    client = redis.Redis(connection_pool=pool)
    client.auto_close_connection_pool = True
    return client


def _redis_py_url(url: str) -> str:
    """Return a Celery Redis URL in the words of redis-py."""
    for celery_word, word in _CERT_REQS.items():
        url = url.replace(f"ssl_cert_reqs={celery_word}", f"ssl_cert_reqs={word}")
    if not url.startswith("redis+socket://"):
        return url
    return ("unix" + url[len("redis+socket") :]).replace("virtual_host=", "db=")


def _options(url: str) -> dict[str, Any]:
    # An odd task id must cost at most itself, not the batch that it is in.
    options: dict[str, Any] = {"socket_timeout": TIMEOUT, "encoding_errors": "replace"}
    if url.startswith(("unix:", "redis+socket:")):
        return options
    return {**options, "socket_connect_timeout": TIMEOUT, "socket_keepalive": True}


class _MasterPool(SentinelConnectionPool, BlockingConnectionPool):
    """Connections to the master that Sentinels name; who finds them all in use waits for one."""


class _MasterClient(redis.Redis):
    """A client of the master that Sentinels name."""

    def close(self) -> None:
        """Let go of the connections to the Sentinels too."""
        super().close()
        pool: Any = self.connection_pool
        for sentinel in pool.sentinel_manager.sentinels:
            sentinel.close()


def _over_sentinels(url: str) -> redis.Redis:
    """Return a client that asks Sentinels for the master whenever it connects.

    As kombu and Celery have it, the first Sentinel's URL has the user, password and database of the master.
    """
    parts = [urlsplit(part) for part in url.split(";")]
    query = dict(pair for part in parts for pair in parse_qsl(part.query))
    master_name = query.pop("master_name")
    least = int(query.pop("min_other_sentinels", 0))
    to_sentinel = {name.removeprefix(TO_SENTINEL): query.pop(name) for name in [*query] if name.startswith(TO_SENTINEL)}
    bounds = {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT, "retry": Retry(NoBackoff(), 0)}
    sentinels = Sentinel(  # type: ignore[no-untyped-call]
        [(unquote(part.hostname or "localhost"), part.port or SENTINEL_PORT) for part in parts],
        min_other_sentinels=least,
        sentinel_kwargs={**bounds, **_keywords(to_sentinel)},
    )
    options = {**_BOUNDS, **_options(url), **_login(parts[0]), **_keywords(query)}
    client: redis.Redis = sentinels.master_for(  # type: ignore[no-untyped-call]
        master_name, _MasterClient, _MasterPool, **options
    )
    return client


def _login(first: Any) -> dict[str, Any]:
    """Return who logs in to the master, and its database."""
    login: dict[str, Any] = {"db": int(unquote(first.path).strip("/") or 0)}
    for name in ("username", "password"):
        if getattr(first, name):
            login[name] = unquote(getattr(first, name))
    return login


def _keywords(query: dict[str, str]) -> dict[str, Any]:
    """Return the options in a URL as keyword arguments; any that is about TLS asks for it."""
    tls = query.get("ssl", "").lower() in ("1", "true", "yes") or any(name.startswith("ssl_") for name in query)
    given = {name: _CERT_REQS.get(value, value) for name, value in query.items() if name != "ssl"}
    parsed: dict[str, Any] = parse_url(f"redis://?{urlencode(given)}")  # type: ignore[no-untyped-call]
    return {**parsed, "ssl": True} if tls else parsed
