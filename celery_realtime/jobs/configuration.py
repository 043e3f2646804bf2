"""Read the settings of a Celery app once, and complete them with what Celery itself was told of its broker."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Mapping
from typing import Any

import msgspec
from celery import Celery

from celery_realtime.environments import PREFIX, channel_prefix, in_environment, prefix_of, with_transport_options
from celery_realtime.jobs.seams import conf_so_far
from celery_realtime.settings import Settings, check, check_broker, check_keeping, check_names
from celery_realtime.urls import celery_broker_options, celery_broker_url, celery_redis, is_redis

logger = logging.getLogger(__name__)

#: Where web servers listen, in vain, if nothing is enabled: kombu's transport within one process.
_NOWHERE: dict[str, Any] = {"url": "memory://", "connection_options": {}, "history_url": None}


class Configuration:
    """Where the settings of a Realtime come from.

    Args:
        keywords: What ``Realtime(app, **settings)`` was given.

    Raises:
        ImproperlyConfigured: A name is unknown.
    """

    def __init__(self, keywords: Mapping[str, Any]) -> None:
        check_names(keywords, prefix="")
        self._given = self._keywords = dict(keywords)
        self._replaced: dict[str, Any] = {}

    @property
    def keywords(self) -> dict[str, Any]:
        """What the constructor, and the latest change, have given."""
        return dict(self._keywords)

    def replace(self, keywords: Mapping[str, Any]) -> dict[str, Any]:
        """Let these beat what was given to the constructor, in place of any that did so before; returns the latter.

        Raises:
            ImproperlyConfigured: A name is unknown.
        """
        check_names(keywords, prefix="")
        before, self._replaced = self._replaced, dict(keywords)
        self._keywords = {**self._given, **keywords}
        return before

    def check(self, app: Celery) -> None:
        """Check what is set by now, without loading a configuration that its owner has not finished.

        Celery sends ``on_after_configure`` when it is loaded, and takes no other source afterwards.

        Raises:
            ImproperlyConfigured: A name is unknown, or a value is mistaken.
        """
        if app.configured:
            self._check(app, app.conf, app.conf.broker_write_url)
        else:
            so_far = conf_so_far(app)
            self._check(app, so_far, _broker_so_far(so_far))

    def _check(self, app: Celery, conf: Mapping[str, Any], broker_url: Any) -> None:
        values = check(self._keywords, conf, app.namespace)
        if values.get("url") is None and values.get("enabled", True):
            check_broker(celery_broker_url(conf, broker_url))

    def read(self, app: Celery) -> Settings:
        """Load the app's configuration, and return the settings.

        Raises:
            ImproperlyConfigured: A name is unknown, or a value is mistaken.
        """
        conf = app.conf
        values = check(self._keywords, conf, app.namespace)
        if not values.get("enabled", True):
            return Settings(**{**values, **_NOWHERE})
        options = values.get("connection_options") or {}
        if values.get("url") is None:
            values["url"] = check_broker(celery_broker_url(conf, conf.broker_write_url))
            values["connection_options"] = celery_broker_options(conf, options)
        else:
            url, options = with_transport_options(values["url"], options)
            prefix = channel_prefix({"transport_options": conf.broker_transport_options})
            values |= {"url": url, "connection_options": in_environment(url, options, prefix)}
        settings = Settings(**values)
        settings = _find_history(conf, settings) if settings.history_url == "auto" else settings
        check_keeping(settings)
        return _with_prefix(settings)


def _broker_so_far(conf: Mapping[str, Any]) -> Any:
    """Return the broker of a configuration that is not loaded, as Celery finds it (celery/app/utils.py)."""
    environ = os.environ.get
    return (
        environ("CELERY_BROKER_WRITE_URL")
        or conf.get("broker_write_url")
        or environ("CELERY_BROKER_URL")
        or conf.get("broker_url")
        or conf.get("broker_host")
    )


def _with_prefix(settings: Settings) -> Settings:
    """Return settings whose history has the key prefix of the broker, unless it has one of its own."""
    address, prefix = settings.history_address, channel_prefix(settings.connection_options)
    if address is None or not prefix or prefix_of(address) is not None:
        return settings
    return msgspec.structs.replace(settings, history_options={**settings.history_options, PREFIX: prefix})


def _find_history(conf: Any, settings: Settings) -> Settings:
    """Return settings with the history at the result backend or the broker, if it is a Redis and has a client."""
    address = celery_redis(conf, settings.url, settings.connection_options)
    if address is not None and importlib.util.find_spec("redis") is None:
        logger.warning(
            "there is no history without redis-py, so clients do not recover what they miss; pip install celery-"
            "realtime[redis], or set realtime_history_url to None"
        )
        address = None
    if address is None:
        if is_redis(settings.url) and ";" in (settings.url or ""):
            logger.warning(
                "there is no history in a list of Redis servers, so clients do not recover what they miss; set "
                "realtime_history_url to one, or to None"
            )
        return msgspec.structs.replace(settings, history_url=None)
    options = {**address.options, **settings.history_options}
    return msgspec.structs.replace(settings, history_url=address.url, history_options=options)
