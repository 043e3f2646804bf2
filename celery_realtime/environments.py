"""Keep apart what shares a broker or a Redis: by key prefixes, virtual hosts and databases, as Celery and kombu do.

Celery keeps two environments apart by any of these. They are all of a channel that its name does not say, so the
history, which may be elsewhere, goes by them too: otherwise one environment would see and cancel the other's jobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from celery_realtime.urls import RedisAddress, is_redis, url_options

#: The option of a connection, Celery's and kombu's word for it.
PREFIX = "global_keyprefix"

PROVIDER = "credential_provider"

#: What may follow the question mark of a Redis broker's URL of ours, by what it is read as. Kombu knows these as
#: transport options alone.
_TRANSPORT_OPTIONS = {
    PREFIX: str,
    "client_name": str,
    "fanout_prefix": str,
    "health_check_interval": float,
    "master_name": str,
    "max_connections": int,
    "sep": str,
    "socket_connect_timeout": float,
    "socket_timeout": float,
}


def prefix_of(address: RedisAddress) -> str | None:
    """Return what all keys at an address begin with, or None if nothing says it."""
    given = url_options(address.url).get(PREFIX, address.options.get(PREFIX))
    return None if given is None else str(given)


def plain_address(address: RedisAddress) -> RedisAddress:
    """Return an address as redis-py takes it, which knows no prefix, and a credential provider beside the URL only."""
    options = {name: value for name, value in address.options.items() if name != PREFIX}
    provider = url_options(address.url).get(PROVIDER)
    if provider is not None:
        options[PROVIDER] = provider
    return RedisAddress(";".join(_without(part, (PREFIX, PROVIDER)) for part in address.url.split(";")), options)


def with_transport_options(url: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the URL of a broker, and keyword arguments of its connection with what the URL says beside its address.

    Args:
        url: Of the broker, or of several with semicolons between them.
        options: Keyword arguments of :class:`kombu.Connection`, which lose against those in the URL.
    """
    if not is_redis(url):
        return url, dict(options)
    named = {name: value for name, value in url_options(url).items() if name in _TRANSPORT_OPTIONS}
    in_url = {name: _TRANSPORT_OPTIONS[name](value) for name, value in named.items()}
    if not in_url:
        return url, dict(options)
    address = ";".join(_without(part, tuple(_TRANSPORT_OPTIONS)) for part in url.split(";"))
    return address, {**options, "transport_options": {**(options.get("transport_options") or {}), **in_url}}


def _without(url: str, names: tuple[str, ...]) -> str:
    """Return a URL without some of the options that follow its question mark."""
    head, mark, query = url.partition("?")
    if not mark:
        return url
    given = parse_qsl(query, keep_blank_values=True)
    left = [(name, value) for name, value in given if name not in names]
    if left == given:
        return url
    return head + (f"?{urlencode(left, safe='/:')}" if left else "")


def in_environment(url: str, options: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return keyword arguments of a broker of our own, whose keys begin as those of Celery's broker, if it is a Redis.

    Args:
        url: Of our broker.
        options: Its keyword arguments of :class:`kombu.Connection`, which win if they name a prefix.
        prefix: That of Celery's broker.
    """
    transport = options.get("transport_options") or {}
    if not prefix or not is_redis(url) or PREFIX in transport:
        return dict(options)
    return {**options, "transport_options": {**transport, PREFIX: prefix}}


def channel_prefix(options: Mapping[str, Any]) -> str:
    """Return what the keys of a broker begin with, given the keyword arguments of :class:`kombu.Connection`."""
    return str((options.get("transport_options") or {}).get(PREFIX) or "")


def name_in_history(channel: str, url: str, options: Mapping[str, Any], prefix: str | None) -> str:
    """Return what the history calls a channel: others of this name may be elsewhere on the same broker.

    Args:
        channel: Its name.
        url: The broker's URL.
        options: The broker's keyword arguments of :class:`kombu.Connection`.
        prefix: What all keys of the history begin with, if it says so.

    Returns:
        The name itself, of a channel in the first database or the virtual host ``/`` whose prefix the history has too.
    """
    own = channel_prefix(options)
    other = "" if prefix is None or _is_of(prefix, own) else own
    parts = [quote(part, safe=":") for part in (other, _place(url, options)) if part]
    return "/".join([*parts, channel.replace("/", "%2F")])


def _is_of(prefix: str, own: str) -> bool:
    """Tell whether a prefix of the history says that of a broker, and no other.

    Celery's result backend puts an underscore behind one that has none, so ``p_`` is that of ``p``, not of ``p_``.
    """
    return prefix == own + "_" or (prefix == own and not own.endswith("_"))


def _place(url: str, options: Mapping[str, Any]) -> str:
    """Return the virtual host or the database of a broker, of those that are not the first ones."""
    first = urlsplit(url.partition(";")[0])
    path = unquote(first.path[1:])
    if first.scheme in ("redis+socket", "unix"):
        path = dict(parse_qsl(first.query)).get("virtual_host", "")
    place = path or str(options.get("virtual_host") or "")
    if is_redis(url):
        place = place.strip("/")
        return "" if place == "0" else place
    return "" if place == "/" or not first.scheme.startswith(("amqp", "pyamqp")) else place
