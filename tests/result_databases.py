"""Databases that Celery stores results in."""

from __future__ import annotations

from pathlib import Path

from celery.backends.database.session import ResultModelBase
from sqlalchemy import create_engine


def result_database(path: Path) -> str:
    """Return the URL of a new database with Celery's tables: up to 5.4, Celery makes them once in a process."""
    url = f"sqlite:///{path}"
    ResultModelBase.metadata.create_all(create_engine(url))
    return url
