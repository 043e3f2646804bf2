"""Read the settings of a Celery app once, and complete them with what Celery itself was told of its broker."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from typing import Any

import msgspec
from celery import Celery

from celery_realtime.celery_seams import conf_so_far
from celery_realtime.settings import Settings, as_history_url, check, check_broker, check_names

logger = logging.getLogger(__name__)

#: Celery's own, where nothing is set.
DEFAULT_BROKER = "amqp://"


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

    def replace(self, keywords: Mapping[str, Any]) -> None:
        """Let these beat what was given to the constructor, in place of any that did so before.

        Raises:
            ImproperlyConfigured: A name is unknown.
        """
        check_names(keywords, prefix="")
        self._keywords = {**self._given, **keywords}

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
            self._check(app, so_far, so_far.get("broker_write_url") or so_far.get("broker_url"))

    def _check(self, app: Celery, conf: Mapping[str, Any], broker_url: Any) -> None:
        values = check(self._keywords, conf, app.namespace)
        if values.get("url") is None:
            check_broker(broker_url or DEFAULT_BROKER)

    def read(self, app: Celery) -> Settings:
        """Load the app's configuration, and return the settings.

        Raises:
            ImproperlyConfigured: A name is unknown, or a value is mistaken.
        """
        conf = app.conf
        values = check(self._keywords, conf, app.namespace)
        if values.get("url") is None:
            values["url"] = check_broker(conf.broker_write_url or DEFAULT_BROKER)
            values["connection_options"] = _like_celery(conf, values.get("connection_options") or {})
        settings = Settings(**values)
        if settings.history_url == "auto":
            settings = msgspec.structs.replace(settings, history_url=_find_redis(conf, settings))
        return settings


def _like_celery(conf: Any, ours: Mapping[str, Any]) -> dict[str, Any]:
    """Return the connection options for Celery's own broker: those of Celery (TLS, Sentinel), then ours."""
    options: dict[str, Any] = {"transport_options": dict(conf.broker_transport_options or {})}
    if conf.broker_use_ssl:
        options["ssl"] = conf.broker_use_ssl
    if conf.broker_login_method:
        options["login_method"] = conf.broker_login_method
    given = dict(ours)
    transport = {**options["transport_options"], **given.pop("transport_options", {})}
    return {**options, **given, "transport_options": transport}


def _find_redis(conf: Any, settings: Settings) -> str | None:
    """Return the result backend's or the broker's URL, with its options, if it is a Redis and there is a client."""
    ours = settings.connection_options
    backend = (conf.result_backend, conf.redis_backend_use_ssl, conf.result_backend_transport_options)
    broker = (settings.url, ours.get("ssl"), ours.get("transport_options"))
    url = next(filter(None, (as_history_url(*place) for place in (backend, broker))), None)
    if url is not None and importlib.util.find_spec("redis") is None:
        logger.warning("no history: pip install celery-realtime[redis], or set realtime_history_url to None")
        return None
    return url
