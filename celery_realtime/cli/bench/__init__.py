"""``celery -A proj realtime bench``: measure what a set-up does, in less than a minute."""

from celery_realtime.cli.bench.command import command

__all__ = ["command"]
