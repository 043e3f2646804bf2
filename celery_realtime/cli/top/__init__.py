"""``celery -A proj realtime top``: the jobs of a project, or of all, live in a terminal."""

from celery_realtime.cli.top.command import command

__all__ = ["command"]
