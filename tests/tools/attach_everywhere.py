"""A pytest plugin: each app that Celery's own fixtures make has a Realtime, and each job a project."""

from __future__ import annotations

from typing import Any

import celery.contrib.testing.app as testing
from celery import Celery

from celery_realtime import Realtime

PROJECT = "celery"

_plain: Any = testing.TestApp


def _attached(*args: Any, **options: Any) -> Celery:
    app: Celery = _plain(*args, **options)
    # Before the worker's configuration comes from the suite: Realtime reads it when the first job is published.
    Realtime(app, project_resolver=lambda _name, _args, _kwargs: PROJECT, progress_interval=0.5)
    return app


# Celery's fixtures import it when they are used.
testing.TestApp = _attached
