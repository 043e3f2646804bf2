"""The application of ``INSTALLED_APPS``."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks


class CeleryRealtimeConfig(AppConfig):
    """Registers the system checks."""

    name = "celery_realtime.contrib.django"
    label = "celery_realtime"
    verbose_name = "Celery Realtime"

    def ready(self) -> None:
        """Begin."""
        from celery_realtime.contrib.django.checks import CHECKS

        for check in CHECKS:
            checks.register(check, self.label)
