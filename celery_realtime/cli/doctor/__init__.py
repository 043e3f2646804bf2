"""``celery -A proj realtime doctor``: look at a set-up, and say what is wrong with it."""

from celery_realtime.cli.doctor.command import command

__all__ = ["command"]
